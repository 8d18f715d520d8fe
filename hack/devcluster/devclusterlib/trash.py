"""Deleting big folders without making anybody wait for it.

`down` and --purge end here. On most machines several GB are gone in a second or two; on a disk that passes every freed
block on to its host (the mount option "discard") the same takes minutes. So a folder is first renamed, which frees its
place at once, and then deleted by a process of its own, which `down` waits for only a while.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from .shell import say

PATIENCE = 10.0


def remove(folder: Path) -> None:
    """Frees the path at once; the deletion itself may go on after this returns."""
    if folder.exists():
        folder.rename(_free_name(folder))
    heaps = leftovers(folder)
    if not heaps:
        return
    deleting = subprocess.Popen(
        ["rm", "-rf", "--one-file-system", "--", *map(str, heaps)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deleting.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        say(f"{', '.join(map(str, heaps))}: being deleted in the background (pid {deleting.pid})")
        deleting.returncode = 0  # else Python warns that it leaves a process behind, which is just what is meant


def leftovers(folder: Path) -> list[Path]:
    """Renamed folders that are not deleted yet, those of an earlier call that was interrupted too."""
    return sorted(folder.parent.glob(f"{folder.name}.deleted-*"))


def _free_name(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.deleted-{os.getpid()}-{folder.stat().st_ino}")
