"""What every benchmark shares: the machine it ran on, percentiles, and how a result is printed and kept.

A benchmark calls :func:`finish` once, at its end. People read the text, programs the last line: one JSON object. Both
go to ``benchmarks/results/<date>-<name>.txt``, which is committed; a second run on the same day replaces the first.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

__all__ = ["RESULTS", "ROOT", "finish", "machine", "median", "percentile", "table", "versions"]

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks/results"


def machine() -> dict[str, Any]:
    """Describe this machine: cpu, cores (that this process may use), memory_gib, kernel."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    if memory is None:
        raise RuntimeError("/proc/meminfo names no MemTotal")
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 2**20, 1),
        "kernel": platform.release(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, of this repository's commit and of the named Python packages."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    commit = described.stdout.strip() or "unknown"  # a source archive has no history
    return {"python": platform.python_version(), "commit": commit, **{name: version(name) for name in packages}}


def median(values: Sequence[float]) -> float:
    """Median, rounded to what is worth reading."""
    return round(statistics.median(values), 4)


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile: a value that was measured, never one in between.

    Raises
    ------
    ValueError
        There are no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return round(ordered[int(rank) - 1], 4)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out rows as text: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *others]).rstrip())
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def finish(name: str, figures: Mapping[str, Any], table_text: str, *, results: Path = RESULTS) -> None:
    """Print a benchmark's result and keep it.

    Parameters
    ----------
    name
        ``operator``, ``start``, ...: the part after ``bench-`` of the make target.
    figures
        What programs read; units stand in the keys (``_seconds``, ``_mib``, ``_ms_per_job``). Include
        :func:`machine` and :func:`versions` under these names.
    table_text
        What people read.
    """
    last_line = json.dumps({"benchmark": name, "date": date.today().isoformat(), **figures}, ensure_ascii=False)
    text = f"{table_text.strip()}\n\n{last_line}\n"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{date.today().isoformat()}-{name}.txt").write_text(text, encoding="utf-8")
    print(text, end="", flush=True)
