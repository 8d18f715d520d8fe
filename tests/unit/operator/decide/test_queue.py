"""A job that names a queue of Kueue: it waits, runs when it is admitted, is stopped and goes on."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.plan import DeleteChild, SetChildDeadline
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation

SPEC = b.cpu_spec(queueName="team-a", workloadPriorityClassName="low", activeDeadlineSeconds=1000)


def queued(spec: dict[str, Any] | None = None, *, seconds: float = 5) -> Simulation:
    """A job whose first child waits in its queue for so long."""
    return Simulation(b.job(spec or SPEC), runtime=b.runtime()).settle().settle(seconds)


def running() -> Simulation:
    """A job that was admitted after 5 seconds, and whose pod has run for 100."""
    life = queued().admitted("train").settle(1).pod_runs("train").settle()
    return life.settle(100)


def message(life: Simulation) -> str:
    return str(life.condition("Succeeded")["message"])


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_a_job_that_is_admitted_at_once_is_never_said_to_wait() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle().settle(1)
    assert (life.reason, life.status["phase"], life.plan.requeue_after) == ("Pending", "Pending", 3.0)
    life.admitted("train").settle(1).pod_runs("train").settle(1)
    assert life.reason == "Training"
    assert life.writes == ["status", "create", "status"]


def test_a_job_that_is_not_admitted_waits_in_its_queue_and_says_since_when() -> None:
    life = queued()
    assert (life.reason, life.status["phase"]) == ("Queued", "Queued")
    assert message(life) == (
        "Job support-intent-0f3c9a1b-train waits in Kueue's LocalQueue team-a since 2026-03-01T08:00:00Z."
    )


def test_a_wait_says_what_kueue_says() -> None:
    text = "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor a, 1 more"
    life = queued().waits("train", reason="Pending", message=text).settle(5)
    assert life.reason == "Queued"
    assert message(life).endswith(f" since 2026-03-01T08:00:00Z. {text}.")


def test_numbers_that_change_in_what_kueue_says_write_nothing() -> None:
    life = queued().waits("train", reason="Pending", message="insufficient unused quota, 2 more needed").settle(5)
    writes = list(life.writes)
    life.waits("train", reason="Pending", message="insufficient unused quota, 1 more needed").settle(60)
    assert life.writes == writes
    life.waits("train", reason="Pending", message="Pending the preemption of 1 workload(s)").settle(60)
    assert "Pending the preemption" in message(life)


@pytest.mark.parametrize(("waited", "pause"), [(5, 3.0), (40, 10.0), (400, 100.0), (10**6, 300.0)])
def test_a_queue_is_asked_the_less_often_the_longer_a_job_waits(waited: float, pause: float) -> None:
    assert queued(seconds=waited).plan.requeue_after == pause


def test_a_job_waits_in_its_queue_for_as_long_as_it_takes() -> None:
    life = queued(b.cpu_spec(queueName="team-a", activeDeadlineSeconds=60)).settle(10**7)
    assert life.reason == "Queued"
    assert life.child("train").active_deadline_seconds == 60
    assert "runSeconds" not in life.stage("train") or life.stage("train")["runSeconds"] == 0


def test_a_job_that_waits_has_no_attempt() -> None:
    assert queued(seconds=500).stage("train").get("attempts", 0) == 0


# --- what somebody has to mend ----------------------------------------------------------------------------------------

NEVER = (
    "couldn't assign flavors to pod set main: insufficient quota for nvidia.com/gpu in flavor gpu-a, previously "
    "considered podsets requests (0) + current podset request (2) > maximum capacity (1)"
)
CHILD = "support-intent-0f3c9a1b-train"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (
            {"installed": False, "workload": None},
            f"Job {CHILD} waits for LocalQueue team-a, and Kueue is not installed in this cluster. Install Kueue, or "
            "suspend the job, take queueName out of it and resume it.",
        ),
        (
            {"workload": None, "priority_missing": True},
            f'WorkloadPriorityClass "low" does not exist, so Kueue does not queue Job {CHILD}. Create it, or suspend '
            "the job, change workloadPriorityClassName and resume it.",
        ),
        (
            {"reason": "Inadmissible", "message": "LocalQueue team-a doesn't exist"},
            f"Kueue does not admit Job {CHILD}: LocalQueue team-a doesn't exist. Create it in the namespace of the "
            "job, or suspend the job, change queueName and resume it.",
        ),
        (
            {"reason": "Inadmissible", "message": "ClusterQueue cq is stopped"},
            f"Kueue does not admit Job {CHILD}: ClusterQueue cq is stopped. An administrator of Kueue can tell more.",
        ),
        (
            {"reason": "Pending", "message": NEVER},
            f"Job {CHILD} asks for more than LocalQueue team-a can ever give it: {NEVER}. Raise the quota of its "
            "ClusterQueue, or delete the job and apply it anew for another queue or runtime.",
        ),
        (
            {"evicted": "Deactivated", "evicted_message": "The workload is deactivated", "reason": "Pending"},
            f"Workload job-x of Job {CHILD} is deactivated: The workload is deactivated. Set its spec.active to true, "
            "and the job goes on.",
        ),
    ],
    ids=["no Kueue", "no priority class", "no LocalQueue", "inadmissible", "never fits", "deactivated"],
)
def test_a_wait_that_only_somebody_can_end_names_the_mend(says: dict[str, Any], told: str) -> None:
    life = queued().waits("train", **says).settle(5).settle(500)
    assert (life.reason, life.status["phase"]) == ("Inadmissible", "Queued")
    assert message(life) == told
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert [(event.reason, event.type) for event in life.events].count(("Inadmissible", "Warning")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "resource ephemeral-storage unavailable in ClusterQueue",
        "flavor gpu-a doesn't match node affinity",
        "untolerated taint {gpu yes NoSchedule} in flavor gpu-a",
        "insufficient quota for cpu in flavor a, previously considered podsets requests (0) + current podset request "
        "(1500m) > maximum capacity (1), insufficient unused quota for memory in flavor a, 2Gi more needed",
        "resource cpu unavailable in ClusterQueue, insufficient unused quota for memory in flavor a, 2Gi more needed",
    ],
)
def test_a_queue_whose_flavors_never_suit_the_job_is_told(text: str) -> None:
    assert queued().waits("train", reason="Pending", message=text).settle(5).reason == "Inadmissible"


@pytest.mark.parametrize(
    "text",
    [
        f"{NEVER}, insufficient unused quota for cpu in flavor b, 1 more",
        f"{NEVER}. Pending the preemption of 1 workload",
    ],
)
def test_a_job_that_fits_into_one_flavor_waits_for_that(text: str) -> None:
    assert queued().waits("train", reason="Pending", message=text).settle(5).reason == "Queued"


def test_a_job_of_which_kueue_takes_no_note_is_told_after_half_a_minute() -> None:
    life = queued(seconds=10).waits("train", workload=None).settle(5)
    assert life.reason == "Queued"
    life.settle(20)
    assert life.reason == "Inadmissible"
    assert "its controller does not run, or does not manage Jobs of this namespace" in message(life)


def test_a_missing_queue_of_the_stage_that_prepares_may_be_the_runtimes() -> None:
    spec = b.job_spec(queueName="team-a")
    life = Simulation(b.job(spec), runtime=b.runtime(b.runtime_spec(prepareQueueName="cpu"))).settle().settle(5)
    life.waits("prepare", reason="Inadmissible", message="LocalQueue cpu doesn't exist").settle(5)
    assert "change queueName, or prepareQueueName of the FineTuneRuntime" in message(life)


def test_an_operator_that_may_not_read_workloads_says_so() -> None:
    life = queued().waits("train", workload=None, readable=False).settle(100)
    assert life.reason == "Queued"
    assert message(life).endswith("The operator may not read why (kueue.enabled of its chart).")


def test_a_wait_that_was_mended_goes_on() -> None:
    life = queued().waits("train", reason="Inadmissible", message="LocalQueue team-a doesn't exist").settle(5)
    life.waits("train", reason="Pending", message="insufficient unused quota").settle(5)
    assert life.reason == "Queued"
    life.admitted("train").settle(1).pod_runs("train").settle(1)
    assert (life.reason, life.status["phase"]) == ("Training", "Training")


# --- stopped by the queue ---------------------------------------------------------------------------------------------


def test_a_job_that_makes_room_says_for_whom_and_that_it_goes_on() -> None:
    life = running().stopped_by_queue("train", message="Preempted to accommodate a workload (UID: x)").settle(1)
    assert (life.reason, life.status["phase"]) == ("Queued", "Queued")
    assert message(life) == (
        f"Kueue has stopped Job {CHILD} since 2026-03-01T08:01:46Z (Preempted): Preempted to accommodate a workload "
        "(UID: x). It goes on from what it saved when LocalQueue team-a admits it again."
    )
    assert [event.reason for event in life.settle(500).events].count("Evicted") == 1


def test_being_stopped_is_no_failure_and_the_same_child_goes_on() -> None:
    life = running()
    for _ in range(3):
        life.stopped_by_queue("train").settle(1).settle(500)
        life.admitted("train").settle(1).pod_runs("train").settle(100)
    assert life.stage("train").get("failures", 0) == 0
    assert "Attempt" not in message(life)
    assert life.writes.count("create") == 1
    assert "delete" not in life.writes
    assert life.completes("train", b.train_report(SPEC)).settle(1).status["phase"] == "Succeeded"


def test_the_deadline_counts_admitted_time_only() -> None:
    life = running().stopped_by_queue("train").settle(1).settle(5000)
    assert life.stage("train")["runSeconds"] == 101
    assert life.child("train").active_deadline_seconds == 899


def test_the_operator_writes_nothing_of_a_queued_child_but_its_deadline() -> None:
    life = queued()
    for _ in range(3):
        assert life.plan.actions == ()
        life.admitted("train").settle(1).pod_runs("train").settle(50)
        plan = reconcile(life.stopped_by_queue("train").observe(live=False))
        assert [type(action) for action in plan.actions] == [SetChildDeadline]
        life.settle(50)


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_job_that_waits_is_suspended_by_taking_its_child_out_of_the_queue() -> None:
    life = queued().edit(suspend=True).settle(1)
    assert (life.children, life.status["phase"], life.reason) == ({}, "Suspended", "Suspended")
    life.edit(suspend=False).settle(1)
    assert life.child("train").suspended
    assert life.child("train").queue == "team-a"


def test_a_job_that_its_queue_has_stopped_is_suspended_with_its_seconds_kept() -> None:
    life = running().stopped_by_queue("train").edit(suspend=True).settle(1).settle(1)
    assert life.stage("train")["runSeconds"] == 101
    life.edit(suspend=False).settle(1)
    assert life.child("train").active_deadline_seconds == 899


def test_a_suspended_job_goes_on_in_the_queue_that_it_names_by_then() -> None:
    life = running().edit(suspend=True).settle(1).edit(queueName="team-b", suspend=False).settle(1)
    assert (life.child("train").queue, life.child("train").made_for) == ("team-b", "team-b/low")


@pytest.mark.parametrize("edit", [{"queueName": "team-b"}, {"workloadPriorityClassName": "high"}], ids=str)
def test_a_change_of_queue_that_nobody_saw_in_between_gives_the_child_up(edit: dict[str, str]) -> None:
    """Suspended, changed and resumed while the operator was away."""
    life = queued().edit(**edit)
    plan = reconcile(life.observe(live=True))
    assert [type(action) for action in plan.actions] == [DeleteChild]
    life.settle(1)
    assert life.manifests[-1]["metadata"]["annotations"]["finetune.dev/queue"] in ("team-b/low", "team-a/high")
    writes = list(life.writes)
    assert life.settle(1).writes == writes


def test_a_label_that_somebody_else_changes_moves_nothing() -> None:
    life = queued().change_child("train", queue="elsewhere", priority="other").settle(5)
    assert "delete" not in life.writes
    assert "LocalQueue elsewhere" in message(life)


def test_a_queue_that_kueue_chose_by_itself_is_left_alone() -> None:
    """A LocalQueue that is called default takes Jobs that name none."""
    life = Simulation(b.job(b.cpu_spec()), runtime=b.runtime()).settle()
    life.change_child("train", suspended=True, suspended_at=life.now, start_time=None, queue="default").settle(5)
    assert (life.reason, life.writes.count("create")) == ("Queued", 1)
    life.admitted("train").settle(1).pod_runs("train").settle(1)
    assert life.reason == "Training"
