"""What people are told of a pod that failed and is tried again, and of one that was interrupted and goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.reasons import BY_EXIT_CODE, EXIT_RESUMABLE, REASONS, Reason
from finetune_operator.decide.plan import Event
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, change_pod, ended_with, running, said

SPOKEN = said(Reason.STORAGE_UNAVAILABLE, "s3.example.com does not answer.")
DOING = "The model is scored, tuned and scored again."


def message(life: Simulation) -> str:
    return str(life.condition("Succeeded")["message"])


def told(life: Simulation) -> list[Event]:
    return [event for event in life.events if event.reason == "AttemptFailed"]


def failed_once(code: int = 30, report: object = SPOKEN, **spec: object) -> Simulation:
    life = running(b.cpu_spec(**spec) if spec else SPEC)
    return life.pod_fails("train", code, report).settle(5)  # type: ignore[arg-type]


def test_a_job_that_tries_again_says_which_attempt_it_is_and_why_the_last_one_ended() -> None:
    life = failed_once()
    sentence = f"{DOING} Attempt 2 of 3; the last ended with StorageUnavailable: s3.example.com does not answer."
    assert message(life) == sentence
    life.pod_runs("train").settle(60)
    assert message(life) == sentence
    assert life.reason == "Training"


def test_a_failed_pod_has_one_event_however_often_it_is_looked_at() -> None:
    life = failed_once().settle(30)
    (event,) = told(life)
    assert event.type == "Warning"
    pod = life.stage("train")["lastFailure"]["pod"]
    assert event.message == (
        f"Attempt 1 of 3 of stage train (pod {pod}) ended with StorageUnavailable, and another one is made: "
        "s3.example.com does not answer."
    )
    life.restart().pod_runs("train").settle(60)
    assert len(told(life)) == 1
    life.pod_fails("train", 33).settle(5)
    assert [event.message[:16] for event in told(life)] == ["Attempt 1 of 3 o", "Attempt 2 of 3 o"]
    assert "Attempt 3 of 3; the last ended with Stalled: " in message(life)


def test_what_holds_the_next_pod_up_does_not_make_the_failure_told_twice() -> None:
    life = failed_once().pod_waits("train", unschedulable="no room").settle(30)
    assert life.reason == "Unschedulable"
    life.pod_runs("train").settle(10)
    assert len(told(life)) == 1
    assert "Attempt 2 of 3; the last ended with StorageUnavailable" in message(life)


def test_why_an_attempt_ended_is_known_when_its_pod_is_gone() -> None:
    life = failed_once()
    life.pods.clear()
    life.pod_runs("train").settle(10)
    assert "Attempt 2 of 3; the last ended with StorageUnavailable" in message(life)


def test_an_attempt_that_nobody_saw_end_is_counted_and_not_explained_by_an_older_one() -> None:
    life = failed_once().pod_runs("train").settle(5).pod_fails("train", 33)
    for name in [name for name, pod in life.pods.items() if pod.exit_code is not None]:
        del life.pods[name]
    life.pod_runs("train").settle(10)
    assert message(life) == f"{DOING} Attempt 3 of 3."


@pytest.mark.parametrize("code", sorted(code for code, reason in BY_EXIT_CODE.items() if not REASONS[reason].retried))
def test_an_end_that_is_final_is_never_told_as_an_attempt(code: int) -> None:
    life = failed_once(code, None)
    assert message(life) == DOING
    assert told(life) == []
    assert ended_with(life.fails("train").settle(1))[0] == BY_EXIT_CODE[code]


def test_the_last_attempt_is_told_as_the_jobs_end_alone() -> None:
    life = failed_once(backoffLimit=0)
    assert message(life) == DOING
    assert told(life) == []
    assert ended_with(life.fails("train", "BackoffLimitExceeded").settle(1))[0] == "StorageUnavailable"


def test_a_crash_is_told_with_its_exit_code_and_last_words() -> None:
    life = failed_once(139, "Segmentation fault")
    assert "; the last ended with TrainerError: The trainer ended with exit code 139: Segmentation fault." in message(
        life
    )
    assert life.stage("train")["lastFailure"]["exitCode"] == 139


def test_an_attempt_that_ran_out_of_memory_is_told_as_that() -> None:
    life = running().pod_fails("train", 137)
    change_pod(life, terminated_reason="OOMKilled")
    assert "the last ended with OutOfMemory: The trainer used more memory" in message(life.settle(1))


def test_a_node_that_ended_an_attempt_is_named_by_its_own_reason() -> None:
    life = running().pod_fails("train", 137)
    change_pod(life, reason="NodeLost", message="Node node-1 is unresponsive")
    assert "the last ended with NodeLost: The last attempt ended because its node was lost" in message(life.settle(1))


def test_a_long_and_nasty_message_is_bounded_in_status_and_event() -> None:
    life = failed_once(30, said(Reason.STORAGE_UNAVAILABLE, "\x1b[31mred\n" + "x" * 1000))
    assert len(life.stage("train")["lastFailure"]["message"]) == 512
    assert len(told(life)[0].message) <= 512
    assert message(life).isprintable()
    assert len(message(life)) <= 1024


def test_a_saved_state_is_told_as_going_on_and_not_as_a_failure() -> None:
    life = running()
    pod = next(iter(life.pods))
    life.pod_fails("train", EXIT_RESUMABLE).change_child("train", failed=0).settle(5)
    assert message(life) == f"{DOING} Pod {pod} saved its state and ended; the next one goes on from what was saved."
    life.pod_runs("train").settle(5)
    assert message(life) == DOING
    assert told(life) == []
    assert "lastFailure" not in life.stage("train")


def test_a_disruption_says_that_the_job_goes_on() -> None:
    life = running().pod_fails("train", 137).change_child("train", failed=0)
    change_pod(life, disruption="EvictionByEvictionAPI")
    life.settle(5)
    (pod,) = life.pods
    assert message(life).endswith(
        f"Pod {pod} was disrupted (EvictionByEvictionAPI); the next one goes on from what was saved."
    )
    assert told(life) == []
    life.pods.clear()
    assert "was disrupted" in message(life.settle(5)), "an evicted pod goes before the next one comes"
    assert message(life.pod_runs("train").settle(5)) == DOING


def test_a_disruption_after_a_failure_keeps_the_number_of_the_attempt() -> None:
    life = failed_once().pod_runs("train").settle(5)
    life.preempted("train").settle(1).pod_runs("train").settle(5)
    assert (
        message(life)
        == f"{DOING} Attempt 2 of 3; the last ended with StorageUnavailable: s3.example.com does not answer."
    )
    assert len(told(life)) == 1


def test_a_pod_of_prepare_that_was_disrupted_has_nothing_to_go_on_from() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.pod_fails("prepare", EXIT_RESUMABLE).change_child("prepare", failed=0).settle(5)
    assert message(life).endswith("saved its state and ended; the next one takes its place.")


def test_a_failure_is_remembered_over_a_suspension() -> None:
    life = failed_once().pod_runs("train").settle(5).edit(suspend=True).settle().edit(suspend=False).settle(5)
    life.pod_runs("train").settle(5)
    assert "Attempt 2 of 3; the last ended with StorageUnavailable" in message(life)
    assert len(told(life)) == 1


def test_a_failure_that_nobody_saw_before_the_job_had_succeeded_is_told_all_the_same() -> None:
    life = running().pod_fails("train", 30, SPOKEN).pod_runs("train").passes(60)
    life.completes("train", b.train_report(SPEC)).settle(1)
    assert [event.reason for event in life.events] == ["Started", "AttemptFailed", "Succeeded"]


def test_pods_that_somebody_elses_suspension_killed_are_no_attempts() -> None:
    life = running().pod_fails("train", 137).change_child("train", failed=0, suspended=True).settle(5)
    assert "lastFailure" not in life.stage("train")
    assert told(life) == []


def test_a_failure_beside_a_proxy_says_why_and_counts_once() -> None:
    life = failed_once().pod_runs("train").settle(5)
    name = max(life.pods)
    life.pods[name] = replace(life.pods[name], exit_code=33, outlived=True)
    life.settle(1)
    assert life.stage("train")["failures"] == 2
    assert "goes on anew. Attempt 3 of 3; the last ended with Stalled: " in message(life)
    assert life.stage("train")["lastFailure"]["attempt"] == 2
    assert [event.reason for event in life.events] == ["Started", "AttemptFailed", "PodReplaced"]


def test_a_job_that_succeeds_later_keeps_what_went_wrong_in_its_stage() -> None:
    life = failed_once().pod_runs("train").settle(5)
    life.completes("train", b.train_report(SPEC)).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["lastFailure"]["reason"] == "StorageUnavailable"
    assert "Attempt" not in message(life)
