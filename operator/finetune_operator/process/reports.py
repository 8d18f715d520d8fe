"""The newest live report of each job that runs, in memory, and when which one is to be shown in status.

Filled by ``progress.py``, asked by ``observe.py``. A status write goes to everybody who watches, so a job is written
for at most once in :attr:`ReportBook.pace` seconds, and only where ``wait_of`` says that something worth it has
changed. What is lost with the process comes again with the next report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from finetune_api.live import LiveReport
from finetune_operator.cluster.protocol import JobKey
from finetune_operator.decide.plan import PodReport
from finetune_operator.decide.progress import SILENT_SECONDS, wait_of

__all__ = ["MAX_JOBS", "ReportBook"]

LEAST_PACE: Final = 10.0
"""Seconds between two status writes about one job for its live reports."""

WRITES_A_SECOND: Final = 50
"""Status writes for the live reports of all jobs."""

MAX_JOBS: Final = 20_000
"""Jobs whose reports are kept; beyond it the one that has been silent for longest is forgotten."""


@dataclass(slots=True)
class _Kept:
    key: JobKey
    pod_uid: str
    newest: LiveReport
    received: datetime
    heard_at: float
    shown: PodReport | None = None
    shown_at: float = float("-inf")


class ReportBook:
    """What the pods have told last.

    Parameters
    ----------
    now
        The API server's time.
    clock
        Seconds of a clock that never jumps.
    """

    def __init__(self, *, now: Callable[[], datetime], clock: Callable[[], float]) -> None:
        self._now, self._clock = now, clock
        self._kept: dict[str, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def pace(self) -> float:
        """Least seconds between two status writes about one job."""
        return max(LEAST_PACE, len(self._kept) / WRITES_A_SECOND)

    def take(self, key: JobKey, uid: str, pod_uid: str, report: LiveReport) -> float | None:
        """Keep a report.

        Returns
        -------
        float or None
            In how many seconds the job is to be looked at for it; None: nothing to look at.
        """
        now, clock = self._now(), self._clock()
        before = self._kept.pop(uid, None)
        if before is not None and before.pod_uid == pod_uid and report.sequence <= before.newest.sequence:
            self._kept[uid] = before  # one that was overtaken, or is sent again
            return None
        kept = _Kept(key, pod_uid, report, now, clock)
        if before is not None:
            kept.shown, kept.shown_at = before.shown, before.shown_at
        self._kept[uid] = kept  # at the end: the first of the dict is the one that has been silent for longest
        if len(self._kept) > MAX_JOBS:
            self._kept.pop(next(iter(self._kept)))
        if before is None or clock - before.heard_at >= SILENT_SECONDS:
            return max(0.0, self._wait(kept) or 0.0)  # status may say that it is silent
        return self._wait(kept)

    def shown(self, uid: str) -> PodReport | None:
        """Return the report to show in status now."""
        kept = self._kept.get(uid)
        if kept is None:
            return None
        wait = self._wait(kept)
        if wait is not None and wait <= 0:
            kept.shown = PodReport(
                report=kept.newest, pod_uid=kept.pod_uid, received=kept.received, heard=kept.received
            )
            kept.shown_at = self._clock()
        if kept.shown is None or kept.shown.pod_uid != kept.pod_uid:
            return kept.shown
        return PodReport(
            report=kept.shown.report, pod_uid=kept.pod_uid, received=kept.shown.received, heard=kept.received
        )

    def due_in(self, uid: str) -> float | None:
        """Return in how many seconds a report that is not shown yet is to be shown; None: there is none."""
        kept = self._kept.get(uid)
        return None if kept is None else self._wait(kept)

    def forget(self, uid: str) -> None:
        """Drop what was kept of a job that has ended or is gone."""
        self._kept.pop(uid, None)

    def _wait(self, kept: _Kept) -> float | None:
        shown = kept.shown
        wait = wait_of(shown.report if shown is not None and shown.pod_uid == kept.pod_uid else None, kept.newest)
        if wait is None:
            return None
        return max(0.0, kept.shown_at + max(self.pace, wait) - self._clock())
