"""Processes one job at a time: observe, reconcile, apply, and decide when to look again.

The body of the queue's workers. Whatever goes wrong with one object ends here as a log line and a backoff of its key,
so no object stops another. All state that matters is in the cluster; what this keeps in memory (which keys want live
reads, which creates were refused) may be lost at any time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from finetune_operator.cluster.apply import Applied, Applier
from finetune_operator.cluster.observe import Observer
from finetune_operator.cluster.protocol import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    JobKey,
    NotFoundError,
    Raw,
    UnavailableError,
)
from finetune_operator.cluster.views import as_dict, as_text, condition, is_finished, metadata
from finetune_operator.decide.plan import Observed, Plan
from finetune_operator.decide.text import parse_time
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.workqueue import WorkQueue

__all__ = ["Controller", "Reconcile"]

log = logging.getLogger(__name__)

Reconcile = Callable[[Observed], Plan]

PASSING_FAILURES: Final = 6
"""Times in a row that a right may seem to be missing before the log calls it an error."""

FAULTS_TO_TELL: Final = 3
"""Times in a row that the control plane has to fail at a create before the status tells of it."""

LEAST_PAUSE: Final = 0.1
"""Seconds before another look for a live report that came during this one."""

REFUSED_PAUSE: Final = 15.0
"""Seconds between two tries of a create that was refused, where the plan names none."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """How an error is counted and told."""

    result: str
    event: str
    level: int


_STALE: Final = _Failure("conflict", "StaleObservation", logging.INFO)
_FAILURES: Final[tuple[tuple[type[ClusterError], _Failure], ...]] = (
    (ConflictError, _STALE),
    (NotFoundError, _STALE),
    (UnavailableError, _Failure("unavailable", "ApiUnavailable", logging.WARNING)),
    (ForbiddenError, _Failure("error", "PermissionDenied", logging.ERROR)),
    (InvalidError, _Failure("error", "RequestRejected", logging.ERROR)),
)


class Controller:
    """Brings one job after the other to where reconcile wants it.

    Parameters
    ----------
    report_due
        In how many seconds a live report of the job with a uid is to be shown, if one waits for it.
    """

    def __init__(
        self,
        *,
        queue: WorkQueue[JobKey],
        observer: Observer,
        applier: Applier,
        reconcile: Reconcile,
        metrics: Metrics,
        report_due: Callable[[str], float | None] = lambda _uid: None,
    ) -> None:
        self._report_due = report_due
        self._queue = queue
        self._observer = observer
        self._applier = applier
        self._reconcile = reconcile
        self._metrics = metrics
        self._wants_live: set[JobKey] = set()
        self._refused: dict[JobKey, str] = {}
        self._faults: dict[JobKey, int] = {}

    async def process(self, key: JobKey) -> None:
        """Run one job once; never raises for anything that is wrong with the job or the API server."""
        started = asyncio.get_running_loop().time()
        try:
            result = await self._run(key)
        except ClusterError as error:
            result = self._failed(key, error)
        except Exception:
            delay = self._queue.add_failed(key)
            log.exception(
                "The job could not be processed; trying again in %.0f s",
                delay,
                extra={"event": "ReconcileFailed", "job": str(key)},
            )
            result = "error"
        self._metrics.reconciled(result, seconds=asyncio.get_running_loop().time() - started)

    async def _run(self, key: JobKey) -> str:
        refused = self._refused.get(key)
        observed = await self._observer.observe(key, live=key in self._wants_live, create_error=refused)
        plan = None if observed is None else self._reconcile(observed)
        if observed is not None and plan is not None and plan.needs_live:
            observed = await self._observer.observe(key, live=True, create_error=refused)
            plan = None if observed is None else self._reconcile(observed)
        if observed is None or plan is None:
            self._forget(key)
            return "gone"
        applied = await self._applier.apply(key, observed, plan)
        self._tell(key, observed, applied)
        # A run voids the delay that was set for a report that comes too early to be shown.
        if (due := self._report_due(as_text(metadata(observed.job).get("uid")) or "")) is not None:
            self._queue.add_after(key, max(due, LEAST_PAUSE))
        return self._again(key, plan, applied)

    def _again(self, key: JobKey, plan: Plan, applied: Applied) -> str:
        """Decide when the key runs next; returns the result to count."""
        if applied.blocked is not None:
            self._wants_live.add(key)
            self._queue.add_failed(key)
            log.info("A create is held back: %s", applied.blocked, extra={"event": "CreateHeldBack", "job": str(key)})
            return "blocked"
        self._wants_live.discard(key)
        if applied.unavailable is not None and applied.create_error is not None:
            return self._unavailable(key, applied.create_error, pause=applied.unavailable)
        self._queue.forgive(key)
        self._faults.pop(key, None)
        before = self._refused.pop(key, None)
        if applied.create_error is not None:
            self._refused[key] = applied.create_error
            if before is None:
                self._queue.add(key)  # at once, so that the status says why nothing happens
            else:
                self._queue.add_after(key, plan.requeue_after or REFUSED_PAUSE)
            return "refused"
        if plan.requeue_after is not None:
            self._queue.add_after(key, plan.requeue_after)
        return "ok"

    def _unavailable(self, key: JobKey, error: str, *, pause: float) -> str:
        """Try a create again that the control plane could not carry out; the job's owner is told when it goes on so."""
        self._faults[key] = self._faults.get(key, 0) + 1
        if self._faults[key] >= FAULTS_TO_TELL:
            self._refused[key] = error
        delay = self._queue.add_failed(key, at_least=pause)
        log.warning("%s; trying again in %.1f s", error, delay, extra={"event": "ApiUnavailable", "job": str(key)})
        return "unavailable"

    def _failed(self, key: JobKey, error: ClusterError) -> str:
        failure = next(
            (f for kind, f in _FAILURES if isinstance(error, kind)), _Failure("error", "ApiError", logging.ERROR)
        )
        if failure is _STALE:
            self._wants_live.add(key)
        # An API server that has just started refuses everything for as long as it has not read the roles.
        passing = isinstance(error, ForbiddenError) and self._queue.failures(key) < PASSING_FAILURES
        delay = self._queue.add_failed(key, at_least=error.retry_after or 0.0)
        log.log(
            logging.WARNING if passing else failure.level,
            "%s; trying again in %.1f s",
            error,
            delay,
            extra={"event": failure.event, "job": str(key), "fields": {"code": error.code, "reason": error.reason}},
        )
        return failure.result

    def _forget(self, key: JobKey) -> None:
        self._wants_live.discard(key)
        self._refused.pop(key, None)
        self._faults.pop(key, None)
        self._queue.forgive(key)

    def _tell(self, key: JobKey, observed: Observed, applied: Applied) -> None:
        if not applied.wrote_status:
            return
        after = as_dict(applied.job.get("status"))
        fields = {"phase": after.get("phase"), "reason": condition(after, "Succeeded").get("reason")}
        log.info(
            "Wrote the status",
            extra={"event": "StatusWritten", "job": str(key), "fields": {k: v for k, v in fields.items() if v}},
        )
        if is_finished(applied.job) and not is_finished(observed.job):
            self._metrics.job_ended(
                namespace=key.namespace,
                result=str(after.get("phase")),
                reason=str(fields["reason"]),
                seconds=_duration(applied.job),
            )


def _duration(job: Raw) -> float | None:
    """Seconds from the job's creation to its end."""
    created = parse_time(metadata(job).get("creationTimestamp"))
    ended = parse_time(as_dict(job.get("status")).get("completionTime"))
    return None if created is None or ended is None else max(0.0, (ended - created).total_seconds())
