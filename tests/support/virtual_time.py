"""An event loop whose clock jumps: hours of backoffs and resyncs pass in milliseconds, and always alike.

The loop never sleeps. When every task waits for a time, the clock is set to the earliest of them. Nothing in it may
wait for a socket or a thread; such a wait would have no end, and is reported as an error.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

__all__ = ["EPOCH", "run_virtual", "virtual_now"]

Result = TypeVar("Result")

EPOCH = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
"""Wall clock at loop time 0."""


class _Selector(selectors.DefaultSelector):
    """Answers at once and moves the loop's clock on instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits for something that no task will do")
        if not ready and timeout:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtual(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end on a loop with a virtual clock."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)


def virtual_now() -> datetime:
    """The wall clock that belongs to the running loop."""
    return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())
