"""The lines of a stage's log, kept in memory until its end, so that they can outlive the pod.

A pod's log goes with the pod: by suspension, by ``ttlSecondsAfterFinished``, with its node. The questions come later.
``output/logs.py`` stores what is kept here beside the results.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from typing import Final

__all__ = ["KeptLog"]

FIRST_BYTES: Final = 256 * 1024
NEWEST_BYTES: Final = 768 * 1024
"""Together at most 1 MiB: how it began and how it ended; a progress line each ten seconds is 10 MB a week."""


class KeptLog:
    """The first and the newest lines of a log. Lines come from several threads.

    Parameters
    ----------
    first, newest
        Bytes kept of either end. A line that fits into neither is left out, so no line is ever cut.
    """

    def __init__(self, *, first: int = FIRST_BYTES, newest: int = NEWEST_BYTES) -> None:
        self._room, self._newest_bytes = first, newest
        self._first: list[bytes] = []
        self._newest: deque[bytes] = deque()
        self._held = 0
        self._left_out = 0
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Keep a line of JSON, given without its line end."""
        data = line.encode() + b"\n"
        with self._lock:
            if not self._newest and not self._left_out and len(data) <= self._room:
                self._room -= len(data)
                self._first.append(data)
                return
            self._newest.append(data)
            self._held += len(data)
            while self._held > self._newest_bytes:
                self._held -= len(self._newest.popleft())
                self._left_out += 1

    def read(self) -> bytes:
        """Return the log as JSON lines; where lines are missing, one says how many."""
        with self._lock:
            gap = [json.dumps({"event": "left_out", "lines": self._left_out}).encode() + b"\n"] * bool(self._left_out)
            return b"".join([*self._first, *gap, *self._newest])
