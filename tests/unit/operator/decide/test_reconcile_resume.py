"""A suspended job goes on, or has ended: what was left of it, what is judged first, what it may still use."""

from __future__ import annotations

import pytest

from finetune_api.reasons import Reason
from finetune_operator.decide.plan import CreateChild
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, ended_with
from tests.unit.operator.decide.suspend_kit import conditions, events, running, suspended


def test_a_job_that_was_suspended_for_a_day_has_what_was_left_of_its_deadline() -> None:
    life = suspended(b.cpu_spec(activeDeadlineSeconds=1000), seconds=300)
    life.settle(86400)
    life.edit(suspend=False).settle()
    assert [manifest["spec"]["activeDeadlineSeconds"] for manifest in life.manifests] == [1000, 700]
    life.pod_runs("train").settle(200).edit(suspend=True).settle().goes("train").settle(86400)
    life.edit(suspend=False).settle()
    assert life.manifests[-1]["spec"]["activeDeadlineSeconds"] == 500


def test_a_resumed_job_says_so_and_goes_back_to_the_phase_that_it_had() -> None:
    life = suspended()
    life.edit(suspend=False).settle()
    assert conditions(life)["Suspended"] == ("False", "Resumed")
    assert conditions(life)["Succeeded"] == ("Unknown", "Pending")
    assert life.status["phase"] == "Training"
    life.pod_runs("train").settle(10)
    assert conditions(life)["Succeeded"] == ("Unknown", "Training")
    assert life.stage("train")["attempts"] == 2
    assert events(life) == ["Started", "Suspended", "Resumed"]


def test_a_job_that_was_suspended_ends_like_any_other() -> None:
    life = suspended()
    life.edit(suspend=False).settle(10).pod_runs("train").settle(50)
    life.completes("train", b.train_report(SPEC)).settle()
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 150
    assert conditions(life)["Suspended"] == ("False", "Resumed")


def test_a_job_can_be_suspended_again_and_again() -> None:
    life = suspended(seconds=10)
    for _ in range(3):
        life.edit(suspend=False).settle(1000).pod_runs("train").settle(10)
        life.edit(suspend=True).settle(0).goes("train").settle(1000)
    assert life.stage("train")["runSeconds"] == 40
    assert life.stage("train")["attempts"] == 4
    assert events(life) == ["Started", *["Suspended", "Resumed"] * 3, "Suspended"]


def test_a_job_that_is_resumed_before_its_pods_are_gone_waits_for_them() -> None:
    life = running().edit(suspend=True).settle(5)
    life.edit(suspend=False).settle(5)
    assert life.writes.count("create") == 1
    assert conditions(life)["Succeeded"] == ("Unknown", "Resuming")
    assert conditions(life)["Suspended"] == ("False", "Resumed")
    life.settle(100).goes("train").settle(5)
    assert life.writes.count("create") == 2
    assert life.writes.count("delete") == 1
    assert life.stage("train")["runSeconds"] == 105
    assert events(life) == ["Started", "Resumed"]


def test_what_holds_the_job_up_after_it_was_resumed_is_told() -> None:
    life = suspended()
    life.edit(suspend=False).settle(5).pod_waits("train", waiting_reason="ErrImagePull").settle(5)
    assert life.reason == "ImagePullFailed"
    assert events(life)[-1] == "ImagePullFailed"


def test_only_the_stage_that_was_cut_off_comes_again() -> None:
    life = Simulation(b.job(), runtime=b.runtime(), lingering=True).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(5).remove("prepare")
    life.edit(suspend=True).settle().goes("train").settle(100)
    life.edit(suspend=False).settle(100)
    stages = [manifest["metadata"]["labels"]["finetune.dev/stage"] for manifest in life.manifests]
    assert stages == ["prepare", "train", "train"]


# --- what has ended is judged first -----------------------------------------------------------------------------------


def test_a_child_that_had_ended_well_counts_though_the_job_is_suspended() -> None:
    life = running().completes("train", b.train_report(SPEC)).edit(suspend=True).settle()
    assert life.status["phase"] == "Succeeded"
    assert conditions(life)["Suspended"] == ("False", "NotSuspended")
    assert "delete" not in life.writes


def test_a_child_that_had_failed_counts_though_the_job_is_suspended() -> None:
    life = running().pod_fails("train", 11).fails("train").edit(suspend=True).settle()
    assert ended_with(life)[0] == "DatasetInvalid"


def test_a_child_that_ends_well_in_its_grace_period_counts() -> None:
    life = running().edit(suspend=True).settle(5).completes("train", b.train_report(SPEC)).settle(5)
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 105


@pytest.mark.parametrize("reason", ["BackoffLimitExceeded", "PodFailurePolicy", "DeadlineExceeded"])
def test_a_child_that_fails_because_its_pods_were_taken_away_has_not_failed_the_job(reason: str) -> None:
    life = running().edit(suspend=True).settle(5).passes(5).pod_fails("train", 137).fails("train", reason).settle(5)
    assert conditions(life)["Succeeded"] == ("Unknown", "Suspending")
    life.goes("train").settle(5)
    assert life.status["phase"] == "Suspended"
    life.edit(suspend=False).settle(5)
    assert life.writes.count("create") == 2


