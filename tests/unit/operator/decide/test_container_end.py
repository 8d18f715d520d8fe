"""A stage ends when the trainer's container has ended, whatever else runs in its pod."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import StageName
from finetune_api.reasons import EXIT_RESUMABLE, Reason
from finetune_api.report import StageReport, encode_report
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, ended_with, running, said


def ends_beside_a_proxy(
    life: Simulation, exit_code: int, report: StageReport | None = None, stage: StageName = "train"
) -> Simulation:
    """The trainer's container ends, and an injected one keeps the pod, so that the Job knows of no end."""
    text = encode_report(report).decode() if report else None
    return life.change_pod(
        stage, phase="Running", node="node-1", exit_code=exit_code, termination_message=text, outlived=True
    )


def test_a_result_beside_a_proxy_ends_the_job_and_removes_its_child() -> None:
    life = ends_beside_a_proxy(running(), 0, b.train_report(SPEC)).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 101
    assert life.settle().children == {}


def test_a_result_that_prepare_left_beside_a_proxy_starts_train_once_prepares_pod_is_gone() -> None:
    life = Simulation(b.job(), runtime=b.runtime(), lingering=True).settle().pod_runs("prepare").settle(10)
    ends_beside_a_proxy(life, 0, b.prepare_report(), "prepare").settle(1)
    assert life.stage("prepare")["state"] == "Succeeded"
    assert life.writes[-1] == "delete"
    assert "another container" in life.condition("Succeeded")["message"]
    life.settle(30).goes("prepare").settle(1)
    assert [manifest["metadata"]["labels"]["finetune.dev/stage"] for manifest in life.manifests] == ["prepare", "train"]


def test_a_failure_beside_a_proxy_that_is_final_ends_the_job() -> None:
    life = ends_beside_a_proxy(running(), 11, said(Reason.DATASET_INVALID, "line 2: no JSON")).settle(1)
    assert ended_with(life) == ("DatasetInvalid", "line 2: no JSON")
    assert life.settle().children == {}


def test_a_failure_beside_a_proxy_is_tried_again_as_often_as_backoff_limit_says() -> None:
    life = running(b.cpu_spec(backoffLimit=2))
    for failures in (1, 2):
        ends_beside_a_proxy(life, 30).settle(1)
        assert life.condition("Succeeded")["status"] == "Unknown"
        assert life.stage("train")["failures"] == failures
        assert life.manifests[-1]["spec"]["backoffLimit"] == 2 - failures
        life.pod_runs("train").settle(10)
    ends_beside_a_proxy(life, 30).settle(1)
    assert ended_with(life)[0] == "StorageUnavailable"
    assert [event.reason for event in life.events].count("PodReplaced") == 2


def test_a_state_that_was_saved_beside_a_proxy_is_no_failure() -> None:
    life = running(b.cpu_spec(backoffLimit=0))
    ends_beside_a_proxy(life, EXIT_RESUMABLE).settle(1)
    assert life.stage("train")["failures"] == 0
    assert life.writes.count("create") == 2
    assert life.reason == "Restarting"


def test_an_end_beside_a_proxy_without_a_report_is_asked_for_it_once() -> None:
    life = ends_beside_a_proxy(running(), 0).settle(1)
    assert life.stage("train")["recreated"] == 1
    ends_beside_a_proxy(life.pod_runs("train").settle(5), 0).settle(1)
    assert ended_with(life)[0] == "NotReported"


def test_a_finished_run_whose_job_met_its_deadline_has_its_report_read() -> None:
    life = running()
    life.change_pod(
        "train", exit_code=0, phase="Failed", termination_message=encode_report(b.train_report(SPEC)).decode()
    )
    life.fails("train", "DeadlineExceeded").settle(1)
    assert life.status["phase"] == "Succeeded"


@pytest.mark.parametrize("fields", [{"deleting": True}, {"outlived": False}])
def test_a_pod_that_goes_by_itself_is_left_to_the_job(fields: dict[str, Any]) -> None:
    pod: dict[str, Any] = {"phase": "Running", "node": "node-1", "exit_code": 30, "outlived": True} | fields
    life = running().change_pod("train", **pod).settle(1)
    assert life.writes.count("create") == 1
    assert "delete" not in life.writes


def test_what_the_job_does_not_see_is_judged_on_live_reads() -> None:
    assert reconcile(ends_beside_a_proxy(running(), EXIT_RESUMABLE).observe(live=False)).needs_live
    assert reconcile(ends_beside_a_proxy(running(), 11).observe(live=False)).needs_live


def test_a_suspended_jobs_leftovers_go_too() -> None:
    life = Simulation(b.job(), runtime=b.runtime(), lingering=True).settle().pod_runs("prepare").settle(10)
    ends_beside_a_proxy(life, 0, b.prepare_report(), "prepare").edit(suspend=True).settle(1)
    assert life.condition("Suspended")["status"] == "False"
    assert life.goes("prepare").settle(1).status["phase"] == "Suspended"


def test_a_second_try_is_asked_for_a_short_report() -> None:
    life = running().completes("train", None).settle(1)
    assert [_short(manifest) for manifest in life.manifests] == [False, True]


def _short(manifest: dict[str, Any]) -> bool:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    return '"shortReport":true' in next(item["value"] for item in container["env"] if "value" in item)


def test_a_result_in_a_pod_whose_other_container_has_failed_ends_the_job_before_a_second_pod_runs() -> None:
    """Such a pod is Failed as a whole; the Job counts it and makes another one."""
    life = running()
    text = encode_report(b.train_report(SPEC)).decode()
    life.change_pod("train", phase="Failed", node="node-1", exit_code=0, termination_message=text)
    life.change_child("train", active=1, failed=1).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.settle().children == {}


@pytest.mark.parametrize("code", [30, EXIT_RESUMABLE])
def test_a_failure_beside_a_proxy_counts_though_the_job_is_suspended_before_it_is_seen(code: int) -> None:
    life = running(b.cpu_spec(backoffLimit=1))
    ends_beside_a_proxy(life.edit(suspend=True), code).settle(1)
    assert life.stage("train")["failures"] == (0 if code == EXIT_RESUMABLE else 1)
