"""One measured run: a fresh control plane, jobs one after the other, then a burst of jobs until all have succeeded."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from benchmarks.common import ROOT, percentile
from benchmarks.operator_bench.audit import Requests, count_requests
from benchmarks.operator_bench.client import Client, Timeline
from benchmarks.operator_bench.controlplane import OPERATOR_USER, ControlPlane
from benchmarks.operator_bench.processes import cpu_seconds, peak_mib, reset_peak
from benchmarks.operator_bench.simulated_pods import TEST_SCORE

__all__ = ["MOST_WRITES", "Run", "Stages", "measure", "spec_for"]

Stages = Literal[1, 2]
MOST_WRITES: Final[dict[Stages, int]] = {1: 5, 2: 9}
"""Writes per job that the design allows, events and progress apart."""
SETTLE_SECONDS: Final = 5.0
"""The CPU of what follows the last job's end counts too."""


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Attributes
    ----------
    figures
        For programs.
    requests
        What the operator asked of the API server for the burst's jobs.
    cpu_ms
        CPU milliseconds per job of the burst, by part of the control plane.
    faults
        What must not be; empty in a good run.
    """

    stages: Stages
    figures: dict[str, Any]
    requests: Requests
    cpu_ms: dict[str, float]
    faults: list[str]


def spec_for(stages: Stages) -> dict[str, Any]:
    """The example job; with a GPU it has two stages, without one it has one. Its output is the runtime's default."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "examples/support-topic.yaml").read_text())
    spec: dict[str, Any] = job["spec"]
    spec["resources"] = {"gpusPerNode": stages - 1}
    del spec["output"]["uri"]
    return spec


async def _applied(plane: ControlPlane, namespace: str, spec: dict[str, Any], *, jobs: int, pause: float) -> Timeline:
    """Apply so many jobs and wait for their end; ``pause`` 0 applies them at once."""
    names = [f"job-{number:05d}" for number in range(jobs)]
    plane.api.create_namespace(namespace)
    async with Client.watching(plane.api, namespace) as client:
        if pause:
            await client.apply_slowly(names, spec, pause=pause)
        else:
            await client.apply_all(names, spec)
        await client.until_finished(names, within=120 + jobs)
    return client.timeline


def measure(stages: Stages, *, jobs: int, idle_jobs: int, scratch: Path) -> Run:
    """Run once.

    Parameters
    ----------
    stages
        1: jobs on the CPU; 2: jobs with a GPU, which are prepared first.
    jobs, idle_jobs
        Jobs of the burst; jobs that are applied before it, one a second.
    scratch
        An existing, empty folder.
    """
    spec = spec_for(stages)
    with ControlPlane.started(scratch) as plane:
        idle = asyncio.run(_applied(plane, "idle", spec, jobs=idle_jobs, pause=1.0))
        pids = plane.pids()
        for pid in pids.values():
            reset_peak(pid)
        before = {part: cpu_seconds(pid) for part, pid in pids.items()}
        burst = asyncio.run(_applied(plane, "burst", spec, jobs=jobs, pause=0.0))
        time.sleep(SETTLE_SECONDS)
        cpu_ms = {part: (cpu_seconds(pid) - before[part]) * 1000 / jobs for part, pid in pids.items()}
        peaks = {part: peak_mib(pid) for part, pid in pids.items()}
        with plane.audit_log.open() as lines:
            requests = count_requests(lines, namespace="burst", user=OPERATOR_USER)
        unexpected = [f"the operator logged: {record}" for record in plane.operator.unexpected()]
    faults = [*unexpected, *_faults(idle), *_faults(burst)]
    if requests.writes > MOST_WRITES[stages] * jobs:
        faults.append(
            f"{requests.writes / jobs:.2f} writes per job; with {stages} stage(s) {MOST_WRITES[stages]} are allowed"
        )
    figures = {
        "stages": stages,
        "jobs": jobs,
        "wall_seconds": round(max(burst.finished.values()) - burst.first_post, 2),
        **_latencies(burst),
        "idle_jobs": idle_jobs,
        **{f"idle_{key}": value for key, value in _latencies(idle).items()},
        "writes_per_job": round(requests.writes / jobs, 2),
        "events_per_job": round(requests.events / jobs, 2),
        "reads_per_job": round(requests.reads / jobs, 2),
        "refused_writes": requests.refused,
        "cpu_ms_per_job": round(cpu_ms["operator"], 2),
        "peak_mib": round(peaks["operator"], 1),
    }
    return Run(stages, figures, requests, cpu_ms, faults)


def _faults(timeline: Timeline) -> list[str]:
    """Jobs that didn't end with the scores that the simulated pods report."""

    def outcome(job: dict[str, Any]) -> str:
        status = job["status"]
        score = status.get("results", {}).get("test", {}).get("score")
        good = status["phase"] == "Succeeded" and score == TEST_SCORE
        return "" if good else f"{status['phase']} with {score}: {status.get('failure')}"

    tally = Counter(outcome(job) for job in timeline.last.values())
    return [f"{count} jobs ended as {what}" for what, count in tally.items() if what]


def _latencies(timeline: Timeline) -> dict[str, float]:
    first, last = ("prepare", "train") if "prepare" in timeline.child_seen else ("train", "train")
    spans = {
        "create": _between(timeline.answered, timeline.child_seen[first]),
        "finish": _between(timeline.child_complete[last], timeline.finished),
    }
    if first != last:
        spans["handover"] = _between(timeline.child_complete[first], timeline.child_seen[last])
    return {
        f"{name}_p{percent}_seconds": percentile(values, percent)
        for name, values in spans.items()
        for percent in (50, 99)
    }


def _between(start: dict[str, float], end: dict[str, float]) -> list[float]:
    return [end[name] - start[name] for name in start]
