"""What happens when the process is told to stop: state is saved if there is any, and the exit code says "run me again".

SIGTERM comes when a pod is evicted, preempted, suspended or deleted, and SIGKILL follows when the grace period is over.
While the training loop runs, the handler only sets a flag, and the loop hands out its state; everywhere else nothing is
lost but time, so the process ends at once. No report is written then: exit code 75 tells the operator all it needs.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from finetune_api.reasons import EXIT_RESUMABLE, REASONS, Reason

__all__ = ["Interrupt", "Interrupted"]

UNBOUNDED_WAIT: Final = 60.0
"""Most seconds that an upload is waited for outside of the loop where no grace period is known."""
_OUT_OF_TIME: Final = b'{"level":"error","event":"interrupted","message":"the grace period ends"}\n'
_LOST: Final = REASONS[Reason.ARTIFACT_UPLOAD_FAILED].exit_code or 1


class Interrupted(BaseException):
    """The stage ended because the process was told to stop.

    No error: whoever catches ``Exception`` must not take it for one.
    """

    exit_code = EXIT_RESUMABLE


class Interrupt:
    """One process's SIGTERM.

    Parameters
    ----------
    line
        Written to standard error where the process ends at once; a handler can't go through the console, whose stream
        it may have interrupted.
    leave
        Ends the process without any cleaning up, which may hang in a transfer.

    Attributes
    ----------
    requested
        Whether the process was told to stop.
    grace_seconds
        Seconds between SIGTERM and SIGKILL; None where nobody counts.
    resumable
        Whether a later process can go on from a complete checkpoint of the training.
    leave
        Ends the process at once.
    """

    def __init__(
        self, line: bytes = b"", *, grace_seconds: int | None = None, leave: Callable[[int], object] = os._exit
    ) -> None:
        self.requested = False
        self.grace_seconds = grace_seconds
        self.resumable = False
        self._line, self.leave = line, leave
        self._deferred = False
        self._upload: Callable[[], threading.Thread | None] = lambda: None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGTERM until the block ends; PID 1 has no default for it."""
        before = signal.signal(signal.SIGTERM, self.handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Only set the flag while the block runs: whoever runs in it looks at it and saves.

        Raises
        ------
        Interrupted
            The block came to its end although the process had been told to stop.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        if self.requested:
            self.wait_for_upload()
            raise Interrupted

    def watch(self, upload: Callable[[], threading.Thread | None]) -> None:
        """Name whoever uploads in the background, so that the process doesn't end in the middle of it."""
        self._upload = upload

    def wait_for_upload(self) -> None:
        """Wait for the upload that is under way, if there is one."""
        if (thread := self._upload()) is not None:
            thread.join(UNBOUNDED_WAIT if self.grace_seconds is None else None)

    def handle(self, _number: int = signal.SIGTERM, _frame: FrameType | None = None) -> None:
        """Handle the signal; a second one changes nothing."""
        if self.requested:
            return
        self.requested = True
        if self.grace_seconds is not None:
            # Before SIGKILL comes, whose exit code would count as a failure of the job.
            seconds = self.grace_seconds - min(5.0, 0.2 * self.grace_seconds)
            self._in_background(threading.Timer(seconds, self._out_of_time))
        if self._deferred:
            return
        os.write(2, self._line)
        if self._upload() is None:
            self.leave(EXIT_RESUMABLE)
        else:
            # Not in the handler: the upload may need what the interrupted code holds.
            self._in_background(threading.Thread(target=self._leave_when_uploaded))

    def _in_background(self, thread: threading.Thread) -> None:
        thread.daemon = True
        thread.start()

    def _leave_when_uploaded(self) -> None:
        self.wait_for_upload()
        self.leave(EXIT_RESUMABLE)

    def _out_of_time(self) -> None:
        os.write(2, _OUT_OF_TIME)
        self.leave(EXIT_RESUMABLE if self.resumable or not self._deferred else _LOST)
