"""The whole operator in memory with watches that lie, a cluster that refuses, and objects that nobody should store."""

from __future__ import annotations

import asyncio

import pytest

from finetune_operator.cluster.protocol import ForbiddenError, InvalidError, JobKey, Raw, UnavailableError
from finetune_operator.decide.plan import Observed, Plan
from finetune_operator.decide.reconcile import reconcile
from tests.support.builders import cpu_spec
from tests.support.operator_world import World
from tests.support.virtual_time import run_virtual
from tests.unit.operator.scenes import condition

# --- watches that lie -------------------------------------------------------------------------------------------------


def test_an_operator_that_hears_nothing_gets_there_by_resync() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator(hears=lambda _kind, _event, _raw: False) as engine:
            key = world.submit()
            await world.until_finished(key, engine, within=4 * 3600)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}


def test_events_that_come_late_and_out_of_order_change_nothing() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        late: list[tuple[str, str, Raw]] = []

        def keep(kind: str, event: str, raw: Raw) -> bool:
            late.append((kind, event, raw))
            return False

        async with world.operator(hears=keep) as engine:
            key = world.submit()

            def deliver() -> None:
                for kind, event, raw in reversed(late):
                    engine.event(kind, event, raw)  # type: ignore[arg-type]  # kinds of the cluster, events left out below
                late.clear()

            for second in range(600):
                await world.second()
                late[:] = [item for item in late if item[0] != "events"]
                if second % 7 == 0:
                    deliver()
            await world.until_finished(key, engine)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}
    assert world.simulator.violations == []


def test_a_write_on_a_stale_cache_is_made_again_on_live_reads_and_not_at_the_next_resync() -> None:
    async def scenario() -> tuple[World, float]:
        world = World()
        world.add_runtime()
        key = world.submit()
        gateways = world.gateways

        def somebody_labels_the_job(name: str) -> None:
            if name == "patch_job_status" and gateways[0].calls[name] == 1:
                world.cluster.patch("jobs", *key, {"metadata": {"labels": {"team": "a"}}})

        async with world.operator(hears=lambda _kind, _event, _raw: False) as engine:
            gateways[0].on_request = somebody_labels_the_job
            await world.until(lambda: world.calls()["create_child"] == 1, engine)
        return world, asyncio.get_running_loop().time()

    world, took = run_virtual(scenario())
    assert world.calls()["patch_job_status"] == 2
    assert took < 5


def test_a_job_whose_deletion_was_missed_is_forgotten_at_the_next_resync() -> None:
    async def scenario() -> tuple[int, int]:
        world = World()
        async with world.operator(hears=lambda _kind, event, _raw: event != "DELETED") as engine:
            key = world.submit()
            await world.second()
            world.cluster.delete("jobs", *key)
            await world.second()
            before = engine.cache.size("jobs")
            await asyncio.sleep(400)
            return before, engine.cache.size("jobs")

    assert run_virtual(scenario()) == (1, 0)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_full_quota_is_told_and_waited_out() -> None:
    async def scenario() -> tuple[Raw, Raw, int]:
        world = World()
        world.add_runtime()
        full = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: 5, limited: 5'
        world.cluster.refusals = [ForbiddenError(full, code=403) for _ in range(4)]
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: "QuotaExceeded" in str(world.status(key)), engine, within=5)
            await world.until(lambda: world.calls()["create_child"] == 3, engine)
            waiting, writes = world.status(key), world.calls()["patch_job_status"]
            await world.until_finished(key, engine)
            return waiting, world.status(key), writes

    waiting, ended, writes = run_virtual(scenario())
    assert condition(waiting)["reason"] == "QuotaExceeded"
    assert "count/jobs.batch=1" in condition(waiting)["message"]
    assert writes == 2, "one write to start, one to tell; the retries write nothing"
    assert ended["phase"] == "Succeeded"


def test_a_refusal_whose_words_vary_makes_no_hot_loop() -> None:
    async def scenario() -> tuple[int, Raw]:
        world = World()
        world.add_runtime()
        words = [f"admission webhook denied the request {number}: not now" for number in range(1000)]
        world.cluster.refusals = [ForbiddenError(text, code=403) for text in words]
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: "NotPermitted" in str(world.status(key)), engine)
            for _ in range(120):
                await world.second()
            return world.calls()["create_child"], world.status(key)

    creates, status = run_virtual(scenario())
    assert creates <= 8, "two tries at once, then one every half a minute"
    assert condition(status)["reason"] == "NotPermitted"


