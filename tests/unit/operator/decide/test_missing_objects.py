"""A claim, a ConfigMap or a Secret that is not there is told with its own reason and the field that names it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import builders as b
from tests.support.simulation import Simulation

NO_CLAIM = '0/3 nodes are available: persistentvolumeclaim "{}" not found. not found'
NO_MAP = 'MountVolume.SetUp failed for volume "configmap-0" : configmap "{}" not found'
NO_KEY = 'MountVolume.SetUp failed for volume "configmap-0" : configmap references non-existent config key: {}'
NO_SECRET = 'MountVolume.SetUp failed for volume "credentials-x" : secret "{}" not found'
ADAPTER = {"uri": "s3://models/adapter/", "credentialsRef": {"name": "team-a-s3"}}


def waiting(spec: dict[str, Any], *, runtime: dict[str, Any] | None = None, **pod: Any) -> Simulation:
    """A job with one stage whose pod waits so."""
    life = Simulation(b.job(spec), runtime=b.runtime(runtime)).settle()
    return life.pod_waits("train", **pod).settle(2)


def message(life: Simulation) -> str:
    return str(life.condition("Succeeded")["message"])


def with_files(**files: str) -> dict[str, Any]:
    """A spec whose rows lie in several files."""
    spec = b.cpu_spec()
    del spec["dataset"]["uri"]
    spec["dataset"]["files"] = files
    return spec


@pytest.mark.parametrize(
    ("changes", "reason", "fields"),
    [
        ({"model": {"uri": "pvc://x/m/"}}, "ModelNotFound", "model.uri"),
        ({"model": {"adapter": {"uri": "pvc://x/a/"}}}, "ModelNotFound", "model.adapter.uri"),
        (
            {"model": {"uri": "pvc://x/m/", "adapter": {"uri": "pvc://x/a/"}}},
            "ModelNotFound",
            "model.uri and model.adapter.uri",
        ),
        ({"dataset": {"uri": "pvc://x/rows.csv"}}, "DatasetNotFound", "dataset.uri"),
        (
            {"model": {"uri": "pvc://y/m/", "adapter": {"uri": "pvc://z/a/"}}, "dataset": {"uri": "pvc://x/rows.csv"}},
            "DatasetNotFound",
            "dataset.uri",
        ),
    ],
)
def test_a_missing_claim_is_told_with_the_fields_that_lie_on_it(
    changes: dict[str, Any], reason: str, fields: str
) -> None:
    life = waiting(b.cpu_spec(**changes), unschedulable=NO_CLAIM.format("x"))
    assert (life.reason, life.status["waitingFor"]) == (reason, "x")
    assert message(life) == (
        f'PersistentVolumeClaim "x" does not exist in the namespace of the job. Create it, or correct {fields} in a '
        "new job."
    )


def test_a_missing_claim_of_several_files_is_told_with_all_of_them() -> None:
    spec = with_files(train="pvc://x/a.csv", validation="pvc://y/b.csv", test="pvc://x/c.csv")
    life = waiting(spec, unschedulable=NO_CLAIM.format("x"))
    assert "correct dataset.files.train and dataset.files.test in a new job." in message(life)


def test_a_claim_that_nobody_makes_fails_the_job_with_the_reason_it_waited_with() -> None:
    life = waiting(b.cpu_spec(model={"adapter": {"uri": "pvc://x/a/"}}), unschedulable=NO_CLAIM.format("x"))
    life.passes(601).settle()
    assert (life.status["phase"], life.status["failure"]["reason"]) == ("Failed", "ModelNotFound")


def test_a_missing_volume_of_the_model_cache_is_told_as_such() -> None:
    runtime = b.runtime_spec(modelCache={"claimName": "cache"})
    life = waiting(b.cpu_spec(), runtime=runtime, unschedulable=NO_CLAIM.format("cache"))
    assert (life.reason, life.status["waitingFor"]) == ("ModelNotFound", "cache")
    assert message(life) == (
        'PersistentVolumeClaim "cache" does not exist in the namespace of the job. Create it, or ask the owner of the '
        "FineTuneRuntime to do without modelCache, which is to be kept there."
    )


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (b.cpu_spec(dataset={"uri": "configmap://x/rows.csv"}), "key rows.csv for dataset.uri"),
        (
            with_files(train="configmap://x/a.csv", test="configmap://x/b.csv"),
            "key a.csv for dataset.files.train and key b.csv for dataset.files.test",
        ),
        (
            b.cpu_spec(dataset={"template": {"name": None, "configMapRef": {"name": "x", "key": "topic.yaml"}}}),
            "key topic.yaml for dataset.template.configMapRef",
        ),
    ],
)
def test_a_missing_config_map_is_told_with_its_keys_and_their_fields(spec: dict[str, Any], wanted: str) -> None:
    life = waiting(spec, node="node-1", start_error=NO_MAP.format("x"))
    assert (life.reason, life.status["waitingFor"]) == ("DatasetNotFound", "x")
    assert message(life) == f'ConfigMap "x" does not exist in the namespace of the job. Create it with {wanted}.'


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"train": "configmap://x/a.csv", "test": "configmap://y/b.csv"}, '"y" (dataset.files.test)'),
        (
            {"train": "configmap://x/b.csv", "test": "configmap://y/b.csv"},
            '"x" (dataset.files.train) or "y" (dataset.files.test)',
        ),
    ],
)
def test_a_missing_key_is_told_with_the_config_map_that_lacks_it(files: dict[str, str], where: str) -> None:
    life = waiting(with_files(**files), node="node-1", start_error=NO_KEY.format("b.csv"))
    assert life.reason == "DatasetNotFound"
    assert message(life) == f"ConfigMap {where} has no key b.csv. Add the key."


@pytest.mark.parametrize(
    ("role", "fields"),
    [
        ("model", "model.credentialsRef needs"),
        ("adapter", "model.adapter.credentialsRef needs"),
        ("dataset", "dataset.credentialsRef needs"),
        ("output", "output.credentialsRef needs"),
        ("all", "model.credentialsRef, model.adapter.credentialsRef, dataset.credentialsRef and output.credentialsRef"),
    ],
)
def test_a_missing_secret_is_told_with_the_fields_that_name_it(role: str, fields: str) -> None:
    spec = b.cpu_spec(model={"adapter": ADAPTER})
    blocks = {"model": spec["model"], "adapter": spec["model"]["adapter"], **spec}
    for name in ("model", "adapter", "dataset", "output"):
        blocks[name]["credentialsRef"] = {"name": "x" if role in (name, "all") else "y"}
    life = waiting(spec, node="node-1", start_error=NO_SECRET.format("x"))
    assert (life.reason, life.status["waitingFor"]) == ("CredentialsNotFound", "x")
    assert f"Create it with the keys that {fields}" in message(life)


def test_a_missing_secret_that_no_field_names_is_told_as_something_else_s() -> None:
    life = waiting(b.cpu_spec(), node="node-1", start_error=NO_SECRET.format("mesh-ca"))
    assert (life.reason, life.status["waitingFor"]) == ("CredentialsNotFound", "mesh-ca")
    assert message(life).endswith("No field of the job names it: something else wants it in the pod.")


@pytest.mark.parametrize("text", [NO_MAP.format("kube-root-ca.crt"), NO_KEY.format("ca.crt")])
def test_a_config_map_that_no_field_names_is_not_taken_for_rows(text: str) -> None:
    life = waiting(b.cpu_spec(), node="node-1", start_error=text)
    assert (life.reason, life.status.get("waitingFor")) == ("MountFailed", None)
    assert message(life) == text


def test_a_claim_that_no_field_names_is_not_taken_for_rows() -> None:
    life = waiting(b.cpu_spec(), unschedulable=NO_CLAIM.format("somebody-s")).settle(20)
    assert (life.reason, life.status.get("waitingFor")) == ("Unschedulable", None)
    assert 'persistentvolumeclaim "somebody-s" not found' in message(life)
