"""What the tests of failing jobs share: a job that runs, what every failed job must say, reports of failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_operator.decide.plan import PodView
from tests.support import builders as b
from tests.support.simulation import Simulation

__all__ = ["SPEC", "change_pod", "ended_with", "running", "said"]

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


def change_pod(life: Simulation, **fields: Any) -> None:
    """Something else about the only pod is true."""
    name, pod = next(iter(life.pods.items()))
    changed: PodView = replace(pod, **fields)
    life.pods[name] = changed
