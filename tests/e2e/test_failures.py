"""What a user sees when something is wrong: a reason, a message with the mend, and nothing half done."""

from __future__ import annotations

from typing import Any

import pytest

from hack.demo.install import tenant_objects
from tests.e2e.world import SECRET, Tenant, until

pytestmark = pytest.mark.timeout(600)


def _ended_with(job: dict[str, Any], reason: str) -> str:
    status = job["status"]
    assert status["phase"] == "Failed", status
    assert status["failure"]["reason"] == reason, status["failure"]
    conditions = {c["type"]: c for c in status["conditions"]}
    assert conditions["Succeeded"]["status"] == "False"
    assert conditions["Succeeded"]["reason"] == reason
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Reconciling"]["status"] == "False"
    assert "results" not in status
    return str(status["failure"]["message"])


def test_a_template_that_names_an_unknown_column_fails_in_prepare_and_says_which(tenant: Tenant) -> None:
    tenant.put_rows()
    manifest = tenant.job()
    manifest["spec"]["dataset"]["template"] = {"inline": {"prompt": "{{ utterance }}", "completion": "{{ label }}"}}
    tenant.apply(manifest)
    message = _ended_with(tenant.wait_finished(), "TemplateInvalid")
    assert "utterance" in message
    status = tenant.status()
    assert status["failure"]["stage"] == "prepare"
    assert status["failure"]["exitCode"] == 16
    assert [s["attempts"] for s in status["stages"] if s["name"] == "prepare"] == [1]
    assert not any(job["metadata"]["name"].endswith("-train") for job in tenant.jobs())


def test_a_missing_dataset_fails_with_its_uri_and_without_a_retry(tenant: Tenant) -> None:
    tenant.apply(tenant.job())
    message = _ended_with(tenant.wait_finished(), "DatasetNotFound")
    assert f"s3://e2e-data/{tenant.namespace}/rows.jsonl" in message
    assert len(tenant.pods()) == 1


def test_rows_that_are_not_json_fail_with_the_line_number(tenant: Tenant) -> None:
    tenant.put_rows('{"text": "a", "label": "b"}\n{"text": \n' * 20)
    tenant.apply(tenant.job())
    assert "line 2" in _ended_with(tenant.wait_finished(), "DatasetInvalid")


def test_a_wrong_key_fails_with_access_denied_and_never_shows_the_key(tenant: Tenant) -> None:
    tenant.put_rows()
    secret = tenant_objects(tenant.namespace, tenant.world.s3, secret=SECRET)[1]
    secret["stringData"]["AWS_SECRET_ACCESS_KEY"] = "canary-of-a-wrong-key"
    tenant.world.kube.apply(secret)
    tenant.apply(tenant.job())
    message = _ended_with(tenant.wait_finished(), "AccessDenied")
    assert "canary" not in message
    assert "canary" not in str(tenant.get())


def test_credentials_that_arrive_late_are_waited_for(tenant: Tenant) -> None:
    kube = tenant.world.kube
    kube.kubectl("delete", "secret", SECRET, "-n", tenant.namespace)
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    until(
        "the job says that it waits for the Secret",
        lambda: tenant.condition("Succeeded").get("reason") == "CredentialsNotFound",
        timeout=90,
    )
    waiting = tenant.condition("Succeeded")
    assert waiting["status"] == "Unknown"
    assert SECRET in waiting["message"]
    assert tenant.condition("Reconciling")["status"] == "True"
    tenant.add_secret()
    assert tenant.wait_finished(timeout=400)["status"]["phase"] == "Succeeded"


def test_a_runtime_that_arrives_late_is_waited_for(tenant: Tenant) -> None:
    kube = tenant.world.kube
    tenant.put_rows()
    name = f"late-{tenant.namespace[-8:]}".replace("--", "-")
    tenant.apply(tenant.job(runtimeRef={"name": name}, resources={"gpusPerNode": 0}))
    until("it waits", lambda: tenant.condition("Succeeded").get("reason") == "RuntimeNotFound", timeout=60)
    default = kube.get("finetuneruntime", "default")
    assert default is not None
    kube.apply(
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneRuntime",
            "metadata": {"name": name},
            "spec": default["spec"],
        }
    )
    try:
        assert tenant.wait_finished()["status"]["phase"] == "Succeeded"
    finally:
        kube.kubectl("delete", "finetuneruntime", name)


def test_an_output_that_belongs_to_another_job_is_never_overwritten(tenant: Tenant) -> None:
    tenant.put_rows()
    first = tenant.job("first", resources={"gpusPerNode": 0})
    tenant.apply(first)
    assert tenant.wait_finished("first")["status"]["phase"] == "Succeeded"
    before = tenant.read("first", "manifest.json")
    second = tenant.job("second", resources={"gpusPerNode": 0})
    second["spec"]["output"]["uri"] = first["spec"]["output"]["uri"]
    tenant.apply(second)
    _ended_with(tenant.wait_finished("second"), "OutputExists")
    assert tenant.read("first", "manifest.json") == before
