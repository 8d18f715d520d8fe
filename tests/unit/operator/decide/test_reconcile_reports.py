"""Success needs a report: which one counts, and what happens to a child that ended well without."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_operator.decide.plan import DeleteChild
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, change_pod, ended_with, running, said


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
    change_pod(life, **fields)
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
