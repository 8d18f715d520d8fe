"""A training that was stopped and goes on ends with the very bits of one that was never stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from finetune_api.job import LoRA
from finetune_trainer.checkpoint import Checkpoints, Identity
from finetune_trainer.console import no_progress
from finetune_trainer.evaluate import evaluate
from finetune_trainer.hardware import Precision
from finetune_trainer.localstore import LocalStore
from finetune_trainer.model import LoadedModel, add_lora, load_model
from finetune_trainer.observer import LogEntry, Silent
from finetune_trainer.outcome import TrainOutcome
from finetune_trainer.plan import BatchLimits, Hyperparameters
from finetune_trainer.prepared import Prepared
from finetune_trainer.train import train
from finetune_trainer.training_state import Checkpointer, Moment, TrainingState, TrainingStopped
from tests.support.tiny_model import learnable_rows, make_model, make_prepared

CPU = torch.device("cpu")
ROWS = learnable_rows(52, seed=5)
FULL = Hyperparameters(method="Full", epochs=3, batch_size=8, learning_rate="1e-2", seed=7)
LIMITS = BatchLimits(tokens=1, labels=1)
IDENTITY = Identity(spec_digest="s", fingerprint="f", model_revision="r", method="Full", device="cpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """A training of three steps an epoch."""

    parameters: Hyperparameters = FULL
    precision: Precision = "Float32"
    validation: int = 12
    contrary: bool = False  # validation rows that learning makes worse, so that early stopping ends it
    steps: int = 9

    def prepared(self, loaded: LoadedModel) -> Prepared:
        validation = ROWS[24 : 24 + self.validation]
        if self.contrary:
            validation = [(prompt, "sports" if label != "sports" else "arts") for prompt, label in validation]
        prepared = make_prepared(loaded.tokenizer, {"train": ROWS[:24], "validation": ROWS[24:36], "test": ROWS[36:]})
        part = make_prepared(loaded.tokenizer, {"train": ROWS[:24], "validation": validation or ROWS[:1], "test": []})
        kept = part.parts["validation"] if validation else empty(part)
        return dataclasses.replace(prepared, parts={**prepared.parts, "validation": kept})


def empty(prepared: Prepared) -> Any:
    part = prepared.parts["validation"]
    arrays = {f.name: getattr(part, f.name)[:0] for f in dataclasses.fields(part)}
    return dataclasses.replace(part, **{**arrays, "offsets": part.offsets[:1]})


ADAPTERS = dataclasses.replace(FULL, method="LoRA", lora=LoRA(rank=4, dropout="0.1"), learning_rate="2e-2")
CASES = {
    "full": Case(),
    "full in bfloat16": Case(precision="BFloat16"),
    "adapters with dropout": Case(ADAPTERS),
    "adapters with dropout in bfloat16": Case(ADAPTERS, precision="BFloat16"),
    "early stopping": Case(dataclasses.replace(FULL, epochs=6, patience=1, learning_rate="5e-2"), contrary=True),
    "without validation rows": Case(validation=0),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many trainings of a few milliseconds: a second thread would only wait."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_model(folder)
    return folder


class Stop(Silent, Checkpointer):
    """Observes a loop; stops it one step on, when it has asked ``extra`` times more; keeps what it gives to save."""

    def __init__(self, *, extra: int | None = None, save_at: Sequence[int] = ()) -> None:
        self.extra, self.save_at = extra, save_at
        self.saved: list[TrainingState] = []
        self.moments: list[tuple[int, Moment]] = []
        self.step, self.asked = 0, 0

    @override
    def on_log(self, entry: LogEntry) -> None:
        self.step = entry.step

    @property
    @override
    def stopping(self) -> bool:
        self.asked += self.step > 0
        return self.extra is not None and self.asked > self.extra

    @override
    def due(self, moment: Moment) -> bool:
        self.moments.append((self.step, moment))
        return self.step in self.save_at

    @override
    def save(self, state: TrainingState) -> None:
        self.saved.append(state)


@dataclasses.dataclass
class Result:
    outcome: TrainOutcome
    weights: dict[str, torch.Tensor]


def go(base: Path, case: Case, stop: Stop | None = None, state: TrainingState | None = None) -> Result:
    loaded = load_model(base, device=CPU, precision=case.precision)
    prepared = case.prepared(loaded)
    if state is None:  # as in a job, where the baseline comes first; a later attempt doesn't repeat it
        evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    if case.parameters.lora is not None:
        add_lora(loaded, case.parameters.lora, seed=case.parameters.seed)
    stop = stop or Stop()
    # A row a micro-batch, so that each step has a middle.
    outcome = train(loaded, prepared, case.parameters, observer=stop, limits=LIMITS, checkpointer=stop, state=state)
    assert loaded.weights is not None
    return Result(outcome, loaded.weights)


def stored_and_read(state: TrainingState, base: Path, case: Case, folder: Path) -> TrainingState:
    """What another process would read."""
    about: dict[str, Any] = {"precision": case.precision, "settings": {"a": 1}}
    store = LocalStore(role="output", folder=folder / "out")
    (folder / "scratch").mkdir(exist_ok=True, parents=True)
    Checkpoints(store, IDENTITY, folder=folder / "scratch").write(state, **about, machine={}, metrics=b"")
    again = Checkpoints(store, IDENTITY, folder=folder / "scratch")
    shapes = {name: master.shape for name, master in state.optimizer.masters.items()}
    restored = again.restore(**about, shapes=shapes, progress=no_progress)
    assert restored is not None
    return restored.state


def assert_same(one: Result, other: Result) -> None:
    assert one.outcome.losses == other.outcome.losses
    for name in ("validation", "best_epoch", "stopped_early", "tokens", "supervised_tokens", "attention_pairs"):
        assert getattr(one.outcome, name) == getattr(other.outcome, name)
    assert one.weights.keys() == other.weights.keys()
    assert [name for name in one.weights if not torch.equal(one.weights[name], other.weights[name])] == []


@pytest.mark.parametrize("name", CASES)
def test_a_training_that_is_stopped_after_every_step_ends_with_the_same_bits(
    name: str, base: Path, tmp_path: Path
) -> None:
    """Stopped at each step, in the middle of the next one, and in the middle of each validation."""
    case = CASES[name]
    undisturbed = go(base, case)
    assert undisturbed.outcome.steps == case.steps
    assert undisturbed.outcome.stopped_early is case.contrary
    state: TrainingState | None = None
    reached: list[int] = []
    while len(reached) < 50:
        try:
            resumed = go(base, case, Stop(extra=len(reached) % 2), state)
        except TrainingStopped as stopped:
            reached.append(stopped.state.progress.step)
            state = stored_and_read(stopped.state, base, case, tmp_path / str(len(reached)))
        else:
            break
    assert set(reached) == set(range(1, case.steps + 1))
    assert_same(resumed, undisturbed)
