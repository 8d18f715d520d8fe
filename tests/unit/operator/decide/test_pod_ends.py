"""Pods that did not end by themselves are told as what they are."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.reasons import EXIT_RESUMABLE, REASONS, Reason
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, ended_with, running

EMPTY_DIR = 'Usage of EmptyDir volume "workspace" exceeds the limit "10Gi". '
CONTAINER = 'Container trainer exceeded its local ephemeral storage limit "20Gi". '
WHOLE = "Pod ephemeral local storage usage exceeds the total limit of containers 20Gi. "


def ends(exit_code: int | None, **pod: Any) -> Simulation:
    """The last pod of a job ends so, and the Job gives up."""
    life = running().change_pod("train", phase="Failed", exit_code=exit_code, node="node-1", **pod)
    return life.fails("train", "BackoffLimitExceeded").settle(1)


@pytest.mark.parametrize(
    ("message", "amount"), [(EMPTY_DIR, "10Gi"), (CONTAINER, "20Gi"), (WHOLE, "20Gi")], ids=["volume", "one", "all"]
)
@pytest.mark.parametrize("code", [137, None])
def test_a_full_disk_is_told_with_its_amount_and_its_mend(message: str, amount: str, code: int | None) -> None:
    reason, words = ended_with(ends(code, reason="Evicted", message=message))
    assert reason == "DiskFull"
    assert amount in words
    assert REASONS[Reason.DISK_FULL].mend in words


@pytest.mark.parametrize("code", [EXIT_RESUMABLE, 137, None])
def test_a_full_disk_ends_the_job_though_the_trainer_saved_its_state_and_the_job_would_try_for_ever(
    code: int | None,
) -> None:
    """As kubelet does it: SIGTERM first, so that the trainer ends with 75, which podFailurePolicy ignores."""
    life = running().change_pod("train", phase="Failed", exit_code=code, reason="Evicted", message=WHOLE)
    life.change_child("train", active=1)
    assert reconcile(life.observe(live=False)).needs_live
    assert ended_with(life.settle(1))[0] == "DiskFull"
    assert life.settle().children == {}


def test_an_end_that_nobody_explains_sends_the_reader_to_the_pod_and_not_to_the_message_itself() -> None:
    """So does a container that was injected and failed before the trainer began."""
    life = ends(None)
    reason, words = ended_with(life)
    assert (reason, life.status["failure"]["pod"]) == ("BackoffLimitExceeded", next(iter(life.pods)))
    assert "each container of the last pod" in words
    assert not [info.mend for info in REASONS.values() if "failure.message" in info.mend]


def test_a_node_that_is_low_on_disk_is_no_fault_of_the_job() -> None:
    life = running()
    words = "The node was low on resource: ephemeral-storage."
    life.change_pod(
        "train", phase="Failed", exit_code=75, reason="Evicted", message=words, disruption="TerminationByKubelet"
    )
    assert life.pod_waits("train").settle(1).condition("Succeeded")["status"] == "Unknown"


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ({"reason": "Evicted", "message": "The node was low on resource: memory."}, "The node was low on resource"),
        ({"reason": "NodeLost"}, "its node was lost (NodeLost)"),
        ({"reason": "UnexpectedAdmissionError", "message": "Allocate failed"}, "Allocate failed"),
        ({"reason": "Preempting"}, "made room"),
        ({"terminated_reason": "ContainerStatusUnknown"}, "does not know how the trainer ended"),
        ({"disruption": "PreemptionByScheduler"}, "PreemptionByScheduler"),
    ],
)
def test_an_end_by_the_node_is_not_told_as_the_trainers(pod: dict[str, Any], words: str) -> None:
    reason, message = ended_with(ends(137, **pod))
    assert reason == "BackoffLimitExceeded"
    assert words in message
    assert "memory" not in message or "low on resource" in message


def test_a_kill_without_a_word_of_the_kernel_is_not_told_as_a_want_of_memory() -> None:
    assert ended_with(ends(137, terminated_reason="Error"))[0] == "BackoffLimitExceeded"
    assert ended_with(ends(137, terminated_reason="OOMKilled"))[0] == "OutOfMemory"


def test_what_the_trainer_said_itself_goes_before_what_the_node_says() -> None:
    assert ended_with(ends(16, reason="NodeLost"))[0] == "TemplateInvalid"


def test_an_eviction_before_the_deadline_is_told_beside_it() -> None:
    life = running().change_pod("train", phase="Failed", exit_code=137, reason="Evicted", message=EMPTY_DIR)
    life.fails("train", "DeadlineExceeded").settle(1)
    reason, words = ended_with(life)
    assert reason == "DeadlineExceeded"
    assert "EmptyDir" in words


REJECTED = {
    "reason": "UnexpectedAdmissionError",
    "message": "Pod was rejected: Allocate failed due to no healthy devices present",
    "node": "node-1",
}


def turned_away(life: Simulation, times: int) -> Simulation:
    """Nodes admit none of the child's pods, which the Job counts as failures."""
    for number in range(times):
        life.change_pod("train", phase="Failed", **REJECTED)
        life.change_child("train", active=0, failed=number + 1).settle(10)
    return life


