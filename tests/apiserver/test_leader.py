"""Two operators on one real API server: one works, the other waits, and the audit log tells who wrote what."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest

from finetune_operator.cluster.protocol import Raw
from tests.support.apiserver import ApiServer
from tests.support.builders import cpu_spec, job_spec
from tests.support.operator_process import LEASE_RULES, OPERATOR_RULES, OperatorProcess, eventually
from tests.support.tenant import JOB, Tenant

SYSTEM: Final = "finetune-system"
LEASE: Final = "finetune-operator"
LEASE_SECONDS: Final = 6
TERMS: Final = {
    "FINETUNE_LEASE_SECONDS": str(LEASE_SECONDS),
    "FINETUNE_LEASE_RENEW_SECONDS": "4",
    "FINETUNE_LEASE_RETRY_SECONDS": "1",
}
READS: Final = frozenset({"get", "list", "watch"})


class Pair:
    """Two operators, each with an account of its own, of one installation."""

    def __init__(self, server: ApiServer, audit: Path, stack: ExitStack) -> None:
        self.server, self._audit, self._stack = server, audit, stack
        self._from = len(audit.read_bytes())

    def start(self, name: str) -> OperatorProcess:
        """Start one and wait until it is ready, whichever role it has."""
        kubeconfig = self.server.service_account(name, namespace=SYSTEM, rules=OPERATOR_RULES)
        self.server.service_account(name, namespace=SYSTEM, rules=LEASE_RULES, cluster_wide=False)
        settings = {"FINETUNE_LEASE": LEASE, "FINETUNE_NAMESPACE": SYSTEM, "FINETUNE_POD_NAME": name, **TERMS}
        return self._stack.enter_context(OperatorProcess.started(kubeconfig, **settings))

    def both(self) -> tuple[OperatorProcess, OperatorProcess]:
        """Start both; the first one leads."""
        first = self.start("one")
        assert first.records("Leading")
        second = self.start("two")
        assert second.records("StandingBy")
        return first, second

    def writes(self, name: str, *, since: float = 0.0) -> list[str]:
        """What an operator has written but the Lease, as ``verb resource``."""
        with self._audit.open("rb") as file:
            file.seek(self._from)
            lines = [json.loads(line) for line in file.read().splitlines()]
        account = f"system:serviceaccount:{SYSTEM}:{name}"
        return [
            f"{line['verb']} {line['objectRef']['resource']}"
            for line in lines
            if line["user"]["username"] == account
            and line["verb"] not in READS
            and line["objectRef"]["resource"] != "leases"
            and _seconds(line["requestReceivedTimestamp"]) >= since
        ]

    def lease(self) -> Raw:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{LEASE}"
        return dict(self.server.request("GET", path)[1].get("spec", {}))


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.log"


@pytest.fixture(scope="module")
def server(audit: Path) -> Iterator[ApiServer]:
    """A server of our own: the operators act on every FineTuneJob that they find."""
    policy = audit.with_name("policy.json")
    rules = [{"level": "Metadata", "omitStages": ["RequestReceived"]}]
    policy.write_text(json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules}))
    with ApiServer.started(f"--audit-policy-file={policy}", f"--audit-log-path={audit}") as api:
        api.apply_crds()
        api.create_namespace(SYSTEM)
        yield api


@pytest.fixture
def pair(server: ApiServer, audit: Path) -> Iterator[Pair]:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{LEASE}"
    server.request("DELETE", path)
    with ExitStack() as stack:
        yield Pair(server, audit, stack)


@pytest.fixture
def tenant(server: ApiServer) -> Tenant:
    tenant = Tenant(server)
    tenant.add_runtime()
    return tenant


def trains(tenant: Tenant) -> bool:
    return any(stage["name"] == "train" and stage.get("jobUid") for stage in tenant.status().get("stages", []))


def ended_well(tenant: Tenant, pods: dict[str, int]) -> None:
    tenant.until(tenant.finished)
    assert tenant.status()["phase"] == "Succeeded"
    assert tenant.simulator.pods_made == pods
    assert tenant.simulator.violations == []


def leading(operator: OperatorProcess, *, within: float) -> dict[str, Any]:
    """Wait until it leads; returns what its log says of that."""
    fields: dict[str, Any] = eventually(lambda: operator.records("Leading"), within=within)[0]["fields"]
    return fields


def test_of_two_operators_one_writes_and_the_other_is_ready(pair: Pair, tenant: Tenant) -> None:
    leader, standby = pair.both()
    tenant.submit(job_spec())
    ended_well(tenant, {"prepare": 1, "train": 1})
    assert "create jobs" in pair.writes("one")
    assert pair.writes("two") == []
    assert standby.get("/readyz")[0] == standby.get("/healthz")[0] == 200
    assert pair.lease()["holderIdentity"].startswith("one_")
    told = [operator.get("/metrics", metrics=True)[1] for operator in (leader, standby)]
    assert ["finetune_leader 1.0" in text for text in told] == [True, False]
    assert [f'namespace="{tenant.namespace}"' in text for text in told] == [True, False]
    assert leader.unexpected() == standby.unexpected() == []


def test_a_leader_that_is_killed_is_followed_within_the_lease_and_a_few_seconds(pair: Pair, tenant: Tenant) -> None:
    leader, standby = pair.both()
    tenant.submit(job_spec())
    tenant.until(lambda: tenant.status().get("stages"))
    leader.kill()
    killed = time.monotonic()
    told = leading(standby, within=LEASE_SECONDS + 5)
    assert time.monotonic() - killed >= LEASE_SECONDS - 2
    assert LEASE_SECONDS <= told["takeoverSeconds"] <= LEASE_SECONDS + 5
    ended_well(tenant, {"prepare": 1, "train": 1})
    assert pair.lease()["leaseTransitions"] == 1
    assert standby.unexpected() == []


def test_a_leader_that_is_told_to_stop_hands_over_at_once(pair: Pair, tenant: Tenant) -> None:
    leader, standby = pair.both()
    tenant.submit(job_spec())
    tenant.until(lambda: tenant.status().get("stages"))
    code, seconds = leader.stop()
    assert (code, seconds < 5) == (0, True)
    assert leader.records("LeaseReleased")
    leading(standby, within=3)
    ended_well(tenant, {"prepare": 1, "train": 1})
    assert leader.unexpected() == standby.unexpected() == []


def test_a_leader_that_wakes_after_another_has_taken_over_writes_nothing_and_ends(pair: Pair, tenant: Tenant) -> None:
    leader, standby = pair.both()
    tenant.submit(job_spec())
    tenant.until(lambda: tenant.status().get("stages"))
    leader.process.send_signal(signal.SIGSTOP)
    leading(standby, within=LEASE_SECONDS + 5)
    # Work for both: what the sleeper hears first when it wakes.
    tenant.edit(ttlSecondsAfterFinished=77)
    second = Tenant(pair.server)
    second.add_runtime()
    second.submit(cpu_spec())
    woken = time.time()
    leader.process.send_signal(signal.SIGCONT)
    assert leader.process.wait(timeout=20) == 1
    assert "two_" in leader.records("LeaseLost")[0]["message"]
    ended_well(tenant, {"prepare": 1, "train": 1})
    ended_well(second, {"train": 1})
    assert pair.writes("one", since=woken) == []
    assert standby.unexpected() == []


def test_an_api_server_that_is_restarted_leaves_one_leader(pair: Pair, tenant: Tenant) -> None:
    leader, standby = pair.both()
    tenant.submit(job_spec())
    tenant.until(lambda: tenant.status().get("stages"))
    pair.server.restart_apiserver(down=LEASE_SECONDS + 2)
    ended_well(tenant, {"prepare": 1, "train": 1})
    running = [one for one in (leader, standby) if one.process.poll() is None]
    eventually(lambda: sum("finetune_leader 1.0" in one.get("/metrics", metrics=True)[1] for one in running) == 1)
    holder = pair.lease()["holderIdentity"].partition("_")[0]
    assert holder in ("one", "two")
    assert len(running) == 2 or leader.records("LeaseLost")


def test_a_lease_that_somebody_deletes_stays_with_its_holder(pair: Pair, tenant: Tenant) -> None:
    leader, standby = pair.both()
    assert pair.server.request("DELETE", f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{LEASE}")[0] == 200
    eventually(pair.lease)
    assert pair.lease()["holderIdentity"].startswith("one_")
    tenant.submit(cpu_spec())
    ended_well(tenant, {"train": 1})
    assert pair.writes("two") == []
    assert leader.unexpected() == standby.unexpected() == []


def test_an_operator_without_the_right_to_its_lease_says_so_and_does_not_work(
    server: ApiServer, tenant: Tenant
) -> None:
    kubeconfig = server.service_account("three", namespace=SYSTEM, rules=OPERATOR_RULES)
    settings = {"FINETUNE_LEASE": LEASE, "FINETUNE_NAMESPACE": SYSTEM, **TERMS}
    with OperatorProcess.started(kubeconfig, wait=False, **settings) as operator:
        (record,) = eventually(lambda: operator.records("PermissionDenied"))
        assert "leases" in record["message"]
        assert operator.get("/healthz")[0] == 200
        assert operator.get("/readyz")[0] == 503
        tenant.submit(cpu_spec())
        time.sleep(2)
        assert tenant.job(JOB)["status"] == {"observedGeneration": -1}
