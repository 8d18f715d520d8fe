"""The whole operator in memory: reconcile, edges and a simulated control plane, from submit to the end."""

from __future__ import annotations

import asyncio

import pytest

from finetune_api.names import child_name
from finetune_operator.cluster.protocol import JobKey, Raw
from finetune_operator.process.engine import Engine
from tests.support.builders import cpu_spec, job_spec
from tests.support.lives import LIVES
from tests.support.operator_world import World
from tests.support.virtual_time import run_virtual
from tests.unit.operator.scenes import condition, undisturbed

# --- all is well ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "stages"), [(cpu_spec(), ["train"]), (job_spec(), ["prepare", "train"])])
def test_a_job_runs_each_stage_once_and_succeeds(spec: Raw, stages: list[str]) -> None:
    world, key = run_virtual(undisturbed(spec))
    status = world.status(key)
    assert status["phase"] == "Succeeded"
    assert [stage["name"] for stage in status["stages"]] == stages
    assert world.simulator.pods_made == dict.fromkeys(stages, 1)
    assert world.simulator.violations == []


@pytest.mark.parametrize(("spec", "most"), [(cpu_spec(), 7), (job_spec(), 11)])
def test_a_whole_life_costs_no_more_requests_than_promised(spec: Raw, most: int) -> None:
    world, _ = run_virtual(undisturbed(spec))
    calls = world.calls()
    lists = {"list_page", "served_resources"}  # of the operator's start, however many jobs there are
    assert sum(count for name, count in calls.items() if name not in lists) <= most, calls
    assert calls["create_event"] <= 2


def test_a_restart_among_finished_jobs_writes_nothing() -> None:
    async def scenario() -> int:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            keys = [world.submit(cpu_spec(), name=f"job-{n}") for n in range(20)]
            for key in keys:
                await world.until_finished(key, engine)
            await world.until_quiet(engine)
        async with world.operator() as engine:
            await world.until_quiet(engine)
        return world.gateways[-1].writes

    assert run_virtual(scenario()) == 0


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_job_waits_for_its_runtime_and_starts_when_it_comes() -> None:
    async def scenario() -> tuple[Raw, Raw]:
        world = World()
        async with world.operator() as engine:
            key = world.submit()
            await world.until(lambda: "conditions" in world.status(key), engine)
            waiting = world.status(key)
            world.add_runtime()
            await world.until_finished(key, engine, within=60)
            return waiting, world.status(key)

    waiting, ended = run_virtual(scenario())
    assert condition(waiting)["reason"] == "RuntimeNotFound"
    assert condition(waiting)["status"] == "Unknown"
    assert ended["phase"] == "Succeeded"


@pytest.mark.parametrize("labelled", [False, True])
def test_a_foreign_job_under_a_childs_name_is_a_conflict_and_stays(labelled: bool) -> None:
    async def scenario() -> tuple[Raw, Raw, World]:
        world = World()
        world.add_runtime()
        key = world.submit()
        uid = world.job(key)["metadata"]["uid"]
        name = child_name(key.name, uid, "prepare")
        labels = {"finetune.dev/job-uid": uid, "finetune.dev/job-name": key.name} if labelled else {}
        foreign = {"metadata": {"name": name, "namespace": key.namespace, "labels": labels}, "spec": {}}
        before = world.cluster.create(
            "children", {**foreign, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
        )
        async with world.operator() as engine:
            await world.until_finished(key, engine)
            await world.until_quiet(engine)
        assert world.cluster.get("children", key.namespace, name) == before
        return world.status(key), world.job(key), world

    status, _, world = run_virtual(scenario())
    assert status["failure"]["reason"] == "NameConflict"
    assert world.simulator.pods_made == {}


def test_a_child_that_a_person_deletes_is_made_anew_once_it_is_gone() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: world.simulator.pods_made["train"] == 1, engine)
            await world.second()
            name = child_name(key.name, world.job(key)["metadata"]["uid"], "train")
            world.cluster.delete("children", key.namespace, name, foreground=True)
            await world.until_finished(key, engine)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"train": 2}
    assert world.simulator.violations == []


def test_an_edit_after_the_end_is_observed_and_leaves_the_rest_of_the_status_alone() -> None:
    async def scenario() -> tuple[Raw, Raw, World]:
        world, key = await undisturbed(cpu_spec())
        before = world.status(key)
        async with world.operator() as engine:
            await world.until_quiet(engine)
            world.edit(key, ttlSecondsAfterFinished=7)
            generation = world.job(key)["metadata"]["generation"]
            await world.until(lambda: world.status(key)["observedGeneration"] == generation, engine, within=60)
            await world.until_quiet(engine)
        return before, world.status(key), world

    before, after, world = run_virtual(scenario())
    assert before["observedGeneration"] < after["observedGeneration"]
    same = [{**entry, "observedGeneration": None} for entry in before["conditions"]]
    assert [{**entry, "observedGeneration": None} for entry in after["conditions"]] == same
    drop = {"observedGeneration", "conditions"}
    assert {k: v for k, v in after.items() if k not in drop} == {k: v for k, v in before.items() if k not in drop}
    assert [child["spec"]["ttlSecondsAfterFinished"] for child in world.cluster.all("children")] == [7]