def test_a_child_that_failed_before_its_delete_was_carried_out_has_failed_the_job() -> None:
    life = running().edit(suspend=True)
    life.write(reconcile(life.observe(live=True)))
    life.passes(50).pod_fails("train", 20).fails("train").settle()
    assert ended_with(life)[0] == "Diverged"
    assert life.stage("train")["runSeconds"] == 100


def test_train_is_not_started_when_prepare_ends_while_the_job_is_suspended() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).edit(suspend=True).settle(5)
    assert [stage["state"] for stage in life.status["stages"]] == ["Succeeded", "Pending"]
    assert life.status["phase"] == "Suspended"
    assert life.condition("Prepared")["status"] == "True"
    assert len(life.manifests) == 1
    life.edit(suspend=False).settle(86400)
    stages = [manifest["metadata"]["labels"]["finetune.dev/stage"] for manifest in life.manifests]
    assert stages == ["prepare", "train"]


def test_a_report_that_is_lost_while_the_job_is_suspended_is_asked_for_after_it_was_resumed() -> None:
    life = running().completes("train", None).edit(suspend=True).settle()
    assert life.stage("train")["recreated"] == 1
    assert life.writes[-2:] == ["status", "delete"]
    assert conditions(life)["Succeeded"] == ("Unknown", "Suspending")
    assert events(life)[-1] == "ReportLost"
    life.goes("train").settle(100)
    assert life.status["phase"] == "Suspended"
    life.edit(suspend=False).settle().pod_runs("train").settle(5).completes("train", b.train_report(SPEC)).settle()
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 105


def test_a_report_that_is_lost_twice_fails_a_job_though_it_is_suspended() -> None:
    life = running().completes("train", None).settle().goes("train").settle().pod_runs("train").settle(5)
    life.completes("train", None).edit(suspend=True).settle()
    assert ended_with(life)[0] == "NotReported"


def test_a_child_that_ends_without_a_report_in_its_grace_period_has_not_lost_one() -> None:
    life = running().edit(suspend=True).settle(5).completes("train", None).settle(5)
    assert life.stage("train")["recreated"] == 0
    assert "ReportLost" not in events(life)
    assert life.goes("train").settle(5).status["phase"] == "Suspended"


# --- the deadline -----------------------------------------------------------------------------------------------------


def used_up() -> Simulation:
    """A suspended job that has run for as long as it may."""
    return suspended(b.cpu_spec(activeDeadlineSeconds=600), seconds=600)


def test_a_job_without_seconds_left_stays_suspended_and_says_what_to_do_first() -> None:
    life = used_up().settle(86400)
    assert life.status["phase"] == "Suspended"
    assert "raise activeDeadlineSeconds" in life.condition("Succeeded")["message"]
    assert "raise activeDeadlineSeconds" not in suspended().condition("Succeeded")["message"]


def test_a_job_without_seconds_left_fails_when_it_is_resumed() -> None:
    life = used_up().edit(suspend=False).settle()
    reason, message = ended_with(life)
    assert reason == "DeadlineExceeded"
    assert "Raise activeDeadlineSeconds" in message
    assert life.writes.count("create") == 1


def test_the_end_of_a_job_without_seconds_left_is_decided_on_live_reads() -> None:
    assert reconcile(used_up().edit(suspend=False).observe(live=False)).needs_live


def test_a_deadline_that_is_raised_before_the_job_is_resumed_lets_it_go_on() -> None:
    life = used_up().edit(activeDeadlineSeconds=900).settle(5)
    assert life.status["observedGeneration"] == life.job["metadata"]["generation"]
    assert "raise activeDeadlineSeconds" not in life.condition("Succeeded")["message"]
    assert events(life).count("Suspended") == 1
    life.edit(suspend=False).settle(5)
    assert life.manifests[-1]["spec"]["activeDeadlineSeconds"] == 300


# --- after the end, and without a job ---------------------------------------------------------------------------------


@pytest.mark.parametrize("good", [True, False])
def test_a_job_that_has_ended_can_not_be_suspended(good: bool) -> None:
    life = running()
    if good:
        life.completes("train", b.train_report(SPEC)).settle()
    else:
        report = b.failure_report(Reason.DIVERGED, "loss is NaN", spec=SPEC)
        life.pod_fails("train", 20, report).fails("train").settle()
    before = life.status
    life.edit(suspend=True)
    life.kstatuses.clear()
    life.settle(100)
    assert life.status["phase"] == before["phase"]
    assert life.condition("Suspended")["status"] == "False"
    assert life.writes.count("delete") == 0
    assert life.status["observedGeneration"] == 2


def test_a_job_that_is_deleted_while_it_is_suspended_is_left_alone() -> None:
    for life in (running().edit(suspend=True).settle(), suspended()):
        life.job["metadata"]["deletionTimestamp"] = "2026-03-01T09:00:00Z"
        writes = list(life.writes)
        life.settle(100)
        assert life.writes == writes


@pytest.mark.parametrize("live", [True, False])
def test_no_child_is_ever_planned_for_a_suspended_job(live: bool) -> None:
    for job in (b.job(b.job_spec(suspend=True)), suspended().job):
        plan = reconcile(b.observed(job, runtime=b.runtime(), live=live))
        assert not any(isinstance(action, CreateChild) for action in plan.actions)
