"""How old this process is: what passed before its first line of log, which no clock of Python has seen.

``__main__`` logs it once, so that a slow start can be told from a slow cluster.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["seconds_since_start"]


def seconds_since_start() -> float | None:
    """Seconds since the process was started, to 10 ms (proc(5): field 22 of stat); None where there is no /proc."""
    try:
        # The second field is the name in parentheses and may hold spaces.
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except FileNotFoundError:
        return None
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 2)
