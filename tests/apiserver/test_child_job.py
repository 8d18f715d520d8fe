"""The child Job and the statuses of the pure core before a real API server: what Kubernetes itself accepts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver.conftest import Objects
from tests.support import builders as b
from tests.support.apiserver import ApiServer
from tests.support.simulation import Simulation

GOLDEN = sorted((Path(__file__).parents[1] / "unit" / "operator" / "decide" / "golden").glob("job-*.yaml"))
STRICT = "?fieldValidation=Strict"


def _job(path: Path, namespace: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load(path.read_text())
    manifest["metadata"]["namespace"] = namespace
    return manifest


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_kubernetes_accepts_the_child_and_changes_no_field_of_it(
    path: Path, bare_apiserver: ApiServer, namespace: str
) -> None:
    manifest = _job(path, namespace)
    status, stored = bare_apiserver.request("POST", f"/apis/batch/v1/namespaces/{namespace}/jobs{STRICT}", manifest)
    assert status == 201, stored
    assert _missing(manifest["spec"], stored["spec"]) == []


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_pod_is_admitted_where_restricted_pod_security_is_enforced(
    path: Path, bare_apiserver: ApiServer, namespace: str
) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    patch = {"metadata": {"labels": labels}}
    kind = "application/merge-patch+json"
    assert bare_apiserver.request("PATCH", f"/api/v1/namespaces/{namespace}", patch, content_type=kind)[0] == 200
    template = _job(path, namespace)["spec"]["template"]
    template["spec"].pop("runtimeClassName", None)  # its object would have to exist
    template["spec"].setdefault("serviceAccountName", "default")  # as admission does, which this server is without
    pod = {"apiVersion": "v1", "kind": "Pod", **template}
    pod["metadata"] = {**pod["metadata"], "name": "pod"}
    status, body = bare_apiserver.request("POST", f"/api/v1/namespaces/{namespace}/pods{STRICT}", pod)
    assert status == 201, body


@pytest.mark.parametrize("field", ["activeDeadlineSeconds", "ttlSecondsAfterFinished"])
def test_deadline_and_ttl_of_a_child_may_be_changed_later(
    field: str, bare_apiserver: ApiServer, namespace: str
) -> None:
    manifest = _job(GOLDEN[0], namespace)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    assert bare_apiserver.request("POST", jobs + STRICT, manifest)[0] == 201
    name, kind = manifest["metadata"]["name"], "application/merge-patch+json"
    status, body = bare_apiserver.request("PATCH", f"{jobs}/{name}", {"spec": {field: 99999}}, content_type=kind)
    assert status == 200, body


def _ends() -> dict[str, Callable[[], Simulation]]:
    def waiting() -> Simulation:
        return Simulation(b.job(b.cpu_spec())).settle()

    def preparing() -> Simulation:
        return Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)

    def training() -> Simulation:
        return preparing().completes("prepare", b.prepare_report()).settle(5).pod_runs("train").settle(5)

    def succeeded() -> Simulation:
        return training().completes("train", b.train_report()).settle(5)

    def failed() -> Simulation:
        report = "Traceback\n\x1b[31mboom \u202e" + "é" * 3000
        return training().pod_fails("train", 1, report).fails("train", "BackoffLimitExceeded").settle(5)

    def tries_again() -> Simulation:
        life = training().pod_fails("train", 30, "boom \u202e" + "é" * 3000).settle(5)
        return life.pod_runs("train").settle(5)

    def suspended() -> Simulation:
        return training().edit(suspend=True).settle(5)

    def resumed() -> Simulation:
        return suspended().edit(suspend=False).settle(5)

    def reused() -> Simulation:
        life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
        return life.completes("prepare", b.train_report(stage="prepare", reused=True)).settle(5)

    lives = (waiting, preparing, training, succeeded, failed, tries_again, suspended, resumed, reused)
    return {made.__name__: made for made in lives}


@pytest.mark.parametrize("end", list(_ends()))
def test_the_crd_accepts_every_status_that_the_core_writes_and_prunes_nothing(end: str, objects: Objects) -> None:
    life = _ends()[end]()
    status, body = objects.create(life.job["spec"])
    assert status == 201, body
    assert body["status"] == {"observedGeneration": -1}
    code, body = objects.patch("case", {"status": life.status}, subresource="status")
    assert code == 200, body
    assert body["status"] == life.status


def _missing(wanted: Any, stored: Any, at: str = "spec") -> list[str]:
    """Paths of ``wanted`` that are absent or different in ``stored``, which may hold more (defaults)."""
    if isinstance(wanted, dict):
        inner = ((key, value, (stored or {}).get(key)) for key, value in wanted.items())
        return [path for key, value, other in inner for path in _missing(value, other, f"{at}.{key}")]
    if isinstance(wanted, list):
        if not isinstance(stored, list) or len(wanted) != len(stored):
            return [at]
        pairs = enumerate(zip(wanted, stored, strict=True))
        return [path for index, (one, other) in pairs for path in _missing(one, other, f"{at}[{index}]")]
    return [] if wanted == stored else [at]
