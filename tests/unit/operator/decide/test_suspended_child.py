"""A child that somebody else has suspended: a queue such as Kueue, or an administrator."""

from __future__ import annotations

from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, running


def asked_to_stop(life: Simulation, **fields: object) -> Simulation:
    """Somebody sets ``spec.suspend`` of the Job; its controller has not acted yet."""
    return life.change_child("train", suspended=True, suspended_at=None, **fields)


def stopped(life: Simulation, **fields: object) -> Simulation:
    """The job controller takes the pods of a suspended Job away; its start time stays, unless a queue removes it."""
    asked_to_stop(life, **fields).settle()
    life.pods = {name: pod for name, pod in life.pods.items() if pod.phase in ("Succeeded", "Failed")}
    return life.change_child("train", active=0, suspended_at=life.now)


def goes_on(life: Simulation) -> Simulation:
    life.change_child("train", suspended=False, suspended_at=None, suspended_by=None, start_time=life.now)
    return life.pod_runs("train")


def test_a_child_that_kueue_keeps_back_is_queued_and_says_where_and_since_when() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle()
    stopped(life, queue="team-a").settle(5)
    assert (life.reason, life.status["phase"]) == ("Queued", "Queued")
    message = life.condition("Succeeded")["message"]
    assert "LocalQueue team-a since 2026-03-01T08:00:00Z" in message
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_child_that_an_administrator_suspends_says_who_did_it() -> None:
    life = stopped(running(), suspended_by="kubectl-patch").settle(5)
    assert (life.reason, life.status["phase"]) == ("ChildSuspended", "Suspended")
    assert "suspended by kubectl-patch since 2026-03-01T08:01:40Z" in life.condition("Succeeded")["message"]
    assert life.condition("Suspended")["status"] == "False"  # spec.suspend asks for nothing


def test_the_time_in_which_it_stands_still_is_free_and_what_ran_before_counts() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000))
    goes_on(stopped(life).settle(1).settle(5000)).settle(1)
    assert life.stage("train")["runSeconds"] == 100
    assert life.child("train").active_deadline_seconds == 900
    assert (life.reason, life.status["phase"]) == ("Training", "Training")
    life.settle(49).completes("train", b.train_report(life.job["spec"])).settle()
    assert life.stage("train")["runSeconds"] == 150
    assert life.stage("train")["attempts"] == 2


def test_it_is_neither_given_up_nor_made_anew() -> None:
    life = stopped(running()).settle(5).settle(5000)
    assert life.writes.count("create") == 1
    assert "delete" not in life.writes


def test_waiting_in_a_queue_has_no_clock() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle()
    life = stopped(life, queue="team-a").settle(5).settle(10**6)
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert life.plan.requeue_after == 300  # its queue is asked once in a while


def test_what_runs_on_until_the_job_controller_acts_counts() -> None:
    life = asked_to_stop(running(b.cpu_spec(activeDeadlineSeconds=1000))).settle(30)
    assert life.stage("train")["state"] == "Running"
    goes_on(stopped(life).settle(1).settle(5000)).settle(1)
    assert life.stage("train")["runSeconds"] == 130
    assert life.child("train").active_deadline_seconds == 870


def test_each_of_several_suspensions_counts_what_ran_before_it() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000))
    for ran in (0, 300, 200):
        life.settle(ran)
        goes_on(stopped(life).settle(1).settle(5000)).settle(1)
    assert life.stage("train")["runSeconds"] == 602  # a second passes between each resumption and its being seen
    assert life.child("train").active_deadline_seconds == 398


def test_a_queue_that_removes_the_start_time_changes_nothing_of_that() -> None:
    life = stopped(running(b.cpu_spec(activeDeadlineSeconds=1000)), start_time=None).settle(1)
    goes_on(life.settle(5000)).settle(1)
    assert life.stage("train")["runSeconds"] == 100


def test_time_that_it_stood_still_is_free_though_the_job_is_then_suspended_itself() -> None:
    life = stopped(running(b.cpu_spec(activeDeadlineSeconds=1000))).settle(1).settle(5000)
    life.edit(suspend=True).settle(1).settle(1)
    assert life.stage("train")["runSeconds"] == 100
    life.edit(suspend=False).settle(1)
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert life.child("train").active_deadline_seconds == 900


def test_time_that_it_stood_still_is_free_though_somebody_then_deletes_it() -> None:
    life = Simulation(b.job(b.cpu_spec(activeDeadlineSeconds=1000)), runtime=b.runtime(), lingering=True).settle()
    stopped(life.pod_runs("train").settle(100)).settle(1).settle(5000)
    life.is_deleted("train").settle(0).goes("train").settle(1)
    assert life.stage("train")["runSeconds"] == 100
