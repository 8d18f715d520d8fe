"""``modelCache`` of a FineTuneRuntime on real claims: waited for, filled by the first job, and read by the next one.

The second job runs while another pod has the volume mounted read-only, beside one whose cache can't be written to.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.podlog import Entry, events, whole_log
from tests.e2e.volumes import claimed
from tests.e2e.world import Tenant, World, numbers, until

pytestmark = pytest.mark.timeout(600)

CLAIM, FROZEN = "models", "frozen"


@dataclass
class Story:
    """What the first job said that it missed, every job at its end with its log, and what lies on the volume then."""

    told: str
    jobs: dict[str, dict[str, Any]]
    logs: dict[str, list[Entry]]
    kept: list[str]


@pytest.fixture(scope="module")
def folders() -> Iterator[tuple[Path, Path]]:
    """Two folders of the node: one that pods may write to, as no driver gives it to their group, and one of root's."""
    base = Path(tempfile.mkdtemp(prefix="e2e-model-cache-"))
    base.chmod(0o755)
    open_to_all, of_root = base / CLAIM, base / FROZEN
    for folder, mode in ((open_to_all, 0o777), (of_root, 0o755)):
        folder.mkdir()
        folder.chmod(mode)
    yield open_to_all, of_root
    shutil.rmtree(base, ignore_errors=True)


def reader(tenant: Tenant) -> dict[str, Any]:
    """A pod of the tenant's own that has the cache mounted read-only."""
    container = {
        "name": "reader",
        "image": tenant.world.images.trainer,
        "command": ["sleep", "600"],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    }
    spec = {
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": CLAIM, "readOnly": True}}],
    }
    metadata = {"name": "reader", "namespace": tenant.namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.fixture(scope="module")
def story(world: World, pair: str, shared_tenant: Tenant, folders: tuple[Path, Path]) -> Iterator[Story]:
    tenant = shared_tenant
    tenant.put_rows()
    with ExitStack() as stack:
        for claim in (CLAIM, FROZEN):
            stack.enter_context(world.runtime(f"e2e-{claim}", like=pair, modelCache={"claimName": claim}))

        def apply(name: str, runtime: str) -> None:
            training = {"method": "Full", "epochs": 1, "learningRate": "1e-3", "batchSize": 8, "maxLength": 64}
            cpu = {"gpusPerNode": 0}
            tenant.apply(tenant.job(name, training=training, resources=cpu, runtimeRef={"name": runtime}))

        def missed() -> str | None:
            condition = tenant.condition("Succeeded", "first")
            return str(condition["message"]) if condition.get("reason") == "ModelNotFound" else None

        apply("first", f"e2e-{CLAIM}")
        told = until("the claim is missing", missed, timeout=90, pause=1)
        for claim, folder in zip((CLAIM, FROZEN), folders, strict=True):
            stack.enter_context(claimed(tenant, claim, folder, mode="ReadWriteMany"))
        tenant.apply(reader(tenant))
        ended = {"first": tenant.wait_finished("first")}
        apply("second", f"e2e-{CLAIM}")
        apply("frozen", f"e2e-{FROZEN}")
        ended |= {name: tenant.wait_finished(name) for name in ("second", "frozen")}
        logs = {name: whole_log(tenant, tenant.pods(name)[-1]) for name in ended}
        exec_ = ("exec", "reader", "-n", tenant.namespace, "--", "sh", "-c")
        kept = tenant.world.kube.kubectl(*exec_, "cd /models/finetune.dev/v1/models && ls -d */*").split()
        yield Story(told, ended, logs, kept)


def test_a_claim_of_the_cache_that_is_missing_is_named_and_waited_for(story: Story) -> None:
    assert story.told.startswith(f'PersistentVolumeClaim "{CLAIM}" does not exist in the namespace of the job')
    assert "without modelCache" in story.told
    status = story.jobs["first"]["status"]
    assert (status["phase"], [stage["attempts"] for stage in status["stages"]]) == ("Succeeded", [1])


def test_the_first_job_keeps_the_weights_where_another_pod_sees_them(story: Story) -> None:
    (stored,) = events(story.logs["first"], "model_cache_stored")
    assert f"{stored['key']}/model.safetensors" in story.kept


def test_the_second_job_has_its_weights_from_the_volume_and_the_same_scores(story: Story) -> None:
    (stored,) = events(story.logs["first"], "model_cache_stored")
    (hit,) = events(story.logs["second"], "model_cache_hit")
    assert (hit["key"], hit["bytes"]) == (stored["key"], stored["bytes"])
    first, second = (story.jobs[name]["status"] for name in ("first", "second"))
    assert second["phase"] == "Succeeded", second
    assert numbers(second["results"]) == numbers(first["results"])


def test_a_cache_that_can_not_be_written_to_costs_a_warning_and_no_job(story: Story) -> None:
    (warning,) = events(story.logs["frozen"], "model_cache_unusable")
    assert (warning["level"], "writing to it failed" in warning["message"]) == ("warning", True)
    first, frozen = (story.jobs[name]["status"] for name in ("first", "frozen"))
    assert frozen["phase"] == "Succeeded", frozen
    assert numbers(frozen["results"]) == numbers(first["results"])
