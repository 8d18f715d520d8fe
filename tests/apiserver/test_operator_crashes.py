"""The operator on a real API server, crashed at each of its writes in turn: one pod a stage, and the same end.

The operator runs in this process, without watches: after each step of the simulated control plane it lists the cluster,
which is what its resync does. A crash leaves nothing of it behind; another operator goes on.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.cluster.gateway import KubernetesGateway, load_configuration
from finetune_operator.cluster.protocol import JobKey, Page, Raw
from finetune_operator.cluster.views import condition, is_finished
from finetune_operator.decide.reconcile import reconcile
from finetune_operator.process.engine import Engine
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.settings import Settings
from tests.support.apiserver import ApiServer
from tests.support.builders import runtime_spec
from tests.support.job_simulator import JobSimulator
from tests.support.lives import LIVES, Life
from tests.support.memory_gateway import Crash, FaultyGateway
from tests.support.operator_process import OPERATOR_RULES, ServerBackend
from tests.support.operator_world import timeless

PARALLEL = 6
QUIET_ROUNDS = 3
"""Looks at everything that write nothing, after which nothing is left to do."""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def kubeconfig(apiserver: ApiServer) -> Path:
    apiserver.create_namespace("crash-system")
    apiserver.apply(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneRuntime",
            "metadata": {"name": "crash"},
            "spec": runtime_spec(),
        }
    )
    return apiserver.service_account("crash", namespace="crash-system", rules=OPERATOR_RULES)


class OneNamespace:
    """Only this test's objects: the server is shared, and several operators of this test run side by side."""

    def __init__(self, inner: KubernetesGateway, namespace: str) -> None:
        self._inner = inner
        self._namespace = namespace

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def list_page(self, kind: Any, after: str = "") -> Page:
        page = await self._inner.list_page(kind, after)
        mine = [raw for raw in page.items if raw["metadata"].get("namespace", self._namespace) == self._namespace]
        return page._replace(items=mine)


class Place:
    """A namespace with one job, its control plane, and the operators that come and go."""

    def __init__(self, api: ApiServer, life: Life) -> None:
        self.api = api
        self.life = life
        self.key = JobKey(api.create_namespace(f"crash-{next(_numbers)}"), "support-intent")
        self.simulator = JobSimulator(
            ServerBackend(api, self.key.namespace), now=lambda: datetime.now(UTC), end=life.end, lasts=life.lasts
        )
        body = {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": self.key.name},
            "spec": {**life.spec, "runtimeRef": {"name": "crash"}},
        }
        status, answer = api.request("POST", self._path.removesuffix(f"/{self.key.name}"), body)
        assert status == 201, answer

    @property
    def _path(self) -> str:
        return f"/apis/finetune.dev/v1alpha1/namespaces/{self.key.namespace}/finetunejobs/{self.key.name}"

    def job(self) -> Raw:
        return dict(self.api.request("GET", self._path)[1])

    def moves(self) -> None:
        """The control plane moves by a step, then the person of this life looks at the job."""
        self.simulator.tick()
        if edit := self.life.person(self.job()):
            kind = "application/merge-patch+json"
            status, answer = self.api.request("PATCH", self._path, {"spec": edit}, content_type=kind)
            assert status == 200, answer

    @asynccontextmanager
    async def operator(self, **faults: Any) -> AsyncIterator[tuple[Engine, FaultyGateway]]:
        inner = KubernetesGateway(await load_configuration())
        gateway = FaultyGateway(OneNamespace(inner, self.key.namespace), **faults)
        engine = Engine(gateway=gateway, reconcile=reconcile, settings=Settings(workers=2), metrics=Metrics())
        try:
            async with engine.running():
                yield engine, gateway
        finally:
            await inner.close()

    async def run(self, **faults: Any) -> int:
        """Let an operator work until the job has ended and nothing is left to do; returns its writes."""
        async with self.operator(**faults) as (engine, gateway):
            quiet = 0
            for _ in range(400):
                if engine.died.is_set():
                    break
                writes = gateway.writes
                await asyncio.to_thread(self.moves)
                await engine._resync.once()
                await asyncio.sleep(0.02)
                still = engine.queue.idle and gateway.writes == writes and is_finished(self.job())
                quiet = quiet + 1 if still else 0
                if quiet == QUIET_ROUNDS:
                    break
            else:
                raise AssertionError(f"the job has not ended: {self.job()}")
            return gateway.writes

    async def run_with_crash(self, **faults: Any) -> bool:
        """The same with a crash and a second operator; returns whether the crash came."""
        try:
            await self.run(**faults)
        except Crash:
            await self.run()
            return True
        return False


BEFORE, AFTER = False, True
CRASHES = {
    "one stage, before it is sent": ("one stage", BEFORE),
    "one stage, after it was carried out": ("one stage", AFTER),
    "two stages, before it is sent": ("two stages", BEFORE),
    "two stages, after it was carried out": ("two stages", AFTER),
    # The longest lives once each; the scenarios in memory crash them both ways.
    "suspended and resumed, after it was carried out": ("suspended and resumed", AFTER),
    "an earlier result, before it is sent": ("an earlier result", BEFORE),
}


@pytest.mark.parametrize(("name", "crash_after"), CRASHES.values(), ids=CRASHES.keys())
async def test_a_crash_at_any_write_changes_neither_the_pods_nor_the_end(
    apiserver: ApiServer, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, name: str, crash_after: bool
) -> None:
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    life = LIVES[name]
    calm = Place(apiserver, life)
    writes = await calm.run()
    wanted = _end(calm)
    assert condition(wanted, "Succeeded")["reason"] == life.reason
    assert calm.simulator.pods_made == life.pods
    turn = asyncio.Semaphore(PARALLEL)

    async def crashing(number: int) -> None:
        async with turn:
            place = Place(apiserver, life)
            crashed = await place.run_with_crash(crash_at=number, crash_after=crash_after)
            assert crashed, f"write {number} was never reached"
            assert _end(place) == wanted, f"crash at write {number}"
            assert place.simulator.pods_made == life.pods, f"crash at write {number}"
            assert place.simulator.violations == [], f"crash at write {number}"

    await asyncio.gather(*(crashing(number) for number in range(1, writes + 1)))


def _end(place: Place) -> Raw:
    """The job's status without times, uids and the names that are made of uids."""
    job = place.job()
    status = timeless(job["status"])
    for stage in status["stages"]:
        if "jobName" in stage:
            stage["jobName"] = stage["jobName"].replace(job["metadata"]["uid"][:8], "UID")
    return dict(status)
