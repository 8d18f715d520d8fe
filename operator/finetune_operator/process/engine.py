"""The operator without Kopf: cache, queue, controller and resync put together, started, stopped and asked for health.

``handlers.py`` feeds it with watch events, ``__main__`` runs it against a real API server, tests against one in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final, Literal

from finetune_operator.cluster.apply import Applier
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.observe import Observer
from finetune_operator.cluster.protocol import ClusterGateway, JobKey, Kind, Raw
from finetune_operator.cluster.views import as_text, is_finished, job_key, metadata, runtime_name
from finetune_operator.decide.installation import InstalledRuntime
from finetune_operator.decide.plan import ReportEndpoint
from finetune_operator.process.controller import Controller, Reconcile
from finetune_operator.process.installer import Installer
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.reports import ReportBook
from finetune_operator.process.resync import Resync
from finetune_operator.process.settings import Settings
from finetune_operator.process.workqueue import WorkQueue

__all__ = ["Engine"]

STUCK_SECONDS: Final = 300.0
"""A run that takes longer, or a queue of which nothing is done for longer, shows that the workers stand still."""
MISSED_RESYNCS: Final = 4
"""After so many intervals without a complete list the operator counts as blind."""
STOP_SECONDS: Final = 2.0
"""Time that running work gets to end when the operator stops."""


class Engine:
    """One running operator.

    Parameters
    ----------
    installed
        The FineTuneRuntime that the installation brings, if it brings one.
    now
        The current time, aware; by default the API server's.
    """

    def __init__(
        self,
        *,
        gateway: ClusterGateway,
        reconcile: Reconcile,
        settings: Settings,
        metrics: Metrics,
        installed: InstalledRuntime | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        now = now or gateway.now
        self._workers = settings.workers
        self._blind_after = settings.resync_seconds * MISSED_RESYNCS
        self.cache = Cache(now)
        self.queue: WorkQueue[JobKey] = WorkQueue()
        self.metrics = metrics
        self.died = asyncio.Event()
        """Set when a worker or the resync has ended by an error, after which the process has to end too."""
        self._role: Literal["undecided", "standby", "leader"] = "undecided"
        self._leads = asyncio.Event()
        self.may_write: Callable[[], bool] = self._leads.is_set
        """Whether this process may write now; the metrics tell it."""
        # What a standby knows is not told beside what the leader tells: sums over all pods would count it twice.
        metrics.look_at(
            jobs=lambda: self.cache.jobs() if self._leads.is_set() else (),
            queue_depth=self.queue.__len__,
            leads=lambda: bool(self.may_write()),  # it is set later
        )
        self.reports = ReportBook(now=now, clock=lambda: asyncio.get_running_loop().time())
        self.endpoint: ReportEndpoint | None = None
        """Where pods post live reports, once it stands."""
        self._controller = Controller(
            queue=self.queue,
            observer=Observer(gateway, self.cache, now=now, endpoint=lambda: self.endpoint, report=self.reports.shown),
            applier=Applier(gateway, self.cache, now=now),
            reconcile=reconcile,
            metrics=metrics,
            report_due=self.reports.due_in,
        )
        self._resync = Resync(
            gateway=gateway, cache=self.cache, queue=self.queue, metrics=metrics, interval=settings.resync_seconds
        )
        self._installer = None if installed is None else Installer(gateway, installed, interval=settings.resync_seconds)
        self._tasks: list[asyncio.Task[None]] = []

    # --- events -------------------------------------------------------------------------------------------------------

    def event(self, kind: Kind, event_type: str | None, raw: Raw) -> None:
        """Take a watch event: remember it, and have the jobs that it concerns looked at."""
        key = self.cache.event(kind, event_type, raw)
        if kind == "jobs" and (event_type == "DELETED" or is_finished(raw)):
            self.reports.forget(as_text(metadata(raw).get("uid")) or "")
        if key is not None:
            self.queue.add(key)
        elif kind == "runtimes":
            name = as_text(metadata(raw).get("name"))
            if self._installer is not None and event_type == "DELETED":
                self._installer.deleted(name)
            for job in self.cache.jobs():
                waiting = job_key(job)
                if waiting is not None and runtime_name(job) == name and not is_finished(job):
                    self.queue.add(waiting)

    # --- life ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, *, leads: bool = True) -> AsyncIterator[None]:
        """List the cluster, then work on jobs while the block runs; at its end running work may finish.

        Without ``leads`` it only keeps the cache warm until :meth:`lead`.

        Raises
        ------
        BaseException
            What ended a worker or the resync, if one has ended.
        """
        self.queue.asleep = not leads
        try:
            await self._resync.first()
            if leads:
                self.lead()
            self.spawn("resync", self._resync.run())
            # All tasks begin now, and those of a standby wait: Kopf ends, with itself, what was begun after it.
            if self._installer is not None:
                self.spawn("installer", self._once_leading(self._installer.run))
            for number in range(self._workers):
                self.spawn(f"worker {number}", self._once_leading(lambda: self.queue.work(self._controller.process)))
            yield
        finally:
            errors = await self._stop()
        if errors:
            raise errors[0]

    def stand_by(self) -> bool:
        """Take note that another operator leads; returns whether that is news."""
        news, self._role = self._role != "standby", "standby"
        return news

    def lead(self) -> None:
        """Begin to work, on every job there is."""
        self._role = "leader"
        self.queue.asleep = False
        for key in self.cache.job_keys():
            self.queue.add(key)
        self._leads.set()

    async def _once_leading(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        await self._leads.wait()
        await work()

    def spawn(self, name: str, work: Coroutine[None, None, None]) -> None:
        """Run something that ends with the operator, and the operator with it."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(lambda _: self.died.set())
        self._tasks.append(task)

    async def _stop(self) -> list[BaseException]:
        await self.queue.close(patience=STOP_SECONDS)
        for task in self._tasks:
            task.cancel()
        ends = await asyncio.gather(*self._tasks, return_exceptions=True)
        return [end for end in ends if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError)]

    # --- health -------------------------------------------------------------------------------------------------------

    def unready(self) -> str | None:
        """Say what the start still lacks: the first list of the cluster, a role, or the runtime of the installation.

        A standby is ready, so that a rolling update goes on; of the runtime it knows nothing.
        """
        if self._resync.last_success is None:
            return "the cluster has not been listed yet"
        if self._role == "undecided":
            return "it is not known yet which operator leads"
        if self._role == "standby":
            return None
        return self._installer.trouble if self._installer is not None else None

    def trouble(self) -> str | None:
        """Say what only a restart can mend; None while all is well, also while the first list is waited for."""
        if self.died.is_set():
            return "a worker has ended"
        still = self.queue.standstill()
        if still > STUCK_SECONDS:
            return f"the work on jobs has stood still for {still:.0f} s, more than {STUCK_SECONDS:.0f} s"
        last = self._resync.last_success
        blind = 0.0 if last is None else asyncio.get_running_loop().time() - last
        if blind > self._blind_after:
            return f"the cluster was last listed {blind:.0f} s ago, more than {self._blind_after:.0f} s"
        return None