def test_pods_that_nodes_turned_away_use_no_retry_up() -> None:
    life = Simulation(b.job(b.job_spec(backoffLimit=0)), runtime=b.runtime()).settle()
    life.pod_runs("prepare").settle(10).completes("prepare", b.prepare_report()).settle(1)
    turned_away(life, 1).fails("train", "BackoffLimitExceeded").settle(1)
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert "did not admit its pod" in life.condition("Succeeded")["message"]
    assert life.stage("train")["failures"] == 0
    assert life.manifests[-1]["spec"]["backoffLimit"] == 0
    life.pod_runs("train").settle(10).completes("train", b.train_report(life.job["spec"])).settle()
    assert life.status["phase"] == "Succeeded"


def test_real_failures_among_pods_that_were_turned_away_still_use_the_retries_up() -> None:
    life = running(b.cpu_spec(backoffLimit=0)).pod_fails("train", 143)
    life.fails("train", "BackoffLimitExceeded").settle(1)
    assert ended_with(life)[0] == "BackoffLimitExceeded"


def test_a_job_whose_pods_were_only_turned_away_has_not_begun() -> None:
    life = turned_away(Simulation(b.job(SPEC), runtime=b.runtime()).settle(), 1)
    assert life.status["phase"] == "Pending"
    assert life.stage("train")["state"] == "Pending"


@pytest.mark.parametrize(
    ("pod", "away"),
    [
        (REJECTED, True),
        ({"reason": "OutOfnvidia.com/gpu"}, True),
        ({"reason": "Evicted", "message": "Pod was rejected: The node had condition: [DiskPressure]."}, True),
        ({"reason": "Evicted", "message": WHOLE}, False),
        ({"reason": "NodeLost"}, False),
        ({**REJECTED, "exit_code": 1}, False),
        ({**REJECTED, "terminated_reason": "ContainerStatusUnknown"}, False),
    ],
)
def test_a_pod_was_turned_away_only_if_no_container_of_it_can_have_run(pod: dict[str, Any], away: bool) -> None:
    (view,) = running().change_pod("train", phase="Failed", **{"node": "node-1", **pod}).pods.values()
    assert view.turned_away is away
    assert view.started is not away


def test_what_a_node_lacks_for_a_pod_is_told_with_its_words() -> None:
    life = Simulation(b.job(b.cpu_spec(backoffLimit=0)), runtime=b.runtime()).settle()
    words = "Node didn't have enough resource: nvidia.com/gpu, requested: 1, used: 1, capacity: 1"
    life.change_pod("train", phase="Failed", reason="OutOfnvidia.com/gpu", message=words, node="node-1")
    life.change_child("train", active=0, failed=1).fails("train", "BackoffLimitExceeded").settle(1)
    assert "away (OutOfnvidia.com/gpu): Node didn't have enough resource" in life.condition("Succeeded")["message"]
