"""A keyed work queue: many events about one object become one run, and one object never runs twice at once.

Sits between the watches (``handlers.py``, ``resync.py``) and the workers of ``controller.py``. The semantics are those
of client-go's workqueue: a key that is added while it is worked on runs once more afterwards, failures back off per
key. Single-threaded: everything happens on one event loop, whose clock is the only clock.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

__all__ = ["WorkQueue"]

Key = TypeVar("Key", bound=Hashable)

BACKOFF_BASE: Final = 0.5
"""Seconds before the first retry of a key; doubles with each failure in a row."""
BACKOFF_CAP: Final = 60.0
"""Longest pause of a failing key, in seconds."""


class WorkQueue(Generic[Key]):
    """Keys that wait, keys that are due and keys that are being worked on.

    Parameters
    ----------
    jitter
        Returns a factor in [0, 1) for the random half of each backoff; replaceable for tests.
    """

    def __init__(self, *, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._ready: deque[Key] = deque()
        self._dirty: dict[Key, float] = {}
        """Keys that have to run, with the time since when."""
        self._busy: dict[Key, float] = {}
        """Keys that run now, with the time since when."""
        self._due: dict[Key, float] = {}
        """When a delayed key becomes due; at most one time a key."""
        self._heap: list[tuple[float, int, Key]] = []
        self._pushed = 0
        self._failures: dict[Key, int] = {}
        self._last_done = float("-inf")
        """When the last run ended."""
        self._wakeup = asyncio.Event()
        self._settled = asyncio.Event()
        self._closed = False
        self.asleep = False
        """Nobody works yet, and what is put in is forgotten: who begins to work puts everything in."""

    # --- putting in ---------------------------------------------------------------------------------------------------

    def add(self, key: Key) -> None:
        """Have the key run soon; nothing happens if it is waiting for that already."""
        if self.asleep or key in self._dirty:
            return
        self._dirty[key] = self._now()
        if key not in self._busy:
            self._ready.append(key)
            self._wakeup.set()

    def add_after(self, key: Key, delay: float) -> None:
        """Have the key run in ``delay`` seconds; of several delays the earliest wins."""
        if delay <= 0:
            self.add(key)
            return
        due = self._now() + delay
        if not self.asleep and due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._pushed += 1
            heapq.heappush(self._heap, (due, self._pushed, key))
            self._wakeup.set()

    def add_failed(self, key: Key, *, at_least: float = 0.0) -> float:
        """Have the key run again after its backoff (or ``at_least``, if that is longer); return the seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause = min(BACKOFF_CAP, BACKOFF_BASE * 2.0 ** min(failures, 30))
        delay = max(at_least, pause * (0.5 + 0.5 * self._jitter()))
        self.add_after(key, delay)
        return delay

    def failures(self, key: Key) -> int:
        """How often in a row the key has failed."""
        return self._failures.get(key, 0)

    def forgive(self, key: Key) -> None:
        """Forget the key's failures: its next backoff is the shortest again."""
        self._failures.pop(key, None)

    # --- taking out ---------------------------------------------------------------------------------------------------

    async def get(self) -> Key:
        """Wait for a key and mark it busy until :meth:`done`.

        The run that now begins sees everything, so a delay that was set before it is void.
        """
        while True:
            self._release_due()
            if self._ready and not self._closed:
                key = self._ready.popleft()
                del self._dirty[key]
                self._due.pop(key, None)
                self._busy[key] = self._now()
                return key
            self._wakeup.clear()
            pause = self._heap[0][0] - self._now() if self._heap else None
            try:
                async with asyncio.timeout(pause):
                    await self._wakeup.wait()
            except TimeoutError:
                continue

    def done(self, key: Key) -> None:
        """Say that the run of the key is over; if it was added meanwhile it becomes ready now."""
        del self._busy[key]
        self._last_done = self._now()
        self._settled.set()
        if key in self._dirty:
            self._ready.append(key)
            self._wakeup.set()

    async def work(self, process: Callable[[Key], Awaitable[None]]) -> None:
        """Process keys for ever, one after the other; run this as often as there should be workers.

        ``process`` handles its own errors. One that escapes ends the worker, and with it the operator.
        """
        while True:
            key = await self.get()
            try:
                await process(key)
            finally:
                self.done(key)

    async def close(self, *, patience: float) -> None:
        """Hand out no more keys, and wait until those that run are done, at most ``patience`` seconds."""
        self._closed = True
        try:
            async with asyncio.timeout(patience):
                while self._busy:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return

    # --- looking ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Count keys that are ready to run."""
        return len(self._dirty)

    @property
    def delayed(self) -> int:
        """Number of keys with a delay that is not over."""
        return len(self._due)

    @property
    def idle(self) -> bool:
        """Nothing runs, is ready or due now (delayed keys may remain)."""
        self._release_due()
        return not self._dirty and not self._busy

    def standstill(self) -> float:
        """Seconds for which nothing was done though there was something to do: the sign of workers that stand still.

        A queue that is long moves all the same, so the age of what waits in it shows nothing; one run that never ends
        does, however much the others do.
        """
        now = self._now()
        hanging = now - min(self._busy.values(), default=now)
        waiting = now - max(self._last_done, min(self._dirty.values(), default=now))
        return max(0.0, hanging, waiting)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _release_due(self) -> None:
        now = self._now()
        while self._heap and (self._heap[0][0] <= now or self._due.get(self._heap[0][2]) != self._heap[0][0]):
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:  # otherwise an earlier delay has replaced it, or a run has voided it
                del self._due[key]
                self.add(key)
