"""Memory and speed of the prepare stage on a large dataset, and of scoring a large test part.

    python -m benchmarks.memory_bench [--megabytes 1000] [--rows 100000]

Makes a JSON Lines file, runs the stage on it as a process of its own, and reports the peak of its resident memory:
``peak_mib`` is the process itself as the kernel counted it, ``worker_peak_mib`` the child that renders templates.
Resident memory counts mapped file pages too, which the kernel takes back when a container runs short;
``private_peak_mib`` is what it can't take back, sampled. The second half scores so many rows with 77 choices each;
``loaded_mib`` is the peak by the time that libraries and model are there, so what is above it is the evaluation's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.common import ROOT, finish, machine, table, versions

__all__ = ["Watched", "run", "status_mib"]

SAMPLE_SECONDS: Final = 0.2
THREADS: Final = "2"


@dataclass
class Watched:
    """Peaks of a process and of its children, in MiB."""

    peak: float = 0.0
    private: float = 0.0
    children: float = 0.0
    log: list[dict[str, Any]] = field(default_factory=list)


def status_mib(text: str, name: str) -> float:
    """Return a line of ``/proc/PID/status`` in MiB; 0 for a process that has just ended."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def run(command: list[str], log: Path) -> Watched:
    """Run a command to its end and watch its memory.

    Raises
    ------
    subprocess.CalledProcessError
        It failed; its output stands in ``log``.
    """
    watched = Watched()
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "OMP_WAIT_POLICY": "PASSIVE"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, env=environment)
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            status = _status(process.pid)
            watched.peak = max(watched.peak, status_mib(status, "VmHWM"))
            watched.private = max(watched.private, status_mib(status, "RssAnon"))
            for child in _children(process.pid):
                watched.children = max(watched.children, status_mib(_status(child), "VmHWM"))
            time.sleep(SAMPLE_SECONDS)
        _, code, usage = os.wait4(process.pid, 0)
    # The kernel's own maximum over the process and its children: nothing can hide between two samples.
    watched.peak = max(watched.peak, usage.ru_maxrss / 1024)
    watched.log = [json.loads(line) for line in log.read_text().splitlines()]
    if code:
        raise subprocess.CalledProcessError(
            os.waitstatus_to_exitcode(code), command, output=json.dumps(watched.log[-1:])
        )
    return watched


def step_seconds(log: list[dict[str, Any]]) -> dict[str, float]:
    """Return the seconds of each step of the stage's log."""
    return {entry["step"]: float(entry["seconds"]) for entry in log if entry["event"] == "step_finished"}


def measure_evaluation(folder: Path, rows: int) -> dict[str, Any]:
    """Score made-up rows with a made-up model in a process of its own."""
    module = [sys.executable, "-m", "benchmarks.memory_bench.evaluation"]
    subprocess.run(
        [*module, "make", str(folder), str(rows)],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    watched = run([*module, "score", str(folder)], folder / "log")
    entries = {entry["event"]: entry for entry in watched.log}
    seconds = float(entries["evaluated"]["seconds"])
    return {
        "rows": rows,
        "peak_mib": round(watched.peak),
        "private_peak_mib": round(watched.private),
        "loaded_mib": round(entries["loaded"]["peak_mib"]),
        "seconds": seconds,
        "rows_per_second": round(rows / seconds),
    }


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the dataset (default: 1000)")
    parser.add_argument("--rows", type=int, default=100_000, help="test rows to score (default: 100000)")
    parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="of the dataset")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as scratch:
        folder = Path(scratch)
        # In a process of its own: a process begins with the memory mark of the one that starts it.
        subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.memory_bench.rows",
                str(folder),
                str(arguments.megabytes),
                arguments.format,
            ],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        size = (folder / f"rows.{arguments.format}").stat().st_size
        begin = time.monotonic()
        watched = run([sys.executable, "-m", "benchmarks.memory_bench.stage", str(folder)], folder / "log")
        seconds = time.monotonic() - begin
        scored = measure_evaluation(folder / "evaluation", arguments.rows)
    dataset = next(entry for entry in watched.log if entry["event"] == "dataset")
    steps = step_seconds(watched.log)
    rows = int(dataset["rows"])
    preparing = sum(steps[name] for name in ("read_rows", "split_rows", "encode_rows"))
    figures = {
        "peak_mib": round(watched.peak),
        "private_peak_mib": round(watched.private),
        "worker_peak_mib": round(watched.children),
        "format": arguments.format,
        "file_mib": round(size / 2**20),
        "rows": rows,
        "train_tokens": dataset["tokens"],
        "seconds": round(seconds, 1),
        "prepare_seconds": round(preparing, 1),
        "rows_per_second": round(rows / preparing),
        "fingerprint": dataset["fingerprint"],
        "evaluation": scored,
        "machine": machine(),
        "versions": versions("tokenizers", "transformers", "numpy"),
    }
    text = table(
        ["prepare stage", "value"],
        [
            ["dataset", f"{figures['file_mib']} MiB of {arguments.format}, {rows} rows"],
            ["peak resident memory", f"{figures['peak_mib']} MiB"],
            ["  of it private (sampled)", f"{figures['private_peak_mib']} MiB"],
            ["peak of the template worker", f"{figures['worker_peak_mib']} MiB"],
            ["whole stage", f"{figures['seconds']} s"],
            *([f"  {name}", f"{value} s"] for name, value in steps.items()),
            ["rows a second, while preparing", figures["rows_per_second"]],
        ],
    )
    text += "\n\n" + table(
        ["evaluation, 77 choices a row", "value"],
        [
            ["test rows", scored["rows"]],
            ["peak resident memory", f"{scored['peak_mib']} MiB"],
            ["  of it private (sampled)", f"{scored['private_peak_mib']} MiB"],
            ["  before the first row", f"{scored['loaded_mib']} MiB"],
            ["time", f"{scored['seconds']} s, {scored['rows_per_second']} rows a second"],
        ],
    )
    finish("memory" if arguments.format == "jsonl" else f"memory-{arguments.format}", figures, text)


if __name__ == "__main__":
    main()
