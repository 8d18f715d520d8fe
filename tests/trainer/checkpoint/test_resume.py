"""A training that was stopped and goes on ends with the very bits of one that was never stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

from finetune_api.job import LoRA
from finetune_trainer.checkpoint.catalog import Catalog
from finetune_trainer.checkpoint.format import Identity
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.training import loop as train_module
from finetune_trainer.training.loop import train
from finetune_trainer.training.observer import LogEntry, Silent
from finetune_trainer.training.optimizer import MasterAdamW
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.plan import BatchLimits, Hyperparameters
from finetune_trainer.training.samples import Sample
from finetune_trainer.training.state import Checkpointer, Moment, TrainingState, TrainingStopped
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
    "adafactor": Case(dataclasses.replace(FULL, optimizer="Adafactor", weight_decay="0.1")),
    "adafactor in bfloat16": Case(dataclasses.replace(FULL, optimizer="Adafactor"), precision="BFloat16"),
    "adapters by adafactor": Case(dataclasses.replace(ADAPTERS, optimizer="Adafactor")),
    "8 bits": Case(dataclasses.replace(FULL, optimizer="AdamW8bit", weight_decay="0.1")),
    "8 bits in bfloat16": Case(dataclasses.replace(FULL, optimizer="AdamW8bit"), precision="BFloat16"),
    "dora adapters": Case(dataclasses.replace(ADAPTERS, lora=LoRA(rank=4, use_dora=True)), precision="BFloat16"),
    "weight decay without clipping": Case(dataclasses.replace(FULL, weight_decay="0.1", max_grad_norm="0")),
    "validation within epochs, and an end within one": Case(
        dataclasses.replace(FULL, validate_every=2, validation_limit=5, max_steps=7, scheduler="WSD"), steps=7
    ),
    "early stopping within an epoch": Case(
        dataclasses.replace(FULL, epochs=6, validate_every=2, patience=1, learning_rate="5e-2"), contrary=True, steps=8
    ),
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
        self.samples: list[Sample] = []
        self.moments: list[tuple[int, Moment]] = []
        self.step, self.asked = 0, 0

    @override
    def on_log(self, entry: LogEntry) -> None:
        self.step = entry.step

    @override
    def on_samples(self, samples: Sequence[Sample]) -> None:
        self.samples += samples

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
    weights: Mapping[str, torch.Tensor]


def go(
    base: Path, case: Case, stop: Stop | None = None, state: TrainingState | None = None, samples: int = 0
) -> Result:
    loaded = load_model(base, device=CPU, precision=case.precision)
    prepared = case.prepared(loaded)
    if state is None:  # as in a job, where the baseline comes first; a later attempt doesn't repeat it
        evaluate(loaded, prepared.parts["test"], prepared, texts=(), generate=False)
    if case.parameters.lora is not None:
        loaded = add_lora(loaded, case.parameters.lora, seed=case.parameters.seed)
    stop = stop or Stop()
    # A row a micro-batch, so that each step has a middle.
    watched: dict[str, Any] = {"observer": stop, "limits": LIMITS, "checkpointer": stop, "samples": samples}
    outcome = train(loaded, prepared, case.parameters, state=state, **watched)
    return Result(outcome, outcome.weights)


def stored_and_read(state: TrainingState, base: Path, case: Case, folder: Path) -> TrainingState:
    """What another process would read."""
    about: dict[str, Any] = {"precision": case.precision, "settings": {"a": 1}}
    store = LocalStore(role="output", folder=folder / "out")
    (folder / "scratch").mkdir(exist_ok=True, parents=True)
    Catalog(store, IDENTITY, folder=folder / "scratch").write(state, **about, machine={}, metrics=b"")
    again = Catalog(store, IDENTITY, folder=folder / "scratch")
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


@pytest.mark.parametrize("name", ["adapters with dropout in bfloat16", "early stopping within an epoch"])
def test_a_training_that_is_stopped_after_every_step_has_the_samples_of_one_that_was_not(
    name: str, base: Path, tmp_path: Path
) -> None:
    """Stopped at each step, in the middle of the next one, of each validation and of the samples."""
    case, quiet = CASES[name], Stop()
    undisturbed = go(base, case, quiet, samples=4)
    assert_same(undisturbed, go(base, case))
    state: TrainingState | None = None
    for attempt in range(50):
        stop = Stop(extra=attempt % 3)
        try:
            resumed = go(base, case, stop, state, samples=4)
        except TrainingStopped as stopped:
            state = stored_and_read(stopped.state, base, case, tmp_path / str(attempt))
        else:
            break
    assert state is not None
    assert_same(resumed, undisturbed)
    assert [*state.progress.samples, *stop.samples] == quiet.samples


def test_a_state_that_is_kept_while_the_training_goes_on_does_not_change_with_it(base: Path) -> None:
    case = CASES["adapters with dropout"]
    kept = Stop(save_at=(2, 3, 7))
    undisturbed = go(base, case, kept)
    assert [state.progress.step for state in kept.saved] == [2, 3, 7]
    for state in kept.saved:
        assert_same(go(base, case, state=state), undisturbed)


def test_a_checkpoint_is_asked_for_after_each_step_and_after_the_validation_of_each_epoch(base: Path) -> None:
    stop = Stop(save_at=(3,))
    go(base, CASES["full"], stop)
    assert stop.moments == [
        *[(1, "step"), (2, "step"), (3, "epoch")],
        *[(4, "step"), (5, "step"), (6, "epoch")],
        *[(7, "step"), (8, "step"), (9, "end")],
    ]
    assert len(stop.saved[0].progress.validation) == 1


def test_a_training_that_had_ended_is_not_repeated(base: Path) -> None:
    case, kept = CASES["full"], Stop(save_at=(9,))
    undisturbed = go(base, case, kept)
    again = Stop()
    assert_same(go(base, case, again, kept.saved[0]), undisturbed)
    assert again.step == 0


def test_a_validation_that_was_not_finished_is_done_first(base: Path) -> None:
    with pytest.raises(TrainingStopped) as stopped:
        go(base, CASES["full"], Stop(extra=2 * 8))
    state = stopped.value.state
    assert (state.progress.step, len(state.progress.validation)) == (3, 0)
    resumed = go(base, CASES["full"], state=state)
    assert [(point.epoch, point.step) for point in resumed.outcome.validation] == [(1, 3), (2, 6), (3, 9)]


def test_on_a_device_that_is_read_rarely_no_loss_is_lost(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["full"]
    undisturbed = go(base, case)
    monkeypatch.setattr(train_module, "LOG_STEPS", {"cpu": 100})
    with pytest.raises(TrainingStopped) as stopped:
        go(base, case, Late(after=2 * 8))
    assert stopped.value.state.progress.step == 2
    assert stopped.value.state.progress.losses == undisturbed.outcome.losses[:2]
    assert_same(go(base, case, state=stopped.value.state), undisturbed)


class Late(Stop):
    """Stops when it was asked so often."""

    def __init__(self, *, after: int) -> None:
        super().__init__()
        self.after = after

    @property
    @override
    def stopping(self) -> bool:
        self.asked += 1
        return self.asked > self.after + 1  # once before the first epoch


def test_a_state_of_another_model_is_refused_before_anything_is_changed(base: Path) -> None:
    optimizer = MasterAdamW({"w": torch.nn.Parameter(torch.zeros(2))})
    other = MasterAdamW({"w": torch.nn.Parameter(torch.ones(3))})
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.restore(other.state())
    assert optimizer.state().masters["w"].tolist() == [0, 0]


def test_a_parameter_that_never_had_a_gradient_goes_through_a_checkpoint() -> None:
    def make() -> tuple[torch.nn.Parameter, MasterAdamW]:
        used = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        return used, MasterAdamW({"used": used, "unused": torch.nn.Parameter(torch.ones(3))})

    (used, one), (again, other) = make(), make()
    for _ in range(2):
        used.grad = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
        one.collect()
        one.step(0.1, max_norm=1.0)
        other.restore(one.state())
        assert torch.equal(again, used)
        assert other.state().steps == one.state().steps
        assert set(other.state().moments["exp_avg"]) == {"used"}
