"""The FineTuneRuntime of the chart's values, which the operator is handed in a file and applies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.runtime import FineTuneRuntimeSpec
from finetune_operator.decide.installation import read_manifest
from tests.chart.kit import OPERATOR_RULES, RUNTIME, Values, container, kinds, one
from tests.support.helm import DIGEST, RUNTIME_VALUES, refusal, render


def handed_over(values: Values) -> dict[str, Any]:
    """The FineTuneRuntime that the operator is handed."""
    return dict(json.loads(one("ConfigMap", values)["data"]["runtime.json"]))


def test_the_operator_gets_a_runtime_where_its_image_is_named() -> None:
    runtime = handed_over({"runtime": {**RUNTIME, "annotations": {"a": "b"}}})
    assert (runtime["metadata"]["name"], runtime["metadata"]["annotations"]) == ("default", {"a": "b"})
    assert runtime["spec"] == {
        "image": f"registry.example/trainer@{DIGEST}",
        "outputPrefix": "s3://results/",
        "storage": [{"prefix": "s3://", "endpoint": "https://s3.example", "addressingStyle": "Path"}],
        "train": {"resources": {"memory": "16Gi"}},
    }
    FineTuneRuntimeSpec.model_validate(runtime["spec"], extra="forbid")
    assert read_manifest(json.dumps(runtime)).name == "default"


@pytest.mark.parametrize("values", [{}, {"runtime": {**RUNTIME, "create": False}}], ids=["no image", "switched off"])
def test_it_gets_none_otherwise_and_no_right_to_write_one(values: Values) -> None:
    assert "ConfigMap" not in kinds(render(values))
    assert "FINETUNE_RUNTIME_FILE" not in [e["name"] for e in container(values)["env"]]
    assert one("ClusterRole", values, name="finetune-operator")["rules"] == OPERATOR_RULES


def test_the_operator_may_write_the_runtime_of_the_values_and_no_other() -> None:
    rules = one("ClusterRole", {"runtime": {**RUNTIME, "name": "big"}}, name="finetune-operator")["rules"]
    (added,) = [rule for rule in rules if rule not in OPERATOR_RULES]
    assert added == {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetuneruntimes"],
        "resourceNames": ["big"],
        "verbs": ["create", "patch"],
    }


def test_the_operator_reads_the_file_that_is_mounted() -> None:
    found = container(RUNTIME_VALUES)
    (path,) = [e["value"] for e in found["env"] if e["name"] == "FINETUNE_RUNTIME_FILE"]
    (mount,) = [m for m in found["volumeMounts"] if path == f"{m['mountPath']}/runtime.json"]
    volumes = one("Deployment", RUNTIME_VALUES)["spec"]["template"]["spec"]["volumes"]
    (source,) = [v["configMap"]["name"] for v in volumes if v["name"] == mount["name"]]
    assert source == one("ConfigMap", RUNTIME_VALUES)["metadata"]["name"]


def test_another_runtime_is_another_pod() -> None:
    def mark(**changes: Any) -> Any:
        values = {"runtime": {**RUNTIME, **changes}, "podAnnotations": {"a": "b"}}
        annotations = one("Deployment", values)["spec"]["template"]["metadata"]["annotations"]
        assert annotations["a"] == "b"
        return annotations["finetune.dev/runtime-manifest"]

    assert mark() == mark()
    assert mark() != mark(outputPrefix="s3://elsewhere/")


def test_the_trainers_image_needs_a_digest() -> None:
    message = refusal({"runtime": {"image": {"repository": "trainer", "tag": "v1"}}})
    assert "runtime.image.digest is empty; set it to the trainer image's sha256:… digest" in message


def test_a_test_cluster_may_use_a_tag() -> None:
    values = {"runtime": {"image": {"repository": "trainer", "tag": "v1"}, "allowUnpinnedImage": True}}
    assert handed_over(values)["spec"] == {"image": "trainer:v1", "allowUnpinnedImage": True}


def test_an_empty_list_says_none_and_null_says_nothing() -> None:
    values = {"runtime": {**RUNTIME, "allowedNamespaces": [], "allowedUriPrefixes": None}}
    spec = handed_over(values)["spec"]
    assert spec["allowedNamespaces"] == []
    assert "allowedUriPrefixes" not in spec
