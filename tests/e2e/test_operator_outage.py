"""An operator that dies or is away never harms a training and never starts a second one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.podlog import whole_log
from tests.e2e.world import Tenant, World, until

pytestmark = pytest.mark.timeout(600)


def _uids(tenant: Tenant) -> set[str]:
    return {job["metadata"]["uid"] for job in tenant.jobs()}


def _ended(tenant: Tenant) -> list[str]:
    def complete(job: dict[str, Any]) -> bool:
        return any(c["type"] == "Complete" and c["status"] == "True" for c in job["status"].get("conditions", []))

    return [job["metadata"]["name"] for job in tenant.jobs() if complete(job)]


def test_an_operator_killed_while_a_pod_runs_goes_on_with_the_same_pod(tenant: Tenant, world: World) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    until("the pod runs", lambda: [p for p in tenant.pods() if p["status"]["phase"] == "Running"], timeout=120)
    before = _uids(tenant)
    world.kill_operator()
    assert tenant.wait_finished()["status"]["phase"] == "Succeeded"
    assert _uids(tenant) == before
    assert len(tenant.pods()) == 1


def test_what_ends_while_the_operator_is_down_is_in_status_when_it_is_back_even_if_its_message_is_lost(
    tenant: Tenant, world: World, pair: str
) -> None:
    """Of the two jobs, one loses its pod, and with it its report, before anybody has read it."""
    tenant.put_rows()
    cpu = {"resources": {"gpusPerNode": 0}, "runtimeRef": {"name": pair}}
    tenant.apply(tenant.job("told", **cpu), tenant.job("lost", **cpu))
    for name in ("told", "lost"):
        tenant.running_pod(name)
    world.scale_operator(0)
    try:
        until("both trainings have ended", lambda: len(_ended(tenant)) == 2, timeout=240, pause=1)
        assert {tenant.status(name).get("phase") for name in ("told", "lost")}.isdisjoint({"Succeeded", "Failed"})
        (pod,) = tenant.pods("lost")
        tenant.delete("pod", pod["metadata"]["name"], "--wait")
        before = tenant.read("lost", "manifest.json")
    finally:
        world.scale_operator(1)
    told = tenant.wait_finished("told", timeout=90)["status"]
    assert told["phase"] == "Succeeded"
    assert len(tenant.pods("told")) == 1
    lost = tenant.wait_finished("lost", timeout=150)["status"]
    assert lost["phase"] == "Succeeded", lost
    assert "test" in lost["results"]
    # The second pod only says again what the first one did.
    assert tenant.read("lost", "manifest.json") == before
    (pod,) = tenant.pods("lost")
    names = [entry["event"] for entry in whole_log(tenant, pod)]
    assert "already_complete" in names
    assert "train" not in names


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
