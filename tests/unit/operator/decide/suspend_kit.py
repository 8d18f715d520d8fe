"""What the tests of suspended jobs share: a job in mid-run, the same suspended, and what it says."""

from __future__ import annotations

from typing import Any

from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC

__all__ = ["conditions", "events", "running", "suspended"]


def running(spec: dict[str, Any] | None = None, *, seconds: float = 100) -> Simulation:
    """A job on the CPU whose pod has run for so long; what the operator deletes goes when the test says so."""
    life = Simulation(b.job(spec or SPEC), runtime=b.runtime(), lingering=True).settle()
    return life.pod_runs("train").settle(1).settle(seconds - 1)


def suspended(spec: dict[str, Any] | None = None, *, seconds: float = 100) -> Simulation:
    """The same, suspended, with its pods gone 60 seconds later."""
    life = running(spec, seconds=seconds).edit(suspend=True).settle()
    return life.passes(60).goes("train").settle()


def conditions(life: Simulation) -> dict[str, tuple[str, str]]:
    return {item["type"]: (item["status"], item["reason"]) for item in life.status["conditions"]}


def events(life: Simulation) -> list[str]:
    return [event.reason for event in life.events]