def test_a_create_that_fails_again_and_again_is_told_with_the_webhooks_name() -> None:
    async def scenario() -> tuple[Raw, list[Raw], int, Raw]:
        world = World()
        world.add_runtime()
        text = 'Internal error occurred: failed calling webhook "policy.example.com": no endpoints available'
        world.cluster.refusals = [UnavailableError(text, code=500) for _ in range(8)]
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: "ControlPlaneFault" in str(world.status(key)), engine, within=60)
            told, writes = world.status(key), world.calls()["patch_job_status"]
            await world.until_finished(key, engine)
            return told, world.cluster.all("events"), writes, world.status(key)

    told, events, writes, ended = run_virtual(scenario())
    assert "policy.example.com" in condition(told)["message"]
    assert [event["reason"] for event in events].count("ControlPlaneFault") == 1
    assert writes == 2, "one write to start, one to tell"
    assert ended["phase"] == "Succeeded"


def test_a_create_that_fails_once_is_not_told() -> None:
    async def scenario() -> list[Raw]:
        world = World()
        world.add_runtime()
        world.cluster.refusals = [UnavailableError("etcdserver: leader changed", code=500)]
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until_finished(key, engine)
            return world.cluster.all("events")

    assert {event["reason"] for event in run_virtual(scenario())} == {"Started", "Succeeded"}


def test_an_admission_policy_that_refuses_the_child_is_told() -> None:
    async def scenario() -> Raw:
        world = World()
        world.add_runtime()
        world.cluster.refusals = [InvalidError("admission webhook denied: images must be signed", code=400)] * 3
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: len(world.cluster.refusals) <= 1, engine)
            return world.status(key)

    assert "images must be signed" in condition(run_virtual(scenario()))["message"]


@pytest.mark.parametrize(
    "refusal",
    [
        ForbiddenError(
            'jobs.batch "x" is forbidden: unable to create new content in namespace a because it is being terminated'
        ),
        ForbiddenError('jobs.batch is forbidden: User "x" cannot create resource "jobs" in API group "batch"'),
    ],
    ids=["namespace going", "no right"],
)
def test_what_the_user_can_not_mend_is_not_told_as_his_fault(refusal: ForbiddenError) -> None:
    async def scenario() -> Raw:
        world = World()
        world.add_runtime()
        world.cluster.refusals = [refusal] * 3
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: not world.cluster.refusals, engine)
            before = world.status(key)
            await world.until_finished(key, engine)
            return before

    assert condition(run_virtual(scenario()))["reason"] == "Pending"


def test_an_outage_of_the_api_server_is_waited_out_without_a_restart() -> None:
    methods = {"get_job", "get_child", "list_pods", "list_page", "create_child", "patch_job_status", "create_event"}

    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit()
            await world.until(lambda: world.simulator.pods_made["prepare"] == 1, engine)
            world.gateways[0].broken = methods
            for _ in range(600):
                await world.second()
            world.gateways[0].broken = set()
            await world.until_finished(key, engine, within=700)
            assert engine.trouble() is None
            assert engine.queue.add_failed(key) <= 0.5, "a success forgives the failures before it"
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}


# --- bad objects ------------------------------------------------------------------------------------------------------


def test_a_job_that_breaks_the_operators_code_stops_no_other_job(caplog: pytest.LogCaptureFixture) -> None:
    def decide(observed: Observed) -> Plan:
        if observed.job["metadata"]["name"] == "poison":
            raise RuntimeError("boom")
        return reconcile(observed)

    async def scenario() -> Raw:
        world = World()
        world.add_runtime()
        async with world.operator(decide=decide) as engine:
            world.submit(name="poison")
            key = world.submit(name="healthy")
            await world.until_finished(key, engine, within=120)
            assert engine.trouble() is None
            return world.status(key)

    assert run_virtual(scenario())["phase"] == "Succeeded"
    failures = [r for r in caplog.records if getattr(r, "event", None) == "ReconcileFailed"]
    assert failures
    assert all(r.job == "team-a/poison" for r in failures)
    assert len(failures) < 20, "a failing key backs off"


def test_a_job_of_a_stranger_schema_fails_alone() -> None:
    async def scenario() -> tuple[Raw, Raw]:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            odd = world.submit({"dataset": 7}, name="odd")
            key = world.submit(name="healthy")
            await world.until_finished(odd, engine)
            await world.until_finished(key, engine)
            return world.status(odd), world.status(key)

    odd, healthy = run_virtual(scenario())
    assert odd["failure"]["reason"] == "InvalidSpec"
    assert healthy["phase"] == "Succeeded"


def test_a_dead_worker_ends_the_operator() -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator() as engine:
            engine.spawn("broken", _raise())
            await engine.died.wait()
            assert engine.trouble() == "a worker has ended"

    async def _raise() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run_virtual(scenario())
