"""Interval, paired test and printing of accuracies."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluation.stats import PValue, decimal, mcnemar, signed, wilson


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # from the closed form, worked by hand with z = 1.96
        (742, 852, 0.8467, 0.8917),
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_gives_the_known_interval(correct: int, total: int, low: float, high: float) -> None:
    assert wilson(correct, total) == pytest.approx((low, high), abs=1e-4)


@given(total=st.integers(1, 10**7), share=st.floats(0, 1))
def test_the_interval_holds_the_proportion_and_stays_within_bounds(total: int, share: float) -> None:
    correct = round(share * total)
    low, high = wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_have_no_interval(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} of {total}"):
        wilson(correct, total)


def exact(gained: int, lost: int) -> Fraction:
    n, k = gained + lost, min(gained, lost)
    return min(Fraction(1), Fraction(2 * sum(math.comb(n, i) for i in range(k + 1)), 2**n))


@given(gained=st.integers(0, 400), lost=st.integers(0, 400))
def test_mcnemar_equals_the_binomial_sum(gained: int, lost: int) -> None:
    expected = exact(gained, lost)
    log10 = math.log10(expected.numerator) - math.log10(expected.denominator)
    assert mcnemar(gained, lost).log10 == pytest.approx(log10, rel=1e-9, abs=1e-9)


@given(a=st.integers(0, 10**4), b=st.integers(0, 10**4))
def test_mcnemar_is_two_sided(a: int, b: int) -> None:
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_of_millions_of_rows_neither_underflows_nor_takes_long() -> None:
    p = mcnemar(3_000_000, 2_000_000)
    assert p.log10 == pytest.approx(-43_730, rel=0.01)  # the normal tail: -z^2 / (2 ln 10) with z = 447
    assert p.value == 0.0


def test_mcnemar_of_many_rows_without_a_difference_is_near_one() -> None:
    assert mcnemar(5_000_000, 5_000_000).value == 1.0
    assert mcnemar(5_000_000, 4_999_000).value == pytest.approx(0.7520, abs=1e-3)  # normal: z = 0.316


@pytest.mark.parametrize(
    ("gained", "lost", "text"),
    [(0, 0, "1"), (5, 5, "1"), (6, 0, "0.0313"), (8, 2, "0.1094"), (13, 1, "0.0018"), (200, 0, "1.2e-60")],
)
def test_p_values_are_printed_as_in_a_paper(gained: int, lost: int, text: str) -> None:
    assert str(mcnemar(gained, lost)) == text


@pytest.mark.parametrize(
    ("log10", "text"),
    [(-60.0, "1e-60"), (-3.0, "0.0010"), (-3.00001, "1e-3"), (-4.0000001, "1e-4"), (-9999.5, "3.2e-10000")],
)
def test_a_rounded_mantissa_carries_into_the_exponent(log10: float, text: str) -> None:
    assert str(PValue(log10)) == text


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_printed_p_values_are_decimal_strings_of_the_api(gained: int, lost: int) -> None:
    text = str(mcnemar(gained, lost))
    assert re.fullmatch(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?", text)
    assert len(text) <= 24


@pytest.mark.parametrize(
    ("value", "text"), [(742 / 852, "0.8709"), (0.1, "0.1000"), (1, "1.0000"), (2.30999, "2.3100"), (0.0, "0.0000")]
)
def test_scores_have_four_places(value: float, text: str) -> None:
    assert decimal(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.4589, "+0.4589"), (-0.02, "-0.0200"), (0.0, "+0.0000"), (-1e-9, "+0.0000")]
)
def test_a_gain_has_a_sign(value: float, text: str) -> None:
    assert signed(value) == text
