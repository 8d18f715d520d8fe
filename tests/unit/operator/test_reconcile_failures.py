"""How jobs fail: the reason, the words, and what is retried, recreated or left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.reasons import BY_EXIT_CODE, REASONS, Reason
from finetune_api.report import StageReport
from finetune_operator.plan import DeleteChild, PodView
from finetune_operator.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation

SPEC = b.cpu_spec()


def running(spec: dict[str, Any] | None = None) -> Simulation:
    """A job on the CPU whose pod runs."""
    life = Simulation(b.job(spec or SPEC), runtime=b.runtime()).settle()
    return life.pod_runs("train").settle(100)


def ended_with(life: Simulation) -> tuple[str, str]:
    """Reason and message of a failed job, after checking what every failed job says."""
    status = life.status
    assert status["phase"] == "Failed"
    assert status["completionTime"]
    assert status["observedGeneration"] == life.job["metadata"]["generation"]
    failure = status["failure"]
    for kind, truth in {
        "Succeeded": "False",
        "Finished": "True",
        "Suspended": "False",
        "ArtifactPublished": "False",
        "Reconciling": "False",
        "Stalled": "True",
    }.items():
        assert life.condition(kind)["status"] == truth, kind
    assert life.condition("Succeeded")["reason"] == failure["reason"]
    assert life.condition("Stalled")["message"] == failure["message"]
    assert "results" not in status
    assert [event.reason for event in life.events][-1] == "Failed"
    assert life.events[-1].type == "Warning"
    return failure["reason"], failure["message"]


def said(reason: Reason, message: str) -> StageReport:
    return b.failure_report(reason, message, spec=SPEC)


def test_the_trainers_own_words_stand_in_failure() -> None:
    life = running()
    life.pod_fails("train", 11, said(Reason.DATASET_INVALID, "line 2: no JSON")).fails("train").settle(1)
    assert ended_with(life) == ("DatasetInvalid", "line 2: no JSON")
    assert life.status["failure"]["exitCode"] == 11
    assert life.status["failure"]["stage"] == "train"
    assert life.status["failure"]["pod"].startswith(life.child("train").name)


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
        (137, "Error", None, "OutOfMemory"),
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
    _change_pod(life, terminated_reason=terminated)
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
    assert "No node took its pod" in message


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


# --- success needs a report -------------------------------------------------------------------------------------------


def _reports() -> dict[str, StageReport | str | None]:
    good = b.train_report(SPEC)
    return {
        "none": None,
        "a log tail": "done.\nbye",
        "half a document": '{"v":1,"stage":"train"',
        "another spec": b.train_report(b.cpu_spec(training={"epochs": 9})),
        "another stage": b.prepare_report(SPEC),
        "no results": good.model_copy(update={"results": None}),
        "no manifest": good.model_copy(update={"digest": None}),
        "a failure": said(Reason.DIVERGED, "loss is NaN"),
        "a number that no API server stores": b.train_report(
            SPEC, dataset=b.dataset_summary().model_copy(update={"rows": 10**30})
        ),
    }


@pytest.mark.parametrize("what", list(_reports()))
def test_a_complete_child_without_a_valid_report_is_run_once_more_and_then_fails(what: str) -> None:
    report = _reports()[what]
    life = running().completes("train", report).settle(1)
    assert life.writes[-2:] == ["delete", "create"] or life.writes[-1] == "create"
    assert life.writes.count("create") == 2
    assert life.status["stages"][0]["recreated"] == 1
    assert life.condition("Succeeded")["status"] == "Unknown"
    life.pod_runs("train").settle(10).completes("train", report).settle(1)
    assert ended_with(life)[0] == "NotReported"
    assert life.writes.count("create") == 2


def test_the_second_run_may_report_and_then_the_job_has_succeeded() -> None:
    life = running().completes("train", None).settle(1)
    life.pod_runs("train").settle(10).completes("train", b.train_report(SPEC)).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.status["stages"][0]["runSeconds"] == 110


def test_a_second_run_that_ended_before_anybody_saw_it_is_judged_and_not_deleted() -> None:
    life = running().completes("train", None).settle(1)
    life.completes("train", None).settle(1)
    assert ended_with(life)[0] == "NotReported"
    assert life.writes.count("delete") == 1


def test_a_report_that_shows_up_late_still_counts() -> None:
    life = running().completes("train", None)
    first = reconcile(life.observe(live=True))
    assert isinstance(first.actions[0], DeleteChild)
    assert first.status is not None
    life.job = {**life.job, "status": first.status}
    life.completes("train", b.train_report(SPEC)).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.status["stages"][0]["runSeconds"] == 100
    assert "delete" not in life.writes


def test_a_report_is_taken_only_from_a_pod_that_the_child_owns() -> None:
    life = running().completes("train", None)
    stranger = b.ended_pod(name="forged", uid="forged", job_uid="other", report=b.train_report(SPEC))
    orphan = b.ended_pod(name="orphan", uid="orphan", job_uid=None, report=b.train_report(SPEC))
    life.pods |= {"forged": stranger, "orphan": orphan}
    life.settle(1)
    assert life.status["phase"] != "Succeeded"


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"phase": "Failed", "exit_code": 1}, "Training"),
        ({"phase": "Failed", "exit_code": None}, "Training"),
        ({"phase": "Running", "exit_code": 0}, "Succeeded"),
        ({"phase": "Succeeded", "exit_code": None}, "Succeeded"),
    ],
)
def test_results_are_taken_only_from_a_pod_that_ended_well(fields: dict[str, Any], phase: str) -> None:
    life = running().completes("train", b.train_report(SPEC))
    _change_pod(life, **fields)
    life.settle(1)
    assert life.status["phase"] == phase


def test_a_missing_report_is_looked_for_live_before_anything_is_deleted() -> None:
    life = running().completes("train", None)
    plan = reconcile(life.observe(live=False))
    assert plan.needs_live
    assert plan.actions == ()


def test_a_prepare_report_without_a_digest_does_not_start_train() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report().model_copy(update={"digest": None})).settle(1)
    assert life.status["stages"][0]["state"] == "Pending"
    assert life.status["stages"][1]["state"] == "Pending"
    assert all(child.stage == "prepare" for child in life.children.values())


# --- children that go, or belong to others ----------------------------------------------------------------------------


def test_a_child_deleted_in_mid_run_is_made_again_and_told() -> None:
    life = running().remove("train").settle(50)
    assert life.writes.count("create") == 2
    assert "ChildDeleted" in [event.reason for event in life.events]
    assert life.status["phase"] == "Training"
    assert life.reason == "Restarting"


def test_the_seconds_of_a_deleted_child_are_not_given_back() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000)).remove("train").settle(50)
    assert [m["spec"]["activeDeadlineSeconds"] for m in life.manifests] == [1000, 850]


def test_a_child_that_only_the_cache_misses_is_not_told_as_deleted() -> None:
    life = running()
    children, life.children = life.children, {}
    assert reconcile(life.observe(live=False)).needs_live
    life.children = children
    assert reconcile(life.observe(live=True)).events == ()


def test_a_child_that_is_being_deleted_is_waited_for() -> None:
    life = running()
    life.change_child("train", deleting=True).settle(5)
    assert life.writes.count("create") == 1
    assert life.reason == "Restarting"
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_stage_that_has_succeeded_is_never_run_again_though_its_child_is_gone() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(5)
    life.remove("prepare").settle(300)
    assert [m["metadata"]["labels"]["finetune.dev/stage"] for m in life.manifests] == ["prepare", "train"]
    assert life.status["phase"] == "Training"


@pytest.mark.parametrize("owner", [None, "another-uid"])
def test_a_job_of_somebody_else_under_our_name_is_a_conflict(owner: str | None) -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    foreign = b.child("train", uid="foreign", owner_uid=owner)
    life.children[foreign.name] = foreign
    life.settle(1)
    reason, message = ended_with(life)
    assert reason == "NameConflict"
    assert foreign.name in message
    assert life.children == {foreign.name: foreign}
    assert life.writes == ["status"]


def test_a_conflict_is_judged_on_live_reads_only() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    foreign = b.child("train", uid="foreign", owner_uid=None)
    life.children[foreign.name] = foreign
    assert reconcile(life.observe(live=False)).needs_live
    assert not reconcile(life.observe(live=True)).needs_live


def test_a_job_of_somebody_else_that_is_going_is_waited_for() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    foreign = b.child("train", uid="foreign", owner_uid=None, deleting=True)
    life.children[foreign.name] = foreign
    life.settle(1)
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_conflict_with_a_stage_that_is_done_does_not_matter() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).remove("prepare").pod_runs("train")
    foreign = b.child("prepare", uid="foreign", owner_uid=None)
    life.children[foreign.name] = foreign
    life.settle(1)
    assert life.status["phase"] == "Training"


# --- specs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (None, "valid dictionary"),
        ({}, "model: Field required"),
        (b.cpu_spec(training={"learningRate": "7"}), "training.learningRate must be above 0"),
        (b.cpu_spec(training={"epochs": "3"}), "training.epochs"),
        (b.cpu_spec(queueName="q"), "queueName is not supported"),
        (b.cpu_spec(dataset={"template": {"inline": {"prompt": "x", "completion": "y"}}}), "exactly one of"),
    ],
)
def test_a_spec_that_can_not_be_run_fails_at_once_and_names_the_field(spec: Any, words: str) -> None:
    life = Simulation({**b.job(), "spec": spec}, runtime=b.runtime()).settle()
    reason, message = ended_with(life)
    assert reason == "InvalidSpec"
    assert words in message
    assert life.children == {}


def test_a_message_about_the_spec_never_repeats_a_value() -> None:
    spec = b.cpu_spec(training={"learningRate": "canary-value"}, model={"revision": "canary revision"})
    _, message = ended_with(Simulation(b.job(spec), runtime=b.runtime()).settle())
    assert "canary" not in message


def test_a_name_that_is_too_long_for_its_children_is_refused() -> None:
    life = Simulation(b.job(SPEC, name="a" * 41), runtime=b.runtime()).settle()
    reason, message = ended_with(life)
    assert reason == "InvalidSpec"
    assert "metadata.name" in message


def test_a_spec_that_does_not_fit_into_an_environment_variable_is_refused() -> None:
    choices = [f"{number:03}" + "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 125 for number in range(256)]
    spec = b.cpu_spec(
        dataset={
            "template": {
                "choices": choices,
                "name": None,
                "columns": None,
                "inline": {"prompt": "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 8000, "completion": "x"},
            }
        }
    )
    reason, message = ended_with(Simulation(b.job(spec), runtime=b.runtime()).settle())
    assert reason == "InvalidSpec"
    assert "dataset.template" in message


def test_a_running_child_is_not_harmed_by_a_version_that_can_not_read_its_spec() -> None:
    life = running()
    status = life.status
    life.job = {**life.job, "spec": {**life.job["spec"], "queueName": "q"}}
    life.settle(10)
    assert life.status == status
    assert len(life.children) == 1


def test_an_unreadable_spec_of_a_job_that_has_begun_is_judged_on_live_reads_only() -> None:
    life = running().remove("train")
    life.job = {**life.job, "spec": {**life.job["spec"], "queueName": "q"}}
    assert reconcile(life.observe(live=False)).needs_live
    assert reconcile(life.observe(live=True)).status is not None


def test_an_unreadable_spec_whose_child_has_ended_fails() -> None:
    life = running().completes("train", b.train_report(SPEC))
    life.job = {**life.job, "spec": {**life.job["spec"], "queueName": "q"}}
    life.settle(10)
    assert ended_with(life)[0] == "InvalidSpec"


def test_what_the_runtime_refuses_fails_at_once() -> None:
    life = Simulation(b.job(), runtime=b.runtime(b.runtime_spec(allowedNamespaces=["team-b"]))).settle()
    reason, message = ended_with(life)
    assert reason == "NotPermitted"
    assert "team-a" in message
    assert "startTime" not in life.status


def _change_pod(life: Simulation, **fields: Any) -> None:
    name, pod = next(iter(life.pods.items()))
    changed: PodView = replace(pod, **fields)
    life.pods[name] = changed
