"""The gateway against a real API server with exactly the operator's rights: every request and every refusal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finetune_api.names import child_labels
from finetune_operator.cluster import gateway as gateway_module
from finetune_operator.cluster.apply import event_manifest
from finetune_operator.cluster.gateway import KubernetesGateway, load_configuration
from finetune_operator.cluster.protocol import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    JobKey,
    Kind,
    NotFoundError,
    Raw,
    UnavailableError,
)
from finetune_operator.decide.plan import Event
from tests.support.apiserver import ApiServer
from tests.support.builders import T0, job_spec, runtime_spec
from tests.support.operator_process import OPERATOR_RULES


@pytest.fixture(scope="module")
def kubeconfig(apiserver: ApiServer) -> Path:
    apiserver.create_namespace("gateway-system")
    return apiserver.service_account("gateway", namespace="gateway-system", rules=OPERATOR_RULES)


@pytest.fixture
def requests() -> Counter[tuple[str, str, int]]:
    return Counter()


@pytest.fixture
async def gateway(
    kubeconfig: Path, requests: Counter[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KubernetesGateway]:
    async with _opened(kubeconfig, requests, monkeypatch) as opened:
        yield opened


class _opened:  # noqa: N801 - reads as a function
    def __init__(self, kubeconfig: Path, requests: Counter[tuple[str, str, int]], patch: pytest.MonkeyPatch) -> None:
        patch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        self._requests = requests

    async def __aenter__(self) -> KubernetesGateway:
        def count(verb: str, resource: str, code: int) -> None:
            self._requests[verb, resource, code] += 1

        self._gateway = KubernetesGateway(await load_configuration(), on_request=count)
        return self._gateway

    async def __aexit__(self, *_: object) -> None:
        await self._gateway.close()


@pytest.fixture
def job(apiserver: ApiServer, namespace: str) -> Raw:
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "support-intent"},
        "spec": job_spec(),
    }
    status, answer = apiserver.request("POST", path, body)
    assert status == 201, answer
    return dict(answer)


@pytest.fixture
def key(job: Raw) -> JobKey:
    return JobKey(job["metadata"]["namespace"], job["metadata"]["name"])


def child(job: Raw, name: str = "child") -> Raw:
    meta = job["metadata"]
    labels = child_labels(meta["name"], meta["uid"], "train")
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": meta["namespace"], "labels": labels},
        "spec": {
            "template": {
                "metadata": {"labels": labels},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "trainer", "image": "x"}]},
            }
        },
    }


def pod(job: Raw, name: str) -> Raw:
    template = child(job)["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {**template["metadata"], "name": name}}


# --- reads ------------------------------------------------------------------------------------------------------------


async def test_a_job_is_read_with_its_default_status(gateway: KubernetesGateway, key: JobKey, job: Raw) -> None:
    read = await gateway.get_job(key)
    assert read["metadata"]["uid"] == job["metadata"]["uid"]
    assert read["status"] == {"observedGeneration": -1}


async def test_what_is_not_there_is_not_found(
    gateway: KubernetesGateway, namespace: str, requests: Counter[tuple[str, str, int]]
) -> None:
    with pytest.raises(NotFoundError):
        await gateway.get_job(JobKey(namespace, "nobody"))
    with pytest.raises(NotFoundError):
        await gateway.get_runtime("nobody")
    with pytest.raises(NotFoundError):
        await gateway.get_child(namespace, "nobody")
    with pytest.raises(NotFoundError):
        await gateway.delete_child(namespace, "nobody", uid="u")
    assert requests["get", "finetunejobs", 404] == 1


async def test_our_kinds_are_served(gateway: KubernetesGateway) -> None:
    assert await gateway.served_resources() >= {"finetunejobs", "finetuneruntimes"}


async def test_pods_are_listed_by_job_and_namespace(
    gateway: KubernetesGateway, apiserver: ApiServer, job: Raw, namespace: str
) -> None:
    other = {"metadata": {**job["metadata"], "uid": "another"}}
    for body in (pod(job, "ours"), pod(other, "theirs")):
        assert apiserver.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)[0] == 201
    pods = await gateway.list_pods(namespace, job_uid=job["metadata"]["uid"])
    assert [p["metadata"]["name"] for p in pods] == ["ours"]


async def listed(gateway: KubernetesGateway, kind: Kind) -> list[Raw]:
    """All objects of a kind, part after part."""
    items, following = await gateway.list_page(kind)
    while following:
        more, following = await gateway.list_page(kind, following)
        items += more
    return items


async def test_a_long_list_is_read_in_parts(
    gateway: KubernetesGateway,
    apiserver: ApiServer,
    job: Raw,
    requests: Counter[tuple[str, str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_module, "PAGE", 3)
    for number in range(8):
        await gateway.create_child(job["metadata"]["namespace"], child(job, f"child-{number}"))
    unlabelled = child(job, "unlabelled")
    del unlabelled["metadata"]["labels"], unlabelled["spec"]["template"]["metadata"]
    await gateway.create_child(job["metadata"]["namespace"], unlabelled)
    children = await listed(gateway, "children")
    names = {c["metadata"]["name"] for c in children if c["metadata"]["namespace"] == job["metadata"]["namespace"]}
    assert names == {f"child-{number}" for number in range(8)}
    assert requests["list", "jobs", 200] >= 3


async def test_every_kind_can_be_listed(gateway: KubernetesGateway, apiserver: ApiServer, job: Raw) -> None:
    runtime = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneRuntime",
        "metadata": {"name": "listed"},
        "spec": runtime_spec(),
    }
    apiserver.apply(runtime)
    assert job["metadata"]["uid"] in {j["metadata"]["uid"] for j in await listed(gateway, "jobs")}
    assert "listed" in {r["metadata"]["name"] for r in await listed(gateway, "runtimes")}
    assert (await gateway.get_runtime("listed"))["spec"]["image"] == runtime_spec()["image"]
    assert isinstance(await listed(gateway, "pods"), list)


# --- status -----------------------------------------------------------------------------------------------------------


async def patched(gateway: KubernetesGateway, key: JobKey, patch: Raw) -> Raw:
    version = (await gateway.get_job(key))["metadata"]["resourceVersion"]
    return dict((await gateway.patch_job_status(key, resource_version=version, patch=patch))["status"])


async def test_a_status_is_merged_lists_are_replaced_and_nulls_remove(gateway: KubernetesGateway, key: JobKey) -> None:
    stages = [{"name": "prepare", "state": "Running"}, {"name": "train", "state": "Pending"}]
    await patched(gateway, key, {"phase": "Preparing", "waitingFor": "x", "stages": stages})
    status = await patched(gateway, key, {"waitingFor": None, "stages": [{"name": "train", "state": "Running"}]})
    assert status["phase"] == "Preparing"
    assert "waitingFor" not in status
    assert [(stage["name"], stage["state"]) for stage in status["stages"]] == [("train", "Running")]


async def test_every_write_names_the_operator_as_its_field_manager(
    gateway: KubernetesGateway, key: JobKey, job: Raw, namespace: str
) -> None:
    await patched(gateway, key, {"phase": "Pending"})
    made = await gateway.create_child(namespace, child(job))
    written = await gateway.patch_child(
        namespace, "child", uid=made["metadata"]["uid"], patch={"spec": {"activeDeadlineSeconds": 99}}
    )
    of_status = [
        entry["manager"]
        for entry in (await gateway.get_job(key))["metadata"]["managedFields"]
        if entry.get("subresource") == "status"
    ]
    assert of_status == ["finetune-operator"]
    assert {entry["manager"] for entry in written["metadata"]["managedFields"]} == {"finetune-operator"}


async def test_the_time_is_the_api_servers(gateway: KubernetesGateway, key: JobKey) -> None:
    await gateway.get_job(key)
    assert abs((gateway.now() - datetime.now(UTC)).total_seconds()) < 1


async def test_a_status_write_does_not_touch_the_spec(gateway: KubernetesGateway, key: JobKey) -> None:
    before = await gateway.get_job(key)
    await patched(gateway, key, {"phase": "Pending"})
    after = await gateway.get_job(key)
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_a_status_write_on_an_old_version_is_a_conflict(gateway: KubernetesGateway, key: JobKey) -> None:
    version = (await gateway.get_job(key))["metadata"]["resourceVersion"]
    await gateway.patch_job_status(key, resource_version=version, patch={"phase": "Pending"})
    with pytest.raises(ConflictError):
        await gateway.patch_job_status(key, resource_version=version, patch={"phase": "Training"})
    assert (await gateway.get_job(key))["status"]["phase"] == "Pending"


async def test_a_status_that_breaks_the_schema_is_invalid(gateway: KubernetesGateway, key: JobKey) -> None:
    with pytest.raises(InvalidError, match="phase"):
        await patched(gateway, key, {"phase": "Dreaming"})


# --- children ---------------------------------------------------------------------------------------------------------


async def test_a_child_is_created_once(gateway: KubernetesGateway, job: Raw, namespace: str) -> None:
    created = await gateway.create_child(namespace, child(job))
    assert created["metadata"]["uid"]
    with pytest.raises(AlreadyExistsError):
        await gateway.create_child(namespace, child(job))


async def test_a_child_that_makes_no_sense_is_invalid(gateway: KubernetesGateway, job: Raw, namespace: str) -> None:
    manifest = child(job)
    manifest["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(InvalidError, match="restartPolicy"):
        await gateway.create_child(namespace, manifest)


async def test_a_child_in_a_namespace_that_goes_is_refused_with_the_words_that_apply_looks_for(
    gateway: KubernetesGateway, apiserver: ApiServer, job: Raw, namespace: str
) -> None:
    assert apiserver.request("DELETE", f"/api/v1/namespaces/{namespace}")[0] == 200
    with pytest.raises(ForbiddenError, match="being terminated"):
        await gateway.create_child(namespace, child(job))


async def test_a_deleted_child_stays_marked_until_its_pods_are_gone(
    gateway: KubernetesGateway, job: Raw, namespace: str
) -> None:
    uid = (await gateway.create_child(namespace, child(job)))["metadata"]["uid"]
    await gateway.delete_child(namespace, "child", uid=uid)
    meta = (await gateway.get_child(namespace, "child"))["metadata"]
    assert "foregroundDeletion" in meta["finalizers"]
    assert meta["deletionTimestamp"]


async def test_another_child_of_the_same_name_is_not_deleted(
    gateway: KubernetesGateway, job: Raw, namespace: str
) -> None:
    await gateway.create_child(namespace, child(job))
    with pytest.raises(ConflictError):
        await gateway.delete_child(namespace, "child", uid="00000000-0000-4000-8000-000000000000")
    assert "deletionTimestamp" not in (await gateway.get_child(namespace, "child"))["metadata"]


async def test_a_child_is_patched_if_it_is_that_one(gateway: KubernetesGateway, job: Raw, namespace: str) -> None:
    uid = (await gateway.create_child(namespace, child(job)))["metadata"]["uid"]
    patch = {"spec": {"ttlSecondsAfterFinished": 5, "activeDeadlineSeconds": 99}}
    answer = await gateway.patch_child(namespace, "child", uid=uid, patch=patch)
    assert answer["spec"]["ttlSecondsAfterFinished"] == 5
    assert answer["spec"]["activeDeadlineSeconds"] == 99
    with pytest.raises(ConflictError):
        await gateway.patch_child(namespace, "child", uid="00000000-0000-4000-8000-000000000000", patch=patch)


# --- Events -----------------------------------------------------------------------------------------------------------


async def test_an_event_is_stored_once_and_found_by_its_object(
    gateway: KubernetesGateway, key: JobKey, job: Raw, namespace: str
) -> None:
    manifest = event_manifest(key, job, Event(reason="Failed", message="ä" * 2000, type="Warning"), now=T0)
    await gateway.create_event(namespace, manifest)
    with pytest.raises(AlreadyExistsError):
        await gateway.create_event(namespace, manifest)
    found = await gateway.list_events(namespace, object_uid=job["metadata"]["uid"])
    assert [(e["reason"], e["type"], e["source"]["component"]) for e in found] == [
        ("Failed", "Warning", "finetune-operator")
    ]
    assert await gateway.list_events(namespace, object_uid="another") == []


# --- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_missing_right_is_forbidden_with_the_words_that_apply_looks_for(
    apiserver: ApiServer, job: Raw, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    powerless = apiserver.service_account("powerless", namespace=namespace)
    async with _opened(powerless, Counter(), monkeypatch) as gateway:
        with pytest.raises(ForbiddenError, match="cannot create resource"):
            await gateway.create_child(namespace, child(job))
        with pytest.raises(ForbiddenError):
            await gateway.list_page("jobs")


async def test_a_wrong_token_and_a_closed_port_are_unavailable(
    kubeconfig: Path, tmp_path: Path, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: Counter[tuple[str, str, int]] = Counter()
    for path in (_changed(kubeconfig, tmp_path, token="wrong"), _changed(kubeconfig, tmp_path, server=NOWHERE)):
        async with _opened(path, requests, monkeypatch) as gateway:
            with pytest.raises(UnavailableError):
                await gateway.get_runtime("x")
    assert requests == {("get", "finetuneruntimes", 401): 1, ("get", "finetuneruntimes", 0): 1}


NOWHERE = "https://127.0.0.1:1"


def _changed(kubeconfig: Path, folder: Path, *, token: str | None = None, server: str | None = None) -> Path:
    content: Any = json.loads(kubeconfig.read_text())
    content["users"][0]["user"]["token"] = token or content["users"][0]["user"]["token"]
    content["clusters"][0]["cluster"]["server"] = server or content["clusters"][0]["cluster"]["server"]
    path = folder / f"{token}-{bool(server)}.kubeconfig"
    path.write_text(json.dumps(content))
    return path
