"""Live reports in status: what is shown of them, from whom, and how often."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from finetune_api.live import LivePoint, LiveReport
from finetune_operator.decide.plan import PodReport, ReportEndpoint
from finetune_operator.decide.progress import wait_of
from tests.support import builders as b
from tests.support.simulation import Simulation

ENDPOINT = ReportEndpoint(url="https://operator.example:8443/v1/progress", ca="PEM", since=b.T0)
TRAINING: dict[str, Any] = {
    "phase": "Training",
    "percent": 62,
    "step": 620,
    "total_steps": 1000,
    "epoch": "1.86",
    "eta_seconds": 840,
    "tokens_per_second": 18342,
    "loss": "0.6132",
}


def point(step: int, score: str = "0.5") -> LivePoint:
    return LivePoint(epoch=1, step=step, loss="0.61", score=score)


def report(**fields: Any) -> LiveReport:
    return LiveReport(**{"sequence": 1, "phase": "Training", **fields})


def reporting(spec: dict[str, Any] | None = None, *, runtime: dict[str, Any] | None = None) -> Simulation:
    """A job whose pod is up; with the CPU's one stage unless ``spec`` says otherwise."""
    life = Simulation(b.job(spec or b.cpu_spec()), runtime=b.runtime(runtime))
    life.endpoint = ENDPOINT
    return life.settle().pod_runs("train").settle(1)


def tells(life: Simulation, *, pod: str | None = None, **fields: Any) -> Simulation:
    """The newest pod reports, and the operator looks."""
    newest = max(life.pods.values(), key=lambda one: one.created)
    life.report = PodReport(report=report(**fields), pod_uid=pod or newest.uid, received=life.now, heard=life.now)
    return life.settle(1)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_report_stands_in_status() -> None:
    life = tells(reporting(), **TRAINING, validation=[point(330)])
    progress = life.status["progress"]
    assert progress.pop("lastReportTime")
    assert progress == {
        "phase": "Training",
        "percent": 62,
        "step": 620,
        "totalSteps": 1000,
        "epoch": "1.86",
        "etaSeconds": 840,
        "tokensPerSecond": 18342,
        "loss": "0.6132",
    }
    assert life.status["validation"] == [{"epoch": 1, "step": 330, "loss": "0.61", "score": "0.5"}]
    assert life.status["phase"] == "Training"


def test_the_phase_is_what_the_pod_does() -> None:
    life = reporting()
    shown = [life.status["phase"]]
    for phase in ("Preparing", "Baseline", "Training", "Uploading", "Evaluating"):
        shown.append(tells(life, phase=phase).status["phase"])
    assert shown == ["Preparing", "Preparing", "Baseline", "Training", "Uploading", "Evaluating"]


def test_a_stage_that_only_trains_begins_with_the_baseline() -> None:
    life = Simulation(b.job(b.job_spec()), runtime=b.runtime())
    life.endpoint = ENDPOINT
    life.settle().pod_runs("prepare").settle(1)
    assert life.status["phase"] == "Preparing"
    assert "progress" not in life.status
    life.completes("prepare", b.prepare_report()).settle(10)
    life.pod_runs("train").settle(1)
    assert life.status["phase"] == "Baseline"


def test_the_phase_never_runs_backwards() -> None:
    life = tells(reporting(), **TRAINING)
    assert tells(life, phase="Baseline").status["phase"] == "Training"


def test_a_new_attempt_keeps_the_last_word_until_it_knows_how_far_it_is() -> None:
    life = tells(reporting(), **TRAINING)
    progress = tells(life, phase="Baseline").status["progress"]
    assert (progress["percent"], progress["step"], progress["phase"]) == (62, 620, "Training")
    assert "etaSeconds" not in progress


def test_an_attempt_that_goes_on_from_an_earlier_step_says_so() -> None:
    life = tells(reporting(), **TRAINING)
    assert tells(life, **{**TRAINING, "percent": 60, "step": 600}).status["progress"]["percent"] == 60


def test_points_of_an_earlier_attempt_stay_before_those_of_this_one() -> None:
    life = tells(reporting(), validation=[point(100), point(200), point(300, "0.1")])
    life = tells(life, validation=[point(300, "0.9")])
    assert [(p["step"], p["score"]) for p in life.status["validation"]] == [(100, "0.5"), (200, "0.5"), (300, "0.9")]


