"""CPU time and peak memory of processes, from /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["cpu_seconds", "peak_mib", "reset_peak"]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process with all its threads (proc(5): utime and stime), in seconds."""
    # The second field is the name in parentheses and may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(pid: int) -> float:
    """Peak resident memory since the start or since :func:`reset_peak` (proc(5): VmHWM), in MiB."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/{pid}/status names no VmHWM")
    return int(found[1]) / 1024


def reset_peak(pid: int) -> None:
    """Let the peak begin anew from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
