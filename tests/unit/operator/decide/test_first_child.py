"""A stage's first child is made without a look at what stands there: the write before it proves that there is none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from finetune_operator.decide.plan import CreateChild, Plan
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation

ONE, TWO = b.cpu_spec(), b.job_spec()


def applied(spec: dict[str, Any] = ONE) -> Simulation:
    return Simulation(b.job(spec), runtime=b.runtime())


def creates(plan: Plan) -> list[bool]:
    """Of each create of the plan, whether it is known to be the first."""
    return [action.first for action in plan.actions if isinstance(action, CreateChild)]


def at_train() -> Simulation:
    """A job of two stages whose first has just ended well, which no status says yet."""
    life = applied(TWO).settle()
    life.pod_runs("prepare").settle(5)
    return life.completes("prepare", b.prepare_report(spec=TWO))


def test_the_first_child_of_a_job_is_decided_on_what_the_watches_said() -> None:
    plan = reconcile(applied().observe(live=False))
    assert not plan.needs_live
    assert creates(plan) == [True]


def test_the_first_child_of_the_second_stage_is_too() -> None:
    plan = reconcile(at_train().observe(live=False))
    assert not plan.needs_live
    assert creates(plan) == [True]


def test_the_status_says_of_the_first_child_what_no_status_said_before() -> None:
    plan = reconcile(applied().observe(live=False))
    assert plan.status is not None
    assert plan.status["startTime"]


def _written(life: Simulation) -> None:
    life.write(reconcile(life.observe(live=False)))  # and then the operator was gone


def _child_refused(life: Simulation) -> None:
    life.create_error = "exceeded quota"


def _old_without_status(life: Simulation) -> None:
    life.now += timedelta(hours=1)


def _pod_lingers(life: Simulation) -> None:
    other = applied().settle()
    other.pod_runs("train")
    life.pods = dict(other.pods)


@pytest.mark.parametrize("change", [_written, _child_refused, _old_without_status, _pod_lingers])
def test_a_child_that_may_have_been_made_before_is_looked_for(change: Callable[[Simulation], None]) -> None:
    life = applied()
    change(life)
    assert reconcile(life.observe(live=False)).needs_live
    assert creates(reconcile(life.observe(live=True))) == [False]


def test_a_job_that_has_waited_for_long_has_not_lost_its_status() -> None:
    life = Simulation(b.job(ONE), runtime=None).settle()
    life.settle(500)
    life.now += timedelta(hours=1)
    life.runtime = b.runtime()
    life.job["status"]["waitingSince"] = life.now.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert creates(reconcile(life.observe(live=False))) == [True]


def test_the_second_stage_is_looked_for_once_the_first_is_recorded_as_done() -> None:
    life = at_train()
    _written(life)
    assert life.stage("prepare")["state"] == "Succeeded"
    assert reconcile(life.observe(live=False)).needs_live


def test_the_second_stage_is_looked_for_where_the_record_of_the_first_was_lost() -> None:
    life = at_train()
    life.job["status"]["stages"] = []
    assert creates(reconcile(life.observe(live=True))) == [False]


def test_a_child_after_the_first_is_never_a_first() -> None:
    life = applied().settle()
    life.pod_runs("train").settle(5)
    life.remove("train").settle()
    assert len(life.manifests) == 2
    life.remove("train")
    life.now += timedelta(seconds=5)
    for plan in (reconcile(life.observe(live=True)), reconcile(life.observe(live=False))):
        assert creates(plan) in ([], [False])
