"""The resync: how an operator starts, what it repairs, and how it behaves while the API server does not answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.protocol import ForbiddenError, JobKey
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.resync import Resync
from finetune_operator.process.workqueue import WorkQueue
from tests.support.memory_gateway import FaultyGateway, MemoryCluster, MemoryGateway
from tests.support.virtual_time import run_virtual, virtual_now
from tests.unit.operator.kit import KEY, Bench, child_manifest, pod_manifest


class Setting:
    def __init__(self) -> None:
        self.cluster = MemoryCluster(now=virtual_now)
        self.gateway = FaultyGateway(MemoryGateway(self.cluster))
        self.cache = Cache()
        self.queue: WorkQueue[JobKey] = WorkQueue()
        self.metrics = Metrics()
        self.resync = Resync(
            gateway=self.gateway,
            cache=self.cache,
            queue=self.queue,
            metrics=self.metrics,
            interval=300,
            jitter=lambda: 0.5,
        )

    def add_job(self, name: str) -> JobKey:
        self.cluster.create("jobs", {"metadata": {"namespace": "ns", "name": name}})
        return JobKey("ns", name)

    async def queued(self) -> set[JobKey]:
        found = set()
        while len(self.queue):
            key = await self.queue.get()
            self.queue.done(key)
            found.add(key)
        return found


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "event", "") for record in caplog.records]


def test_the_first_resync_has_every_job_looked_at() -> None:
    async def scenario() -> tuple[Any, Any]:
        setting = Setting()
        keys = {setting.add_job(name) for name in "abc"}
        await setting.resync.first()
        return keys, await setting.queued()

    keys, queued = run_virtual(scenario())
    assert queued == keys


def test_a_start_without_crds_waits_and_then_gives_other_servers_time(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> float:
        setting = Setting()
        served, setting.cluster.served = setting.cluster.served, frozenset({"finetunejobs"})
        asyncio.get_running_loop().call_later(100, lambda: setattr(setting.cluster, "served", served))
        await setting.resync.first()
        return asyncio.get_running_loop().time()

    # Pauses of 0.75, 1.5, 3, 6, 12 s and then 22.5 s end at 113.25 s; two seconds more are the other servers'.
    assert run_virtual(scenario()) == pytest.approx(113.25 + 2)
    assert set(events(caplog)) == {"WaitingForCRDs"}
    assert "finetuneruntimes" in caplog.text
    assert len(caplog.records) < 12, "the pauses grow"


def test_a_start_with_crds_waits_for_nothing() -> None:
    async def scenario() -> float:
        await Setting().resync.first()
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == 0


@pytest.mark.parametrize("method", ["served_resources", "list_page"])
def test_a_start_without_an_api_server_goes_on_when_it_comes(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> float:
        setting = Setting()
        setting.gateway.broken = {method}
        asyncio.get_running_loop().call_later(600, setting.gateway.broken.clear)
        await setting.resync.first()
        return asyncio.get_running_loop().time()

    assert 600 <= run_virtual(scenario()) <= 632
    assert set(events(caplog)) == {"ApiUnavailable"}
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert len(caplog.records) < 60


def test_missing_rights_are_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        setting = Setting()

        def refuse(_: str) -> None:
            if setting.gateway.calls["list_page"] == 1:
                raise ForbiddenError("pods is forbidden", code=403)

        setting.gateway.on_request = refuse
        await setting.resync.first()

    run_virtual(scenario())
    assert [(r.event, r.levelname) for r in caplog.records if r.levelname != "INFO"] == [("PermissionDenied", "ERROR")]


def test_rights_that_were_there_before_are_an_error_only_when_they_stay_away(caplog: pytest.LogCaptureFixture) -> None:
    """As while an API server starts, which has not read the roles yet."""

    async def scenario() -> None:
        setting = Setting()
        await setting.resync.first()
        calls = setting.gateway.calls["list_page"]

        def refuse(_: str) -> None:
            if setting.gateway.calls["list_page"] <= calls + 6:
                raise ForbiddenError("pods is forbidden", code=403)

        setting.gateway.on_request = refuse
        await setting.resync._until_listed()

    run_virtual(scenario())
    told = [(r.event, r.levelname) for r in caplog.records if r.levelname != "INFO"]
    assert told == [("PermissionDenied", level) for level in ["WARNING"] * 5 + ["ERROR"]]


def test_a_later_resync_finds_what_the_watches_missed() -> None:
    async def scenario() -> tuple[set[JobKey], set[JobKey], float | None]:
        setting = Setting()
        gone = setting.add_job("gone")
        await setting.resync.first()
        await setting.queued()
        setting.cluster.delete("jobs", *gone)
        new = setting.add_job("new")
        task = asyncio.create_task(setting.resync.run())
        await asyncio.sleep(299)
        early = await setting.queued()
        await asyncio.sleep(2)
        task.cancel()
        assert setting.cache.job_keys() == [new]
        return early, await setting.queued(), setting.resync.last_success

    early, late, when = run_virtual(scenario())
    assert early == set()
    assert late == {("ns", "gone"), ("ns", "new")}
    assert when == 300


def test_a_ghost_child_or_pod_has_its_job_looked_at_and_is_counted() -> None:
    async def scenario() -> tuple[set[JobKey], bytes]:
        setting, bench = Setting(), Bench.new()
        child = bench.cluster.create("children", child_manifest(bench.uid))
        pod = bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Running"))
        setting.cache.put("children", child)
        setting.cache.put("pods", pod)
        await setting.resync.once()
        return await setting.queued(), setting.metrics.render()

    queued, metrics = run_virtual(scenario())
    assert queued == {KEY}
    assert b"finetune_resync_ghosts_total 2.0" in metrics


def test_a_resync_that_fails_is_counted_and_tried_again_soon() -> None:
    async def scenario() -> tuple[bytes, float | None]:
        setting = Setting()
        await setting.resync.first()
        setting.gateway.broken = {"list_page"}
        asyncio.get_running_loop().call_later(305, setting.gateway.broken.clear)
        task = asyncio.create_task(setting.resync.run())
        await asyncio.sleep(320)
        task.cancel()
        return setting.metrics.render(), setting.resync.last_success

    metrics, when = run_virtual(scenario())
    assert b'finetune_resync_total{result="error"}' in metrics
    assert when is not None
    assert 305 <= when <= 312
