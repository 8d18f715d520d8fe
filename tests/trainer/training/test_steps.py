"""Where a training ends and where it validates, in steps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.training import loop
from finetune_trainer.training.loop import train
from finetune_trainer.training.plan import Hyperparameters, steps
from tests.support.tiny_model import make_model, make_prepared
from tests.support.train_kit import FULL, Recorder, load, without_validation


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    make_model(folder)
    return folder


def how(**changes: Any) -> Hyperparameters:
    """Two epochs of the 60 train rows, 8 steps each."""
    return dataclasses.replace(FULL, batch_size=8, **changes)


def points(base: Path, parameters: Hyperparameters) -> list[tuple[int, int]]:
    loaded = load(base)
    return [(p.epoch, p.step) for p in train(loaded, make_prepared(loaded.tokenizer), parameters).validation]


def test_the_rows_make_the_steps_that_these_tests_count(base: Path) -> None:
    prepared = make_prepared(load(base).tokenizer)
    assert how().steps_per_epoch(len(prepared.parts["train"])) == 8


@pytest.mark.parametrize(
    ("every", "most", "expected"),
    [
        (None, None, [(1, 8), (2, 16)]),
        (None, 11, [(1, 8), (1, 11)]),
        (None, 8, [(1, 8)]),
        (None, 3, [(0, 3)]),
        (5, None, [(0, 5), (1, 10), (1, 15), (2, 16)]),
        (8, None, [(1, 8), (2, 16)]),
        (100, None, [(2, 16)]),
        (5, 10, [(0, 5), (1, 10)]),
        (1, 2, [(0, 1), (0, 2)]),
    ],
)
def test_validations_come_where_they_were_asked_for_and_at_the_end(
    base: Path, every: int | None, most: int | None, expected: list[tuple[int, int]]
) -> None:
    assert points(base, how(validate_every=every, max_steps=most)) == expected


def test_the_tokens_of_a_training_that_ends_within_an_epoch_are_those_of_its_steps(base: Path) -> None:
    loaded = load(base)
    prepared = make_prepared(loaded.tokenizer)
    part = prepared.parts["train"]
    outcome = train(loaded, without_validation(prepared), how(max_steps=11))
    seen = [*range(len(part)), *(int(i) for rows in steps(7, 1, len(part), 8)[:3] for i in rows)]
    assert outcome.steps == 11
    assert outcome.tokens == sum(int(part.lengths[i]) for i in seen)
    assert outcome.supervised_tokens == sum(int(part.completion_lengths[i]) for i in seen)
    assert outcome.attention_pairs == sum(int(part.lengths[i]) ** 2 for i in seen)
    assert not outcome.stopped_early
    assert outcome.best_epoch == 11 / 8


def test_fewer_steps_begin_as_more_do_with_a_constant_rate(base: Path) -> None:
    losses = []
    for most in (None, 5):
        loaded = load(base)
        parameters = how(scheduler="Constant", warmup_percent="0", max_steps=most)
        losses.append(list(train(loaded, without_validation(make_prepared(loaded.tokenizer)), parameters).losses))
    assert losses[0][:5] == losses[1]


def test_a_look_at_the_validation_rows_changes_no_step(base: Path) -> None:
    losses = []
    for every in (None, 3):
        loaded = load(base)
        losses.append(train(loaded, make_prepared(loaded.tokenizer), how(validate_every=every)).losses)
    assert losses[0] == losses[1]


def test_a_limited_validation_scores_the_same_few_rows_each_time(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[list[int]] = []

    def watched(*args: Any, **about: Any) -> Any:
        outcome = evaluate(*args, **about)
        scored.append(outcome.indices)
        return outcome

    monkeypatch.setattr(loop, "evaluate", watched)
    loaded, recorder = load(base), Recorder()
    train(loaded, make_prepared(loaded.tokenizer), how(validate_every=4, validation_limit=5), observer=recorder)
    assert len(recorder.points) == len(scored) == 4
    assert scored[0] == scored[-1]
    assert len(set(scored[0])) == 5


def test_patience_counts_validations_and_not_epochs(base: Path) -> None:
    loaded = load(base)
    # No step is ever taken in earnest, so that no validation is better than the first.
    parameters = how(validate_every=2, patience=3, learning_rate="1e-30")
    outcome = train(loaded, make_prepared(loaded.tokenizer), parameters)
    assert [p.step for p in outcome.validation] == [2, 4, 6, 8]
    assert outcome.stopped_early
    assert outcome.best_epoch == 2 / 8
