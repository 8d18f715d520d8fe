"""Pods that report as the trainer does, and the moments at which FineTuneJobs said what they had told.

Used by ``__main__.py``. No trainer runs: a thousand of them don't fit one machine, and what is measured begins where
one opens its connection.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from benchmarks.operator_bench.client import Timeline
from finetune_trainer.process.reporter import Pace

__all__ = ["Reports", "Shown", "report", "reporting"]

PODS_AN_ADDRESS: Final = 20
"""Pods have addresses of their own, of which the operator serves each only so much; some share one here."""

STEPS: Final = 1000
PACE: Final = Pace()


@dataclass
class Shown(Timeline):
    """When each job's status said which step, by the job's name."""

    steps: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    def saw_job(self, job: dict[str, Any], when: float) -> None:
        """Note a watch event of a FineTuneJob."""
        step = job.get("status", {}).get("progress", {}).get("step")
        if step is not None:
            self.steps.setdefault(job["metadata"]["name"], []).append((when, step))

    def first(self, name: str, step: int) -> float | None:
        """Moment at which status first said this step or a later one."""
        return next((when for when, said in self.steps.get(name, ()) if said >= step), None)

    def said(self, name: str) -> int | None:
        """The step that status says."""
        said = self.steps.get(name)
        return said[-1][1] if said else None


@dataclass
class Reports:
    """What the pods have told.

    Attributes
    ----------
    wanted
        When a pod first tried to tell a step, by job and step.
    answers
        HTTP statuses, and kinds of errors where there was no answer.
    told
        The newest step that was taken, by job.
    """

    wanted: dict[tuple[str, int], float] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)
    told: dict[str, int] = field(default_factory=dict)


@asynccontextmanager
async def reporting(pods: int, authority: str) -> AsyncIterator[list[aiohttp.ClientSession]]:
    """Sessions for so many pods, each from the address of its own."""
    context = ssl.create_default_context(cadata=authority)
    async with AsyncExitStack() as stack:
        sessions = []
        for number in range(-(-pods // PODS_AN_ADDRESS)):
            connector = aiohttp.TCPConnector(
                limit=0, ssl=context, force_close=True, local_addr=(f"127.0.{1 + number // 250}.{1 + number % 250}", 0)
            )
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=PACE.timeout, sock_read=PACE.timeout)
            sessions.append(
                await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
            )
        yield [sessions[number // PODS_AN_ADDRESS] for number in range(pods)]


async def report(session: aiohttp.ClientSession, url: str, token: str, job: str, *, rounds: int, into: Reports) -> None:
    """Play one pod: tell a tenth more each round, as often as the operator wants to hear, until all is told."""
    sequence = 0
    for turn in range(1, rounds + 1):
        step = turn * STEPS // 10
        into.wanted[job, step] = time.monotonic()
        pause = None
        while pause is None:
            sequence += 1
            body = {
                "v": 1,
                "sequence": sequence,
                "phase": "Training",
                "percent": turn * 10,
                "step": step,
                "totalSteps": STEPS,
            }
            pause = await _post(session, url, token, body, into)
            if pause is None:
                await asyncio.sleep(PACE.until_next_try())
        into.told[job] = step
        if turn < rounds:
            await asyncio.sleep(max(pause, PACE.least))


async def _post(
    session: aiohttp.ClientSession, url: str, token: str, body: dict[str, Any], into: Reports
) -> float | None:
    """Post a report; seconds until the next is wanted, or None if it wasn't taken."""
    try:
        async with session.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
            into.answers[str(answer.status)] += 1
            return float((await answer.json())["nextSeconds"]) if answer.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        into.answers[type(error).__name__] += 1
        return None
