"""Builds ``Observed`` for one job: from the cache, or from live reads where a decision must not rest on the cache.

Called by the controller before each reconcile. Two facts stand only in Kubernetes Events and are fetched where they can
matter: why a pod does not start (FailedMount for a missing Secret, FailedCreatePodSandBox for a node whose network is
broken) and why a Job has no pod (FailedCreate, for example a full quota).

How old an Event is says little: kubelet has 25 for a pod and then one in five minutes, the scheduler repeats its own
every half an hour. So the pod is asked whether it still is where the Event was told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from finetune_api.names import child_name
from finetune_operator.cluster.cache import STAGES, Cache
from finetune_operator.cluster.protocol import ClusterError, ClusterGateway, JobKey, NotFoundError, Raw
from finetune_operator.cluster.queues import QueueReader
from finetune_operator.cluster.views import (
    as_text,
    child_view,
    metadata,
    newest_event,
    pod_view,
    runtime_name,
    runtime_view,
    start_trouble,
)
from finetune_operator.decide.plan import ChildView, Observed, PodReport, PodView, ReportEndpoint, RuntimeView

__all__ = ["SETTLING", "Observer"]

log = logging.getLogger(__name__)

SETTLING: Final = timedelta(seconds=3)
"""How long a pod may be on its way before its Events are read."""

STARTING: Final = (None, "ContainerCreating", "PodInitializing")
NODE_EVENTS: Final = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
"""Reasons of Events about a pod that has a node and is not ready to start its containers."""

SCHEDULER_EVENTS: Final = ("FailedScheduling",)
"""Reasons of Events about a pod that has no node."""


class Observer:
    """Reads everything about one job.

    Parameters
    ----------
    now
        The current time, aware.
    endpoint
        Where pods post live reports, if they may.
    report
        The live report to show, by the uid of a job.
    """

    def __init__(
        self,
        gateway: ClusterGateway,
        cache: Cache,
        *,
        now: Callable[[], datetime],
        endpoint: Callable[[], ReportEndpoint | None] = lambda: None,
        report: Callable[[str], PodReport | None] = lambda _uid: None,
    ) -> None:
        self._endpoint = endpoint
        self._report = report
        self._gateway = gateway
        self._queues = QueueReader(gateway)
        self._cache = cache
        self._now = now

    async def observe(self, key: JobKey, *, live: bool, create_error: str | None = None) -> Observed | None:
        """Return what there is of a job; None if there is no such job (any more).

        With ``live`` the job, its runtime, the Jobs under its child names and its pods are read from the API server,
        and the cache learns from that.

        Raises
        ------
        ClusterError
            A live read failed.
        """
        job = await self._live_job(key) if live else self._cache.job(key)
        if job is None:
            return None
        uid = as_text(metadata(job).get("uid")) or ""
        if live:
            runtime = await self._live_runtime(runtime_name(job))
            children = await self._live_children(key, uid)
            pods = await self._live_pods(key, uid)
        else:
            runtime = self._cache.runtime(runtime_name(job))
            children = self._cache.children(key.namespace, uid)
            pods = self._cache.pods(key.namespace, uid)
        now = self._now()
        return Observed(
            job=job,
            runtime=runtime,
            children=tuple([await self._explained_child(key, child, pods, now) for child in children]),
            pods=tuple([await self._explained_pod(key, pod, now) for pod in pods]),
            now=now,
            live=live,
            create_error=create_error,
            gone=self._cache.gone(key.namespace, uid),
            endpoint=self._endpoint(),
            report=self._report(uid),
        )

    # --- live reads ---------------------------------------------------------------------------------------------------

    async def _live_job(self, key: JobKey) -> Raw | None:
        try:
            job = await self._gateway.get_job(key)
        except NotFoundError:
            self._cache.forget("jobs", *key)
            return None
        self._cache.put("jobs", job)
        return job

    async def _live_runtime(self, name: str) -> RuntimeView | None:
        try:
            raw = await self._gateway.get_runtime(name)
        except NotFoundError:
            self._cache.forget("runtimes", "", name)
            return None
        self._cache.put("runtimes", raw)
        return runtime_view(raw)

    async def _live_children(self, key: JobKey, uid: str) -> tuple[ChildView, ...]:
        found: list[ChildView] = []
        for stage in STAGES:
            name = child_name(key.name, uid, stage)
            try:
                raw = await self._gateway.get_child(key.namespace, name)
            except NotFoundError:
                self._cache.forget("children", key.namespace, name)
                continue
            self._cache.put("children", raw)
            view = child_view(raw, stage=stage)
            if view is not None:
                found.append(view)
        return tuple(found)

    async def _live_pods(self, key: JobKey, uid: str) -> tuple[PodView, ...]:
        raws = await self._gateway.list_pods(key.namespace, job_uid=uid)
        for raw in raws:
            self._cache.put("pods", raw)
        views = [view for view in map(pod_view, raws) if view is not None]
        return tuple(sorted(views, key=lambda view: view.name))

    # --- what only Events tell ----------------------------------------------------------------------------------------

    async def _explained_pod(self, key: JobKey, pod: PodView, now: datetime) -> PodView:
        starting = pod.phase == "Pending" and not pod.deleting and pod.unschedulable is None
        if not starting or pod.ready_to_start or pod.waiting_reason not in STARTING or now - pod.created < SETTLING:
            return pod
        events = await self._events(key, pod.uid)
        found = start_trouble(events, NODE_EVENTS if pod.node is not None else SCHEDULER_EVENTS)
        return pod if found is None else replace(pod, start_error_reason=found[0], start_error=found[1])

    async def _explained_child(
        self, key: JobKey, child: ChildView, pods: tuple[PodView, ...], now: datetime
    ) -> ChildView:
        own = [pod for pod in pods if pod.job_uid == child.uid]
        if child.suspended and child.queue is not None and child.ended is None and not child.deleting:
            fresh = child.suspended_at is None or now - child.suspended_at < SETTLING
            # One that has a pod was stopped, and the queue says why.
            return child if fresh and not own else replace(child, word=await self._queues.word(key, child))
        waiting = child.ended is None and not child.deleting and child.start_time is not None
        if not waiting or any(pod.phase not in ("Succeeded", "Failed") for pod in own):
            return child
        # A pod that has failed stands there still; what was refused before it is not why the next one doesn't come.
        ends = [pod.finished_at or pod.created for pod in own]
        since = max([*ends, *([child.start_time] if child.start_time else [])])
        if now - since < SETTLING:
            return child
        found = newest_event(await self._events(key, child.uid), ("FailedCreate",), since=since)
        return child if found is None else replace(child, pod_create_error=found[1])

    async def _events(self, key: JobKey, object_uid: str) -> list[Raw]:
        try:
            return await self._gateway.list_events(key.namespace, object_uid=object_uid)
        except ClusterError as error:
            # Events only explain; a job goes on without the explanation.
            log.warning(
                "Kubernetes Events could not be read: %s", error, extra={"event": "EventsUnreadable", "job": str(key)}
            )
            return []
