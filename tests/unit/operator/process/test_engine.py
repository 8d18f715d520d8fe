"""The engine: which jobs an event concerns, and when only a restart can help."""

from __future__ import annotations

import asyncio
from typing import Any

from finetune_operator.decide.plan import Observed, Plan
from tests.support.builders import job_spec
from tests.support.lives import LIVES
from tests.support.operator_world import World
from tests.support.virtual_time import run_virtual


def idle(_: Observed) -> Plan:
    return Plan()


def test_a_runtime_wakes_the_unfinished_jobs_that_name_it_and_no_other() -> None:
    seen: list[str] = []

    def decide(observed: Observed) -> Plan:
        seen.append(observed.job["metadata"]["name"])
        return Plan()

    async def scenario() -> None:
        world = World()
        async with world.operator(decide=decide) as engine:
            world.submit(name="defaulted")
            world.submit(job_spec(runtimeRef={"name": "default"}), name="named")
            world.submit(job_spec(runtimeRef={"name": "big"}), name="elsewhere")
            ended = world.submit(name="ended")
            finished = {"conditions": [{"type": "Finished", "status": "True"}]}
            world.cluster.patch("jobs", *ended, {"status": finished})
            await world.until_quiet(engine)
            seen.clear()
            world.add_runtime()
            await world.until_quiet(engine)

    run_virtual(scenario())
    assert sorted(seen) == ["defaulted", "named"]


def test_an_operator_is_ready_once_it_has_listed_the_cluster() -> None:
    async def scenario() -> list[bool]:
        world, ready = World(), []
        async with world.operator(decide=idle) as engine:
            ready.append(engine.unready() is None)
            assert engine.trouble() is None
        return ready

    assert run_virtual(scenario()) == [True]


def test_a_worker_that_hangs_is_trouble_after_five_minutes() -> None:
    async def scenario() -> tuple[str | None, str | None]:
        world = World()

        async def hang(_: Any) -> None:
            await asyncio.sleep(10_000)

        async with world.operator(decide=idle) as engine:
            engine._controller._run = hang  # type: ignore[method-assign,assignment]  # the fault to be found
            world.submit()
            await asyncio.sleep(299)
            before = engine.trouble()
            await asyncio.sleep(2)
            return before, engine.trouble()

    before, after = run_virtual(scenario())
    assert before is None
    assert after is not None
    assert "has stood still for 301 s" in after


def test_a_queue_that_takes_an_hour_to_be_worked_off_is_no_trouble() -> None:
    async def scenario() -> tuple[set[str | None], int]:
        world = World()

        async def slow(_: Any) -> str:
            await asyncio.sleep(60)
            return "ok"

        async with world.operator(decide=idle) as engine:
            engine._controller._run = slow  # type: ignore[method-assign]  # a control plane under load
            for number in range(250):
                world.submit(name=f"job-{number}")
            told = set()
            for _ in range(60):
                await asyncio.sleep(60)
                told.add(engine.trouble())
            return told, len(engine.queue)

    told, left = run_virtual(scenario())
    assert left > 0
    assert told == {None}


def test_an_operator_that_has_not_seen_the_cluster_for_four_resyncs_is_in_trouble() -> None:
    async def scenario() -> tuple[str | None, str | None]:
        world = World()
        async with world.operator(decide=idle) as engine:
            world.gateways[0].broken = {"list_page"}
            await asyncio.sleep(1199)
            before = engine.trouble()
            await asyncio.sleep(2)
            return before, engine.trouble()

    before, after = run_virtual(scenario())
    assert before is None
    assert after is not None
    assert "last listed" in after


def test_work_that_runs_when_the_operator_stops_is_finished() -> None:
    ended: list[bool] = []

    async def scenario() -> None:
        world = World()

        async def work(_: Any) -> str:
            await asyncio.sleep(1.5)
            ended.append(True)
            return "ok"

        async with world.operator(decide=idle) as engine:
            engine._controller._run = work  # type: ignore[method-assign,assignment]  # slow work
            world.submit()
            await asyncio.sleep(0.1)

    run_virtual(scenario())
    assert ended == [True]


def test_a_stop_does_not_wait_for_ever() -> None:
    async def scenario() -> float:
        world = World()

        async def hang(_: Any) -> str:
            await asyncio.sleep(10_000)
            return "ok"

        async with world.operator(decide=idle) as engine:
            engine._controller._run = hang  # type: ignore[method-assign,assignment]  # work without end
            world.submit()
            await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) <= 4


# --- standing by ------------------------------------------------------------------------------------------------------


def test_a_standby_writes_nothing_keeps_its_cache_warm_and_is_well_after_hours() -> None:
    async def scenario() -> None:
        world, key = World.of(LIVES["one stage"])
        async with world.operator(leads=False) as engine:
            later = world.submit(name="later")
            assert engine.unready() == "it is not known yet which operator leads"
            assert (engine.stand_by(), engine.stand_by()) == (True, False)
            await asyncio.sleep(7200)
            assert (engine.unready(), engine.trouble(), len(engine.queue)) == (None, None, 0)
            assert world.gateways[0].writes == 0
            assert {key, later} <= set(engine.cache.job_keys())
            assert "finetune_jobs{" not in engine.metrics.render().decode()

    run_virtual(scenario())


def test_one_that_comes_to_lead_works_on_every_job_there_is() -> None:
    async def scenario() -> None:
        world, key = World.of(LIVES["one stage"])
        async with world.operator(leads=False) as engine:
            await asyncio.sleep(600)
            engine.lead()
            assert engine.trouble() is None
            await world.until_finished(key, engine)
        assert world.status(key)["phase"] == "Succeeded"
        assert world.simulator.pods_made == {"train": 1}

    run_virtual(scenario())
