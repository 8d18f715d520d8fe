"""What the tests of the edges share: a small cluster in memory with one job, and plans made by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_api.names import StageName, child_labels, child_name
from finetune_operator.cluster.apply import Applied, Applier
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.observe import Observer
from finetune_operator.cluster.protocol import JobKey, Raw
from finetune_operator.decide.plan import Action, CreateChild, Observed, Plan
from tests.support.builders import job_spec
from tests.support.memory_gateway import FaultyGateway, MemoryCluster, MemoryGateway
from tests.support.virtual_time import virtual_now

__all__ = ["KEY", "Bench", "child_manifest", "pod_manifest"]

KEY = JobKey("team-a", "support-intent")


@dataclass
class Bench:
    """One job in a cluster, with what observes it and what acts on it."""

    cluster: MemoryCluster
    gateway: FaultyGateway
    cache: Cache
    observer: Observer
    applier: Applier

    @classmethod
    def new(cls) -> Bench:
        cluster = MemoryCluster(now=virtual_now)
        meta = {"namespace": KEY.namespace, "name": KEY.name}
        cluster.create("jobs", {"metadata": meta, "spec": job_spec()})
        gateway, cache = FaultyGateway(MemoryGateway(cluster)), Cache(virtual_now)
        observer = Observer(gateway, cache, now=virtual_now)
        return cls(cluster, gateway, cache, observer, Applier(gateway, cache, now=virtual_now))

    @property
    def uid(self) -> str:
        return str(self.cluster.get("jobs", *KEY)["metadata"]["uid"])

    def status(self) -> Raw:
        return dict(self.cluster.get("jobs", *KEY)["status"])

    def children(self) -> list[str]:
        return [raw["metadata"]["name"] for raw in self.cluster.all("children")]

    def create(self, stage: StageName = "train", *, first: bool = False) -> CreateChild:
        return CreateChild(stage=stage, manifest=child_manifest(self.uid, stage), first=first)

    async def observed(self, *, live: bool = True) -> Observed:
        seen = await self.observer.observe(KEY, live=live)
        assert seen is not None
        return seen

    async def apply(self, *actions: Action, **plan: Any) -> Applied:
        return await self.applier.apply(KEY, await self.observed(), Plan(actions=actions, **plan))


def child_manifest(uid: str, stage: StageName = "train") -> Raw:
    """A child Job as reconcile would want it, without its pod template."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": child_name(KEY.name, uid, stage),
            "namespace": KEY.namespace,
            "labels": child_labels(KEY.name, uid, stage),
            "ownerReferences": [{"kind": "FineTuneJob", "name": KEY.name, "uid": uid, "controller": True}],
        },
        "spec": {},
    }


def pod_manifest(uid: str, name: str, phase: str, *, owner: str = "job", **fields: Any) -> Raw:
    """A pod that works for a FineTuneJob."""
    return {
        "metadata": {
            "name": name,
            "namespace": KEY.namespace,
            "labels": child_labels(KEY.name, uid, "train"),
            "ownerReferences": [{"kind": "Job", "name": "x", "uid": owner, "controller": True}],
        },
        "spec": {"nodeName": "node-1"},
        "status": {"phase": phase},
        **fields,
    }
