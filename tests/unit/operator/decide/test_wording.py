"""A message follows its cause and not the wording: what is told anew under the same reason, and how often."""

from __future__ import annotations

import pytest

from finetune_operator.decide.wording import says_the_same
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, running

UNAUTHORIZED = 'failed to pull image "r/t@sha256:1": unauthorized'
UNKNOWN = 'failed to pull image "r/t@sha256:1": manifest unknown'
NO_GPU = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
TAINT = "0/3 nodes are available: 3 node(s) had untolerated taint {dedicated: other-team}."
LABELS = 'admission webhook "a" denied the request: a label is missing'
WEEKEND = 'admission webhook "b" denied the request: not at weekends'


def waits(**pod: str) -> Simulation:
    return Simulation(b.job(SPEC), runtime=b.runtime()).settle().pod_waits("train", **pod).settle(20)


def message(life: Simulation) -> str:
    return str(life.condition("Succeeded")["message"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("used: 8, limited: 8", "used: 16, limited: 8"),
        ("sandbox 0f3c9a1b7d0c", "sandbox a1b2c3d4e5f6"),
        ("uid 0f3c9a1b-7d0c-4e0a-9b1c-2d3e4f5a6b7c", "uid aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"),
        ('pods "x-train-x2x9z" is forbidden', 'pods "x-train-qtqtq" is forbidden'),
        ("back-off 40s", "back-off 2m40s"),
        ("at 2026-03-01T08:00:00Z", "at 2026-03-02T09:10:11Z"),
        ("1 Insufficient cpu, 2 Insufficient memory", "4 Insufficient memory, 1 Insufficient cpu."),
    ],
)
def test_numbers_made_up_names_and_the_order_of_words_say_nothing_new(one: str, other: str) -> None:
    assert says_the_same(one, other)


@pytest.mark.parametrize(("one", "other"), [(NO_GPU, TAINT), (LABELS, WEEKEND), (UNAUTHORIZED, UNKNOWN)])
def test_another_cause_says_something_else(one: str, other: str) -> None:
    assert not says_the_same(one, other)


def test_a_cause_that_changes_under_its_reason_is_told_within_three_minutes() -> None:
    life = waits(unschedulable=NO_GPU)
    life.pod_waits("train", unschedulable=TAINT).settle(1)
    assert "nvidia.com/gpu" in message(life)
    pause = life.plan.requeue_after
    assert pause is not None
    assert pause <= 180
    life.settle(pause)
    assert "dedicated" in message(life)
    assert life.plan.requeue_after is None


def test_refusals_that_take_turns_are_written_once_in_a_while() -> None:
    life = running().remove("train")
    life.step()
    writes = life.writes.count("status")
    told = set()
    for number in range(120):
        life.create_error = LABELS if number % 7 < 3 else WEEKEND
        life.settle(30)
        told.add(message(life))
    assert len(told) == 2
    assert life.writes.count("status") - writes <= 21


def test_an_image_that_fails_for_another_cause_is_told_at_once() -> None:
    life = waits(waiting_reason="ErrImagePull", waiting_message=UNAUTHORIZED)
    life.pod_waits("train", waiting_reason="ErrImagePull", waiting_message=UNKNOWN).settle(5)
    assert "manifest unknown" in message(life)


@pytest.mark.parametrize("tail", ["", f": ErrImagePull: {UNAUTHORIZED}"], ids=["before Kubernetes 1.33", "since then"])
def test_a_pause_between_two_tries_at_an_image_leaves_its_cause_told(tail: str) -> None:
    life = waits(waiting_reason="ErrImagePull", waiting_message=UNAUTHORIZED)
    writes = list(life.writes)
    for _ in range(10):
        pause = f'Back-off pulling image "r/t@sha256:1"{tail}'
        life.pod_waits("train", waiting_reason="ImagePullBackOff", waiting_message=pause).settle(20)
        life.pod_waits("train", waiting_reason="ErrImagePull", waiting_message=UNAUTHORIZED).settle(20)
    assert life.writes == writes
    assert "unauthorized" in message(life)
