"""Ends a stage that lives on without getting any further, so that it doesn't hold a GPU until the job's deadline.

A transfer or a kernel that hangs can't be interrupted from within. So a thread of its own counts the signs of life that
the console sees (every line and every call of a progress), and once none has come for
``limits.stallTimeoutSeconds`` of the runtime, the stage ends as Stalled. The next attempt goes on from the newest
checkpoint.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

__all__ = ["Watchdog", "stacks"]

TICKS: Final = 20
"""Looks in a timeout."""
LONGEST_TICK: Final = 10.0


class Watchdog:
    """Watches while its block runs.

    Time is counted in looks of this thread, not by the clock: a process that was frozen hasn't stalled when it goes on.

    Parameters
    ----------
    seconds
        Time without a sign of life after which ``stalled`` is called, once; None never calls it.
    signs
        A number that changes with every sign of life.
    stalled
        Called in the watchdog's thread.
    """

    def __init__(self, seconds: float | None, *, signs: Callable[[], int], stalled: Callable[[], None]) -> None:
        self._seconds, self._signs, self._stalled = seconds, signs, stalled
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        if self._seconds is not None:
            tick = min(LONGEST_TICK, self._seconds / TICKS)
            threading.Thread(target=self._watch, args=(self._seconds, tick), name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def _watch(self, seconds: float, tick: float) -> None:
        idle, seen = 0.0, self._signs()
        while not self._ended.wait(tick):
            if (now := self._signs()) != seen:
                idle, seen = 0.0, now
                continue
            idle += tick
            if idle >= seconds:
                self._stalled()
                return


def stacks() -> dict[str, str]:
    """Where every thread of the process stands, by its name; for the log."""
    frames = sys._current_frames()
    return {
        thread.name: "".join(traceback.format_stack(frames[thread.ident]))
        for thread in threading.enumerate()
        if thread.ident in frames
    }
