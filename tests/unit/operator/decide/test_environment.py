"""What the environment does never ends a job that has begun; before, only what somebody must mend has a clock."""

from __future__ import annotations

import pytest

from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, running

QUOTA = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: 2, limited: 2'
UNCOUNTED = 'pods "x" is forbidden: status unknown for quota: gpus, resources: requests.nvidia.com/gpu'
WEBHOOK = (
    'The API server answers 500: Internal error occurred: failed calling webhook "policy.example.com": failed to call '
    'webhook: Post "https://policy.ns.svc:443/validate": no endpoints available for service "policy"'
)
POLICY = 'jobs.batch "x" is forbidden: ValidatingAdmissionPolicy "no-gpus" denied request: not here'
FAULTS = {
    "a full quota": (QUOTA, "QuotaExceeded"),
    "a quota that is not counted yet": (UNCOUNTED, "QuotaExceeded"),
    "a webhook without endpoints": (WEBHOOK, "ControlPlaneFault"),
    "an internal error": ("The API server answers 500: Internal error occurred: x", "ControlPlaneFault"),
    "a time-out": ("The API server answers 504: Timeout: request did not complete", "ControlPlaneFault"),
    "etcd": ("The API server answers 500: etcdserver: leader changed", "ControlPlaneFault"),
    "a policy of the namespace": (POLICY, "NotPermitted"),
}
DENIALS = (
    'admission webhook "gatekeeper" denied the request: [job-timeout] activeDeadlineSeconds must be at most 3600',
    'jobs.batch "x" is forbidden: ValidatingAdmissionPolicy "d" with binding "b" denied request: deadline exceeded 4 h',
    'admission webhook "cost" denied the request: too many requests for GPUs',
    'admission webhook "cost" denied the request: team has exceeded quota agreed in contract',
    'admission webhook "v" denied the request: internal error budget is 0, serviceaccount "x" not found',
    'pods "timeout-0f3c9a1b-train-x2x9z" is forbidden: violates PodSecurity "restricted:latest"',
)
"""Refusals in the words of whoever wrote the policy, or of whoever named the job."""
UNTIMED = [name for name, (_, reason) in FAULTS.items() if reason != "NotPermitted"]


def refused(message: str) -> Simulation:
    """A job whose first child is not created."""
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    life.create_error = message
    return life.settle(5)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_keeps_the_next_child_from_being_made_does_not_end_a_job_that_has_begun(fault: str) -> None:
    message, reason = FAULTS[fault]
    life = running().remove("train")
    life.step()  # the loss is noted first
    life.create_error = message
    life.settle(1).settle(10**6)
    assert (life.reason, life.condition("Succeeded")["status"]) == (reason, "Unknown")
    assert life.status["waitingSince"]
    life.create_error = None
    assert len(life.settle(30).children) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_keeps_the_next_pod_from_being_made_does_not_end_a_job_that_has_begun(fault: str) -> None:
    message, reason = FAULTS[fault]
    life = running()
    life.pods.clear()
    life.change_child("train", active=0, pod_create_error=message.removeprefix("The API server answers 500: "))
    life.settle(1).settle(80000)
    assert (life.reason, life.condition("Succeeded")["status"]) == (reason, "Unknown")


@pytest.mark.parametrize("fault", UNTIMED)
def test_what_the_cluster_has_to_give_or_suffers_itself_has_no_clock_before_the_first_start(fault: str) -> None:
    message, reason = FAULTS[fault]
    life = refused(message).settle(10**6)
    assert (life.reason, life.condition("Succeeded")["status"]) == (reason, "Unknown")


def test_what_somebody_must_mend_has_one_before_the_first_start() -> None:
    life = refused(POLICY)
    assert life.settle(599).condition("Succeeded")["status"] == "Unknown"
    assert life.settle(1).status["failure"]["reason"] == "NotPermitted"


@pytest.mark.parametrize("text", DENIALS)
def test_a_policy_has_refused_it_whatever_words_it_chooses(text: str) -> None:
    life = refused(text)
    assert (life.reason, life.status.get("waitingFor")) == ("NotPermitted", None)
    assert text in life.condition("Succeeded")["message"]
    assert life.settle(600).status["failure"]["reason"] == "NotPermitted"


def test_a_clock_begins_anew_when_the_want_of_room_becomes_something_to_mend() -> None:
    life = refused(QUOTA).settle(5000)
    life.create_error = POLICY
    assert life.settle(1).reason == "NotPermitted"
    assert life.settle(599).condition("Succeeded")["status"] == "Unknown"
    assert life.settle(1).status["phase"] == "Failed"


def test_a_missing_secret_of_a_job_that_has_begun_is_waited_for() -> None:
    life = running().preempted("train").settle(1)
    life.pod_waits("train", node="node-1", start_error='secret "team-a-s3" not found').settle(1).settle(86000)
    assert (life.reason, life.condition("Succeeded")["status"]) == ("CredentialsNotFound", "Unknown")


def test_a_webhook_that_fails_is_named_in_status_and_event() -> None:
    life = refused(WEBHOOK)
    assert 'Webhook "policy.example.com" fails' in life.condition("Succeeded")["message"]
    (event,) = [event for event in life.events if event.reason == "ControlPlaneFault"]
    assert "policy.example.com" in event.message
    life.settle(60)
    assert [event.reason for event in life.events].count("ControlPlaneFault") == 1


def test_the_clock_of_a_refusal_survives_a_restart_of_the_operator() -> None:
    life = refused(POLICY)
    since = life.status["waitingSince"]
    life.create_error = None  # a new process does not know yet
    plan = life.passes(300).step()
    assert plan.status is None
    life.children.clear()  # and is refused as well
    life.create_error = POLICY
    assert life.settle(1).status["waitingSince"] == since
    assert life.settle(300).status["phase"] == "Failed"


def test_a_refusal_whose_words_vary_writes_nothing_anew() -> None:
    life = refused(POLICY)
    writes = list(life.writes)
    for number in range(5):
        life.create_error = POLICY.replace("not here", f"request {number}")
        life.settle(30)
    assert life.writes == writes


def test_a_failed_pod_does_not_hide_why_the_next_one_can_not_be_made() -> None:
    life = running().pod_fails("train", 30)
    life.change_child("train", pod_create_error=QUOTA).settle(1)
    assert life.reason == "QuotaExceeded"
