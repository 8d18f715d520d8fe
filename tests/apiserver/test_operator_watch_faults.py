"""The operator's process behind a proxy that harms its watches: whatever it fails to hear, the job ends the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.apiserver import ApiServer
from tests.support.fault_proxy import FAULTS, Fault, FaultProxy
from tests.support.lives import LIVES
from tests.support.operator_process import OPERATOR_RULES, OperatorProcess
from tests.support.operator_world import timeless
from tests.support.tenant import Tenant

LIFE = LIVES["suspended and resumed"]
RESYNC_SECONDS = "3"


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """A server of our own: the operator acts on every FineTuneJob that it finds."""
    with ApiServer.started() as api:
        api.apply_crds()
        yield api


@pytest.fixture(scope="module")
def kubeconfig(server: ApiServer) -> Path:
    server.create_namespace("finetune-system")
    return server.service_account("operator", namespace="finetune-system", rules=OPERATOR_RULES)


@pytest.fixture(scope="module")
def wanted(server: ApiServer, kubeconfig: Path) -> object:
    """The end of the same job whose operator hears everything at once."""
    with FaultProxy.started(server) as proxy:
        tenant = _lives(server, proxy.kubeconfig(kubeconfig))
    return _end(tenant)


@pytest.mark.parametrize("faults", [*((fault,) for fault in FAULTS), FAULTS], ids=[*FAULTS, "all of them"])
def test_a_job_ends_the_same_whatever_becomes_of_the_watches(
    server: ApiServer, kubeconfig: Path, wanted: object, faults: tuple[Fault, ...]
) -> None:
    with FaultProxy.started(server, *faults) as proxy:
        tenant = _lives(server, proxy.kubeconfig(kubeconfig))
    assert _end(tenant) == wanted
    assert {fault for fault, count in proxy.done.items() if count} == set(faults)


def _lives(server: ApiServer, kubeconfig: Path) -> Tenant:
    tenant = Tenant(server, LIFE)
    with OperatorProcess.started(kubeconfig, FINETUNE_RESYNC_SECONDS=RESYNC_SECONDS) as operator:
        tenant.add_runtime()
        tenant.submit()
        tenant.until(tenant.finished, within=120)
        assert operator.unexpected() == []
    assert tenant.simulator.pods_made == LIFE.pods
    assert tenant.simulator.violations == []
    return tenant


def _end(tenant: Tenant) -> object:
    """The job's status without times, uids and names."""
    status = timeless(tenant.status())
    status["runtime"].pop("name")
    status["runtime"].pop("generation", None)
    for stage in status["stages"]:
        stage.pop("jobName")
    return status
