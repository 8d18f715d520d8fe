"""Jobs from kubectl apply to scores in status, on real pods with a tiny model.

Two run at the same time and are looked at by all tests: one of two stages, with a name and a life that are as awkward
as they may be, and one of a single stage.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from typing import Any

import pytest

from tests.e2e.podlog import PodLog
from tests.e2e.world import Tenant, World, numbers, until
from tests.support.docs import PAGES, commands

pytestmark = pytest.mark.timeout(600)

TWO = "a-name-of-forty-characters-which-is-most"
ONE = "one"
# Long enough that whatever rows the split seals, the tiny model has learned the rule.
LEARNING = {"method": "Full", "epochs": 12, "learningRate": "3e-3", "batchSize": 8, "maxLength": 256}


@pytest.fixture(scope="module")
def lives(world: World, pair: str, shared_tenant: Tenant) -> Tenant:
    """Both jobs, running. The runtime of the one with two stages is spoilt and deleted before the second stage."""
    assert len(TWO) == 40
    tenant = shared_tenant
    tenant.put_rows()
    with world.runtime("e2e-fleeting", **world.stages_of(pair)) as fleeting:
        tenant.apply(
            tenant.job(TWO, resources={"gpusPerNode": 1}, runtimeRef={"name": fleeting}, training=LEARNING),
            tenant.job(ONE, resources={"gpusPerNode": 0}, runtimeRef={"name": pair}),
        )
        # An edit before a pod has started is taken over: a job that waits for a better image shall get it.
        until("a pod of the first stage has started", lambda: any(map(has_started, tenant.pods(TWO))), timeout=120)
        world.add_runtime(fleeting, image="registry.invalid/none@sha256:" + "0" * 64)
    return tenant


def has_started(pod: dict[str, Any]) -> bool:
    """Whether the kubelet has started the pod's containers."""
    return pod["status"]["phase"] not in ("Pending", "Unknown")


def done(lives: Tenant, name: str) -> dict[str, Any]:
    """Status of a job that has succeeded."""
    status: dict[str, Any] = lives.wait_finished(name)["status"]
    assert status["phase"] == "Succeeded", status
    return status


def test_a_job_with_a_gpu_runs_two_stages_and_ends_with_both_scores_in_status(lives: Tenant) -> None:
    status = done(lives, TWO)
    assert [stage["name"] for stage in status["stages"]] == ["prepare", "train"]
    assert [stage["state"] for stage in status["stages"]] == ["Succeeded", "Succeeded"]
    results = status["results"]
    assert results["metric"] == "ChoiceAccuracy"
    assert results["test"]["total"] == status["dataset"]["test"] > 0
    assert float(results["test"]["score"]) > float(results["baseline"]["score"])
    assert status["progress"]["percent"] == 100
    stored = json.loads(lives.read(TWO, "results.json"))
    assert numbers(stored["results"]) == numbers(results)


def test_a_runtime_that_is_edited_and_deleted_in_mid_run_changes_nothing_of_the_job(
    lives: Tenant, world: World
) -> None:
    done(lives, TWO)
    assert world.kube.get("finetuneruntime", "e2e-fleeting") is None
    images = {pod["spec"]["containers"][0]["image"] for pod in lives.pods(TWO)}
    assert images == {world.images.trainer}
    assert len(lives.pods(TWO)) == 2


def test_only_the_train_stage_asks_for_a_gpu(lives: Tenant) -> None:
    done(lives, TWO)
    limits = {
        job["metadata"]["labels"]["finetune.dev/stage"]: job["spec"]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ]
        for job in lives.jobs(TWO)
    }
    assert "nvidia.com/gpu" not in limits["prepare"]
    assert limits["train"]["nvidia.com/gpu"] == "1"


def test_a_job_without_a_gpu_runs_one_stage_that_does_both(lives: Tenant) -> None:
    assert [stage["name"] for stage in done(lives, ONE)["stages"]] == ["train"]
    assert len(lives.jobs(ONE)) == 1


def test_kubectl_wait_returns_and_the_columns_show_both_scores(lives: Tenant, world: World) -> None:
    kube = world.kube
    kube.kubectl("wait", "--for=condition=Finished", f"ftj/{ONE}", "-n", lives.namespace, "--timeout=300s")
    results = lives.status(ONE)["results"]
    header, row = kube.kubectl("get", "ftj", ONE, "-n", lives.namespace).splitlines()
    assert header.split() == ["NAME", "PHASE", "REASON", "%", "BASE", "TEST", "AGE"]
    scores = [results["baseline"]["score"], results["test"]["score"]]
    assert row.split()[:6] == [ONE, "Succeeded", "Completed", "100", *scores]


@pytest.mark.parametrize("command", [line for page in PAGES for line in commands(page, "kubectl")])
def test_every_kubectl_command_of_the_docs_answers_for_a_finished_job(
    command: str, lives: Tenant, world: World
) -> None:
    done(lives, ONE)
    named = re.sub(r"(?<=get )(ftj|finetunejob) \S+ -n NAMESPACE", f"ftj {ONE} -n {lives.namespace}", command)
    assert named != command
    assert world.kube.kubectl(*shlex.split(named)[1:]).strip()


@pytest.mark.parametrize("name", [ONE, TWO])
def test_every_artifact_named_in_the_manifest_lies_in_the_bucket_with_its_digest(name: str, lives: Tenant) -> None:
    status = done(lives, name)
    manifest_text = lives.read(name, "manifest.json")
    assert "sha256:" + hashlib.sha256(manifest_text.encode()).hexdigest() == status["manifestDigest"]
    client = lives.world.s3.client()
    files = json.loads(manifest_text)["files"]
    assert {"results.json", "predictions.jsonl"} <= {f["path"] for f in files}
    for file in files:
        key = f"{lives.namespace}/{name}/{file['path']}"
        body = client.get_object(Bucket="e2e-results", Key=key)["Body"].read()
        assert "sha256:" + hashlib.sha256(body).hexdigest() == file["sha256"], file["path"]


def test_pods_carry_no_api_token_and_pass_restricted_pod_security(lives: Tenant, world: World) -> None:
    done(lives, ONE)
    (pod,) = lives.pods(ONE)
    mounts = [m["mountPath"] for m in pod["spec"]["containers"][0]["volumeMounts"]]
    assert not any("kubernetes.io/serviceaccount" in path for path in mounts)
    labels = world.kube.get("namespace", lives.namespace)
    assert labels is not None
    assert labels["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_time_to_live_that_is_set_to_zero_after_the_end_removes_the_children_only(lives: Tenant) -> None:
    before = done(lives, TWO)
    lives.patch(TWO, ttlSecondsAfterFinished=0)
    until("the children are gone", lambda: not lives.jobs(TWO) and not lives.pods(TWO), timeout=60, pause=1)
    after = lives.status(TWO)
    assert after["results"] == before["results"]
    assert after["phase"] == "Succeeded"


def test_deleting_a_job_in_mid_training_leaves_no_child_in_the_cluster(lives: Tenant, pair: str) -> None:
    training = {"method": "Full", "epochs": 1000, "learningRate": "1e-3", "maxLength": 256}
    job = lives.job("endless", training=training, resources={"gpusPerNode": 0}, runtimeRef={"name": pair})
    lives.apply(job)
    log = PodLog(lives, lives.running_pod("endless"))
    log.wait_for("it trains", lambda entry: entry.get("event") == "train", timeout=120)
    lives.delete("ftj", "endless")
    log.close()
    until(
        "jobs and pods are gone",
        lambda: not lives.jobs("endless") and not lives.pods("endless"),
        timeout=120,
        pause=1,
    )
