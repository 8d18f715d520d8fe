"""spec.suspend: how a job comes to stand still, before its first child and in mid-run."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.plan import DeleteChild
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.kstatus import kstatus
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, ended_with
from tests.unit.operator.decide.suspend_kit import conditions, events, running, suspended

# --- before the first child -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", [None, b.runtime(), b.runtime({"image": "trainer:latest"})])
def test_a_job_that_is_applied_suspended_needs_no_runtime_and_gets_no_child(runtime: Any) -> None:
    life = Simulation(b.job(b.job_spec(suspend=True)), runtime=runtime).settle()
    assert life.children == {}
    assert life.writes == ["status"]
    assert life.status["phase"] == "Suspended"
    assert conditions(life) == {
        "Succeeded": ("Unknown", "Suspended"),
        "Finished": ("False", "Suspended"),
        "Suspended": ("True", "SpecSuspended"),
        "Prepared": ("Unknown", "Pending"),
        "ArtifactPublished": ("Unknown", "Pending"),
        "Reconciling": ("False", "Suspended"),
        "Stalled": ("False", "Suspended"),
    }
    assert "spec.suspend" in life.condition("Succeeded")["message"]
    assert [(event.reason, event.type) for event in life.events] == [("Suspended", "Normal")]


def test_a_suspended_job_is_current_for_tools_that_wait_for_it_and_in_progress_until_it_is() -> None:
    life = Simulation(b.job(b.job_spec(suspend=True)), runtime=b.runtime()).settle(100000)
    assert kstatus(life.job) == "Current"
    assert kstatus(suspended().job) == "Current"
    life = running().edit(suspend=True).settle()
    assert kstatus(life.job) == "InProgress"
    life.goes("train").settle()
    assert kstatus(life.job) == "Current"
    assert kstatus(life.edit(suspend=False).job) == "InProgress"
    assert kstatus(life.settle().job) == "InProgress"


def test_a_suspended_job_is_left_alone_while_time_passes() -> None:
    life = suspended()
    writes = list(life.writes)
    for _ in range(10):
        life.settle(10000)
    assert life.writes == writes
    assert life.plan.actions == ()
    assert life.plan.requeue_after is None


def test_nothing_that_is_missing_is_waited_for_while_a_job_is_suspended() -> None:
    life = Simulation(b.job()).settle(5)
    assert life.reason == "RuntimeNotFound"
    life.edit(suspend=True).settle(5)
    assert "waitingSince" not in life.status
    assert "waitingFor" not in life.status
    life.settle(86400)
    life.edit(suspend=False).settle(599)
    assert life.reason == "RuntimeNotFound"
    assert life.settle(599).status["phase"] == "Pending"
    assert life.settle(1).status["failure"]["reason"] == "RuntimeNotFound"


def test_a_job_that_never_ran_starts_when_it_is_resumed() -> None:
    life = Simulation(b.job(b.cpu_spec(suspend=True)), runtime=b.runtime()).settle(100)
    life.edit(suspend=False).settle(100)
    assert life.writes == ["status", "status", "create"]
    assert conditions(life)["Suspended"] == ("False", "Resumed")
    assert life.reason == "Pending"
    assert life.status["phase"] == "Pending"
    assert life.status["startTime"] == "2026-03-01T08:03:20Z"
    assert events(life) == ["Suspended", "Resumed", "Started"]


def test_a_job_that_waits_for_a_quota_is_suspended_without_a_child() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    life.create_error = "exceeded quota: jobs"
    life.settle(5)
    life.edit(suspend=True).settle(5)
    assert life.status["phase"] == "Suspended"
    assert life.plan.actions == ()


def test_a_spec_that_can_not_be_run_fails_though_it_is_suspended() -> None:
    spec = b.cpu_spec(suspend=True, training={"learningRate": "7"})
    assert ended_with(Simulation(b.job(spec)).settle())[0] == "InvalidSpec"


# --- in mid-run -------------------------------------------------------------------------------------------------------


def test_a_running_child_is_deleted_after_its_seconds_are_in_status() -> None:
    life = running()
    child = life.child("train")
    life.edit(suspend=True)
    plan = life.step()
    assert plan.actions == (DeleteChild(name=child.name, uid=child.uid),)
    assert life.writes[-2:] == ["status", "delete"]
    stage = life.stage("train")
    assert (stage["state"], stage["runSeconds"], stage["jobUid"], stage["attempts"]) == ("Pending", 100, child.uid, 1)
    assert stage["recreated"] == 0


def test_the_job_is_suspended_only_when_the_child_is_gone() -> None:
    life = running().edit(suspend=True).settle()
    assert conditions(life)["Succeeded"] == ("Unknown", "Suspending")
    assert conditions(life)["Suspended"] == ("False", "Suspending")
    assert life.status["phase"] == "Training"
    assert life.plan.requeue_after == 30
    assert "Suspended" not in events(life)
    life.settle(170)
    assert conditions(life)["Suspended"] == ("False", "Suspending")
    life.goes("train").settle()
    assert conditions(life)["Suspended"] == ("True", "SpecSuspended")
    assert conditions(life)["Succeeded"] == ("Unknown", "Suspended")
    assert life.status["phase"] == "Suspended"
    assert events(life)[-1] == "Suspended"


def test_a_pod_that_outlives_its_job_keeps_the_job_from_being_suspended() -> None:
    life = running().edit(suspend=True).settle()
    pods = dict(life.pods)
    life.goes("train")
    life.pods = pods
    life.settle(10)
    assert conditions(life)["Suspended"] == ("False", "Suspending")
    life.pods = {}
    assert conditions(life.settle(10))["Suspended"] == ("True", "SpecSuspended")


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_a_pod_whoever_owns_it_keeps_the_job_from_being_suspended(phase: str) -> None:
    life = Simulation(b.job(b.cpu_spec(suspend=True)))
    life.pods["stray"] = b.pod(job_uid="somebody", phase=phase)
    assert conditions(life.settle())["Suspended"] == ("False", "Suspending")


def test_pods_that_have_ended_do_not_count() -> None:
    life = Simulation(b.job(), runtime=b.runtime(), lingering=True).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(5)
    life.edit(suspend=True).settle().goes("train").settle()
    assert [pod.phase for pod in life.pods.values()] == ["Succeeded"]
    assert conditions(life)["Suspended"] == ("True", "SpecSuspended")


def test_suspending_and_being_suspended_are_decided_on_live_reads_only() -> None:
    life = running().edit(suspend=True)
    assert reconcile(life.observe(live=False)).needs_live
    life.settle().goes("train")
    plan = reconcile(life.observe(live=False))
    assert plan.needs_live
    assert plan.status is None


def test_a_child_that_only_the_cache_still_shows_costs_no_write() -> None:
    life = running().edit(suspend=True).settle()
    children, pods = dict(life.children), dict(life.pods)
    life.goes("train").settle()
    now = life.children, life.pods
    life.children, life.pods = children, pods
    assert reconcile(life.observe(live=False)).needs_live
    life.children, life.pods = now
    assert reconcile(life.observe(live=True)).status is None


def test_suspending_costs_two_status_writes_and_a_delete_and_resuming_two_and_a_create() -> None:
    life = running()
    before = len(life.writes)
    life.edit(suspend=True).settle().settle(60).goes("train").settle(1).settle(1000)
    assert life.writes[before:] == ["status", "delete", "status"]
    before = len(life.writes)
    life.edit(suspend=False).settle().pod_waits("train").settle(2).pod_runs("train").settle(10)
    assert life.writes[before:] == ["status", "create", "status"]


def test_a_child_whose_pod_nobody_saw_running_has_started_all_the_same() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime(), lingering=True).settle().pod_runs("train").passes(50)
    life.edit(suspend=True).settle()
    assert (life.stage("train")["attempts"], life.stage("train")["runSeconds"]) == (1, 50)
    assert life.status["phase"] == "Training"


def test_a_child_that_still_waits_for_a_node_is_given_up_too() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime(), lingering=True).settle()
    life.pod_waits("train", unschedulable="no node").settle(50)
    life.edit(suspend=True).settle().goes("train").settle(30)
    assert life.status["phase"] == "Suspended"
    assert life.stage("train")["attempts"] == 0
    assert life.stage("train")["runSeconds"] == 50


def test_a_child_that_a_person_deletes_while_the_job_is_being_suspended_is_waited_for() -> None:
    life = running().is_deleted("train").settle(10).edit(suspend=True).settle(10)
    assert conditions(life)["Suspended"] == ("False", "Suspending")
    assert "delete" not in life.writes
    life.goes("train").settle(500)
    assert life.status["phase"] == "Suspended"
    assert life.stage("train")["runSeconds"] == 110


def test_a_child_that_is_missing_when_the_job_is_suspended_is_noted_in_the_same_write() -> None:
    life = running().remove("train")
    writes = len(life.writes)
    life.edit(suspend=True).settle()
    assert life.writes[writes:] == ["status"]
    assert life.status["phase"] == "Suspended"
    assert life.stage("train")["state"] == "Pending"
    assert life.stage("train")["runSeconds"] == 100


def test_a_job_of_somebody_else_under_our_name_is_a_conflict_only_when_the_stage_goes_on() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime(), lingering=True).settle().remove("train")
    foreign = b.child("train", uid="foreign", owner_uid=None, ended="Complete")
    life.children[foreign.name] = foreign
    life.edit(suspend=True).settle(1)
    assert life.status["phase"] == "Suspended"
    assert ended_with(life.edit(suspend=False).settle(1))[0] == "NameConflict"


def test_a_status_that_was_lost_does_not_leave_the_child_running() -> None:
    life = running().edit(suspend=True)
    life.job = {**life.job, "status": {"observedGeneration": -1}}
    life.settle()
    assert life.writes[-1] == "delete"
    assert life.goes("train").settle().status["phase"] == "Suspended"


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_delete_that_was_cut_off_is_made_later_and_no_second_is_counted_twice() -> None:
    life = running().edit(suspend=True)
    life.write(reconcile(life.observe(live=True)))  # the operator dies between status and delete
    life.settle(50)
    assert life.writes[-1] == "delete"
    assert life.stage("train")["runSeconds"] == 100
    assert life.goes("train").settle(50).stage("train")["runSeconds"] == 100


def test_a_delete_that_was_cut_off_before_the_job_was_resumed_is_made_before_the_next_child() -> None:
    life = running().edit(suspend=True)
    life.write(reconcile(life.observe(live=True)))
    life.edit(suspend=False)
    assert reconcile(life.observe(live=False)).needs_live
    life.settle(5)
    assert life.writes[-1] == "delete"
    assert conditions(life)["Succeeded"] == ("Unknown", "Resuming")
    life.goes("train").settle(5)
    assert life.writes[-1] == "create"
    assert life.stage("train")["runSeconds"] == 100


def test_a_child_that_ends_well_between_the_status_and_the_delete_counts_once() -> None:
    life = running().edit(suspend=True)
    life.write(reconcile(life.observe(live=True)))
    life.passes(50).completes("train", b.train_report(SPEC)).settle()
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 100
