"""The operator's process with its production rights against a real API server; the control plane is simulated."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from finetune_api.names import child_name
from finetune_operator.cluster.protocol import Raw
from tests.support.apiserver import ApiServer
from tests.support.builders import cpu_spec, job_spec
from tests.support.job_simulator import End, JobSimulator
from tests.support.lives import LIVES
from tests.support.operator_process import OPERATOR_RULES, OperatorProcess, ServerBackend, eventually
from tests.support.tenant import Tenant

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[ApiServer]:
    """A server of our own: the operator acts on every FineTuneJob that it finds."""
    with ApiServer.started() as api:
        yield api


@pytest.fixture(scope="module")
def kubeconfig(server: ApiServer) -> Path:
    server.create_namespace("finetune-system")
    return server.service_account("operator", namespace="finetune-system", rules=OPERATOR_RULES)


@pytest.fixture
def tenant(server: ApiServer, kubeconfig: Path) -> Tenant:
    server.apply_crds()
    return Tenant(server)


def test_an_operator_without_its_crds_waits_alive_and_goes_on_when_they_come(
    server: ApiServer, kubeconfig: Path
) -> None:
    with OperatorProcess.started(kubeconfig, wait=False) as operator:
        eventually(lambda: operator.records("WaitingForCRDs"))
        assert operator.get("/healthz")[0] == 200
        assert operator.get("/readyz")[0] == 503
        server.apply_crds()
        eventually(lambda: operator.get("/readyz")[0] == 200)
        tenant = Tenant(server)
        tenant.add_runtime()
        tenant.submit(cpu_spec())
        tenant.until(tenant.finished)
        assert operator.unexpected() == []


@pytest.mark.parametrize(("spec", "stages"), [(cpu_spec(), ["train"]), (job_spec(), ["prepare", "train"])])
def test_a_job_goes_from_submit_to_its_numbers(tenant: Tenant, kubeconfig: Path, spec: Raw, stages: list[str]) -> None:
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(spec)
        tenant.until(tenant.finished)
        status = tenant.status()
        assert (status["phase"], status["results"]["test"]["score"]) == ("Succeeded", "0.8709")
        assert tenant.simulator.pods_made == dict.fromkeys(stages, 1)
        assert tenant.simulator.violations == []
        backend = ServerBackend(tenant.api, tenant.namespace)
        # Only now that the result is in status may the children go.
        eventually(lambda: {job["spec"].get("ttlSecondsAfterFinished") for job in backend.jobs()} == {86400})
        eventually(lambda: {event["reason"] for event in tenant.events()} >= {"Started", "Succeeded"})
        assert len(tenant.events()) <= 4
        assert all(event["source"]["component"] == "finetune-operator" for event in tenant.events())
        assert operator.unexpected() == []


def test_a_pod_that_failed_and_was_followed_by_another_is_told_once(server: ApiServer, kubeconfig: Path) -> None:
    server.apply_crds()
    tenant = Tenant(server, LIVES["a retry"])
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(LIVES["a retry"].spec)
        tenant.until(tenant.finished)
        assert tenant.status()["phase"] == "Succeeded"
        stages = tenant.status()["stages"]
        assert [stage["lastFailure"]["attempt"] for stage in stages] == [1, 1]
        eventually(lambda: "Succeeded" in {event["reason"] for event in tenant.events()})
        told = [event for event in tenant.events() if event["reason"] == "AttemptFailed"]
        assert sorted(event["message"].partition(" (")[0] for event in told) == [
            "Attempt 1 of 3 of stage prepare",
            "Attempt 1 of 3 of stage train",
        ]
        assert {(event["type"], event["count"]) for event in told} == {("Warning", 1)}
        assert operator.unexpected() == []


def test_a_job_carries_nothing_of_the_operator_but_its_status_and_can_be_deleted_without_it(
    tenant: Tenant, kubeconfig: Path
) -> None:
    tenant.add_runtime()
    applied = tenant.submit(cpu_spec())
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.until(tenant.finished)
        assert operator.unexpected() == []
    ended = tenant.job()
    kept = ("finalizers", "annotations", "labels", "ownerReferences")
    assert [ended["metadata"].get(key) for key in kept] == [applied["metadata"].get(key) for key in kept]
    assert "finalizers" not in ended["metadata"]
    assert ended["spec"] == applied["spec"]
    tenant.delete()
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{tenant.namespace}/finetunejobs/{ended['metadata']['name']}"
    assert tenant.api.request("GET", path)[0] == 404


def test_a_job_waits_for_its_runtime_and_starts_when_it_comes(tenant: Tenant, kubeconfig: Path) -> None:
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(cpu_spec())
        tenant.until(lambda: tenant.reason() == "RuntimeNotFound")
        tenant.add_runtime()
        tenant.until(tenant.finished)
        assert tenant.status()["phase"] == "Succeeded"
        assert operator.unexpected() == []


def test_a_foreign_job_under_a_childs_name_is_a_conflict(tenant: Tenant, kubeconfig: Path) -> None:
    tenant.add_runtime()
    job = tenant.submit(cpu_spec())
    name = child_name("support-intent", job["metadata"]["uid"], "train")
    container = {"name": "x", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    tenant.api.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": tenant.namespace},
            "spec": {"template": template},
        }
    )
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.until(tenant.finished)
        assert tenant.status()["failure"]["reason"] == "NameConflict"
        assert operator.unexpected() == []
    assert tenant.api.request("GET", f"/apis/batch/v1/namespaces/{tenant.namespace}/jobs/{name}")[0] == 200


def test_a_quota_on_jobs_is_told_and_the_job_starts_when_it_is_lifted(tenant: Tenant, kubeconfig: Path) -> None:
    tenant.add_runtime()
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "jobs", "namespace": tenant.namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    tenant.api.apply(quota)
    path = f"/api/v1/namespaces/{tenant.namespace}/resourcequotas/jobs"
    # No controller counts here, and an uncounted quota refuses for another reason.
    hard = {"status": {"hard": {"count/jobs.batch": "0"}, "used": {"count/jobs.batch": "0"}}}
    tenant.api.request("PATCH", f"{path}/status", hard, content_type="application/merge-patch+json")
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(cpu_spec())
        tenant.until(lambda: tenant.reason() == "QuotaExceeded")
        tenant.api.request("DELETE", path)
        tenant.until(tenant.finished)
        assert tenant.status()["phase"] == "Succeeded"
        assert operator.unexpected() == []


def test_a_stage_that_ends_well_without_a_report_is_run_once_more_and_then_not_reported(
    tenant: Tenant, kubeconfig: Path
) -> None:
    backend = ServerBackend(tenant.api, tenant.namespace)
    tenant.simulator = JobSimulator(backend, now=lambda: datetime.now(UTC), end=lambda _document, _attempt: End())
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(cpu_spec())
        tenant.until(tenant.finished)
        status = tenant.status()
        assert status["failure"]["reason"] == "NotReported"
        assert "results" not in status
        assert tenant.simulator.pods_made == {"train": 2}
        assert operator.unexpected() == []


def test_an_operator_that_is_killed_again_and_again_still_runs_each_stage_once(
    tenant: Tenant, kubeconfig: Path
) -> None:
    tenant.add_runtime()
    tenant.submit(job_spec())
    for seconds in (0.05, 0.2, 0.35, 0.5):
        with OperatorProcess.started(kubeconfig) as operator:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                tenant.simulator.tick()
            operator.kill()
            assert operator.unexpected() == []
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.until(tenant.finished)
        assert operator.unexpected() == []
    assert tenant.status()["phase"] == "Succeeded"
    assert tenant.simulator.pods_made == {"prepare": 1, "train": 1}
    assert tenant.simulator.violations == []


def in_mid_run(server: ApiServer) -> Tenant:
    """A tenant whose train pod never ends by itself."""
    return Tenant(server, replace(LIVES["resumed at once"], person=lambda _job: None))


def the_child(tenant: Tenant) -> Raw:
    (child,) = tenant.backend.jobs()
    return child


def trains(tenant: Tenant) -> bool:
    return bool(tenant.status().get("phase") == "Training")


@pytest.mark.parametrize(("before", "after"), [(3600, 7200), (None, 3600)], ids=["raised", "set"])
def test_a_deadline_that_is_edited_in_mid_run_reaches_the_running_child(
    server: ApiServer, kubeconfig: Path, before: int | None, after: int
) -> None:
    tenant = in_mid_run(server)
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(cpu_spec(activeDeadlineSeconds=before))
        tenant.until(lambda: trains(tenant))
        child = the_child(tenant)
        assert child["status"]["active"] == 1
        assert child["spec"]["activeDeadlineSeconds"] == (before or 86400)
        tenant.edit(activeDeadlineSeconds=after)
        tenant.until(lambda: the_child(tenant)["spec"]["activeDeadlineSeconds"] == after)
        tenant.until(lambda: tenant.status()["observedGeneration"] == 2)
        assert the_child(tenant)["metadata"]["uid"] == child["metadata"]["uid"]
        assert operator.unexpected() == []


def test_a_job_that_is_suspended_leaves_no_pod_and_when_it_is_deleted_then_nothing(
    server: ApiServer, kubeconfig: Path
) -> None:
    tenant = in_mid_run(server)
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit()
        tenant.until(lambda: trains(tenant))
        tenant.edit(suspend=True)
        tenant.until(lambda: tenant.condition("Suspended") == ("True", "SpecSuspended"))
        assert tenant.status()["phase"] == "Suspended"
        assert tenant.condition("Reconciling") == ("False", "Suspended")
        assert (tenant.backend.jobs(), tenant.backend.pods()) == ([], [])
        eventually(lambda: {event["reason"] for event in tenant.events()} == {"Started", "Suspended"})
        tenant.delete()
        tenant.simulator.tick()
        assert (tenant.backend.jobs(), tenant.backend.pods()) == ([], [])
        assert operator.unexpected() == []


def test_a_job_with_the_longest_name_and_no_time_to_live_keeps_its_result_when_its_child_goes(
    tenant: Tenant, kubeconfig: Path
) -> None:
    name = "a" * 40
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(job_spec(ttlSecondsAfterFinished=0), name=name)
        eventually(lambda: tenant.status(name).get("phase") == "Succeeded", during=tenant.simulator.tick)
        eventually(lambda: {job["spec"].get("ttlSecondsAfterFinished") for job in tenant.backend.jobs()} == {0})
        for pod in tenant.backend.pods():
            tenant.backend.remove("pods", pod)
        for job in tenant.backend.jobs():  # as the TTL controller does
            path = f"/apis/batch/v1/namespaces/{tenant.namespace}/jobs/{job['metadata']['name']}"
            assert tenant.api.request("DELETE", path, {"propagationPolicy": "Background"})[0] == 200
        tenant.edit(name, ttlSecondsAfterFinished=60)
        eventually(lambda: tenant.status(name)["observedGeneration"] == 2)
        assert tenant.status(name)["phase"] == "Succeeded"
        assert tenant.backend.jobs() == []
        assert operator.unexpected() == []


def test_health_and_metrics_answer_and_sigterm_ends_it_within_five_seconds(tenant: Tenant, kubeconfig: Path) -> None:
    tenant.add_runtime()
    with OperatorProcess.started(kubeconfig) as operator:
        tenant.submit(cpu_spec())
        tenant.until(tenant.finished)
        assert operator.get("/healthz") == (200, json.dumps({"ok": True, "reason": None}))
        ended = 'finetune_job_duration_seconds_count{result="Succeeded"} 1.0'
        # Counted once the status stands, which the line above may see first; and the queue empties after that.
        eventually(lambda: ended in operator.get("/metrics", metrics=True)[1])
        eventually(lambda: "finetune_workqueue_depth 0.0" in operator.get("/metrics", metrics=True)[1])
        status, text = operator.get("/metrics", metrics=True)
        assert status == 200
        assert f'finetune_jobs{{namespace="{tenant.namespace}",phase="Succeeded"}} 1.0' in text
        assert f'finetune_jobs_ended_total{{namespace="{tenant.namespace}",reason="Completed"}} 1.0' in text
        assert 'finetune_api_requests_total{code="201",resource="jobs",verb="create"} 1.0' in text
        assert 'finetune_reconcile_total{result="ok"}' in text
        code, seconds = operator.stop()
        assert code == 0
        assert seconds < 5
        assert operator.unexpected() == []


def test_sigterm_ends_an_operator_that_still_waits_for_the_api_server(kubeconfig: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.kubeconfig"
    content = json.loads(kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere.write_text(json.dumps(content))
    with OperatorProcess.started(nowhere, wait=False) as operator:
        eventually(lambda: operator.records("ApiUnavailable"))
        code, seconds = operator.stop()
        assert (code, seconds < 5) == (0, True)
        assert operator.unexpected() == []


def test_an_operator_without_rights_says_so_and_does_not_become_ready(server: ApiServer, tenant: Tenant) -> None:
    powerless = server.service_account("powerless", namespace=tenant.namespace)
    with OperatorProcess.started(powerless, wait=False) as operator:
        record = eventually(lambda: operator.records("PermissionDenied"))[0]
        assert "finetunejobs" in record["message"]
        assert operator.get("/readyz")[0] == 503


def test_a_bad_setting_is_named_and_ends_the_start(kubeconfig: Path) -> None:
    with OperatorProcess.started(kubeconfig, wait=False, FINETUNE_WORKERS="many") as operator:
        assert operator.process.wait(timeout=20) == 2
        assert "FINETUNE_WORKERS" in operator.records("SettingsInvalid")[0]["message"]


def test_an_operator_whose_watch_dies_ends_with_an_error(server: ApiServer, tenant: Tenant, kubeconfig: Path) -> None:
    with OperatorProcess.started(kubeconfig) as operator:
        server.kubectl("delete", "crd", "finetuneruntimes.finetune.dev")
        assert operator.process.wait(timeout=60) == 1
        assert operator.records("OperatorFailed")
