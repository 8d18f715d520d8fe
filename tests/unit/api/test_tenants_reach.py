"""What a tenant, or a runtime, can't say at all: whatever would change the pod, its image, or reach another namespace.

A field added by mistake is a hole; these walk the whole of both schemas.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.crd import job_crd, runtime_crd

POD = {
    *("image", "images", "command", "args", "env", "envFrom", "podSpec", "podSpecPatch", "podTemplate", "template"),
    *("containers", "initContainers", "sidecars", "volumes", "volumeMounts", "securityContext", "hostNetwork"),
    *("hostPID", "hostIPC", "hostPath", "privileged", "capabilities", "annotations", "labels", "lifecycle"),
}
PLATFORM = {
    *("nodeSelector", "tolerations", "affinity", "nodeName", "runtimeClassName", "priorityClassName"),
    *("imagePullSecrets", "endpoint", "region", "caBundle", "addressingStyle", "allowUnpinnedImage"),
}


def fields(crd: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All fields below spec by their whole path, and what they hold."""
    (version,) = crd["spec"]["versions"]
    yield from _below(version["schema"]["openAPIV3Schema"]["properties"]["spec"], "")


def _below(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    inside = [schema.get("items"), schema.get("additionalProperties")]
    for one in (one for one in inside if isinstance(one, dict)):
        yield from _below(one, f"{path}[]")
    for name, below in schema.get("properties", {}).items():
        yield f"{path}.{name}".lstrip("."), below
        yield from _below(below, f"{path}.{name}")


def named(crd: dict[str, Any], names: set[str]) -> set[str]:
    return {path for path, _ in fields(crd) if path.rpartition(".")[2] in names}


def test_the_walk_reaches_the_whole_schema() -> None:
    job, runtime = dict(fields(job_crd())), dict(fields(runtime_crd()))
    assert {"model.credentialsRef.name", "dataset.files.train", "training.lora.rank"} <= job.keys()
    assert {"storage[].endpoint", "train.tolerations[].key", "limits.gpusPerNode"} <= runtime.keys()


def test_a_job_names_no_image_no_part_of_a_pod_and_no_endpoint() -> None:
    """dataset.template is how rows become text."""
    assert named(job_crd(), POD | PLATFORM) == {"dataset.template"}


def test_a_runtime_takes_nothing_from_a_pod_that_pod_security_forbids() -> None:
    assert named(runtime_crd(), POD) == {"image"}


@pytest.mark.parametrize("crd", [job_crd(), runtime_crd()], ids=["job", "runtime"])
def test_what_is_referred_to_lies_in_the_jobs_own_namespace(crd: dict[str, Any]) -> None:
    assert named(crd, {"namespace", "namespaces", "secretNamespace"}) == set()
    refs = {path: set(schema["properties"]) for path, schema in fields(crd) if path.endswith("Ref")}
    assert all(names in ({"name"}, {"name", "key"}) for names in refs.values()), refs


def test_no_secret_value_has_a_field_of_its_own() -> None:
    """Whoever may read jobs may not read Secrets."""
    said = {path.lower() for crd in (job_crd(), runtime_crd()) for path, _ in fields(crd)}
    words = ("accesskey", "secretkey", "password", "token")
    assert {path for path in said if path.rpartition(".")[2].endswith(words)} == set()
