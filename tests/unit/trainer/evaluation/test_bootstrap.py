"""Interval and paired test against scipy's and statsmodels', and where it has to say that it knows nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import contingency_tables
from statsmodels.stats.proportion import proportion_confint

from finetune_trainer.evaluation import bootstrap
from finetune_trainer.evaluation.bootstrap import percentile_interval, same_rows_differ
from finetune_trainer.evaluation.metrics.metric import mean, share
from finetune_trainer.evaluation.stats import mcnemar, wilson


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(0).beta(2, 5, 200)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = percentile_interval(values[:, None], mean)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)


def test_the_interval_of_a_ratio_draws_rows_and_not_tokens() -> None:
    rng = np.random.default_rng(2)
    tokens = rng.integers(1, 50, 120)
    right = rng.binomial(tokens, rng.beta(1, 1, 120))
    theirs = stats.bootstrap(
        (right, tokens),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=5000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    ours = percentile_interval(np.stack([right, tokens], axis=1).astype(float), share)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_p_value_is_close_to_that_of_a_paired_permutation_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.beta(2, 3, 150)
    after = np.clip(before + rng.normal(0.02, 0.1, 150), 0, 1)
    theirs = stats.permutation_test(
        (before, after),
        lambda a, b: np.mean(a) - np.mean(b),
        permutation_type="samples",
        n_resamples=5000,
        rng=np.random.default_rng(1),
    ).pvalue
    ours = same_rows_differ(before[:, None], after[:, None], mean).value
    assert ours == pytest.approx(theirs, abs=0.02)


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.uniform(size=(2, 80, 1))
    order = rng.permutation(80)
    assert percentile_interval(after, mean) == percentile_interval(after[order], mean)
    assert same_rows_differ(before, after, mean) == same_rows_differ(before[order], after[order], mean)


def test_nor_does_how_many_draws_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(4).uniform(size=(30, 1))
    whole = percentile_interval(rows, mean)
    monkeypatch.setattr(bootstrap, "_WEIGHTS", 100)
    assert percentile_interval(rows, mean) == pytest.approx(whole)


def test_equal_models_do_not_differ() -> None:
    rows = np.random.default_rng(5).uniform(size=(50, 1))
    assert same_rows_differ(rows, rows, mean).value == 1.0


def test_a_p_value_is_never_zero() -> None:
    before, after = np.zeros((100, 1)), np.linspace(0.9, 1, 100)[:, None]
    assert same_rows_differ(before, after, mean).value == pytest.approx(1 / 2001)


def test_a_handful_of_rows_proves_nothing_however_alike_they_are() -> None:
    for rows in (1, 2, 3):
        p = same_rows_differ(np.zeros((rows, 1)), np.ones((rows, 1)), mean).value
        assert p == pytest.approx(2 ** (1 - rows))
        assert p == pytest.approx(mcnemar(gained=rows, lost=0).value)


def test_rows_that_are_all_equal_have_no_interval() -> None:
    assert percentile_interval(np.ones((5, 1)), mean) is None


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 9), (742, 852), (30, 30)])
def test_wilsons_interval_is_scipys(correct: int, total: int) -> None:
    theirs = stats.binomtest(correct, total).proportion_ci(method="wilson")
    assert wilson(correct, total) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (3, 9), (742, 852), (30, 30)])
def test_wilsons_interval_is_statsmodels(correct: int, total: int) -> None:
    theirs = proportion_confint(correct, total, alpha=0.05, method="wilson")
    assert wilson(correct, total) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 4), (5, 1), (40, 12), (3, 3), (300, 200)])
@pytest.mark.parametrize("agree", [(0, 0), (70, 25)])
def test_mcnemars_exact_test_is_statsmodels(gained: int, lost: int, agree: tuple[int, int]) -> None:
    right, wrong = agree
    theirs = contingency_tables.mcnemar([[right, lost], [gained, wrong]], exact=True).pvalue
    assert mcnemar(gained=gained, lost=lost).value == pytest.approx(theirs)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 1), (40, 12), (3, 3)])
def test_mcnemars_test_is_scipys_binomial_test(gained: int, lost: int) -> None:
    theirs = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained=gained, lost=lost).value == pytest.approx(theirs)


def test_draws_that_are_all_alike_say_nothing_of_how_others_would_be() -> None:
    kept = np.array([[0.0, 1.0], [1.0, 0.0]] * 20)
    assert percentile_interval(kept, lambda _, weights: np.full(len(weights), 0.25)) is None
