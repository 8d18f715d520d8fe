"""An operator that dies or is away never harms a training and never starts a second one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.world import Tenant, World, until

pytestmark = pytest.mark.timeout(600)


def _uids(tenant: Tenant) -> set[str]:
    return {job["metadata"]["uid"] for job in tenant.jobs()}


def _train_ended(tenant: Tenant) -> bool:
    def complete(job: dict[str, Any]) -> bool:
        return any(c["type"] == "Complete" and c["status"] == "True" for c in job["status"].get("conditions", []))

    return any(complete(job) for job in tenant.jobs() if job["metadata"]["name"].endswith("-train"))


def test_an_operator_killed_while_a_pod_runs_goes_on_with_the_same_pod(tenant: Tenant, world: World) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    until("the pod runs", lambda: [p for p in tenant.pods() if p["status"]["phase"] == "Running"], timeout=120)
    before = _uids(tenant)
    world.kill_operator()
    assert tenant.wait_finished()["status"]["phase"] == "Succeeded"
    assert _uids(tenant) == before
    assert len(tenant.pods()) == 1


def test_a_job_that_ends_while_the_operator_is_down_gets_its_scores_when_it_is_back(
    tenant: Tenant, world: World
) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    until("the pod runs", lambda: [p for p in tenant.pods() if p["status"]["phase"] == "Running"], timeout=120)
    world.scale_operator(0)
    try:
        until("the training has ended", lambda: _train_ended(tenant), timeout=240)
        assert tenant.status().get("phase") != "Succeeded"
    finally:
        world.scale_operator(1)
    status = tenant.wait_finished(timeout=90)["status"]
    assert status["phase"] == "Succeeded"
    assert "test" in status["results"]
    assert len(tenant.pods()) == 1


def test_a_finished_job_is_never_run_again_after_its_children_are_gone(tenant: Tenant, world: World) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    before = tenant.wait_finished()["status"]
    world.kube.kubectl("delete", "jobs", "--all", "-n", tenant.namespace, "--wait")
    world.kill_operator()
    tenant.world.kube.kubectl(
        *("patch", "ftj", "tiny", "-n", tenant.namespace, "--type=merge"),
        *("-p", '{"spec": {"ttlSecondsAfterFinished": 7200}}'),
    )
    until(
        "the edit is observed",
        lambda: tenant.status()["observedGeneration"] == tenant.get()["metadata"]["generation"],
        timeout=60,
    )
    assert tenant.jobs() == []
    assert tenant.status()["results"] == before["results"]
