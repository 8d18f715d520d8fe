"""A cluster in memory that behaves like a Kubernetes API server where the operator can tell, and gateways to it.

:class:`MemoryCluster` stores objects with uid, resourceVersion, generation, ownerReferences and label selectors, and
tells its watchers of every change. :class:`MemoryGateway` is a ``ClusterGateway`` to it. :class:`FaultyGateway` stands
before any gateway, also a real one, and breaks requests on demand.
"""

from __future__ import annotations

import copy
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

from finetune_api.names import LABEL_JOB_UID
from finetune_operator.cluster.patches import merged
from finetune_operator.cluster.protocol import (
    AlreadyExistsError,
    ClusterError,
    ClusterGateway,
    ConflictError,
    JobKey,
    Kind,
    NotFoundError,
    Page,
    Raw,
    UnavailableError,
)

__all__ = ["Crash", "FaultyGateway", "MemoryCluster", "MemoryGateway"]

Watcher = Callable[[str, str, Raw], None]
"""Called with kind, event type and object."""

WRITES = frozenset(
    {
        "create_child",
        "delete_child",
        "patch_child",
        "patch_job_status",
        "create_event",
        "apply_runtime",
        "patch_runtime",
    }
)


class Crash(BaseException):
    """The operator's process is gone; not an Exception, so that no handler of the operator can outlive it."""


class MemoryCluster:
    """Objects by kind (jobs, runtimes, children, pods, events), namespace and name."""

    def __init__(self, *, now: Callable[[], datetime]) -> None:
        self._now = now
        self._objects: dict[tuple[str, str, str], Raw] = {}
        self._version = 0
        self._uids = 0
        self.watchers: list[Watcher] = []
        self.served = frozenset({"finetunejobs", "finetunejobs/status", "finetuneruntimes"})
        self.kueue: str | None = None
        """The version of Kueue's API, where it is installed."""
        self.refusals: list[ClusterError] = []
        """Errors that the next creations of children are answered with, in this order."""
        self.tokens: dict[str, Raw] = {}
        """``status`` of the TokenReview of each token that is good."""
        self.reviewed: list[str] = []
        """Tokens that a TokenReview was asked for."""

    # --- what anybody may do ------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The time by which this cluster stamps."""
        return self._now()

    def create(self, kind: str, raw: Raw) -> Raw:
        """Store a new object."""
        raw = copy.deepcopy(raw)
        meta = raw.setdefault("metadata", {})
        if (kind, meta.get("namespace", ""), meta["name"]) in self._objects:
            raise AlreadyExistsError(f"{kind} {meta['name']} already exists", code=409, reason="AlreadyExists")
        self._uids += 1
        meta["uid"] = str(uuid.UUID(int=(self._uids << 96) | 0x4000_8000_0000_0000_0000))
        meta["generation"] = 1
        meta["creationTimestamp"] = _stamp(self._now())
        if kind == "jobs":
            raw["status"] = {"observedGeneration": -1}
        return self._store(kind, "ADDED", raw)

    def get(self, kind: str, namespace: str, name: str) -> Raw:
        """Return an object."""
        try:
            return copy.deepcopy(self._objects[kind, namespace, name])
        except KeyError:
            raise NotFoundError(f"{kind} {namespace}/{name} not found", code=404, reason="NotFound") from None

    def all(self, kind: str) -> list[Raw]:
        """Return all objects of a kind."""
        return [copy.deepcopy(raw) for (k, _, _), raw in sorted(self._objects.items()) if k == kind]

    def patch(self, kind: str, namespace: str, name: str, patch: Raw) -> Raw:
        """Merge-patch an object; a resourceVersion or uid in the patch is a precondition."""
        raw = self.get(kind, namespace, name)
        wanted = patch.get("metadata", {})
        for field in ("resourceVersion", "uid"):
            if field in wanted and wanted[field] != raw["metadata"][field]:
                raise ConflictError(f"{kind} {name}: {field} is {raw['metadata'][field]}", code=409, reason="Conflict")
        changed = merged(raw, patch)
        if changed == raw:
            return raw
        if changed.get("spec") != raw.get("spec"):
            changed["metadata"]["generation"] += 1
        return self._store(kind, "MODIFIED", changed)

    def delete(self, kind: str, namespace: str, name: str, *, foreground: bool = False) -> None:
        """Delete an object; in the foreground it stays, marked, until :meth:`collect` has ended its dependents."""
        raw = self.get(kind, namespace, name)
        if foreground:
            if "deletionTimestamp" not in raw["metadata"]:
                raw["metadata"]["deletionTimestamp"] = _stamp(self._now())
                self._store(kind, "MODIFIED", raw)
            return
        del self._objects[kind, namespace, name]
        self._version += 1
        raw["metadata"]["resourceVersion"] = str(self._version)
        self._tell(kind, "DELETED", raw)

    def collect(self) -> None:
        """One round of the garbage collector: what has lost its owner is marked, what is marked and alone goes."""
        uids = {raw["metadata"]["uid"] for raw in self._objects.values()}
        for kind in ("pods", "children"):
            for raw in self.all(kind):
                meta = raw["metadata"]
                place = (kind, meta["namespace"], meta["name"])
                owners = [owner["uid"] for owner in meta.get("ownerReferences", [])]
                if owners and not uids.intersection(owners):
                    self.delete(*place, foreground=True)
                if "deletionTimestamp" in self.get(*place)["metadata"] and not any(
                    _owned(pod, meta["uid"]) for pod in self.all("pods")
                ):
                    self.delete(*place)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _store(self, kind: str, event: str, raw: Raw) -> Raw:
        self._version += 1
        meta = raw["metadata"]
        meta["resourceVersion"] = str(self._version)
        self._objects[kind, meta.get("namespace", ""), meta["name"]] = raw
        self._tell(kind, event, raw)
        return copy.deepcopy(raw)

    def _tell(self, kind: str, event: str, raw: Raw) -> None:
        for watcher in list(self.watchers):
            watcher(kind, event, copy.deepcopy(raw))


