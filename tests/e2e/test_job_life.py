"""One job from kubectl apply to scores in status, on real pods with a tiny model."""

from __future__ import annotations

import json

import pytest

from tests.e2e.world import Tenant, World, until

pytestmark = pytest.mark.timeout(900)


def test_a_job_with_a_gpu_runs_two_stages_and_ends_with_both_scores_in_status(tenant: Tenant) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 1}))
    status = tenant.wait_finished()["status"]
    assert status["phase"] == "Succeeded", status
    assert [stage["name"] for stage in status["stages"]] == ["prepare", "train"]
    assert [stage["state"] for stage in status["stages"]] == ["Succeeded", "Succeeded"]
    results = status["results"]
    assert results["metric"] == "ChoiceAccuracy"
    assert results["test"]["total"] == status["dataset"]["test"] > 0
    assert float(results["test"]["score"]) > float(results["baseline"]["score"])
    assert status["progress"]["percent"] == 100
    stored = json.loads(tenant.read("tiny", "results.json"))
    assert stored["results"]["test"] == results["test"]


def test_only_the_train_stage_asks_for_a_gpu(tenant: Tenant) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 1}))
    tenant.wait_finished()
    limits = {
        job["metadata"]["labels"]["finetune.dev/stage"]: job["spec"]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ]
        for job in tenant.jobs()
    }
    assert "nvidia.com/gpu" not in limits["prepare"]
    assert limits["train"]["nvidia.com/gpu"] == "1"


def test_a_job_without_a_gpu_runs_one_stage_that_does_both(tenant: Tenant) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    status = tenant.wait_finished()["status"]
    assert status["phase"] == "Succeeded", status
    assert [stage["name"] for stage in status["stages"]] == ["train"]
    assert len(tenant.jobs()) == 1


def test_kubectl_wait_returns_and_the_columns_show_both_scores(tenant: Tenant) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    kube = tenant.world.kube
    kube.kubectl("wait", "--for=condition=Finished", "ftj/tiny", "-n", tenant.namespace, "--timeout=300s")
    results = tenant.status()["results"]
    header, row = kube.kubectl("get", "ftj", "tiny", "-n", tenant.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "%", "BASE", "TEST", "AGE"]
    assert row.split()[:5] == ["tiny", "Succeeded", "100", results["baseline"]["score"], results["test"]["score"]]


def test_every_artifact_named_in_the_manifest_lies_in_the_bucket_with_its_digest(tenant: Tenant) -> None:
    import hashlib

    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    status = tenant.wait_finished()["status"]
    manifest_text = tenant.read("tiny", "manifest.json")
    assert "sha256:" + hashlib.sha256(manifest_text.encode()).hexdigest() == status["manifestDigest"]
    client = tenant.world.s3.client()
    files = json.loads(manifest_text)["files"]
    assert {"results.json", "predictions.jsonl"} <= {f["path"] for f in files}
    for file in files:
        key = f"{tenant.namespace}/tiny/{file['path']}"
        body = client.get_object(Bucket="e2e-results", Key=key)["Body"].read()
        assert "sha256:" + hashlib.sha256(body).hexdigest() == file["sha256"], file["path"]


def test_deleting_a_running_job_leaves_no_child_in_the_cluster(tenant: Tenant) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(training={"method": "Full", "epochs": 1000, "learningRate": "1e-3", "maxLength": 256}))
    until("a pod runs", lambda: [p for p in tenant.pods() if p["status"]["phase"] == "Running"], timeout=120)
    tenant.world.kube.kubectl("delete", "ftj", "tiny", "-n", tenant.namespace, "--wait=false")
    until("jobs and pods are gone", lambda: not tenant.jobs() and not tenant.pods(), timeout=120)


def test_pods_carry_no_api_token_and_pass_restricted_pod_security(tenant: Tenant, world: World) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(resources={"gpusPerNode": 0}))
    tenant.wait_finished()
    (pod,) = tenant.pods()
    mounts = [m["mountPath"] for m in pod["spec"]["containers"][0]["volumeMounts"]]
    assert not any("kubernetes.io/serviceaccount" in path for path in mounts)
    labels = world.kube.get("namespace", tenant.namespace)
    assert labels is not None
    assert labels["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
