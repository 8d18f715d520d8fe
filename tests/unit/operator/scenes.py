"""What the scenarios share: a life that nobody disturbs, and what a status says."""

from __future__ import annotations

from typing import Any

from finetune_operator.cluster.protocol import JobKey, Raw
from tests.support.job_simulator import report_success
from tests.support.operator_world import World

__all__ = ["condition", "undisturbed"]


async def undisturbed(spec: Raw, end: Any = report_success) -> tuple[World, JobKey]:
    world = World(end=end)
    world.add_runtime()
    async with world.operator() as engine:
        key = world.submit(spec)
        await world.until_finished(key, engine)
        await world.until_quiet(engine)
    return world, key


def condition(status: Raw, kind: str = "Succeeded") -> Raw:
    return next(c for c in status["conditions"] if c["type"] == kind)
