"""The plan of a training: order of rows, micro-batches, learning rate, chosen numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.job import EarlyStopping, LoRA, Training, Validation
from finetune_trainer.data.sample import row_sample
from finetune_trainer.training.plan import BatchLimits, micro_batches, resolve, step_seed, steps


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 50), n=st.integers(1, 300), batch=st.integers(1, 64))
def test_an_epoch_holds_every_row_once(seed: int, epoch: int, n: int, batch: int) -> None:
    assert sorted(np.concatenate(steps(seed, epoch, n, batch)).tolist()) == list(range(n))


@given(n=st.integers(1, 300), batch=st.integers(1, 64))
def test_steps_hold_at_most_a_batch_and_differ_by_at_most_one_row(n: int, batch: int) -> None:
    sizes = [len(s) for s in steps(1, 0, n, batch)]
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-n // batch)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): tuple(np.concatenate(steps(seed, epoch, 50, 8))) for seed in (1, 2) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert tuple(np.concatenate(steps(1, 1, 50, 8))) == orders[1, 1]


def test_the_order_never_changes_between_releases() -> None:
    assert np.concatenate(steps(7, 0, 10, 4)).tolist() == [8, 4, 3, 6, 2, 1, 0, 5, 9, 7]


def test_every_step_has_a_seed_of_its_own() -> None:
    seeds = {step_seed(seed, step) for seed in range(20) for step in range(50)}
    assert len(seeds) == 1000
    assert all(0 <= s < 2**63 for s in seeds)


lengths_of_rows = st.lists(st.integers(1, 40), min_size=1, max_size=9)


@given(lengths=lengths_of_rows, tokens=st.integers(1, 120), labels=st.integers(1, 60), overhead=st.integers(0, 30))
def test_micro_batches_hold_every_row_once_within_the_limits(
    lengths: list[int], tokens: int, labels: int, overhead: int
) -> None:
    sizes = np.array(lengths)
    supervised = np.maximum(1, sizes // 3)
    batches = micro_batches(
        np.arange(len(sizes)), sizes, supervised, BatchLimits(tokens=tokens, labels=labels, overhead=overhead)
    )
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    for batch in batches:
        if len(batch) > 1:
            assert int(sizes[batch].max()) * len(batch) <= tokens
            assert supervised[batch].sum() <= labels


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7), overhead=st.integers(0, 30))
def test_no_other_cut_of_the_sorted_rows_costs_less(lengths: list[int], overhead: int) -> None:
    sizes = np.array(lengths)
    limits = BatchLimits(tokens=100, labels=10**6, overhead=overhead)

    def cost(batches: list[list[int]]) -> int:
        return sum(max(b) * len(b) + overhead for b in batches)

    ordered = sorted(lengths, reverse=True)
    possible = []
    for cuts in itertools.product([False, True], repeat=len(ordered) - 1):
        batches = [[ordered[0]]]
        for cut, size in zip(cuts, ordered[1:], strict=True):
            if cut:
                batches.append([])
            batches[-1].append(size)
        if all(len(b) == 1 or max(b) * len(b) <= limits.tokens for b in batches):
            possible.append(cost(batches))
    made = [sizes[b].tolist() for b in micro_batches(np.arange(len(sizes)), sizes, sizes, limits)]
    assert cost(made) == min(possible)


def test_micro_batches_take_only_the_rows_of_the_step() -> None:
    sizes = np.array([5, 100, 5, 100, 6])
    batches = micro_batches(np.array([4, 0, 2]), sizes, sizes, BatchLimits(tokens=18, labels=99, overhead=5))
    assert [b.tolist() for b in batches] == [[4, 0, 2]]


def test_a_limited_evaluation_scores_the_same_scattered_rows_each_time() -> None:
    sample = row_sample(1000, 50)
    assert len(set(sample.tolist())) == 50
    assert sample.tolist() == sorted(sample.tolist()) == row_sample(1000, 50).tolist()
    assert sample.min() < 200
    assert sample.max() > 800


@pytest.mark.parametrize("limit", [None, 5, 9])
def test_a_limit_beyond_the_rows_scores_all(limit: int | None) -> None:
    assert row_sample(5, limit).tolist() == [0, 1, 2, 3, 4]


def test_what_was_always_done_is_what_a_training_that_says_nothing_does() -> None:
    chosen = resolve(Training(), rows=327, parameters=135_000_000)
    assert (chosen.optimizer, chosen.scheduler, float(chosen.warmup_percent)) == ("AdamW", "Cosine", 5)
    assert (float(chosen.weight_decay), float(chosen.max_grad_norm)) == (0, 1)
    assert (chosen.max_steps, chosen.validate_every, chosen.validation_limit) == (None, None, None)


def test_settings_of_the_training_are_kept() -> None:
    training = Training(
        optimizer="Adafactor",
        scheduler="WSD",
        warmup_percent="10",
        weight_decay="0.01",
        max_grad_norm="0",
        max_steps=50,
        validation=Validation(every_steps=20, limit=30),
    )
    chosen = resolve(training, rows=10, parameters=1)
    assert (chosen.optimizer, chosen.scheduler, chosen.warmup_percent) == ("Adafactor", "WSD", "10")
    assert (chosen.weight_decay, chosen.max_grad_norm, chosen.max_steps) == ("0.01", "0", 50)
    assert (chosen.validate_every, chosen.validation_limit) == (20, 30)


@pytest.mark.parametrize(("most", "steps"), [(None, 30), (7, 7), (29, 29), (31, 30)])
def test_training_ends_with_the_epochs_or_with_the_steps_whichever_comes_first(most: int | None, steps: int) -> None:
    chosen = resolve(Training(batch_size=10, epochs=3, max_steps=most), rows=95, parameters=1)
    assert chosen.total_steps(95) == steps
    assert chosen.schedule(95).total == steps


def test_the_optimizer_with_short_moments_takes_the_rate_of_the_one_with_long_ones() -> None:
    training = Training(method="Full", optimizer="AdamW8bit")
    chosen = resolve(training, rows=10, parameters=10**6)
    assert (chosen.optimizer, chosen.learning_rate) == ("AdamW8bit", "5e-5")


@pytest.mark.parametrize(("limit", "by"), [(None, "Score"), (100, "Score"), (99, "Loss"), (10**6, "Score")])
def test_the_rows_that_a_validation_scores_decide_what_the_best_is_by(limit: int | None, by: str) -> None:
    training = Training(validation=Validation(limit=limit))
    assert resolve(training, rows=1000, parameters=1, validation_rows=150).select_by == by


@pytest.mark.parametrize(
    ("method", "parameters", "rate"),
    [("LoRA", 1, "5e-2"), ("LoRA", 3e9, "2e-2"), ("Full", 1, "1e-3"), ("Full", 3e9, "4e-4")],
)
def test_adafactors_rate_is_a_multiple_of_the_others(method: Any, parameters: float, rate: str) -> None:
    training = Training(method=method)
    chosen = resolve(training.model_copy(update={"optimizer": "Adafactor"}), rows=9, parameters=int(parameters))
    assert chosen.learning_rate == rate
    times = 20 if method == "Full" else 100
    other = resolve(training, rows=9, parameters=int(parameters)).learning_rate
    assert float(rate) == pytest.approx(times * float(other))


def test_a_training_that_says_nothing_is_lora_with_chosen_numbers() -> None:
    chosen = resolve(Training(), rows=327, parameters=135_000_000)
    assert (chosen.method, chosen.batch_size, chosen.learning_rate, chosen.epochs) == ("LoRA", 16, "5e-4", 3)
    assert chosen.lora == LoRA()
    assert chosen.patience is None


def test_what_the_spec_says_is_kept() -> None:
    training = Training(method="Full", batch_size=7, learning_rate="3e-3", early_stopping=EarlyStopping(patience=2))
    chosen = resolve(training, rows=10, parameters=1)
    assert (chosen.method, chosen.batch_size, chosen.learning_rate, chosen.patience) == ("Full", 7, "3e-3", 2)
    assert chosen.lora is None


@pytest.mark.parametrize(("rows", "batch"), [(1, 4), (80, 4), (160, 8), (327, 16), (640, 32), (10**6, 32)])
def test_small_sets_get_small_batches(rows: int, batch: int) -> None:
    assert resolve(Training(), rows=rows, parameters=1).batch_size == batch


def test_adapters_of_larger_models_take_smaller_steps_too() -> None:
    assert resolve(Training(), rows=100, parameters=3 * 10**9).learning_rate == "2e-4"


@pytest.mark.parametrize(("parameters", "rate"), [(135e6, "5e-5"), (3e9, "2e-5"), (13e9, "1e-5")])
def test_larger_models_take_smaller_steps_in_full_fine_tunes(parameters: float, rate: str) -> None:
    assert resolve(Training(method="Full"), rows=100, parameters=int(parameters)).learning_rate == rate


@pytest.mark.parametrize(("rows", "by"), [(0, "Loss"), (99, "Loss"), (100, "Score"), (10**6, "Score")])
def test_the_epoch_is_chosen_by_score_where_enough_rows_are_validated(rows: int, by: str) -> None:
    assert resolve(Training(), rows=100, parameters=1, validation_rows=rows).select_by == by


def test_what_the_spec_selects_by_is_kept() -> None:
    assert resolve(Training(select_by="Loss"), rows=1, parameters=1, validation_rows=999).select_by == "Loss"
    assert resolve(Training(select_by="Score"), rows=1, parameters=1, validation_rows=1).select_by == "Score"
