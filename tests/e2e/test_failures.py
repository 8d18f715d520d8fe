"""What a user sees when something is wrong: a reason, a message with the mend, and nothing half done.

All jobs of this module are applied at once and fail side by side; each test looks at one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from finetune_api.names import child_name
from finetune_api.reasons import REASONS, Reason
from tests.e2e.machine import tag_of
from tests.e2e.world import Tenant, World, merged, until

pytestmark = pytest.mark.timeout(600)

CPU = {"gpusPerNode": 0}
LONG = {"method": "Full", "learningRate": "1e-4", "batchSize": 8, "maxLength": 256}
"""A training that lasts until kubelet has measured its volumes, which it does once a minute."""

RUNTIMES: dict[str, dict[str, Any]] = {
    "e2e-tight": {"train": {"resources": {"memory": "192Mi"}}},
    "e2e-unreachable": {"storage": [{"prefix": "s3://", "endpoint": "http://10.77.0.2:9"}]},
    "e2e-narrow": {"allowedUriPrefixes": ["s3://elsewhere/"], "limits": {"pendingTimeoutSeconds": 20}},
    "e2e-full-disk": {"train": {"resources": {"ephemeralStorage": "1Mi"}}},
    "e2e-nowhere": {"train": {"nodeSelector": {"e2e": "nowhere"}}},
    "e2e-impatient": {"allowUnpinnedImage": True, "limits": {"pendingTimeoutSeconds": 20}},
    "e2e-no-trainer": {},
}


@pytest.fixture(scope="module")
def crowd(world: World, pair: str, shared_tenant: Tenant) -> Iterator[Tenant]:
    """Every job that fails, applied at once."""
    images = {
        "e2e-impatient": tag_of(world.images.trainer, "never-pushed"),
        "e2e-no-trainer": world.images.operator,
    }
    half = world.stages_of(pair)
    with ExitStack() as stack:
        for name, changes in RUNTIMES.items():
            image = {"image": images[name]} if name in images else {}
            stack.enter_context(world.runtime(name, **merged(half, {**changes, **image})))
        shared_tenant.put_rows()
        shared_tenant.put_rows('{"text": "a", "label": "b"}\n{"text": \n' * 20, name="broken.jsonl")
        shared_tenant.add_secret("wrong-s3", AWS_SECRET_ACCESS_KEY="canary-of-a-wrong-key")
        shared_tenant.apply(*jobs(shared_tenant, pair))
        yield shared_tenant


def jobs(tenant: Tenant, pair: str) -> list[dict[str, Any]]:
    def job(name: str, runtime: str = pair, **spec: Any) -> dict[str, Any]:
        return tenant.job(name, **{"runtimeRef": {"name": runtime}, "resources": CPU, **spec})

    column = job("unknown-column", resources={"gpusPerNode": 1})
    column["spec"]["dataset"]["template"] = {"inline": {"prompt": "{{ utterance }}", "completion": "{{ label }}"}}
    missing = job("no-rows")
    missing["spec"]["dataset"]["uri"] = f"s3://e2e-data/{tenant.namespace}/nothing.jsonl"
    broken = job("not-json")
    broken["spec"]["dataset"]["uri"] = f"s3://e2e-data/{tenant.namespace}/broken.jsonl"
    wrong = job("wrong-key")
    wrong["spec"]["dataset"]["credentialsRef"] = {"name": "wrong-s3"}
    return [
        job("too-slow", "e2e-nowhere", activeDeadlineSeconds=60),
        job("out-of-memory", "e2e-tight", backoffLimit=1),
        job("no-trainer", "e2e-no-trainer", backoffLimit=1),
        job("unreachable", "e2e-unreachable", backoffLimit=1),
        column,
        missing,
        broken,
        wrong,
        job("not-allowed", "e2e-narrow"),
        job("full-disk", "e2e-full-disk", backoffLimit=0, training={**LONG, "epochs": 1000}),
        job("impatient", "e2e-impatient"),
    ]


def ended_with(tenant: Tenant, name: str, reason: Reason) -> dict[str, Any]:
    """Wait for the failure, check what all failures have in common, and return status.failure."""
    status = tenant.wait_finished(name)["status"]
    assert status["phase"] == "Failed", status
    failure: dict[str, Any] = status["failure"]
    assert failure["reason"] == reason, failure
    conditions = {c["type"]: c for c in status["conditions"]}
    assert (conditions["Succeeded"]["status"], conditions["Succeeded"]["reason"]) == ("False", reason)
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Reconciling"]["status"] == "False"
    assert "results" not in status
    assert not tenant.holds(name, "manifest.json")
    return failure


def attempts(tenant: Tenant, name: str) -> int:
    """Pods that the job has had, by its stages."""
    return sum(stage["attempts"] for stage in tenant.status(name)["stages"])


def test_a_template_that_names_an_unknown_column_fails_in_prepare_and_says_which(crowd: Tenant) -> None:
    failure = ended_with(crowd, "unknown-column", Reason.TEMPLATE_INVALID)
    assert "utterance" in failure["message"]
    assert (failure["stage"], failure["exitCode"]) == ("prepare", 16)
    assert attempts(crowd, "unknown-column") == 1
    assert [job["metadata"]["labels"]["finetune.dev/stage"] for job in crowd.jobs("unknown-column")] == ["prepare"]


def test_a_missing_dataset_fails_with_its_uri_and_without_a_retry(crowd: Tenant) -> None:
    failure = ended_with(crowd, "no-rows", Reason.DATASET_NOT_FOUND)
    assert f"s3://e2e-data/{crowd.namespace}/nothing.jsonl" in failure["message"]
    assert len(crowd.pods("no-rows")) == 1


def test_rows_that_are_not_json_fail_with_the_line_number(crowd: Tenant) -> None:
    assert "line 2" in ended_with(crowd, "not-json", Reason.DATASET_INVALID)["message"]


def test_the_log_of_a_failed_attempt_can_be_read_without_its_pod(crowd: Tenant) -> None:
    failure = ended_with(crowd, "not-json", Reason.DATASET_INVALID)
    lines = [json.loads(line) for line in crowd.read("not-json", failure["log"]).splitlines()]
    assert {line["job"] for line in lines} == {f"{crowd.namespace}/not-json"}
    assert "line 2" in lines[-1]["message"]


def test_a_wrong_key_fails_with_access_denied_and_never_shows_the_key(crowd: Tenant) -> None:
    ended_with(crowd, "wrong-key", Reason.ACCESS_DENIED)
    assert "canary" not in str(crowd.get("wrong-key"))


def test_a_uri_that_the_runtime_does_not_allow_is_waited_for_and_fails_without_a_pod(crowd: Tenant) -> None:
    failure = ended_with(crowd, "not-allowed", Reason.NOT_PERMITTED)
    assert failure["message"].startswith("Waited 20 s (pendingTimeoutSeconds of the runtime).")
    assert "allowedUriPrefixes of FineTuneRuntime e2e-narrow" in failure["message"]
    assert crowd.jobs("not-allowed") == []


def test_an_endpoint_that_does_not_answer_is_tried_again_as_often_as_backofflimit_says(crowd: Tenant) -> None:
    failure = ended_with(crowd, "unreachable", Reason.STORAGE_UNAVAILABLE)
    assert failure["exitCode"] == 30
    assert attempts(crowd, "unreachable") == 2


def test_a_pod_that_takes_more_memory_than_it_has_is_tried_again_and_then_out_of_memory(crowd: Tenant) -> None:
    failure = ended_with(crowd, "out-of-memory", Reason.OUT_OF_MEMORY)
    assert failure["exitCode"] == 137
    assert failure["message"].endswith(REASONS[Reason.OUT_OF_MEMORY].mend)
    assert attempts(crowd, "out-of-memory") == 2


def test_a_pod_that_fills_its_disk_is_evicted_and_told_with_the_amount(crowd: Tenant) -> None:
    failure = ended_with(crowd, "full-disk", Reason.DISK_FULL)
    assert "1Mi" in failure["message"], failure
    assert failure["message"].endswith(REASONS[Reason.DISK_FULL].mend)


def test_pods_that_fail_for_no_known_reason_use_the_backoff_limit_up(crowd: Tenant) -> None:
    failure = ended_with(crowd, "no-trainer", Reason.BACKOFF_LIMIT_EXCEEDED)
    assert "finetune-trainer" in failure["message"], failure
    assert attempts(crowd, "no-trainer") == 2


def test_an_image_that_never_comes_fails_the_job_after_the_runtimes_timeout_and_takes_the_pod_away(
    crowd: Tenant,
) -> None:
    failure = ended_with(crowd, "impatient", Reason.IMAGE_PULL_FAILED)
    assert failure["message"].startswith("Waited 20 s (pendingTimeoutSeconds of the runtime).")
    assert "never-pushed" in failure["message"]
    until("the pod is gone", lambda: not crowd.pods("impatient"), timeout=90, pause=1)


def test_a_job_that_uses_its_deadline_up_fails_and_says_why_it_never_ran(crowd: Tenant) -> None:
    failure = ended_with(crowd, "too-slow", Reason.DEADLINE_EXCEEDED)
    assert "60 s" in failure["message"]
    assert "(Unschedulable): No node takes the pod" in failure["message"]


def test_a_name_that_is_taken_by_a_job_of_somebody_else_is_a_conflict_and_that_job_stays(
    tenant: Tenant, pair: str
) -> None:
    """Suspended until the other Job is there: a child is named after the uid, which nobody knows before."""
    tenant.apply(tenant.job(suspend=True, resources=CPU, runtimeRef={"name": pair}))
    name = child_name("tiny", tenant.get()["metadata"]["uid"], "train")
    container = {"name": "x", "image": tenant.world.images.operator}
    security = {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
    tenant.world.kube.apply(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": tenant.namespace},
            "spec": {
                "suspend": True,
                "template": {"spec": {"restartPolicy": "Never", **security, "containers": [container]}},
            },
        }
    )
    tenant.patch("tiny", suspend=False)
    failure = ended_with(tenant, "tiny", Reason.NAME_CONFLICT)
    assert name in failure["message"]
    assert tenant.pods() == []
    assert tenant.world.kube.get("job", name, tenant.namespace) is not None