class MemoryGateway:
    """``ClusterGateway`` to a :class:`MemoryCluster`."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    def now(self) -> datetime:
        return self._cluster.now()

    async def get_job(self, key: JobKey) -> Raw:
        return self._cluster.get("jobs", *key)

    async def get_runtime(self, name: str) -> Raw:
        return self._cluster.get("runtimes", "", name)

    async def get_child(self, namespace: str, name: str) -> Raw:
        return self._cluster.get("children", namespace, name)

    async def list_pods(self, namespace: str, *, job_uid: str) -> list[Raw]:
        return [
            pod
            for pod in self._cluster.all("pods")
            if pod["metadata"]["namespace"] == namespace and _labels(pod).get(LABEL_JOB_UID) == job_uid
        ]

    async def list_events(self, namespace: str, *, object_uid: str) -> list[Raw]:
        return [
            event
            for event in self._cluster.all("events")
            if event["metadata"]["namespace"] == namespace and event["involvedObject"]["uid"] == object_uid
        ]

    async def list_page(self, kind: Kind, after: str = "") -> Page:
        """Two objects at a time, so that every list has parts."""
        raws = self._cluster.all(kind)
        found = raws if kind in ("jobs", "runtimes") else [raw for raw in raws if LABEL_JOB_UID in _labels(raw)]
        begin = int(after or 0)
        return Page(found[begin : begin + 2], str(begin + 2) if begin + 2 < len(found) else "")

    async def kueue_version(self) -> str | None:
        return self._cluster.kueue

    async def list_workloads(self, version: str, namespace: str, *, child_uid: str) -> list[Raw]:
        if version != self._cluster.kueue:
            raise NotFoundError("the server could not find the requested resource", code=404)
        return [
            raw
            for raw in self._cluster.all("workloads")
            if raw["metadata"]["namespace"] == namespace and _labels(raw).get("kueue.x-k8s.io/job-uid") == child_uid
        ]

    async def get_workload_priority_class(self, version: str, name: str) -> Raw:
        return self._cluster.get("workloadpriorityclasses", "", name)

    async def served_resources(self) -> frozenset[str]:
        return self._cluster.served

    async def create_child(self, namespace: str, manifest: Raw) -> Raw:
        if self._cluster.refusals:
            raise self._cluster.refusals.pop(0)
        return self._cluster.create("children", {**manifest, "status": {}})

    async def delete_child(self, namespace: str, name: str, *, uid: str) -> None:
        if self._cluster.get("children", namespace, name)["metadata"]["uid"] != uid:
            raise ConflictError(f"children {name} is not {uid}", code=409, reason="Conflict")
        self._cluster.delete("children", namespace, name, foreground=True)

    async def patch_child(self, namespace: str, name: str, *, uid: str, patch: Raw) -> Raw:
        return self._cluster.patch("children", namespace, name, {**patch, "metadata": {"uid": uid}})

    async def patch_job_status(self, key: JobKey, *, resource_version: str, patch: Raw) -> Raw:
        body = {"metadata": {"resourceVersion": resource_version}, "status": patch}
        return self._cluster.patch("jobs", *key, body)

    async def apply_runtime(self, name: str, manifest: Raw) -> None:
        self._cluster.create("runtimes", manifest)

    async def patch_runtime(self, name: str, *, resource_version: str, patch: Raw) -> None:
        version = {**patch.get("metadata", {}), "resourceVersion": resource_version}
        self._cluster.patch("runtimes", "", name, {**patch, "metadata": version})

    async def patch_secret(self, namespace: str, name: str, patch: Raw) -> Raw:
        return self._cluster.patch("secrets", namespace, name, patch)

    async def review_token(self, token: str, *, audience: str) -> Raw:
        self._cluster.reviewed.append(token)
        return copy.deepcopy(self._cluster.tokens.get(token, {"authenticated": False, "error": "invalid"}))

    async def create_event(self, namespace: str, event: Raw) -> None:
        self._cluster.create("events", event)


class FaultyGateway:
    """Counts the requests to another gateway, and breaks some of them.

    Attributes
    ----------
    crash_at
        The n-th write (from 1) crashes the operator, before it is sent or (``crash_after``) after it was carried out.
    broken
        Names of methods that answer :class:`UnavailableError`.
    on_request
        Called with the method's name before each request; may change the cluster under the operator.
    """

    def __init__(self, inner: ClusterGateway, *, crash_at: int | None = None, crash_after: bool = False) -> None:
        self.inner = inner
        self.crash_at = crash_at
        self.crash_after = crash_after
        self.crashed = False
        self.broken: set[str] = set()
        self.calls: Counter[str] = Counter()
        self.on_request: Callable[[str], None] = lambda _name: None

    @property
    def writes(self) -> int:
        """Writes that were asked for."""
        return sum(count for name, count in self.calls.items() if name in WRITES)

    def now(self) -> datetime:
        return self.inner.now()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.crashed:
                raise Crash
            self.calls[name] += 1
            self.on_request(name)
            if name in self.broken:
                raise UnavailableError(f"{name} is broken", code=503)
            if name not in WRITES or self.writes != self.crash_at:
                return await method(*args, **kwargs)
            self.crashed = True
            if self.crash_after:
                await method(*args, **kwargs)
            raise Crash

        return call


def _labels(raw: Raw) -> Raw:
    return raw["metadata"].get("labels") or {}


def _owned(raw: Raw, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in raw["metadata"].get("ownerReferences", []))


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
