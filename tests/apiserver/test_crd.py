"""What users of kubectl meet: defaults, strict fields, explain, columns, selectors, the status subresource."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from finetune_api.job import FineTuneJobSpec
from finetune_api.runtime import FineTuneRuntimeSpec
from tests.apiserver.conftest import Objects
from tests.support.apiserver import REPO_ROOT, ApiServer, run_kubectl
from tests.support.casekit import MINIMAL, edited

JOB = MINIMAL["FineTuneJob"]
TIME = "2026-01-10T08:00:12Z"
DIGEST = "sha256:" + "0" * 64


def _condition(kind: str, *, reason: str = "Completed") -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": "",
        "lastTransitionTime": TIME,
        "observedGeneration": 1,
    }


DONE: dict[str, Any] = {
    "observedGeneration": 1,
    "phase": "Succeeded",
    "stages": [{"name": "prepare", "state": "Succeeded"}, {"name": "train", "state": "Succeeded", "attempts": 1}],
    "progress": {"percent": 100},
    "results": {
        "metric": "ChoiceAccuracy",
        "baseline": {"score": "0.4120", "correct": 351, "total": 852},
        "test": {"score": "0.8709", "correct": 742, "total": 852, "ci95": ["0.8467", "0.8917"]},
        "gain": "+0.4589",
    },
    "compute": {"parameters": 70_000_000_000, "peakMemoryBytes": 150_000_000_000},
    "conditions": [_condition("Succeeded"), _condition("Finished")],
}


def test_both_definitions_are_established(apiserver: ApiServer) -> None:
    crds = json.loads(apiserver.kubectl("get", "crd", "-o", "json"))["items"]
    for crd in crds:
        conditions = {c["type"]: c["status"] for c in crd["status"]["conditions"]}
        assert conditions["Established"] == "True"
        assert "NonStructuralSchema" not in conditions
    assert {crd["metadata"]["name"] for crd in crds} == {"finetunejobs.finetune.dev", "finetuneruntimes.finetune.dev"}


def test_a_stored_job_has_the_defaults_that_pydantic_fills_in(objects: Objects) -> None:
    status, body = objects.create(JOB)
    assert status == 201
    assert body["spec"] == FineTuneJobSpec.model_validate(JOB).to_wire()


def test_the_leaves_of_a_block_that_is_there_get_their_defaults(objects: Objects) -> None:
    spec = edited(JOB, {"training": {"lora": {}, "epochs": 1}, "dataset.badRows": {}, "output": {}})
    status, body = objects.create(spec)
    assert status == 201
    assert body["spec"] == FineTuneJobSpec.model_validate(spec).to_wire()


def test_a_stored_runtime_has_the_defaults_that_pydantic_fills_in(objects: Objects) -> None:
    spec = edited(
        MINIMAL["FineTuneRuntime"],
        {
            "prepare.resources.cpu": "3",
            "train.tolerations": [{"key": "gpu"}],
            "storage": [{"prefix": "s3://b/"}],
        },
    )
    status, body = objects.create(spec, kind="FineTuneRuntime", name="defaults", dry_run=True)
    assert status == 201, body
    assert body["spec"] == FineTuneRuntimeSpec.model_validate(spec).to_wire()


def test_a_new_job_says_that_nobody_has_looked_at_it_yet(objects: Objects) -> None:
    assert objects.create(JOB)[1]["status"] == {"observedGeneration": -1}


@pytest.mark.parametrize("path", ["modle", "training.epoch", "dataset.template.choice", "output.credentialsRef.key"])
def test_kubectl_refuses_a_misspelt_field(apiserver: ApiServer, namespace: str, path: str) -> None:
    spec = edited(JOB, {"output.credentialsRef.name": "s3", path: "x"})
    job = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "typo"}, "spec": spec}
    done = run_kubectl(apiserver.kubeconfig, "-n", namespace, "apply", "-f", "-", stdin=json.dumps(job))
    assert done.returncode != 0
    assert f'strict decoding error: unknown field "spec.{path}"' in done.stderr


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("ftj", "VERSION:"),
        ("ftj.spec.dataset.split", "stratifyBy"),
        ("ftj.spec.training.learningRate", 'Peak learning rate as text in quotes, such as "2e-4"'),
        ("ftj.status.results.test.ci95", "Wilson"),
        ("ftr.spec.storage.endpoint", "Absent: AWS's own for the region."),
    ],
)
def test_kubectl_explains(apiserver: ApiServer, path: str, text: str) -> None:
    assert text in apiserver.kubectl("explain", path)


def _finish(objects: Objects, name: str = "case") -> None:
    assert objects.create(JOB, name=name)[0] == 201
    status, body = objects.patch(name, {"status": DONE}, subresource="status")
    assert status == 200, body


def test_kubectl_get_answers_how_far_and_how_good(apiserver: ApiServer, objects: Objects) -> None:
    _finish(objects)
    header, row = apiserver.kubectl("-n", objects.namespace, "get", "ftj").splitlines()
    assert header.split() == ["NAME", "PHASE", "REASON", "%", "BASE", "TEST", "AGE"]
    assert row.split()[:6] == ["case", "Succeeded", "Completed", "100", "0.4120", "0.8709"]


def test_kubectl_get_wide_answers_what_was_gained_and_from_what(apiserver: ApiServer, objects: Objects) -> None:
    _finish(objects)
    header, row = apiserver.kubectl("-n", objects.namespace, "get", "ftj", "-o", "wide").splitlines()
    assert header.split()[7:] == ["ETA", "GAIN", "FEWSHOT", "QUEUE", "MODEL"]
    assert row.split()[7:] == ["+0.4589", "hf://org/name"]


def test_jobs_are_found_by_phase(apiserver: ApiServer, objects: Objects) -> None:
    _finish(objects, "done")
    assert objects.create(JOB, name="new")[0] == 201
    selector = ("-n", objects.namespace, "get", "finetune", "-o", "name", "--field-selector")
    assert apiserver.kubectl(*selector, "status.phase=Succeeded").split() == ["finetunejob.finetune.dev/done"]


def test_jobs_are_found_by_runtime(apiserver: ApiServer, objects: Objects) -> None:
    for name, runtime in (("a", "default"), ("b", "gpu")):
        assert objects.create(edited(JOB, {"runtimeRef.name": runtime}), name=name)[0] == 201
    selector = ("-n", objects.namespace, "get", "ftj", "-o", "name", "--field-selector")
    assert apiserver.kubectl(*selector, "spec.runtimeRef.name=gpu").split() == ["finetunejob.finetune.dev/b"]


def test_a_write_of_spec_leaves_status_and_a_write_of_status_leaves_spec(objects: Objects) -> None:
    _finish(objects)
    spec_write = objects.patch("case", {"spec": {"ttlSecondsAfterFinished": 5}, "status": {"phase": "Failed"}})[1]
    assert (spec_write["status"]["phase"], spec_write["metadata"]["generation"]) == ("Succeeded", 2)
    both = {"spec": {"ttlSecondsAfterFinished": 6}, "status": {"phase": "Failed"}}
    status_write = objects.patch("case", both, subresource="status")[1]
    assert (status_write["status"]["phase"], status_write["spec"]["ttlSecondsAfterFinished"]) == ("Failed", 5)


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"conditions": [_condition("Succeeded"), _condition("Succeeded")]}, "status.conditions[1]"),
        ({"stages": [{"name": "train", "state": "Failed"}] * 2}, "status.stages[1]"),
        ({"phase": "Happy"}, "status.phase"),
        ({"progress": {"percent": 101}}, "status.progress.percent"),
        ({"manifestDigest": DIGEST[:-1]}, "status.manifestDigest"),
        ({"startTime": "yesterday"}, "status.startTime"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_status_that_is_not_well_formed_is_refused(objects: Objects, patch: dict[str, Any], field: str) -> None:
    assert objects.create(JOB)[0] == 201
    status, body = objects.patch("case", {"status": patch}, subresource="status")
    assert status == 422
    assert field in [cause["field"] for cause in body["details"]["causes"]]


@pytest.mark.parametrize("name", ["research", "production"])
def test_the_api_server_takes_the_jobs_of_the_example_with_queues(shared_objects: Objects, name: str) -> None:
    job = yaml.safe_load((REPO_ROOT / f"examples/kueue/{name}.yaml").read_text(encoding="utf-8"))
    status, body = shared_objects.create(job["spec"], name=name, dry_run=True)
    assert status == 201, body
    assert body["spec"]["queueName"] == "team"
