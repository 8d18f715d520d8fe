"""Live reports against a real API server: tokens that it makes and reviews, a Secret that nobody may read.

The operator runs as its own process with the chart's rights; pods are objects, and the test speaks for them.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from finetune_api.names import ANNOTATION_PROGRESS_CA, PROGRESS_AUDIENCE
from finetune_operator.cluster.protocol import Raw
from tests.support.apiserver import ApiServer
from tests.support.builders import cpu_spec
from tests.support.live_server import ACCOUNT, SECRET, SYSTEM, listening_settings, operator_rights, pod_token
from tests.support.operator_process import OperatorProcess, eventually
from tests.support.tenant import JOB, Tenant

REPORT: Final[Raw] = {"v": 1, "sequence": 1, "phase": "Training", "percent": 62, "step": 620, "totalSteps": 1000}


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """A server of our own: the operator acts on every FineTuneJob that it finds."""
    with ApiServer.started() as api:
        api.apply_crds()
        api.create_namespace(SYSTEM)
        yield api


@pytest.fixture(scope="module")
def kubeconfig(server: ApiServer) -> Path:
    return operator_rights(server)


class Reporting:
    """A job whose pod runs, and an operator that listens."""

    def __init__(self, tenant: Tenant, operator: OperatorProcess, port: int) -> None:
        self.tenant, self.operator, self.port = tenant, operator, port

    @property
    def api(self) -> ApiServer:
        return self.tenant.api

    def runs(self) -> Raw:
        """Submit a job; returns its pod once it runs and the operator knows of it."""
        self.tenant.add_runtime(allowedServiceAccounts=[ACCOUNT])
        account = {"apiVersion": "v1", "kind": "ServiceAccount"}
        self.api.apply({**account, "metadata": {"name": ACCOUNT, "namespace": self.tenant.namespace}})
        self.tenant.submit(cpu_spec(serviceAccountName=ACCOUNT))
        self.tenant.until(lambda: self.tenant.status().get("phase") == "Preparing")
        (pod,) = self.tenant.backend.pods()
        return pod

    def token(self, pod: Raw, audience: str = PROGRESS_AUDIENCE) -> str:
        return pod_token(self.api, pod, audience)

    def post(self, pod: Raw, token: str, **changes: Any) -> int:
        """Post as the pod does: it trusts what its annotation says, and no other authority."""
        context = ssl.create_default_context(cadata=pod["metadata"]["annotations"][ANNOTATION_PROGRESS_CA])
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=10, context=context)
        try:
            headers = {"Authorization": f"Bearer {token}"}
            connection.request("POST", "/v1/progress", json.dumps({**REPORT, **changes}), headers)
            return connection.getresponse().status
        finally:
            connection.close()


@contextmanager
def operating(server: ApiServer, kubeconfig: Path, **more: str) -> Iterator[Reporting]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with OperatorProcess.started(kubeconfig, **listening_settings(port), **more) as operator:
        yield Reporting(Tenant(server), operator, port)
        assert operator.unexpected() == []


def test_a_pods_report_stands_in_status_and_its_end_is_the_jobs(server: ApiServer, kubeconfig: Path) -> None:
    with operating(server, kubeconfig) as world:
        pod = world.runs()
        token = world.token(pod)
        assert eventually(lambda: world.post(pod, token) == 200)
        status = eventually(lambda: world.tenant.status().get("phase") == "Training" and world.tenant.status())
        assert (status["progress"]["percent"], status["progress"]["step"]) == (62, 620)
        columns = world.api.kubectl("get", "ftj", JOB, "-n", world.tenant.namespace)
        assert columns.splitlines()[1].split()[:4] == [JOB, "Training", "Training", "62"]
        world.tenant.until(world.tenant.finished)
        assert world.tenant.status()["progress"] == {"percent": 100}
        assert world.post(pod, token, sequence=2) in (403, 410)
        assert world.tenant.status()["progress"] == {"percent": 100}


def test_no_other_token_of_the_same_pod_is_taken_and_none_of_a_pod_that_is_gone(
    server: ApiServer, kubeconfig: Path
) -> None:
    with operating(server, kubeconfig) as world:
        pod = world.runs()
        good = world.token(pod)
        assert eventually(lambda: world.post(pod, good) == 200)
        assert world.post(pod, world.token(pod, "https://kubernetes.default.svc")) == 401
        assert world.post(pod, world.api.token(ACCOUNT, namespace=world.tenant.namespace)) == 401
        header, payload, _ = good.split(".")
        _, _, signature = world.token(pod, "another").split(".")
        assert world.post(pod, f"{header}.{payload}.{signature}") == 401
        name = pod["metadata"]["name"]
        world.api.request(
            "DELETE", f"/api/v1/namespaces/{world.tenant.namespace}/pods/{name}", {"gracePeriodSeconds": 0}
        )
        eventually(lambda: world.post(pod, good, sequence=9) in (403, 410))


def test_a_token_for_reports_is_good_for_nothing_at_the_api_server(server: ApiServer, kubeconfig: Path) -> None:
    with operating(server, kubeconfig) as world:
        token = world.token(world.runs())
        assert world.api.request("GET", "/api/v1/namespaces", token=token)[0] == 401


def test_the_authority_outlives_the_operator_and_nobody_may_read_it(server: ApiServer, kubeconfig: Path) -> None:
    with operating(server, kubeconfig) as world:
        pod = world.runs()
    with operating(server, kubeconfig) as again:
        again.tenant = world.tenant
        token = again.token(pod)
        assert eventually(lambda: again.post(pod, token) == 200)
    operator = json.loads(kubeconfig.read_text())["users"][0]["user"]["token"]
    secrets = f"/api/v1/namespaces/{SYSTEM}/secrets"
    assert server.request("GET", f"{secrets}/{SECRET}", token=operator)[0] == 403
    assert server.request("GET", secrets, token=operator)[0] == 403


def test_of_two_operators_the_leader_takes_reports_and_the_other_refuses_the_connection_until_it_leads(
    server: ApiServer, kubeconfig: Path
) -> None:
    lease = {"FINETUNE_LEASE": "finetune-operator"}
    with operating(server, kubeconfig, **lease) as leader, operating(server, kubeconfig, **lease) as standby:
        pod = leader.runs()
        token = leader.token(pod)
        assert eventually(lambda: leader.post(pod, token) == 200)
        with pytest.raises(ConnectionRefusedError):
            standby.post(pod, token)
        assert leader.operator.stop()[0] == 0
        eventually(lambda: standby.operator.records("Leading"))
        eventually(lambda: _listens(standby.port))
        assert eventually(lambda: standby.post(pod, token, sequence=2, percent=81, step=810) == 200)
        eventually(lambda: leader.tenant.status()["progress"].get("percent") == 81)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_without_the_secret_jobs_run_and_the_log_says_what_to_mend(server: ApiServer, kubeconfig: Path) -> None:
    with OperatorProcess.started(
        kubeconfig,
        FINETUNE_PROGRESS_URL="https://localhost:1",
        FINETUNE_PROGRESS_SECRET="another-name",
        FINETUNE_NAMESPACE=SYSTEM,
    ) as operator:
        (line,) = operator.records("NoLiveReports")
        assert "upgrade the chart's release" in line["message"]
        tenant = Tenant(server)
        tenant.add_runtime()
        tenant.submit(cpu_spec())
        tenant.until(tenant.finished)
        assert tenant.status()["phase"] == "Succeeded"
