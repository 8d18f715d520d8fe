"""Moments of one start, in the order in which they pass, and what lies between them. Pure.

All clocks are those of one machine: the client's when a watch event arrives, the trainer's in its JSON log.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

__all__ = ["FIRST_FORWARD", "STAGES", "durations", "log_moments", "pod_moments", "seconds_of"]

FIRST_FORWARD: Final = "first forward"

STAGES: Final = (
    "applied",
    "child Job created",
    "pod created",
    "pod scheduled",
    "container started",
    "trainer speaks",
    "libraries imported",
    "rows prepared",
    "model fetched",
    "model loaded",
    FIRST_FORWARD,
)
"""What a job with a single stage passes on its way; each starts where the one before ended."""


def seconds_of(timestamp: str) -> float:
    """Seconds since 1970 of an RFC 3339 timestamp."""
    return datetime.fromisoformat(timestamp).timestamp()


def pod_moments(pod: Mapping[str, Any], when: float) -> dict[str, float]:
    """What a watch event of a pod shows to have happened by ``when``."""
    moments = {"pod created": when}
    conditions = pod.get("status", {}).get("conditions", [])
    if any(c["type"] == "PodScheduled" and c["status"] == "True" for c in conditions):
        moments["pod scheduled"] = when
    return moments


def log_moments(lines: Iterable[str]) -> dict[str, float]:
    """Moments that the trainer's log tells; it may end anywhere."""
    moments: dict[str, float] = {}
    for line in lines:
        entry = json.loads(line)
        when, event, step = seconds_of(entry["ts"]), entry["event"], entry.get("step")
        if event == "started":
            moments["container started"] = when - entry["seconds"]
            moments["trainer speaks"] = when
        elif event == "step_started":
            moments.setdefault("libraries imported", when)
            if step == "fetch_model":
                moments["rows prepared"] = when
        elif event == "step_finished" and step in ("fetch_model", "load_model"):
            moments["model fetched" if step == "fetch_model" else "model loaded"] = when
        elif event == "progress" and step == "baseline":
            moments.setdefault(FIRST_FORWARD, when)
    return moments


def durations(moments: Mapping[str, float], *, start: float, stages: Iterable[str]) -> dict[str, float]:
    """Seconds that each stage took; the sum is the time from ``start`` to the last.

    Raises
    ------
    KeyError
        A stage was not seen.
    """
    result, last = {}, start
    for stage in stages:
        result[stage] = round(moments[stage] - last, 3)
        last = moments[stage]
    return result
