"""Runs every test of the CI tier and says what took how long and what is not in it.

A tier that ran no test, or that skipped one, has failed: a test that cannot run is a failure, not a detail.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
RESULTS: Final = ROOT / "run/test"

NOT_IN_THIS_TIER: Final = (
    "make test-gpu: the trainer on a CUDA device, GPUOutOfMemory included (by hand; needs a GPU)",
    "make bench-start: from apply to the first forward pass (by hand; the development cluster)",
    "make bench-trainer: tokens a second of the training loop against TRL (by hand)",
    "make bench-operator: bursts of jobs on simulated nodes (by hand)",
    "make bench-progress: live reports of 1,000 jobs at once (by hand)",
    "make bench-memory: memory and speed of preparing a large dataset (by hand)",
    "soak and chaos runs: not written yet",
)


@dataclass(frozen=True)
class Step:
    """One step; ``paths`` are test folders for pytest, ``command`` anything else, ``workers`` how many test at once.

    ``beside`` the next one: it runs at the same time, and its output is shown when it is done.
    """

    name: str
    command: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    workers: int = 1
    beside: bool = False


DEVCLUSTER: Final = "hack/devcluster/devcluster"

STEPS: Final = (
    # On a fresh machine these are compiled for minutes, which no test's time limit should have to cover.
    Step("binaries", command=(DEVCLUSTER, "build", "kube-apiserver", "etcd", "kubectl", "versitygw", "helm", "kueue")),
    Step("browser", command=("make", "--no-print-directory", "browser")),
    Step("lint", command=("make", "--no-print-directory", "lint"), beside=True),
    Step("unit", paths=("tests/unit", "tests/devcluster", "tests/chart"), workers=2),
    Step("trainer", paths=("tests/trainer",), workers=2),
    Step("apiserver", paths=("tests/apiserver",), workers=2),
    Step("cluster", command=(DEVCLUSTER, "up")),
    Step("images", command=(DEVCLUSTER, "images")),
    Step("e2e", paths=("tests/e2e",)),
)


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    name: str
    seconds: float
    passed: int
    failed: int
    note: str


def run_step(step: Step) -> Outcome:
    """Run one step, letting its output through."""
    if not step.beside:
        print(f"\n=== {step.name}", flush=True)
    start = time.monotonic()
    report = RESULTS / f"{step.name}.xml"
    report.unlink(missing_ok=True)
    command = step.command or (
        *(sys.executable, "-m", "pytest", "-q", "--durations=8", f"--junitxml={report}"),
        *step.paths,
    )
    environment = dict(os.environ)
    if step.workers > 1:
        # Models this small gain nothing from a second thread; a second test does. A file stays with one worker, so that
        # what its tests share is made once.
        command = (*command, f"--numprocesses={step.workers}", "--dist=loadfile")
        environment["OMP_NUM_THREADS"] = "1"
    pipe = subprocess.PIPE if step.beside else None
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        check=False,
        stdout=pipe,
        stderr=subprocess.STDOUT if pipe else None,
        text=True,
    )
    code, seconds = done.returncode, time.monotonic() - start
    if step.beside:
        print(f"\n=== {step.name}\n{done.stdout}", flush=True)
    if not step.paths:
        return Outcome(step.name, seconds, 0, int(code != 0), "" if code == 0 else f"exit code {code}")
    if not report.exists():
        return Outcome(step.name, seconds, 0, 1, f"pytest ended with {code} and left no report")
    suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314  # our own file of a second ago
    total = bad = skipped = 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        bad += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
    note = f"{skipped} skipped, which counts as failed" if skipped else ("no test ran" if not total else "")
    failed = bad + skipped + int(not total)
    return Outcome(step.name, seconds, total - bad - skipped, max(failed, int(code != 0)), note)


def main() -> int:
    """Run all steps, print the table, return the exit code."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor() as pool:
        waiting: list[Future[Outcome]] = []
        for step in STEPS:
            if step.beside:
                waiting.append(pool.submit(run_step, step))
                continue
            outcomes.append(run_step(step))
            outcomes += [beside.result() for beside in waiting]
            waiting = []
            if any(o.failed and o.name in {"binaries", "cluster", "images"} for o in outcomes):
                break
    print("\n=== summary")
    print(f"{'step':<12} {'seconds':>8} {'passed':>7} {'failed':>7}")
    for o in outcomes:
        print(f"{o.name:<12} {o.seconds:>8.0f} {o.passed:>7} {o.failed:>7}  {o.note}")
    print("\nNot in this tier:")
    for line in NOT_IN_THIS_TIER:
        print(f"  {line}")
    passed, failed = sum(o.passed for o in outcomes), sum(o.failed for o in outcomes)
    not_run = [s.name for s in STEPS[len(outcomes) :]]
    if not_run:
        print(f"  not reached: {', '.join(not_run)}")
    print(f"\n{passed} passed, {failed + len(not_run)} failed")
    return 1 if failed or not_run else 0


if __name__ == "__main__":
    sys.exit(main())
