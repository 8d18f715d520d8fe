"""Children that end with the test run, however it ends: killed, no clean-up of ours would run."""

from __future__ import annotations

import os
import shutil

__all__ = ["ending_with_us"]

# The kernel's signal is set by the child itself, so a parent that died before it did would never send it: the child
# looks once more, after the signal is set, whether its parent is still the one that wanted it (prctl(2)).
_UNLESS_ORPHANED = '[ "$PPID" = "$0" ] && exec "$@"'


def ending_with_us() -> list[str]:
    """Return what to put before a command, so that the kernel kills the child when this process is gone."""
    if not shutil.which("setpriv"):
        return []
    return ["setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", _UNLESS_ORPHANED, str(os.getpid())]
