"""The whole operator in memory, crashed at every write, and two of them at once: one pod a stage, and the same end."""

from __future__ import annotations

import pytest

from finetune_operator.cluster.protocol import JobKey
from tests.support.lives import LIVES, Life
from tests.support.operator_world import World, timeless
from tests.support.virtual_time import run_virtual
from tests.unit.operator.scenes import condition


async def undisturbed(life: Life) -> tuple[World, JobKey]:
    world, key = World.of(life)
    async with world.operator() as engine:
        await world.until_finished(key, engine)
        await world.until_quiet(engine)
    return world, key


@pytest.mark.parametrize("crash_after", [False, True], ids=["before it is sent", "after it was carried out"])
@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_a_crash_at_any_write_changes_neither_the_pods_nor_the_end(life: Life, crash_after: bool) -> None:
    world, key = run_virtual(undisturbed(life))
    wanted, writes = timeless(world.status(key)), world.gateways[0].writes
    assert condition(wanted)["reason"] == life.reason
    assert world.simulator.pods_made == life.pods
    assert writes >= 4

    async def crashing(number: int) -> tuple[World, JobKey, bool]:
        world, key = World.of(life)
        return world, key, await world.run_with_crashes(key, crash_at=number, crash_after=crash_after)

    for number in range(1, writes + 1):
        world, key, crashed = run_virtual(crashing(number))
        assert crashed, f"write {number} was never reached"
        assert timeless(world.status(key)) == wanted, f"crash at write {number}"
        assert world.simulator.pods_made == life.pods, f"crash at write {number}"
        assert world.simulator.violations == [], f"crash at write {number}"


@pytest.mark.parametrize(
    "life", [LIVES["two stages"], LIVES["suspended and resumed"]], ids=["undisturbed", "suspended"]
)
def test_a_crash_at_every_single_write_in_turn_still_ends_well(life: Life) -> None:
    """Each operator survives one write only; the job is carried to its end by many."""

    async def scenario() -> tuple[World, JobKey]:
        world, key = World.of(life)
        for _ in range(40):
            if await world.carry_on(key, crash_at=1):
                break
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == life.pods
    assert world.simulator.violations == []


@pytest.mark.parametrize("life", LIVES.values(), ids=LIVES.keys())
def test_two_operators_at_once_make_no_second_pod(life: Life) -> None:
    async def scenario() -> tuple[World, JobKey]:
        world, key = World.of(life)
        async with world.operator(), world.operator() as engine:
            await world.until_finished(key, engine)
            await world.until_quiet(engine)
        return world, key

    world, key = run_virtual(scenario())
    assert condition(world.status(key))["reason"] == life.reason
    assert world.simulator.pods_made == life.pods
    assert world.simulator.violations == []
