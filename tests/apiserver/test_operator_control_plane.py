"""The operator's process while the control plane itself fails: restarts, older data, definitions, what changes pods."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.cluster.protocol import Raw
from finetune_operator.cluster.views import is_finished
from tests.support.apiserver import ApiServer
from tests.support.builders import cpu_spec
from tests.support.lives import LIVES
from tests.support.operator_process import OPERATOR_RULES, OperatorProcess, eventually
from tests.support.tenant import Tenant

JOBS = 50
LASTING = replace(LIVES["one stage"], lasts=lambda _stage, _number: 40)
"""A life whose pod runs long enough for something to happen to the control plane meanwhile."""


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """A server of our own, which these tests stop."""
    with ApiServer.started(
        "--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true"
    ) as api:
        api.apply_crds()
        yield api


@pytest.fixture(scope="module")
def kubeconfig(server: ApiServer) -> Path:
    server.create_namespace("finetune-system")
    return server.service_account("operator", namespace="finetune-system", rules=OPERATOR_RULES)


@pytest.fixture
def operator(kubeconfig: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess.started(kubeconfig, FINETUNE_RESYNC_SECONDS="3") as process:
        yield process
        assert process.process.poll() is None, "the operator has ended"
        assert process.unexpected() == []


def in_mid_run(server: ApiServer) -> Tenant:
    tenant = Tenant(server, LASTING)
    tenant.add_runtime()
    tenant.submit()
    tenant.until(lambda: tenant.status().get("phase") == "Training")
    return tenant


def succeeds(tenant: Tenant, pods: dict[str, int] | None = None) -> None:
    tenant.until(tenant.finished)
    assert tenant.status()["phase"] == "Succeeded"
    assert tenant.simulator.pods_made == (pods or tenant.life.pods)
    assert tenant.simulator.violations == []


def test_an_api_server_that_restarts_in_mid_run_costs_neither_the_pod_nor_the_operator(
    server: ApiServer, operator: OperatorProcess
) -> None:
    tenant = in_mid_run(server)
    with server.away():
        pass
    succeeds(tenant)


def test_what_is_submitted_after_a_restart_of_the_api_server_runs(server: ApiServer, operator: OperatorProcess) -> None:
    with server.away():
        pass
    tenant = Tenant(server)
    tenant.add_runtime()
    tenant.submit()
    succeeds(tenant)


def test_an_etcd_that_is_restored_from_mid_run_after_the_end_has_the_job_end_once_more_without_a_second_pod(
    server: ApiServer, operator: OperatorProcess, tmp_path: Path
) -> None:
    tenant = in_mid_run(server)
    with server.away() as data:
        shutil.copytree(data, tmp_path / "snapshot")
    succeeds(tenant)
    restore(server, tmp_path / "snapshot")
    assert tenant.status()["phase"] == "Training"
    succeeds(tenant)


def test_an_etcd_that_is_restored_from_before_the_first_pod_has_the_job_run_anew_with_one_pod_at_a_time(
    server: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    tenant = Tenant(server)
    tenant.add_runtime()
    tenant.submit()
    with server.away() as data:
        shutil.copytree(data, tmp_path / "snapshot")
    with OperatorProcess.started(kubeconfig, FINETUNE_RESYNC_SECONDS="3") as operator:
        succeeds(tenant)
        restore(server, tmp_path / "snapshot")
        succeeds(tenant, {"prepare": 2, "train": 2})
        assert operator.unexpected() == []


def restore(server: ApiServer, snapshot: Path) -> None:
    """Put older data in place of what etcd has, as they were: versions that were given out are given out again."""
    with server.away() as data:
        shutil.rmtree(data)
        shutil.copytree(snapshot, data)


def test_definitions_that_are_applied_again_in_mid_run_change_nothing(
    server: ApiServer, operator: OperatorProcess
) -> None:
    tenant = in_mid_run(server)
    label = {"metadata": {"labels": {"example.com/applied": "again"}}}
    kind = "application/merge-patch+json"
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/finetunejobs.finetune.dev"
    assert server.request("PATCH", path, label, content_type=kind)[0] == 200
    server.apply_crds()
    succeeds(tenant)


def test_a_policy_that_changes_the_pod_template_is_left_alone(server: ApiServer, operator: OperatorProcess) -> None:
    server.apply(*changing_pod_templates())
    try:
        tenant = Tenant(server, LASTING)
        tenant.add_runtime()
        eventually(lambda: "changed" in annotations(dry_run(server, tenant.namespace)))
        tenant.submit()
        tenant.until(lambda: tenant.status().get("phase") == "Training")
        (child,) = tenant.backend.jobs()
        assert annotations(child)["changed"] == "yes"
        succeeds(tenant)
        assert [one["metadata"]["uid"] for one in tenant.backend.jobs()] == [child["metadata"]["uid"]]
    finally:
        for kind in ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy"):
            server.kubectl("delete", kind, "change-templates")


def annotations(job: Raw) -> Raw:
    return dict(job["spec"]["template"]["metadata"].get("annotations") or {})


def dry_run(server: ApiServer, namespace: str) -> Raw:
    """What becomes of a Job that is created there."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "probe"},
        "spec": {"template": {"metadata": {"annotations": {"probe": "yes"}}, "spec": pod}},
    }
    status, answer = server.request("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All", body)
    assert status == 201, str(answer)
    return dict(answer)


def changing_pod_templates() -> list[dict[str, Any]]:
    """A policy that does what platforms do to all pods: a label, another scheduler, another grace period."""
    expression = (
        "Object{spec: Object.spec{template: Object.spec.template{"
        'metadata: Object.spec.template.metadata{annotations: {"changed": "yes"}, labels: {"team": "ml"}},'
        'spec: Object.spec.template.spec{terminationGracePeriodSeconds: 45, schedulerName: "packing"}}}}'
    )
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    head = {"apiVersion": "admissionregistration.k8s.io/v1beta1", "metadata": {"name": "change-templates"}}
    policy = {
        "matchConstraints": {"resourceRules": [rule]},
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}],
        "reinvocationPolicy": "Never",
        "failurePolicy": "Fail",
    }
    return [
        {**head, "kind": "MutatingAdmissionPolicy", "spec": policy},
        {**head, "kind": "MutatingAdmissionPolicyBinding", "spec": {"policyName": "change-templates"}},
    ]


def test_an_operator_that_is_killed_while_fifty_jobs_run_goes_on_with_their_pods(
    server: ApiServer, kubeconfig: Path
) -> None:
    tenant = Tenant(server, replace(LASTING, lasts=lambda _stage, _number: 3))
    tenant.add_runtime()
    names = [f"job-{number}" for number in range(JOBS)]
    with OperatorProcess.started(kubeconfig) as operator:
        for name in names:
            tenant.submit(cpu_spec(), name)
        eventually(lambda: len(tenant.backend.jobs()) == JOBS)
        tenant.simulator.tick()
        operator.kill()
    tenant.simulator.tick()
    with OperatorProcess.started(kubeconfig) as operator:
        eventually(
            lambda: all(is_finished(tenant.job(name)) for name in names), during=tenant.simulator.tick, within=120
        )
        assert operator.unexpected() == []
    assert {tenant.status(name)["phase"] for name in names} == {"Succeeded"}
    assert tenant.simulator.pods_made == {"train": JOBS}
    assert tenant.simulator.violations == []
