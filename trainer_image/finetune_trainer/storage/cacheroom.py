"""Room on the volume of the model cache: what lies there, how much of it, and what goes to make room.

Below ``modelcache.py``, which reads and writes entries. Whole entries go, the one that was used longest ago first, and
never one that a pod is just reading. An entry that goes is renamed before it is deleted, so nobody finds half of one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

__all__ = ["IN_USE_SECONDS", "STALE_SECONDS", "USED", "CacheRoom", "NoRoomError"]

USED: Final = "used"
"""Its time is when the entry was used last; whoever reads an entry renews it every minute."""
IN_USE_SECONDS: Final = 600.0
"""An entry that was used so lately may be read still."""
STALE_SECONDS: Final = 3600.0
"""What no pod has written to for so long was left behind by one that ended."""


class NoRoomError(Exception):
    """There is no room for an entry, and none can be made."""


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    bytes: int
    used: float


class CacheRoom:
    """The folders of a cache.

    Parameters
    ----------
    base
        Folder of the volume that holds them.
    max_bytes
        What the entries may take together; None is what the volume has.
    """

    def __init__(self, base: Path, *, max_bytes: int | None) -> None:
        self.models = base / "models"
        self.incoming = base / "incoming"
        self._trash = base / "trash"
        self._max_bytes = max_bytes

    def is_stored_elsewhere(self, key: str) -> bool:
        """Whether another pod is just writing this entry."""
        return any(time.time() - _newest(path) < STALE_SECONDS for path in _below(self.incoming, f"{key}."))

    def make(self, size: int) -> None:
        """Make room for ``size`` bytes; removes no more than that takes, and nothing where it would not do.

        Raises
        ------
        NoRoomError
            What may go is not enough.
        OSError
            The volume can't be read or written.
        """
        for folder in (self.models, self.incoming, self._trash):
            folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        entries = sorted((_entry(path) for path in _below(self.models)), key=lambda entry: entry.used)
        held = sum(entry.bytes for entry in entries) + sum(_size(path) for path in _below(self.incoming))
        if self._max_bytes is not None and size > self._max_bytes:
            raise NoRoomError(f"the model has {size} bytes, and modelCache.maxSize allows {self._max_bytes}")
        over = 0 if self._max_bytes is None else held + size - self._max_bytes
        missing = max(over, size - self._free())
        going, gained = [], 0
        for entry in entries:
            if gained >= missing:
                break
            if time.time() - entry.used >= IN_USE_SECONDS:
                going.append(entry)
                gained += entry.bytes
        if gained < missing:
            raise NoRoomError(
                f"the model has {size} bytes, {missing} more than there is room for, and all other models there are in "
                "use or too small; a larger volume or modelCache.maxSize helps"
            )
        for entry in going:
            self.discard(entry.path)

    def discard(self, entry: Path) -> None:
        """Take an entry away; nobody finds a part of it."""
        self._trash.mkdir(parents=True, exist_ok=True)
        gone = self._trash / uuid4().hex
        try:
            entry.rename(gone)
        except FileNotFoundError:
            return  # another pod was first
        self.remove(gone)

    @staticmethod
    def remove(folder: Path) -> None:
        """Delete what nobody looks for; what can't be deleted now is swept later."""
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with suppress(OSError):
                folder.unlink()

    def _free(self) -> int:
        volume = os.statvfs(self.models)
        return volume.f_bavail * volume.f_frsize

    def _sweep(self) -> None:
        """Delete what pods have left behind that ended in between."""
        for path in _below(self.incoming):
            if time.time() - _newest(path) >= STALE_SECONDS:
                self.discard(path)
        for path in _below(self._trash):
            self.remove(path)


def _below(folder: Path, prefix: str = "") -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.startswith(prefix)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stats(folder: Path) -> Iterator[os.stat_result]:
    """Of the folder and its files; other pods may be removing it."""
    for path in (folder, *_below(folder)):
        try:
            yield path.lstat()
        except FileNotFoundError:
            continue


def _size(folder: Path) -> int:
    return sum(found.st_size for found in _stats(folder))


def _newest(folder: Path) -> float:
    return max((found.st_mtime for found in _stats(folder)), default=0.0)


def _entry(path: Path) -> _Entry:
    try:
        used = (path / USED).lstat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        used = _newest(path)
    return _Entry(path, _size(path), used)
