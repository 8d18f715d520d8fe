"""What the watches last said: FineTuneJobs and runtimes as they are, children and pods as small views.

Filled by ``handlers.py`` (single events) and ``resync.py`` (whole lists), read by ``observe.py`` and ``metrics.py``.
After a broken watch Kopf lists again but reports no deletions, so a cache fed by events alone keeps ghosts for ever;
:meth:`Cache.replacing` is the cure. No decision that creates or deletes rests on this cache.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar, get_args

from finetune_api.names import StageName, child_name
from finetune_operator.cluster.protocol import JobKey, Kind, Raw
from finetune_operator.cluster.views import (
    as_dict,
    as_text,
    child_view,
    job_key,
    metadata,
    owner_key,
    owner_uid,
    pod_view,
    runtime_view,
)
from finetune_operator.decide.plan import ChildView, PodView, RuntimeView
from finetune_operator.decide.status import is_terminal

__all__ = ["STAGES", "Cache", "Replacement"]

STAGES: Final[tuple[StageName, ...]] = get_args(StageName)

KEPT_METADATA: Final = frozenset(
    {"namespace", "name", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp"}
)
KEPT_SPEC: Final = ("runtimeRef", "ttlSecondsAfterFinished")
KEPT_STATUS: Final = ("observedGeneration", "phase", "conditions")
"""What is read of a FineTuneJob after its end."""

Value = TypeVar("Value")
Group = tuple[str, str]
"""(namespace, uid of the FineTuneJob): a pod of another namespace never counts, whatever its labels say."""


@dataclass(frozen=True, slots=True)
class _Entry(Generic[Value]):
    value: Value
    uid: str
    version: str
    owner: JobKey | None = None
    group: Group | None = None


class Replacement:
    """One resync of one kind: what came by watch since its list was asked for outranks the list.

    All else is as the list says, older versions too: a list is read from the store itself, and one that is behind what
    was known before it means that the store was set back, as by a restored backup.
    """

    def __init__(self, store: _Store[Any]) -> None:
        self._store = store
        self._names: set[Group] = set()
        self.ghosts: list[JobKey] = []
        """Jobs whose objects had gone unnoticed, filled by :meth:`finish`."""

    def put(self, raw: Raw) -> None:
        """Take an object of the list."""
        name = _name(raw)
        if name is not None:
            self._names.add(name)
            if name not in self._store.touched:
                self._store.put(raw, newest=True)

    def finish(self) -> None:
        """Drop what the complete list does not have."""
        for name in set(self._store.entries) - self._names - self._store.touched:
            owner = self._store.entries[name].owner
            self._store.drop(name)
            if owner is not None:
                self.ghosts.append(owner)


class _Store(Generic[Value]):
    """Objects of one kind by (namespace, name), children and pods also by the FineTuneJob that they belong to."""

    def __init__(self) -> None:
        self.entries: dict[Group, _Entry[Value]] = {}
        self.groups: dict[Group, set[Group]] = defaultdict(set)
        self.touched: set[Group] = set()
        """Names that a watch has spoken of since the running resync began."""
        self.replacing = 0

    def view(self, raw: Raw) -> _Entry[Value] | None:
        raise NotImplementedError

    def put(self, raw: Raw, *, newest: bool = False) -> _Entry[Value] | None:
        """Store an object unless a newer version of it is known, or in any case; return what is known now."""
        name = _name(raw)
        entry = self.view(raw)
        if name is None or entry is None:
            return None
        known = self.entries.get(name)
        if known is not None:
            if not newest and known.uid == entry.uid and _older(entry.version, known.version):
                return known
            (self._remove if known.uid == entry.uid else self.drop)(name)
        self.entries[name] = entry
        if entry.group is not None:
            self.groups[entry.group].add(name)
        return entry

    def drop(self, name: Group) -> None:
        """Forget an object that has gone."""
        self._remove(name)

    def _remove(self, name: Group) -> None:
        entry = self.entries.pop(name, None)
        if entry is not None and entry.group is not None:
            members = self.groups[entry.group]
            members.discard(name)
            if not members:
                del self.groups[entry.group]

    def members(self, group: Group) -> list[Value]:
        return [self.entries[name].value for name in sorted(self.groups.get(group, ()))]


class _Jobs(_Store[Raw]):
    def view(self, raw: Raw) -> _Entry[Raw] | None:
        key = job_key(raw)
        if key is None:
            return None
        return _Entry(
            _stub(raw) if is_terminal(as_dict(raw.get("status"))) else _without_managers(raw),
            *_identity(raw),
            owner=key,
        )


class _Runtimes(_Store[RuntimeView]):
    def view(self, raw: Raw) -> _Entry[RuntimeView] | None:
        view = runtime_view(raw)
        return None if view is None else _Entry(view, *_identity(raw))


class _Children(_Store[ChildView]):
    """Children, and when those were missed that have gone without an end of their own."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__()
        self.now = now
        self.gone: dict[Group, dict[str, datetime]] = defaultdict(dict)

    def drop(self, name: Group) -> None:
        entry = self.entries.get(name)
        super().drop(name)
        if entry is not None and entry.group is not None and entry.value.ended is None:
            self.gone[entry.group].setdefault(entry.uid, self.now())

    def view(self, raw: Raw) -> _Entry[ChildView] | None:
        owner, uid = owner_key(raw), owner_uid(raw)
        if owner is None or uid is None:
            return None
        # A Job under another name than its stage's is nobody's child; only the name makes creation idempotent.
        stages = [s for s in STAGES if child_name(owner.name, uid, s) == metadata(raw).get("name")]
        view = child_view(raw, stage=stages[0]) if stages else None
        return None if view is None else _Entry(view, *_identity(raw), owner=owner, group=(owner.namespace, uid))


