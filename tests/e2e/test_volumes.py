"""Model and rows on a real PersistentVolume and in a real ConfigMap: waited for, mounted, read and never written to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.volumes import claimed
from tests.e2e.world import Tenant, World, rows, until

pytestmark = pytest.mark.timeout(600)

CLAIM, MAP = "volume", "few-rows"


@pytest.fixture(scope="module")
def folder(world: World) -> Iterator[Path]:
    """A folder of the node with a model and rows, that everybody may read."""
    base = Path(tempfile.mkdtemp(prefix="e2e-volume-"))
    (base / "model").mkdir()
    (base / "rows").mkdir()
    bucket, _, prefix = world.model_uri.removeprefix("s3://").partition("/")
    client = world.s3.client()
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        name = item["Key"].removeprefix(prefix).lstrip("/")
        if name and "/" not in name:
            client.download_file(bucket, item["Key"], str(base / "model" / name))
    lines = rows().splitlines(keepends=True)
    (base / "rows/a.jsonl").write_text("".join(lines[:60]))
    (base / "rows/b.jsonl").write_text("".join(lines[60:]))
    (base / "rows/_SUCCESS").write_text("")
    for path in (base, *base.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield base
    shutil.rmtree(base, ignore_errors=True)


def manifest(tenant: Tenant, pair: str) -> dict[str, Any]:
    job = tenant.job("mounted", runtimeRef={"name": pair}, resources={"gpusPerNode": 0})
    job["spec"]["model"] = {"uri": f"pvc://{CLAIM}/model/"}
    dataset = job["spec"]["dataset"]
    del dataset["uri"], dataset["credentialsRef"]
    dataset["files"] = {"train": f"pvc://{CLAIM}/rows/", "test": f"configmap://{MAP}/test.jsonl"}
    return job


@pytest.fixture(scope="module")
def mounted(pair: str, shared_tenant: Tenant, folder: Path) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The job at its end, and what it said that it missed on its way."""
    tenant = shared_tenant
    told: list[str] = []

    def misses(reason: str) -> bool:
        condition = tenant.condition("Succeeded", "mounted")
        if condition.get("reason") != reason:
            return False
        told.append(f"{reason}: {condition['message']}")
        return True

    tenant.apply(manifest(tenant, pair))
    until("the claim is missing", lambda: misses("ModelNotFound"), timeout=90, pause=1)
    with claimed(tenant, CLAIM, folder):
        until("the ConfigMap is missing", lambda: misses("DatasetNotFound"), timeout=120, pause=1)
        text = "".join(f'{{"text": "{w} {n} 99", "label": "{v}"}}\n' for n in range(10) for w, v in LABELS.items())
        metadata = {"name": MAP, "namespace": tenant.namespace}
        tenant.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"test.jsonl": text}})
        yield tenant.wait_finished("mounted", timeout=400), told


LABELS = {"north": "cold", "south": "warm", "east": "dawn", "west": "dusk"}


def test_a_volume_and_a_config_map_that_are_missing_are_waited_for_by_name(
    mounted: tuple[dict[str, Any], list[str]],
) -> None:
    _, (first, second) = mounted
    assert first.startswith(f'ModelNotFound: PersistentVolumeClaim "{CLAIM}" does not exist')
    assert second.startswith(f'DatasetNotFound: ConfigMap "{MAP}" does not exist')


def test_a_job_tunes_a_model_of_a_volume_on_rows_of_a_volume_and_a_config_map(
    mounted: tuple[dict[str, Any], list[str]],
) -> None:
    status = mounted[0]["status"]
    assert status["phase"] == "Succeeded", status
    assert [stage["attempts"] for stage in status["stages"]] == [1]
    assert (status["dataset"]["rows"], status["dataset"]["test"]) == (160, 40)


def test_nothing_was_written_to_the_volume(mounted: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    assert mounted[0]["status"]["phase"] == "Succeeded"
    assert {path.name for path in (folder / "rows").iterdir()} == {"a.jsonl", "b.jsonl", "_SUCCESS"}
