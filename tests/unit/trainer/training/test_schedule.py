"""The learning rate at every step: the shape of each schedule, and the library's own curves."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import optimization

from finetune_trainer.training.schedule import Schedule, Scheduler

KINDS: tuple[Scheduler, ...] = get_args(Scheduler)


def curve(kind: Scheduler, total: int, percent: str) -> list[float]:
    schedule = Schedule.of(kind, total=total, warmup_percent=percent)
    return [schedule.factor(step) for step in range(total)]


@given(kind=st.sampled_from(KINDS), total=st.integers(1, 500), percent=st.integers(0, 99))
def test_the_learning_rate_rises_then_never_rises_again_and_never_reaches_zero(
    kind: Scheduler, total: int, percent: int
) -> None:
    factors = curve(kind, total, str(percent))
    top = factors.index(max(factors))
    assert max(factors) == 1.0
    assert top == percent * total // 100
    assert factors[:top] == sorted(set(factors[:top]))
    assert factors[top:] == sorted(factors[top:], reverse=True)
    assert min(factors) > 0


@given(total=st.integers(1, 5000))
def test_a_warm_up_of_five_percent_is_a_twentieth_of_the_steps(total: int) -> None:
    assert Schedule.of("Cosine", total=total, warmup_percent="5").warmup == total // 20 == int(0.05 * total)


@pytest.mark.parametrize(("percent", "warmup"), [("29", 29), ("7", 7), ("0.5", 0), ("1e1", 10), ("1e-300", 0)])
def test_a_percentage_is_no_binary_fraction(percent: str, warmup: int) -> None:
    assert Schedule.of("Linear", total=100, warmup_percent=percent).warmup == warmup


def theirs(total: int, warmup: int, make: Callable[..., Any], **about: int | str) -> list[float]:
    """The factors that a scheduler of transformers gives at each step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, num_warmup_steps=warmup, **about)
    factors = []
    for _ in range(total):
        factors.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return factors


@pytest.mark.parametrize("total", [1, 5, 40, 100, 333])
@pytest.mark.parametrize("percent", ["0", "5", "25"])
@pytest.mark.parametrize("kind", KINDS)
def test_after_the_warm_up_the_curve_is_that_of_transformers(kind: Scheduler, percent: str, total: int) -> None:
    schedule = Schedule.of(kind, total=total, warmup_percent=percent)
    makers: dict[Scheduler, tuple[Callable[..., Any], dict[str, int | str]]] = {
        "Cosine": (optimization.get_cosine_schedule_with_warmup, {"num_training_steps": total}),
        "Linear": (optimization.get_linear_schedule_with_warmup, {"num_training_steps": total}),
        "Constant": (optimization.get_constant_schedule_with_warmup, {}),
        "WSD": (
            optimization.get_wsd_schedule,
            {"num_training_steps": total, "num_decay_steps": total // 5, "decay_type": "1-sqrt"},
        ),
    }
    make, about = makers[kind]
    expected = theirs(total, schedule.warmup, make, **about)
    assert curve(kind, total, percent)[schedule.warmup :] == pytest.approx(expected[schedule.warmup :], abs=1e-12)


def test_the_warm_up_is_the_librarys_without_its_first_step_which_would_learn_nothing() -> None:
    ours = curve("Constant", 40, "25")[:10]
    expected = theirs(11, 11, optimization.get_constant_schedule_with_warmup)
    assert expected[0] == 0
    assert ours == pytest.approx(expected[1:], abs=1e-12)


def test_wsd_stays_at_its_peak_until_the_last_fifth() -> None:
    factors = curve("WSD", 100, "10")
    assert [len(list(group)) for one, group in itertools.groupby(factors, lambda f: f == 1.0) if one] == [71]
    assert factors[80] == 1.0 > factors[81]


def test_wsd_with_a_long_warm_up_falls_from_its_end() -> None:
    factors = curve("WSD", 100, "90")
    assert factors[90] == 1.0 > factors[91]
    assert factors[89] < 1.0
