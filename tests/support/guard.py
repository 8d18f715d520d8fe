"""Children that end with the test run, however it ends: killed, no clean-up of ours would run."""

from __future__ import annotations

import shutil

__all__ = ["ending_with_us"]


def ending_with_us() -> list[str]:
    """Return what to put before a command, so that the kernel kills the child when this process is gone."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
