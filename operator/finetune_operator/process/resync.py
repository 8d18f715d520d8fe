"""Lists the whole cluster every few minutes: the insurance against everything that a watch can miss.

Beside the watches; feeds ``cache.py`` and the queue. The first resync runs before anything else and is what starts the
operator: it waits, without ending the process, until the kinds are served and may be listed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final, get_args

from finetune_api import JOB_PLURAL, RUNTIME_PLURAL
from finetune_operator.cluster.cache import Cache, Replacement
from finetune_operator.cluster.protocol import (
    ClusterError,
    ClusterGateway,
    ForbiddenError,
    JobKey,
    Kind,
    UnavailableError,
)
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.workqueue import WorkQueue

__all__ = ["Resync"]

log = logging.getLogger(__name__)

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds between two tries of a list that failed; doubles from ``FIRST_PAUSE``."""

PASSING_PAUSE: Final = 16 * FIRST_PAUSE
"""The longest pause up to which missing rights are taken for passing: half a minute in all."""
DISCOVERY_GRACE: Final = 2.0
"""Seconds that other API servers get to serve a kind too, once one of them does."""


class Resync:
    """Keeps cache and queue in step with what the cluster really holds.

    Parameters
    ----------
    interval
        Seconds between two full lists; varied by a tenth, so that operators do not list in step.

    Attributes
    ----------
    last_success
        Loop time at which the last complete list ended; None before the first.
    """

    def __init__(
        self,
        *,
        gateway: ClusterGateway,
        cache: Cache,
        queue: WorkQueue[JobKey],
        metrics: Metrics,
        interval: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._gateway = gateway
        self._cache = cache
        self._queue = queue
        self._metrics = metrics
        self._interval = interval
        self._jitter = jitter
        self.last_success: float | None = None

    async def first(self) -> None:
        """Wait until our kinds are served, list everything, and only then return."""
        await self._until_served()
        await self._until_listed()

    async def run(self) -> None:
        """List again and again, for ever."""
        while True:
            await asyncio.sleep(self._interval * (0.9 + 0.2 * self._jitter()))
            await self._until_listed()

    async def once(self) -> None:
        """List everything, replace the cache and have every job looked at.

        Raises
        ------
        ClusterError
            A list failed; kinds that were read before it are replaced, nothing is dropped of the others.
        """
        ghosts: list[JobKey] = []
        for kind in KINDS:
            with self._cache.replacing(kind) as replacement:
                await self._read_all(kind, replacement)
                replacement.finish()
                ghosts += replacement.ghosts
        for key in {*self._cache.job_keys(), *ghosts}:
            self._queue.add(key)
        self.last_success = asyncio.get_running_loop().time()
        self._metrics.resynced("ok", ghosts=len(ghosts))
        fields: dict[str, int] = {kind: self._cache.size(kind) for kind in KINDS}
        fields["ghosts"] = len(ghosts)
        log.info("Listed the cluster", extra={"event": "Resynced", "fields": fields})

    async def _read_all(self, kind: Kind, replacement: Replacement) -> None:
        """Put every object into the cache, a part of the list after the other: only one is held at a time."""
        following = None
        while following != "":
            items, following = await self._gateway.list_page(kind, following or "")
            for raw in items:
                replacement.put(raw)

    async def _until_served(self) -> None:
        pause, waited = FIRST_PAUSE, False
        while True:
            try:
                missing = {JOB_PLURAL, RUNTIME_PLURAL} - await self._gateway.served_resources()
            except ClusterError as error:
                _tell(error, pause)
            else:
                if not missing:
                    break
                log.warning(
                    "Waiting for the CustomResourceDefinitions of %s; install them with the chart or from crds/",
                    ", ".join(sorted(missing)),
                    extra={"event": "WaitingForCRDs"},
                )
            waited = True
            pause = await self._paused(pause)
        if waited:
            await asyncio.sleep(DISCOVERY_GRACE)

    async def _until_listed(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                return await self.once()
            except ClusterError as error:
                self._metrics.resynced("error")
                _tell(error, pause, passing=pause <= PASSING_PAUSE and self.last_success is not None)
            pause = await self._paused(pause)

    async def _paused(self, pause: float) -> float:
        await asyncio.sleep(pause * (0.5 + 0.5 * self._jitter()))
        return min(LONGEST_PAUSE, pause * 2)


def _tell(error: ClusterError, pause: float, *, passing: bool = False) -> None:
    """Log why a list failed; ``passing`` says that rights which were there before may only seem to be missing.

    An API server that has just started refuses everything for as long as it has not read the roles.
    """
    level, event = logging.ERROR, "ResyncFailed"
    if isinstance(error, UnavailableError):
        level, event = logging.WARNING, "ApiUnavailable"
    elif isinstance(error, ForbiddenError):
        level, event = logging.WARNING if passing else logging.ERROR, "PermissionDenied"
    log.log(level, "The cluster could not be listed: %s; trying again in %.0f s", error, pause, extra={"event": event})
