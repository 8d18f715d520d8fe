"""The FineTuneRuntime of the installation in a cluster in memory: it comes, stays, is renewed, and is told when not."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from finetune_operator.cluster.protocol import Raw
from finetune_operator.decide.installation import InstalledRuntime, read_manifest
from finetune_operator.decide.plan import Observed, Plan
from finetune_operator.process.engine import Engine
from tests.support.builders import job_spec, runtime_spec
from tests.support.operator_world import World
from tests.support.virtual_time import run_virtual


def idle(_: Observed) -> Plan:
    return Plan()


def brought(**spec: object) -> InstalledRuntime:
    manifest = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneRuntime",
        "metadata": {"name": "default"},
        "spec": runtime_spec(**spec),
    }
    return read_manifest(json.dumps(manifest))


def runtimes(world: World) -> list[Raw]:
    return world.cluster.all("runtimes")


def applied(world: World) -> int:
    return sum(gateway.calls["apply_runtime"] for gateway in world.gateways)


async def until_ready(engine: Engine) -> None:
    await asyncio.sleep(0.1)
    assert engine.unready() is None


def test_the_runtime_is_made_and_then_the_operator_is_ready() -> None:
    async def scenario() -> None:
        world, runtime = World(), brought()
        async with world.operator(decide=idle, installed=runtime) as engine:
            assert engine.unready() == "FineTuneRuntime default is not in the cluster yet"
            await until_ready(engine)
            assert [r["spec"] for r in runtimes(world)] == [runtime.manifest["spec"]]

    run_virtual(scenario())


def test_one_that_stands_as_applied_is_left_alone_though_somebody_has_edited_it() -> None:
    async def scenario() -> None:
        world, runtime = World(), brought()
        async with world.operator(decide=idle, installed=runtime) as engine:
            await until_ready(engine)
        world.cluster.patch("runtimes", "", "default", {"spec": {"image": "mended by hand"}})
        async with world.operator(decide=idle, installed=runtime) as engine:
            await until_ready(engine)
            await asyncio.sleep(1000)
        assert runtimes(world)[0]["spec"]["image"] == "mended by hand"
        assert applied(world) == 1

    run_virtual(scenario())


def test_other_values_are_applied_over_what_stands_there() -> None:
    async def scenario() -> None:
        world = World()
        for seconds in (60, 90):
            async with world.operator(decide=idle, installed=brought(terminationGracePeriodSeconds=seconds)) as engine:
                await until_ready(engine)
        assert [r["spec"]["terminationGracePeriodSeconds"] for r in runtimes(world)] == [90]
        assert applied(world) == 1

    run_virtual(scenario())


def test_other_values_take_away_what_was_added_by_hand() -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator(decide=idle, installed=brought()) as engine:
            await until_ready(engine)
        by_hand = {"spec": {"simulatedGpus": True, "train": {"runtimeClassName": "nope"}}}
        world.cluster.patch("runtimes", "", "default", by_hand)
        other = brought(terminationGracePeriodSeconds=90)
        async with world.operator(decide=idle, installed=other) as engine:
            await until_ready(engine)
        assert runtimes(world)[0]["spec"] == other.manifest["spec"]

    run_virtual(scenario())


def test_one_that_is_deleted_comes_back_at_once() -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator(decide=idle, installed=brought()) as engine:
            await until_ready(engine)
            world.cluster.delete("runtimes", "", "default")
            await asyncio.sleep(0.1)
            assert len(runtimes(world)) == 1

    run_virtual(scenario())


def test_one_whose_deletion_no_watch_told_comes_back_with_the_next_look() -> None:
    async def scenario() -> None:
        world = World()
        deaf = world.operator(decide=idle, installed=brought(), hears=lambda _kind, event, _raw: event != "DELETED")
        async with deaf as engine:
            await until_ready(engine)
            world.cluster.delete("runtimes", "", "default")
            await asyncio.sleep(301)
            assert len(runtimes(world)) == 1

    run_virtual(scenario())


def test_one_of_somebody_else_stays_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world = World()
        world.cluster.create("runtimes", {"metadata": {"name": "default"}, "spec": {"image": "theirs"}})
        async with world.operator(decide=idle, installed=brought()) as engine:
            await until_ready(engine)
            await asyncio.sleep(1000)
        assert runtimes(world)[0]["spec"] == {"image": "theirs"}
        assert applied(world) == 0

    run_virtual(scenario())
    told = [record for record in caplog.records if getattr(record, "event", "") == "RuntimeForeign"]
    assert len(told) == 1
    assert "runtime.create=false" in told[0].getMessage()


def test_one_of_somebody_else_that_goes_is_followed_by_ours() -> None:
    """So it is after an upgrade from a chart that had the runtime among its own objects: Helm removes that one late."""

    async def scenario() -> None:
        world, runtime = World(), brought()
        world.cluster.create("runtimes", {"metadata": {"name": "default"}, "spec": {"image": "theirs"}})
        async with world.operator(decide=idle, installed=runtime) as engine:
            await until_ready(engine)
            world.cluster.delete("runtimes", "", "default")
            await asyncio.sleep(0.1)
            assert runtimes(world)[0]["spec"] == runtime.manifest["spec"]

    run_virtual(scenario())


def test_an_outage_is_waited_for_and_jobs_go_on_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator(installed=brought()) as engine:
            world.gateways[0].broken = {"apply_runtime"}
            await asyncio.sleep(200)
            told = engine.unready()
            assert told is not None
            assert "could not be applied: apply_runtime is broken" in told
            assert engine.trouble() is None
            world.add_runtime("other")
            key = world.submit(job_spec(runtimeRef={"name": "other"}))
            await world.until_finished(key, engine)
            world.gateways[0].broken = set()
            await asyncio.sleep(60)
            assert engine.unready() is None
        assert applied(world) < 12

    with caplog.at_level(logging.WARNING):
        run_virtual(scenario())
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_a_look_that_fails_later_does_not_make_the_operator_unready() -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator(decide=idle, installed=brought()) as engine:
            await until_ready(engine)
            world.gateways[0].broken = {"get_runtime"}
            await asyncio.sleep(400)
            assert world.gateways[0].calls["get_runtime"] > 1
            assert engine.unready() is None

    run_virtual(scenario())


def test_the_runtime_of_the_installation_is_the_leaders_work() -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator(leads=False, installed=brought()) as engine:
            engine.stand_by()
            await asyncio.sleep(600)
            assert engine.unready() is None
            assert runtimes(world) == []
            engine.lead()
            assert engine.unready() is not None
            await asyncio.sleep(1)
            assert engine.unready() is None
            assert len(runtimes(world)) == 1

    run_virtual(scenario())