def test_a_child_that_is_missing_after_the_end_stays_missing() -> None:
    async def scenario() -> tuple[World, Raw, Raw]:
        world, key = await undisturbed(cpu_spec())
        before = world.status(key)
        world.cluster.delete("children", key.namespace, before["stages"][0]["jobName"])
        for pod in world.cluster.all("pods"):
            world.cluster.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        async with world.operator() as engine:
            await asyncio.sleep(1000)
            await world.until_quiet(engine)
        return world, before, world.status(key)

    world, before, after = run_virtual(scenario())
    assert before == after
    assert world.cluster.all("children") == []


def test_a_job_that_is_deleted_in_mid_run_makes_nothing_more() -> None:
    async def scenario() -> World:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit()
            await world.until(lambda: world.simulator.pods_made["prepare"] == 1, engine)
            world.cluster.delete("jobs", *key)
            for _ in range(400):
                await world.second()
            assert engine.queue.idle
        return world

    world = run_virtual(scenario())
    assert world.cluster.all("children") == []
    assert world.simulator.pods_made == {"prepare": 1}


# --- suspend ----------------------------------------------------------------------------------------------------------


def in_mid_run() -> tuple[World, JobKey]:
    """A job whose train pod never ends by itself."""
    world, key = World.of(LIVES["suspended and resumed"])
    world.people.clear()
    return world, key


async def until_it_trains(world: World, key: JobKey, engine: Engine) -> None:
    await world.until(lambda: world.status(key).get("phase") == "Training", engine)


def test_a_job_that_is_suspended_in_mid_run_stands_still_until_it_is_resumed() -> None:
    async def scenario() -> tuple[World, JobKey, Raw, int]:
        world, key = in_mid_run()
        async with world.operator() as engine:
            await until_it_trains(world, key, engine)
            world.edit(key, suspend=True)
            await world.until(lambda: world.status(key)["phase"] == "Suspended", engine, within=60)
            writes = world.gateways[0].writes
            for _ in range(2000):
                await world.second()
            standing, extra = world.status(key), world.gateways[0].writes - writes
            world.edit(key, suspend=False)
            await world.until_finished(key, engine)
        return world, key, standing, extra

    world, key, standing, extra = run_virtual(scenario())
    assert condition(standing, "Suspended")["status"] == "True"
    assert extra == 0
    status = world.status(key)
    assert (status["phase"], status["stages"][1]["attempts"]) == ("Succeeded", 2)
    assert status["stages"][1]["runSeconds"] < 60
    assert world.simulator.pods_made == {"prepare": 1, "train": 2}
    reasons = [event["reason"] for event in world.cluster.all("events")]
    assert sorted(reasons) == ["Resumed", "Started", "Succeeded", "Suspended"]


@pytest.mark.parametrize(
    "phase", ["Training", "Suspended"], ids=["while it is being suspended", "when it is suspended"]
)
def test_a_job_that_is_deleted_leaves_nothing(phase: str) -> None:
    async def scenario() -> World:
        world, key = in_mid_run()
        async with world.operator() as engine:
            await until_it_trains(world, key, engine)
            world.edit(key, suspend=True)
            suspended = "SpecSuspended" if phase == "Suspended" else "Suspending"
            await world.until(lambda: condition(world.status(key), "Suspended")["reason"] == suspended, engine)
            assert world.status(key)["phase"] == phase
            world.cluster.delete("jobs", *key)
            for _ in range(400):
                await world.second()
            assert engine.queue.idle
        return world

    world = run_virtual(scenario())
    assert world.cluster.all("children") == []
    assert world.cluster.all("pods") == []
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}


def test_a_job_that_is_suspended_while_its_child_is_being_created_ends_up_without_one() -> None:
    async def scenario() -> World:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit()
            gateway = world.gateways[0]

            def somebody_suspends_it(name: str) -> None:
                if name == "create_child" and gateway.calls["patch_job_status"] == 1:
                    world.edit(key, suspend=True)

            gateway.on_request = somebody_suspends_it
            await world.until(lambda: world.status(key).get("phase") == "Suspended", engine, within=60)
        return world

    world = run_virtual(scenario())
    assert world.calls()["create_child"] == 1
    assert world.cluster.all("children") == []