class _Pods(_Store[PodView]):
    def view(self, raw: Raw) -> _Entry[PodView] | None:
        owner, uid, view = owner_key(raw), owner_uid(raw), pod_view(raw)
        if owner is None or uid is None or view is None:
            return None
        return _Entry(view, *_identity(raw), owner=owner, group=(owner.namespace, uid))


class Cache:
    """The operator's picture of the cluster, which may be behind."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._jobs = _Jobs()
        self._runtimes = _Runtimes()
        self._children = _Children(now)
        self._pods = _Pods()
        self._stores: dict[Kind, _Store[Any]] = {
            "jobs": self._jobs,
            "runtimes": self._runtimes,
            "children": self._children,
            "pods": self._pods,
        }

    # --- writing ------------------------------------------------------------------------------------------------------

    def event(self, kind: Kind, event_type: str | None, raw: Raw) -> JobKey | None:
        """Take one watch event; return the job that it concerns, if it names one.

        ``event_type`` is ADDED, MODIFIED, DELETED, or None for an object of the watch's first list.
        """
        store, name = self._stores[kind], _name(raw)
        if name is None:
            return None
        if store.replacing:
            store.touched.add(name)
        if event_type == "DELETED":
            known = store.entries.get(name)
            if known is not None and known.uid == metadata(raw).get("uid"):
                store.drop(name)
            if kind == "jobs":
                self._children.gone.pop((name[0], as_text(metadata(raw).get("uid")) or ""), None)
        else:
            store.put(raw)
        return job_key(raw) if kind == "jobs" else owner_key(raw) if kind != "runtimes" else None

    def put(self, kind: Kind, raw: Raw) -> None:
        """Take an object that was just read from, or written to, the API server."""
        self.event(kind, None, raw)

    def forget(self, kind: Kind, namespace: str, name: str) -> None:
        """Drop an object of which a live read said that it isn't there."""
        self._stores[kind].drop((namespace, name))

    @contextmanager
    def replacing(self, kind: Kind) -> Iterator[Replacement]:
        """Replace a kind by a list that is read inside this block.

        Call ``finish`` on the yielded value after the last ``put``; if the list could not be read to its end nothing
        is dropped.
        """
        store = self._stores[kind]
        store.replacing += 1
        try:
            yield Replacement(store)
        finally:
            store.replacing -= 1
            if not store.replacing:
                store.touched.clear()

    # --- reading ------------------------------------------------------------------------------------------------------

    def job(self, key: JobKey) -> Raw | None:
        """Return the FineTuneJob."""
        entry = self._jobs.entries.get(key)
        return None if entry is None else entry.value

    def jobs(self) -> list[Raw]:
        """Return all FineTuneJobs."""
        return [entry.value for entry in list(self._jobs.entries.values())]

    def job_keys(self) -> list[JobKey]:
        """Return the keys of all FineTuneJobs."""
        return [JobKey(*name) for name in self._jobs.entries]

    def runtime(self, name: str) -> RuntimeView | None:
        """Return a FineTuneRuntime."""
        entry = self._runtimes.entries.get(("", name))
        return None if entry is None else entry.value

    def children(self, namespace: str, job_uid: str) -> tuple[ChildView, ...]:
        """Return the Jobs under the child names of a FineTuneJob, sorted by name."""
        return tuple(self._children.members((namespace, job_uid)))

    def gone(self, namespace: str, job_uid: str) -> Mapping[str, datetime]:
        """Return, by uid, the children of a FineTuneJob that were here and are gone, and when that was noticed."""
        return dict(self._children.gone.get((namespace, job_uid), {}))

    def pods(self, namespace: str, job_uid: str) -> tuple[PodView, ...]:
        """Return the pods labelled with a FineTuneJob's uid, sorted by name."""
        return tuple(self._pods.members((namespace, job_uid)))

    def owner_of(self, namespace: str, pod_name: str) -> tuple[PodView, JobKey, str] | None:
        """Return a pod, and key and uid of the FineTuneJob that it says it works for."""
        entry = self._pods.entries.get((namespace, pod_name))
        if entry is None or entry.owner is None or entry.group is None:
            return None
        return entry.value, entry.owner, entry.group[1]

    def size(self, kind: Kind) -> int:
        """Count the objects of a kind."""
        return len(self._stores[kind].entries)


def _without_managers(raw: Raw) -> Raw:
    """Leave out ``managedFields``: half of an object, and nothing here reads it."""
    return {**raw, "metadata": {k: v for k, v in metadata(raw).items() if k != "managedFields"}}


def _stub(job: Raw) -> Raw:
    """Keep of a job that has ended what is read after its end; a cluster holds many more of these than of others.

    The conditions stay whole: a patch of ``observedGeneration`` replaces the list that they are.
    """
    spec, status = as_dict(job.get("spec")), as_dict(job.get("status"))
    return {
        "apiVersion": job.get("apiVersion"),
        "kind": job.get("kind"),
        "metadata": {name: value for name, value in metadata(job).items() if name in KEPT_METADATA},
        "spec": {name: spec[name] for name in KEPT_SPEC if name in spec},
        "status": {name: status[name] for name in KEPT_STATUS if name in status},
    }


def _name(raw: Raw) -> Group | None:
    name = as_text(metadata(raw).get("name"))
    return None if name is None else (as_text(metadata(raw).get("namespace")) or "", name)


def _identity(raw: Raw) -> tuple[str, str]:
    return as_text(metadata(raw).get("uid")) or "", as_text(metadata(raw).get("resourceVersion")) or ""


def _older(one: str, other: str) -> bool:
    """Compare resourceVersions of one object, which are decimal numbers (KEP-5504); False if either is not."""
    return one.isdecimal() and other.isdecimal() and int(one) < int(other)
