"""How jobs fail: the reason, the words, and what is believed."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.reasons import BY_EXIT_CODE, REASONS, Reason
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, change_pod, ended_with, running, said


def test_the_trainers_own_words_stand_in_failure() -> None:
    life = running()
    life.pod_fails("train", 11, said(Reason.DATASET_INVALID, "line 2: no JSON")).fails("train").settle(1)
    assert ended_with(life) == ("DatasetInvalid", "line 2: no JSON")
    assert life.status["failure"]["exitCode"] == 11
    assert life.status["failure"]["stage"] == "train"
    assert life.status["failure"]["pod"].startswith(life.child("train").name)


def test_the_log_that_the_trainer_stored_is_named() -> None:
    report = said(Reason.DATASET_INVALID, "line 2: no JSON")
    assert report.failure is not None
    stored = report.model_copy(update={"failure": report.failure.model_copy(update={"log": "logs/train-1.jsonl"})})
    life = running().pod_fails("train", 11, stored).fails("train").settle(1)
    assert life.status["failure"]["log"] == "logs/train-1.jsonl"


@pytest.mark.parametrize("code", sorted(BY_EXIT_CODE))
def test_every_exit_code_gives_its_reason_and_mend_without_a_report(code: int) -> None:
    life = running().pod_fails("train", code).fails("train").settle(1)
    reason, message = ended_with(life)
    assert reason == BY_EXIT_CODE[code]
    assert REASONS[BY_EXIT_CODE[code]].mend in message


def test_a_crash_shows_the_last_line_of_the_log() -> None:
    log = "Traceback (most recent call last):\n  File x\n\x1b[31mRuntimeError: shapes differ\x1b[0m\n\n"
    life = running().pod_fails("train", 1, log).fails("train", "BackoffLimitExceeded").settle(1)
    reason, message = ended_with(life)
    assert reason == "TrainerError"
    assert "exit code 1: RuntimeError: shapes differ." in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("code", "terminated", "report", "reason"),
    [
        (137, "OOMKilled", None, "OutOfMemory"),
        (137, "Error", None, "BackoffLimitExceeded"),
        (1, "OOMKilled", None, "OutOfMemory"),
        (1, "OOMKilled", Reason.TRAINER_ERROR, "OutOfMemory"),
        (22, "OOMKilled", Reason.GPU_OUT_OF_MEMORY, "GPUOutOfMemory"),
        (1, "Error", None, "TrainerError"),
    ],
)
def test_a_kill_for_memory_is_told_from_other_ends(
    code: int, terminated: str, report: Reason | None, reason: str
) -> None:
    life = running().pod_fails("train", code, said(report, "words") if report else None)
    change_pod(life, terminated_reason=terminated)
    life.fails("train", "BackoffLimitExceeded").settle(1)
    assert ended_with(life)[0] == reason


def test_an_unknown_exit_code_ends_as_backoff_limit_exceeded_with_the_last_words() -> None:
    life = running().pod_fails("train", 143, "Terminated").fails("train", "BackoffLimitExceeded").settle(1)
    reason, message = ended_with(life)
    assert reason == "BackoffLimitExceeded"
    assert "exit code 143: Terminated." in message
    assert life.status["failure"]["exitCode"] == 143


def test_the_jobs_deadline_goes_before_what_an_earlier_pod_said() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=500))
    spec = life.job["spec"]
    report = b.failure_report(Reason.STORAGE_UNAVAILABLE, "s3.example.com does not answer", spec=spec)
    life.pod_fails("train", 30, report).passes(500).fails("train", "DeadlineExceeded").settle(1)
    reason, message = ended_with(life)
    assert reason == "DeadlineExceeded"
    assert "500 s" in message
    assert "s3.example.com does not answer" in message


def test_a_job_that_never_found_a_node_says_so_at_its_deadline() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle()
    life.pod_waits("train", unschedulable="no GPU").settle(20)
    life.pods.clear()
    life.fails("train", "DeadlineExceeded").settle(86400)
    reason, message = ended_with(life)
    assert reason == "DeadlineExceeded"
    assert "(Unschedulable): No node takes the pod: no GPU" in message


def unschedulable() -> Simulation:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle()
    life.pod_waits("train", unschedulable="no GPU").settle(20)
    assert life.reason == "Unschedulable"
    return life


def test_why_a_job_never_ran_is_not_forgotten_while_its_deadline_ends_it() -> None:
    """The job controller takes the pod away first, then counts it as failed, and only then says that the Job has."""
    life = unschedulable()
    before = dict(life.status)
    assert life.pod_waits("train", deleting=True).settle(1).status == before
    life.pods.clear()
    assert life.settle(1).status == before
    assert life.change_child("train", active=0, failed=1).settle(1).status == before
    life.fails("train", "DeadlineExceeded").settle(1)
    assert "(Unschedulable): No node takes the pod: no GPU" in ended_with(life)[1]


def test_a_pod_that_no_node_took_and_that_can_not_be_replaced_is_told() -> None:
    life = unschedulable()
    life.pods.clear()
    life.change_child("train", active=0, pod_create_error='pods "x" is forbidden: exceeded quota: pods').settle(30)
    assert life.reason == "QuotaExceeded"


def test_the_job_controllers_words_name_the_exit_code_when_the_pods_are_gone() -> None:
    life = running()
    life.pods.clear()
    words = "Container trainer for pod team-a/x failed with exit code 16 matching FailJob rule at index 2"
    life.fails("train", "PodFailurePolicy", words).settle(1)
    reason, _ = ended_with(life)
    assert reason == "TemplateInvalid"
    assert life.status["failure"]["exitCode"] == 16
    assert "pod" not in life.status["failure"]


def test_a_failed_job_without_pods_and_without_an_exit_code_keeps_the_job_controllers_words() -> None:
    life = running()
    life.pods.clear()
    life.fails("train", "BackoffLimitExceeded", "Job has reached the specified backoff limit").settle(1)
    reason, message = ended_with(life)
    assert reason == "BackoffLimitExceeded"
    assert message.startswith("Job has reached the specified backoff limit.")


def test_the_newest_failure_counts_and_an_interruption_does_not() -> None:
    life = running().pod_fails("train", 30).settle(1)
    life.pod_runs("train").passes(60).pod_fails("train", 33).passes(60)
    life.change_pod("train", name="interrupted", phase="Failed", exit_code=75)
    life.fails("train", "BackoffLimitExceeded").settle(1)
    assert ended_with(life)[0] == "Stalled"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [({"phase": "Failed"}, "BackoffLimitExceeded"), ({"phase": "Running", "exit_code": 33}, "Stalled")],
)
def test_a_pod_that_was_evicted_or_is_not_yet_marked_as_failed_is_named(fields: dict[str, Any], reason: str) -> None:
    life = running().change_pod("train", **fields).fails("train", "BackoffLimitExceeded").settle(1)
    assert ended_with(life)[0] == reason
    assert life.status["failure"]["pod"] == next(iter(life.pods))


def test_a_failure_is_judged_on_live_reads_only() -> None:
    life = running().pod_fails("train", 11).fails("train")
    assert reconcile(life.observe(live=False)).needs_live


def test_a_failure_is_believed_whatever_spec_it_names_and_its_counts_are_not() -> None:
    other = b.failure_report(Reason.INVALID_SPEC, "the stage input is cut", spec=b.cpu_spec(training={"seed": 8}))
    report = other.model_copy(update={"dataset": b.dataset_summary()})
    life = running().pod_fails("train", 10, report).fails("train").settle(1)
    assert ended_with(life) == ("InvalidSpec", "the stage input is cut")
    assert "dataset" not in life.status


def test_a_report_without_a_failure_is_not_shown_as_the_last_words() -> None:
    life = running().pod_fails("train", 1, b.train_report(SPEC)).fails("train", "BackoffLimitExceeded").settle(1)
    reason, message = ended_with(life)
    assert reason == "TrainerError"
    assert "0.8709" not in message


def test_tenant_text_reaches_status_and_events_on_one_printable_line() -> None:
    nasty = "\x1b[31mred\x1b[0m\nnext\r\x00\u202e" + "x" * 900
    life = running().pod_fails("train", 16, said(Reason.TEMPLATE_INVALID, nasty)).fails("train").settle(1)
    _, message = ended_with(life)
    assert message.isprintable()
    assert message.startswith("red next xxx")
    assert life.events[-1].message.isprintable()
    assert len(life.events[-1].message) <= 512


def test_counts_that_were_known_before_the_failure_are_kept() -> None:
    report = b.failure_report(Reason.DIVERGED, "loss is NaN", spec=SPEC).model_copy(
        update={"dataset": b.dataset_summary()}
    )
    life = running().pod_fails("train", 20, report).fails("train").settle(1)
    assert life.status["dataset"]["rows"] == 8530
    assert life.condition("Prepared")["status"] == "True"


def test_a_failure_in_prepare_never_asks_for_a_gpu() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.pod_fails("prepare", 16).fails("prepare").settle(1)
    assert life.status["failure"]["stage"] == "prepare"
    assert list(life.children) == [life.child("prepare").name]
    assert life.condition("Prepared")["status"] == "False"
    assert [stage["state"] for stage in life.status["stages"]] == ["Failed", "Pending"]


def test_what_a_job_waited_for_is_told_beside_its_deadline_and_no_pod_is_no_attempt() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle()
    quota = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 4, limited: 4'
    life.change_child("train", pod_create_error=quota).settle(20)
    life.fails("train", "DeadlineExceeded").settle(86400)
    reason, message = ended_with(life)
    assert reason == "DeadlineExceeded"
    assert "It had waited since 2026-03-01T" in message
    assert "(QuotaExceeded): " in message
    assert "exceeded quota: gpus" in message
    assert life.stage("train")["attempts"] == 0


def test_a_job_that_did_run_until_its_deadline_tells_of_no_wait() -> None:
    life = running().fails("train", "DeadlineExceeded").settle(1)
    assert "waited" not in ended_with(life)[1]
