"""When a checkpoint is due, what a failing one costs, and how a process that is told to stop ends."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.job import LoRA
from finetune_api.reasons import EXIT_RESUMABLE, Reason
from finetune_trainer.checkpoint.background import BackgroundCheckpointer, Schedule
from finetune_trainer.checkpoint.terms import machine_of, settings_of
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.training.optimizer import OptimizerState
from finetune_trainer.training.plan import Hyperparameters
from finetune_trainer.training.state import TrainingProgress, TrainingState


def state(step: int) -> TrainingState:
    return TrainingState(
        progress=TrainingProgress(step=step, losses=(1.0,) * step),
        optimizer=OptimizerState(masters={}, moments={}, steps={}),
        best=None,
    )


class Checkpoints:
    """Stores nothing; holds an upload for as long as a test likes."""

    def __init__(self) -> None:
        self.written: list[tuple[int, bytes]] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.error: Exception | None = None

    def write(self, one: TrainingState, *, metrics: bytes, **_about: Any) -> tuple[str, int]:
        assert self.may_end.wait(60)
        if self.error is not None:
            raise self.error
        self.written.append((one.progress.step, metrics))
        return f"checkpoints/{one.progress.step}/", 1234


class World:
    def __init__(self, folder: Path, **options: Any) -> None:
        self.now = 100.0
        self.stream = io.StringIO()
        self.checkpoints = Checkpoints()
        self.left: list[int] = []
        self.interrupt = Interrupt(b"", leave=self.left.append)
        self.metrics = folder / "metrics.jsonl"
        self.metrics.write_text("one\n")
        self.owned = True
        self.checkpointer = BackgroundCheckpointer(
            self.checkpoints,  # type: ignore[arg-type]  # the part of it that is used
            schedule=Schedule(interval=600, min_epoch=30),
            precision="Float32",
            settings={},
            machine={},
            metrics=self.metrics,
            console=Console(job="x", stage="train", stream=self.stream, interactive=False),
            interrupt=self.interrupt,
            check=self.check,
            clock=lambda: self.now,
            **options,
        )

    def check(self) -> None:
        if not self.owned:
            raise StageError(Reason.OUTPUT_EXISTS, "taken over")

    @property
    def steps(self) -> list[int]:
        self.checkpointer.wait()
        return [step for step, _ in self.checkpoints.written]

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def save(self, step: int) -> None:
        self.checkpointer.save(state(step))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.checkpoints.may_end.set()
    one.checkpointer.wait()


@pytest.mark.parametrize(
    ("seconds", "moment", "due"),
    [
        (599, "step", False),
        (600, "step", True),
        (29, "epoch", False),
        (30, "epoch", True),
        (29, "end", False),
        (30, "end", True),
    ],
)
def test_a_checkpoint_is_due_after_the_interval_and_at_the_ends_of_epochs(
    seconds: int, moment: Any, due: bool, world: World
) -> None:
    world.now += seconds
    assert world.checkpointer.due(moment) is due
    world.save(1)
    assert not world.checkpointer.due("step")
    world.checkpointer.wait()
    world.now += seconds
    assert world.checkpointer.due(moment) is due


def test_what_is_due_during_an_upload_is_taken_as_soon_as_that_has_ended(world: World) -> None:
    world.checkpoints.may_end.clear()
    world.now += 600
    assert world.checkpointer.due("step")
    world.save(1)
    world.now += 40
    assert not world.checkpointer.due("epoch")
    world.now += 1
    assert not world.checkpointer.due("step")
    world.checkpoints.may_end.set()
    world.checkpointer.wait()
    assert world.checkpointer.due("step")
    world.save(2)
    world.checkpointer.wait()
    assert not world.checkpointer.due("step")
    assert world.steps == [1, 2]


def test_the_last_checkpoint_waits_for_the_one_before(world: World) -> None:
    world.checkpoints.may_end.clear()
    world.save(1)
    world.now += 40
    assert world.checkpointer.due("end")
    threading.Timer(0.2, world.checkpoints.may_end.set).start()
    world.save(2)
    assert world.steps == [1, 2]


def test_the_training_thread_does_not_wait_for_the_upload(world: World) -> None:
    world.checkpoints.may_end.clear()
    begin = time.monotonic()
    world.save(1)
    assert time.monotonic() - begin < 5
    assert world.checkpointer.uploading() is not None


def test_a_failed_upload_is_a_warning_and_is_tried_again_when_the_next_is_due(world: World) -> None:
    world.checkpoints.error = StageError(Reason.STORAGE_UNAVAILABLE, "no answer")
    world.save(1)
    world.checkpointer.wait()
    assert [(line["event"], line["level"]) for line in world.log] == [("checkpoint_failed", "warning")]
    assert not world.interrupt.resumable
    assert not world.checkpointer.due("step")
    world.now += 31
    assert world.checkpointer.due("epoch")
    world.checkpoints.error = None
    world.save(2)
    assert world.steps == [2]
    assert world.interrupt.resumable


def test_a_surprise_in_the_upload_does_not_end_the_training_either(world: World) -> None:
    world.checkpoints.error = ValueError("surprise")
    world.save(1)
    world.checkpointer.wait()
    assert "surprise" in world.log[0]["message"]


def test_nothing_is_written_into_a_folder_that_another_job_has_taken(world: World) -> None:
    world.owned = False
    assert isinstance(world.checkpointer.save_now(state(1)), StageError)
    assert world.steps == []


def test_a_saved_checkpoint_is_told_with_its_step_bytes_and_seconds(world: World) -> None:
    world.save(3)
    world.checkpointer.wait()
    (line,) = world.log
    assert (line["event"], line["step"], line["bytes"], line["key"]) == ("checkpoint_saved", 3, 1234, "checkpoints/3/")
    assert line["seconds"] >= 0


@pytest.mark.parametrize(("grace", "warned"), [(None, False), (600, False), (0, True)])
def test_a_grace_period_that_a_save_does_not_fit_into_twice_is_told(
    world: World, grace: int | None, warned: bool
) -> None:
    world.interrupt.grace_seconds = grace
    world.checkpointer.save(state(3))
    world.checkpointer.wait()
    events = [line["event"] for line in world.log]
    assert events == ["checkpoint_saved", *(["grace_period_short"] if warned else [])]


def test_the_curve_is_stored_as_it_was_when_the_state_was_taken(world: World) -> None:
    world.checkpoints.may_end.clear()
    world.save(1)
    with world.metrics.open("a") as file:
        file.write("two\n")
    world.checkpoints.may_end.set()
    world.checkpointer.wait()
    assert world.checkpoints.written == [(1, b"one\n")]


def test_the_step_that_the_training_went_on_from_is_not_stored_again(tmp_path: Path) -> None:
    world = World(tmp_path, restored=5)
    assert world.checkpointer.save_now(state(5)) is None
    assert world.checkpointer.save_now(state(6)) is None
    assert world.steps == [6]


def test_before_the_first_step_there_is_nothing_to_save(world: World) -> None:
    assert world.checkpointer.save_now(state(0)) is None
    assert world.steps == []


def test_saving_at_the_end_waits_until_everything_is_stored_and_tells_what_prevented_it(world: World) -> None:
    world.checkpoints.may_end.clear()
    world.save(1)
    threading.Timer(0.2, world.checkpoints.may_end.set).start()
    assert world.checkpointer.save_now(state(2)) is None
    assert [step for step, _ in world.checkpoints.written] == [1, 2]
    world.checkpoints.error = StageError(Reason.ARTIFACT_UPLOAD_FAILED, "full")
    assert world.checkpointer.save_now(state(3)) is world.checkpoints.error


def test_settings_and_machine_are_plain_json() -> None:
    parameters = Hyperparameters(
        method="LoRA", epochs=1, batch_size=4, learning_rate="1e-4", seed=1, lora=LoRA(rank=2, dropout="0.1")
    )
    settings, machine = settings_of(parameters), machine_of(torch.device("cpu"), 3)
    assert json.loads(json.dumps(settings)) == settings
    assert (settings["batch_size"], settings["lora"]["rank"]) == (4, 2)
    assert json.loads(json.dumps(machine)) == machine
    assert (machine["threads"], machine["torch"]) == (3, torch.__version__)
    assert machine["capability"]


# SIGTERM


class Left:
    def __init__(self, **options: Any) -> None:
        self.codes: list[int] = []
        self.ended = threading.Event()
        self.interrupt = Interrupt(b"", leave=self._leave, **options)

    def _leave(self, code: int) -> None:
        self.codes.append(code)
        self.ended.set()


def test_outside_of_the_loop_the_process_ends_at_once() -> None:
    left = Left()
    with left.interrupt.installed():
        signal.raise_signal(signal.SIGTERM)
    assert left.codes == [EXIT_RESUMABLE]


def test_the_handler_of_before_is_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt().installed():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_the_loop_only_a_flag_is_set_and_the_end_of_the_loop_is_the_end() -> None:
    left, reached = Left(), False
    with pytest.raises(Interrupted) as stopped, left.interrupt.deferred():  # noqa: PT012 - the block is the subject
        left.interrupt.handle()
        reached = left.interrupt.requested
    assert reached
    assert left.codes == []
    assert stopped.value.exit_code == EXIT_RESUMABLE


def test_a_failure_in_the_loop_stays_a_failure() -> None:
    left = Left()
    with pytest.raises(KeyError), left.interrupt.deferred():  # noqa: PT012 - the block is the subject
        left.interrupt.handle()
        raise KeyError("x")


def test_a_second_signal_changes_nothing() -> None:
    left = Left()
    left.interrupt.handle()
    left.interrupt.handle()
    assert left.codes == [EXIT_RESUMABLE]


def test_outside_of_the_loop_an_upload_is_brought_to_its_end_first() -> None:
    left, end = Left(), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    left.interrupt.watch(lambda: thread if thread.is_alive() else None)
    left.interrupt.handle()
    assert not left.ended.wait(0.2)
    end.set()
    assert left.ended.wait(30)
    assert left.codes == [EXIT_RESUMABLE]


@pytest.mark.parametrize(("resumable", "code"), [(True, EXIT_RESUMABLE), (False, 31)])
def test_the_process_ends_before_the_grace_period_does(resumable: bool, code: int) -> None:
    left = Left(grace_seconds=1)
    with pytest.raises(Interrupted), left.interrupt.deferred():  # noqa: PT012 - the block is the subject
        left.interrupt.resumable = resumable
        begin = time.monotonic()
        left.interrupt.handle()
        assert left.ended.wait(30)
        assert 0.5 < time.monotonic() - begin < 5
    assert left.codes == [code]


def test_an_upload_that_hangs_outside_of_the_loop_costs_no_failure() -> None:
    left, end = Left(grace_seconds=1), threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    left.interrupt.watch(lambda: thread)
    left.interrupt.handle()
    assert left.ended.wait(30)
    assert left.codes == [EXIT_RESUMABLE]
    end.set()
