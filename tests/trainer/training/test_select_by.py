"""Which epoch is kept, and when waiting for a better one ends: validations as the test dictates them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.training import loop
from finetune_trainer.training.loop import train
from finetune_trainer.training.plan import Hyperparameters
from finetune_trainer.training.state import NoCheckpoints, TrainingState
from tests.support.tiny_model import make_model, make_prepared
from tests.support.train_kit import FULL, load
from tests.unit.trainer.evaluation.test_results import row

By = Literal["Score", "Loss"]
#                  epoch:  1         2         3         4         5         6
VALIDATIONS = ((5, 1.0), (8, 1.2), (8, 1.1), (7, 0.9), (8, 1.1), (6, 0.9))
"""Rows right of ten, and the loss: by score the third (a tie in score, a lower loss; the fifth is later), by loss the
fourth."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_model(folder)
    return folder


def dictate(monkeypatch: pytest.MonkeyPatch, first: int = 1) -> None:
    told: Iterator[tuple[int, float]] = iter(VALIDATIONS[first - 1 :])

    def evaluate(*_: Any, **__: Any) -> Evaluation:
        right, loss = next(told)
        rows = tuple(row(i, correct=i < right, loss=loss) for i in range(10))
        return Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0)

    monkeypatch.setattr(loop, "evaluate", evaluate)


def how(by: By, *, patience: int | None = None, epochs: int = 6) -> Hyperparameters:
    return dataclasses.replace(FULL, epochs=epochs, batch_size=32, select_by=by, patience=patience)


class Saving(NoCheckpoints):
    """Keeps the state at the end of each epoch."""

    def __init__(self) -> None:
        self.states: list[TrainingState] = []

    def due(self, moment: str) -> bool:
        return moment != "step"

    def save(self, state: TrainingState) -> None:
        self.states.append(state)


@pytest.mark.parametrize(("by", "epoch"), [("Score", 3), ("Loss", 4)])
def test_the_best_epoch_is_kept_of_equals_the_earlier(
    base: Path, monkeypatch: pytest.MonkeyPatch, by: By, epoch: int
) -> None:
    dictate(monkeypatch)
    loaded = load(base)
    saving = Saving()
    outcome = train(loaded, make_prepared(loaded.tokenizer), how(by), checkpointer=saving)
    assert outcome.best_epoch == epoch
    # What the model holds is what it was then.
    then = saving.states[epoch - 1].optimizer.masters
    assert all(torch.equal(p, then[n]) for n, p in loaded.model.named_parameters() if n in then)


@pytest.mark.parametrize(
    ("by", "patience", "best_and_last"),
    [("Score", 1, (3, 4)), ("Score", 2, (3, 5)), ("Loss", 1, (1, 2)), ("Loss", 3, (4, 6))],
)
def test_patience_waits_for_a_better_epoch_by_the_same_rule(
    base: Path, monkeypatch: pytest.MonkeyPatch, by: By, patience: int, best_and_last: tuple[int, int]
) -> None:
    dictate(monkeypatch)
    loaded = load(base)
    outcome = train(loaded, make_prepared(loaded.tokenizer), how(by, patience=patience))
    assert (outcome.best_epoch, len(outcome.validation)) == best_and_last


@pytest.mark.parametrize(("by", "epoch"), [("Score", 3), ("Loss", 4)])
@pytest.mark.parametrize("stopped", [2, 3, 4])
def test_a_training_that_goes_on_keeps_the_same_epoch(
    base: Path, monkeypatch: pytest.MonkeyPatch, by: By, epoch: int, stopped: int
) -> None:
    dictate(monkeypatch)
    loaded, saving = load(base), Saving()
    train(loaded, make_prepared(loaded.tokenizer), how(by), checkpointer=saving)
    weights = {n: p.clone() for n, p in loaded.model.named_parameters()}
    state = saving.states[stopped - 1]
    progress = type(state.progress).model_validate_json(state.progress.model_dump_json(by_alias=True))
    dictate(monkeypatch, first=stopped + 1)
    again = load(base)
    outcome = train(again, make_prepared(again.tokenizer), how(by), state=dataclasses.replace(state, progress=progress))
    assert outcome.best_epoch == epoch
    assert all(torch.equal(p, weights[n]) for n, p in again.model.named_parameters())