def test_the_newest_ten_points_are_kept() -> None:
    life = tells(reporting(), validation=[point(step) for step in range(10)])
    life = tells(life, validation=[point(step) for step in range(5, 15)])
    assert [p["step"] for p in life.status["validation"]] == list(range(5, 15))


# --- from whom --------------------------------------------------------------------------------------------------------


def test_a_report_of_another_pod_changes_nothing() -> None:
    life = reporting()
    before = life.status
    assert tells(life, pod="somebody", **TRAINING).status == before


def test_a_report_of_a_pod_that_has_ended_changes_nothing() -> None:
    life = reporting()
    before = life.status["progress"]
    name, pod = next(iter(life.pods.items()))
    life.pods[name] = replace(pod, phase="Failed")
    assert tells(life, **TRAINING).status["progress"] == before


def test_a_job_that_has_ended_ignores_reports() -> None:
    life = reporting()
    life.completes("train", b.train_report(b.cpu_spec())).settle(10)
    before = life.status
    assert before["progress"] == {"percent": 100}
    assert tells(life, **TRAINING).status == before


def test_a_runtime_may_forbid_reports() -> None:
    life = reporting(runtime=b.runtime_spec(progress="Disabled"))
    assert life.status["phase"] == "Training"
    assert "progress" not in tells(life, **TRAINING).status


def test_without_an_endpoint_status_is_as_before() -> None:
    life = Simulation(b.job(b.cpu_spec()), runtime=b.runtime()).settle()
    life.pod_runs("train").settle(1)
    assert life.status["phase"] == "Training"
    assert "progress" not in life.status


# --- when the pod goes ------------------------------------------------------------------------------------------------


def test_a_suspended_job_keeps_how_far_it_was_without_a_pace() -> None:
    life = tells(reporting(), **TRAINING)
    life.report = None
    life.edit(suspend=True).settle(1)
    progress = life.status["progress"]
    assert progress["percent"] == 62
    assert not {"etaSeconds", "tokensPerSecond"} & progress.keys()


def test_an_operator_that_starts_anew_leaves_what_stands_there() -> None:
    life = tells(reporting(), **TRAINING)
    before = life.status
    life.report = None
    assert life.settle(5).status == before


# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_pod_that_never_reports_is_flagged_and_said_to_train() -> None:
    life = reporting()
    assert life.plan.requeue_after == pytest.approx(300, abs=2)
    life.settle(300)
    assert life.status["phase"] == "Training"
    assert life.status["progress"] == {"phase": "Training"}
    assert "No live report has come since" in life.condition("Succeeded")["message"]


def test_a_pod_that_falls_silent_is_flagged_and_loses_its_pace() -> None:
    life = tells(reporting(), **TRAINING)
    life.settle(300)
    assert "No live report has come since" in life.condition("Succeeded")["message"]
    assert life.status["progress"]["percent"] == 62
    assert "etaSeconds" not in life.status["progress"]
    assert "No live report" not in tells(life, **TRAINING).condition("Succeeded")["message"]


def test_nobody_is_silent_to_an_operator_that_was_away() -> None:
    life = tells(reporting(), **TRAINING)
    life.report = None
    life.endpoint = replace(ENDPOINT, since=life.now + timedelta(seconds=3600))
    life.settle(3600)
    assert "No live report" not in life.condition("Succeeded")["message"]


# --- how often --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest", "wait"),
    [
        ({}, None),
        ({"sequence": 9}, None),
        ({"phase": "Uploading"}, 0.0),
        ({"validation": [point(1)]}, 0.0),
        ({"percent": 70}, 0.0),
        ({"percent": 63}, 60.0),
        ({"step": 621}, 300.0),
        ({"eta_seconds": 1}, 300.0),
    ],
    ids=str,
)
def test_what_people_look_for_is_shown_at_once_and_the_rest_now_and_then(
    newest: dict[str, Any], wait: float | None
) -> None:
    assert wait_of(report(**TRAINING), report(**{**TRAINING, **newest})) == wait


def test_the_first_report_is_shown_at_once() -> None:
    assert wait_of(None, report(**TRAINING)) == 0.0
