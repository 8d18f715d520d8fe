"""Two operators of the chart: the one that works goes while a job trains, and the other one sees it to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hack.demo.install import OPERATOR_NAMESPACE, RELEASE
from tests.e2e.machine import halted
from tests.e2e.podlog import Pods
from tests.e2e.world import Tenant, World, rows, until

pytestmark = pytest.mark.timeout(600)

NAME = "followed"
TRAINING = {"method": "Full", "epochs": 2, "learningRate": "1e-3", "batchSize": 8, "maxLength": 64}


@pytest.fixture
def two(world: World) -> Iterator[None]:
    """Two operators instead of one, while the test runs."""
    world.upgrade(replicas=2)
    try:
        yield
    finally:
        world.upgrade(replicas=1)


def leader(world: World) -> str:
    """Name of the operator's pod that holds the Lease; empty: none does."""
    lease = world.kube.get("lease", RELEASE, OPERATOR_NAMESPACE)
    return str((lease or {"spec": {}})["spec"].get("holderIdentity") or "").partition("_")[0]


@pytest.mark.usefixtures("two")
def test_a_leader_that_goes_in_mid_training_is_followed_and_the_pod_trains_on(
    world: World, tenant: Tenant, pair: str
) -> None:
    tenant.put_rows(rows(600))
    tenant.apply(tenant.job(NAME, resources={"gpusPerNode": 0}, runtimeRef={"name": pair}, training=TRAINING))
    trainer = Pods(tenant, NAME)
    try:
        with ExitStack() as still:
            still.enter_context(halted(trainer.trains_to(20)))
            (pod,) = tenant.pods(NAME)
            before = leader(world)
            operators = {one["metadata"]["name"] for one in world.operator_pods()}
            assert before in operators
            assert len(operators) == 2
            world.kube.kubectl("delete", "pod", before, "-n", OPERATOR_NAMESPACE)
            until("another operator leads", lambda: leader(world) not in ("", before), timeout=60)
        ended = tenant.wait_finished(NAME)["status"]
    finally:
        trainer.close()
    assert ended["phase"] == "Succeeded", ended
    assert [(one["metadata"]["uid"], one["status"]["phase"]) for one in tenant.pods(NAME)] == [
        (pod["metadata"]["uid"], "Succeeded")
    ]
    told = [line for line in world.operator_log(tenant.since) if line.get("event") == "Leading"]
    assert told[-1]["fields"]["takeoverSeconds"] < 15, told
