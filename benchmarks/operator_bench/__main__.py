"""``make bench-operator``: the operator under a burst of jobs on simulated nodes, from create to Succeeded.

    python -m benchmarks.operator_bench [--jobs 200] [--stages 1 2] [--idle-jobs 30]

Fails if a job doesn't succeed, if the operator logs an error, or if it writes more often than the design allows. No
figure of time is asserted.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import cast

from benchmarks.common import finish, machine, table, versions
from benchmarks.operator_bench.measure import Run, Stages, measure

WORDS = {1: "one stage", 2: "two stages"}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200, help="jobs that are applied at once (200)")
    parser.add_argument("--stages", type=int, choices=(1, 2), nargs="+", default=[1, 2], help="one run for each (1 2)")
    parser.add_argument("--idle-jobs", type=int, default=30, help="jobs before the burst, one a second (30)")
    arguments = parser.parse_args()
    if arguments.jobs < 1 or arguments.idle_jobs < 1:
        parser.error("--jobs and --idle-jobs take 1 or more")
    return arguments


def _measured(stages: Stages, *, jobs: int, idle_jobs: int) -> Run:
    scratch = Path(tempfile.mkdtemp(prefix="finetune-bench-operator-"))
    try:
        return measure(stages, jobs=jobs, idle_jobs=idle_jobs, scratch=scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def render(runs: list[Run]) -> str:
    """Lay the runs out side by side, as people read them."""
    heads = [WORDS[run.stages] for run in runs]
    keys = [key for key in max((run.figures for run in runs), key=len) if key != "stages"]
    figures = table(["figure", *heads], [[key, *(run.figures.get(key, "-") for run in runs)] for key in keys])
    kinds = sorted({kind for run in runs for kind in run.requests.by_kind})
    requests = table(
        ["request of the operator", *(f"{head}, per job" for head in heads)],
        [
            [
                f"{verb} {resource} ({code})",
                *(f"{run.requests.by_kind[verb, resource, code] / run.figures['jobs']:.3f}" for run in runs),
            ]
            for verb, resource, code in kinds
        ],
    )
    parts = list(runs[0].cpu_ms)
    cpu = table(["CPU ms per job", *heads], [[part, *(f"{run.cpu_ms[part]:.1f}" for run in runs)] for part in parts])
    return "\n\n".join((figures, requests, cpu))


def main() -> int:
    """Run the benchmark; returns the exit code."""
    arguments = _parse()
    runs = [
        _measured(cast("Stages", stages), jobs=arguments.jobs, idle_jobs=arguments.idle_jobs)
        for stages in dict.fromkeys(arguments.stages)
    ]
    first, *others = runs
    figures = {
        **first.figures,
        **{WORDS[run.stages].replace(" ", "_"): run.figures for run in others},
        "machine": machine(),
        "versions": versions("kopf", "kubernetes", "aiohttp"),
    }
    faults = [f"{WORDS[run.stages]}: {fault}" for run in runs for fault in run.faults]
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print(render(runs))
        return 1
    finish("operator", figures, render(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
