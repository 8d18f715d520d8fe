"""A whole operator in a cluster in memory, under a virtual clock: what scenario tests stand on.

async def scenario():
    world = World()
    key = world.submit()
    await world.until_finished(key)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from finetune_api.names import LABEL_JOB_UID
from finetune_operator.cluster.protocol import JobKey, Kind, Raw
from finetune_operator.cluster.views import is_finished
from finetune_operator.decide.installation import InstalledRuntime
from finetune_operator.decide.plan import Observed, Plan
from finetune_operator.decide.reconcile import reconcile
from finetune_operator.process.engine import Engine
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.settings import Settings
from tests.support.builders import job_spec, runtime_spec
from tests.support.job_simulator import End, JobSimulator, MemoryBackend, report_success
from tests.support.lives import Life
from tests.support.memory_gateway import Crash, FaultyGateway, MemoryCluster, MemoryGateway
from tests.support.virtual_time import virtual_now

__all__ = ["World", "timeless"]

VARYING = frozenset(
    {
        *("startTime", "completionTime", "lastTransitionTime", "lastAttemptTime", "runSeconds", "waitingSince"),
        "jobUid",
    }
)


class World:
    """A cluster, its control plane, and operators that come and go."""

    def __init__(
        self,
        *,
        end: Callable[[Any, int], End] = report_success,
        lasts: Callable[[str, int], int] = lambda _stage, _number: 1,
    ) -> None:
        self.cluster = MemoryCluster(now=virtual_now)
        self.simulator = JobSimulator(MemoryBackend(self.cluster), now=virtual_now, end=end, lasts=lasts)
        self.gateways: list[FaultyGateway] = []
        self.people: list[Callable[[], None]] = []
        """What people do each second, whatever becomes of the operator."""

    # --- what users and administrators do -----------------------------------------------------------------------------

    @classmethod
    def of(cls, life: Life) -> tuple[World, JobKey]:
        """A world in which one job is submitted and lives so."""
        world = cls(end=life.end, lasts=life.lasts)
        world.add_runtime()
        key = world.submit(life.spec)

        def person() -> None:
            if edit := life.person(world.job(key)):
                world.edit(key, **edit)

        world.people.append(person)
        return world, key

    def add_runtime(self, name: str = "default") -> None:
        """Create a FineTuneRuntime."""
        self.cluster.create("runtimes", {"metadata": {"name": name}, "spec": runtime_spec()})

    def submit(self, spec: Raw | None = None, *, name: str = "support-intent", namespace: str = "team-a") -> JobKey:
        """Create a FineTuneJob."""
        self.cluster.create(
            "jobs",
            {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": name, "namespace": namespace},
                "spec": job_spec() if spec is None else spec,
            },
        )
        return JobKey(namespace, name)

    def job(self, key: JobKey) -> Raw:
        """The FineTuneJob as stored."""
        return self.cluster.get("jobs", *key)

    def edit(self, key: JobKey, **spec: Any) -> None:
        """Change fields of its spec."""
        self.cluster.patch("jobs", *key, {"spec": spec})

    def status(self, key: JobKey) -> Raw:
        """Its status."""
        return dict(self.job(key)["status"])

    # --- operators ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def operator(
        self,
        *,
        decide: Callable[[Observed], Plan] = reconcile,
        hears: Callable[[str, str, Raw], bool] = lambda _kind, _event, _raw: True,
        installed: InstalledRuntime | None = None,
        crash_at: int | None = None,
        crash_after: bool = False,
        leads: bool = True,
    ) -> AsyncIterator[Engine]:
        """Run an operator while the block runs; ``hears`` tells which watch events reach it."""
        gateway = FaultyGateway(MemoryGateway(self.cluster), crash_at=crash_at, crash_after=crash_after)
        self.gateways.append(gateway)
        engine = Engine(
            gateway=gateway,
            reconcile=decide,
            settings=Settings(workers=4),
            metrics=Metrics(),
            installed=installed,
            now=virtual_now,
        )

        def watch(kind: str, event: str, raw: Raw) -> None:
            watched: tuple[Kind, ...] = ("jobs", "runtimes", "children", "pods")
            for known in watched:
                if kind == known and not gateway.crashed and hears(kind, event, raw):
                    engine.event(known, event, raw)

        self.cluster.watchers.append(watch)
        try:
            async with engine.running(leads=leads):
                yield engine
        finally:
            self.cluster.watchers.remove(watch)

    async def run_with_crashes(self, key: JobKey, *, crash_at: int, crash_after: bool) -> bool:
        """Run until the job has ended, with one crash and a restart; returns whether the crash came."""
        try:
            async with self.operator(crash_at=crash_at, crash_after=crash_after) as engine:
                await self.until_finished(key, engine)
                await self.until_quiet(engine)
        except Crash:
            async with self.operator() as engine:
                await self.until_finished(key, engine)
                await self.until_quiet(engine)
            return True
        return False

    async def carry_on(self, key: JobKey, *, crash_at: int) -> bool:
        """Let one operator work until it crashes or the job has ended; returns whether the job has ended quietly."""
        try:
            async with self.operator(crash_at=crash_at, crash_after=True) as engine:
                await self.until_finished(key, engine)
                await self.until_quiet(engine)
        except Crash:
            return False
        return True

    # --- time ---------------------------------------------------------------------------------------------------------

    async def until_finished(self, key: JobKey, engine: Engine | None = None, *, within: float = 3600.0) -> None:
        """Let a second pass after the other until the job has ended (or the operator has died)."""
        await self.until(lambda: is_finished(self.job(key)), engine, within=within)

    async def until(self, met: Callable[[], bool], engine: Engine | None = None, *, within: float = 3600.0) -> None:
        """Let a second pass after the other until a condition is met (or the operator has died)."""
        end = asyncio.get_running_loop().time() + within
        while not met() and not (engine is not None and engine.died.is_set()):
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"not met within {within:.0f} s; jobs: {self.cluster.all('jobs')}")
            await self.second()

    async def until_quiet(self, engine: Engine) -> None:
        """Let time pass until nothing is due any more."""
        for _ in range(3):
            await self.second()
        await self.until(lambda: engine.queue.idle, engine)

    async def second(self) -> None:
        """One second: the control plane moves everything by a step, people act, the operator does what follows."""
        self.simulator.tick()
        for act in self.people:
            act()
        self.cluster.collect()
        await asyncio.sleep(1.0)
        self._check_suspended()

    def _check_suspended(self) -> None:
        for job in self.cluster.all("jobs"):
            if job["status"].get("phase") == "Suspended":
                live = [pod["metadata"]["name"] for pod in self.cluster.all("pods") if _lives(pod, job)]
                assert live == [], "a job that is said to be suspended has a pod"

    # --- what happened ------------------------------------------------------------------------------------------------

    def calls(self) -> Counter[str]:
        """Requests of all operators so far, by method."""
        return sum((gateway.calls for gateway in self.gateways), Counter())


def _lives(pod: Raw, job: Raw) -> bool:
    ours = pod["metadata"]["labels"].get(LABEL_JOB_UID) == job["metadata"]["uid"]
    return ours and pod["status"]["phase"] not in ("Succeeded", "Failed")


def timeless(value: Any) -> Any:
    """Leave out of a status what depends on when and in which order things happened."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in VARYING}
    if isinstance(value, list):
        return [timeless(item) for item in value]
    return value
