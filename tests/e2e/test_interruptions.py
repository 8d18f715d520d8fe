"""A training that is stopped in any way goes on where it was, and ends with the very same model.

Three jobs with the same spec run at once: one undisturbed, one that is suspended and resumed, and one whose pod is
deleted and whose next pod is killed. Each writes its own output; what they wrote must be equal to the bit.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from hack.demo.kube import CommandError
from tests.e2e.machine import kill_trainer
from tests.e2e.podlog import Entry, Pods, events, saved, trained
from tests.e2e.world import Tenant, World, rows, until

pytestmark = pytest.mark.timeout(900)

EPOCHS, ROWS, BATCH = 4, 1600, 8
STEPS = EPOCHS * ROWS // BATCH
UNDISTURBED, SUSPENDED, BATTERED = NAMES = ("undisturbed", "suspended", "battered")


@dataclass
class Story:
    """What became of one job.

    Attributes
    ----------
    pods
        What each of its pods logged, in their order.
    saw
        What the disturbance noted.
    job, children
        The FineTuneJob at its end, and its child Jobs.
    """

    pods: list[list[Entry]]
    saw: dict[str, Any]
    job: dict[str, Any]
    children: list[dict[str, Any]]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.job["status"]
        return status


def edit_while_it_runs(tenant: Tenant, name: str) -> dict[str, Any]:
    """Nothing that would disturb: an edit that is refused, and a deadline that is raised."""
    said = ""
    try:
        tenant.patch(name, training={"epochs": EPOCHS + 1})
    except CommandError as error:
        said = str(error)
    tenant.raise_deadline(name, 1900)
    return {"refused": said}


def suspend_and_resume(tenant: Tenant, name: str) -> dict[str, Any]:
    """Suspend, note when the pod is gone and what status said before and after, and resume."""
    tenant.patch(name, suspend=True)
    said: list[tuple[str, int]] = []

    def suspended() -> bool:
        # Condition first, pods second: if it is true by then, no pod may be found after it.
        truth: str = tenant.condition("Suspended", name).get("status", "")
        said.append((truth, len(tenant.pods(name))))
        return truth == "True"

    until("it is suspended", suspended, timeout=120, pause=0.5)
    phase = tenant.status(name)["phase"]
    time.sleep(2)
    left = tenant.pods(name) + tenant.jobs(name)
    tenant.patch(name, suspend=False)
    return {"said": said, "phase": phase, "left": left}


def live(tenant: Tenant, name: str) -> Story:
    """Follow one job, disturb it in the middle of an epoch, and wait for its end."""
    pods, saw = Pods(tenant, name), {}
    try:
        pod = pods.trains_to(STEPS * 3 // 10)
        match name:
            case "undisturbed":
                saw = edit_while_it_runs(tenant, name)
            case "suspended":
                saw = suspend_and_resume(tenant, name)
                pods.next()
            case "battered":
                tenant.delete("pod", pod["metadata"]["name"])
                kill_trainer(pods.trains_to(STEPS * 6 // 10))
                pods.next()
        job = tenant.wait_finished(name, timeout=400)
    finally:
        entries = pods.close()
    return Story(entries, saw, job, tenant.jobs(name))


@pytest.fixture(scope="module")
def stories(world: World, pair: str, shared_tenant: Tenant) -> dict[str, Story]:
    """All three, told at once; two pods run at a time."""
    tenant = shared_tenant
    tenant.put_rows(rows(ROWS * 10 // 8))
    split = {"trainPercent": 80, "validationPercent": 10, "testPercent": 10, "stratifyBy": "label"}
    training = {
        "method": "Full",
        "epochs": EPOCHS,
        "learningRate": "1e-3",
        "batchSize": BATCH,
        "maxLength": 64,
        "precision": "Float32",  # Auto is what is faster at the moment, and the three have to agree
    }
    manifests = [
        tenant.job(
            name,
            training=training,
            resources={"gpusPerNode": 0},
            runtimeRef={"name": pair},
            activeDeadlineSeconds=1800,
            backoffLimit=1 if name == BATTERED else 0,
        )
        for name in NAMES
    ]
    for manifest in manifests:
        manifest["spec"]["dataset"]["split"] = split
    tenant.apply(*manifests)
    with ThreadPoolExecutor(len(NAMES)) as pool:
        return dict(zip(NAMES, pool.map(lambda name: live(tenant, name), NAMES), strict=True))


def _steps(tenant: Tenant, name: str) -> list[dict[str, Any]]:
    """The per-step metrics, without how fast they came."""
    entries = [json.loads(line) for line in tenant.read(name, "metrics.jsonl").splitlines()]
    return [{key: value for key, value in entry.items() if key != "tokens_per_second"} for entry in entries]


def _weights(tenant: Tenant, name: str) -> dict[str, str]:
    files = json.loads(tenant.read(name, "manifest.json"))["files"]
    return {file["path"]: file["sha256"] for file in files if file["path"].startswith("model/")}


@pytest.mark.parametrize("name", NAMES)
def test_the_job_succeeds(name: str, stories: dict[str, Story]) -> None:
    assert stories[name].status["phase"] == "Succeeded", stories[name].status


@pytest.mark.parametrize("name", [SUSPENDED, BATTERED])
def test_a_pod_that_is_told_to_stop_saves_its_state_and_loses_no_step(name: str, stories: dict[str, Story]) -> None:
    first = stories[name].pods[0]
    (interrupted,) = events(first, "interrupted")
    assert interrupted["step"] == max(saved(first)) == max(trained(first))
    assert interrupted["step"] < STEPS


@pytest.mark.parametrize(("name", "pod"), [(SUSPENDED, 1), (BATTERED, 1), (BATTERED, 2)])
def test_the_next_pod_goes_on_from_the_newest_complete_checkpoint(
    name: str, pod: int, stories: dict[str, Story]
) -> None:
    """The third pod goes on from where the second one did: that one was killed before it had saved anything."""
    before, entries = stories[name].pods[:pod], stories[name].pods[pod]
    (resumed,) = events(entries, "resumed")
    assert resumed["step"] == max(step for log in before for step in saved(log))
    assert min(trained(entries)) == resumed["step"] + 1


def test_a_pod_that_is_killed_has_gone_beyond_its_last_checkpoint(stories: dict[str, Story]) -> None:
    _, killed, last = stories[BATTERED].pods
    assert saved(killed) == []
    assert max(trained(killed)) > min(trained(last))


@pytest.mark.parametrize("name", [SUSPENDED, BATTERED])
def test_losses_scores_and_weights_are_those_of_the_undisturbed_run_to_the_bit(
    name: str, stories: dict[str, Story], shared_tenant: Tenant
) -> None:
    ours, theirs = stories[name].status, stories[UNDISTURBED].status
    assert _steps(shared_tenant, name) == _steps(shared_tenant, UNDISTURBED)
    assert len(_steps(shared_tenant, name)) == STEPS + EPOCHS
    assert ours["validation"] == theirs["validation"]
    assert ours["results"] == theirs["results"]
    assert _weights(shared_tenant, name) == _weights(shared_tenant, UNDISTURBED)


def test_suspended_is_true_only_when_no_pod_is_left(stories: dict[str, Story]) -> None:
    saw = stories[SUSPENDED].saw
    assert saw["said"][-1] == ("True", 0), saw["said"]
    assert any(pods for _, pods in saw["said"]), "the pod was gone before anybody looked"
    assert saw["phase"] == "Suspended"
    assert saw["left"] == []


@pytest.mark.parametrize(("name", "limit"), [(SUSPENDED, 0), (BATTERED, 1)])
def test_only_the_pod_that_was_killed_counts_against_the_backoff_limit(
    name: str, limit: int, stories: dict[str, Story]
) -> None:
    """One more counted failure would have ended the job."""
    (child,) = stories[name].children
    assert child["spec"]["backoffLimit"] == limit
    assert child["status"].get("failed", 0) == limit
    assert child["status"]["succeeded"] == 1


@pytest.mark.parametrize(("name", "attempts"), [(UNDISTURBED, 1), (SUSPENDED, 2), (BATTERED, 3)])
def test_every_pod_is_counted_as_an_attempt(name: str, attempts: int, stories: dict[str, Story]) -> None:
    (stage,) = stories[name].status["stages"]
    assert stage["attempts"] == attempts


@pytest.mark.parametrize("name", NAMES)
def test_no_checkpoint_is_left_after_the_success(name: str, stories: dict[str, Story], shared_tenant: Tenant) -> None:
    assert not shared_tenant.holds(name, "checkpoints/")


def test_an_edit_of_a_running_job_is_refused_with_the_field_and_the_mend(stories: dict[str, Story]) -> None:
    said = stories[UNDISTURBED].saw["refused"]
    assert "spec.training" in said
    assert "create a new FineTuneJob" in said


def test_a_job_that_is_created_anew_takes_its_result_over_without_training_and_without_a_gpu(
    stories: dict[str, Story], shared_tenant: Tenant, pair: str
) -> None:
    """Deleted and applied again, as a GitOps tool does that prunes; its time to live is 0 from the start."""
    tenant, before = shared_tenant, stories[UNDISTURBED].status
    manifest = before_manifest(stories[UNDISTURBED].job)
    manifest["spec"] |= {"resources": {"gpusPerNode": 1}, "ttlSecondsAfterFinished": 0}
    written = tenant.read(UNDISTURBED, "manifest.json")
    tenant.delete("ftj", UNDISTURBED, "--cascade=foreground", "--wait")
    tenant.apply(manifest)
    status = tenant.wait_finished(UNDISTURBED)["status"]
    assert status["phase"] == "Succeeded", status
    assert {stage["name"]: stage["state"] for stage in status["stages"]} == {"prepare": "Succeeded", "train": "Skipped"}
    assert status["results"] == before["results"]
    # A report has no room for all digests; those are in the manifest, whose own is compared.
    named = [[(a["name"], a["path"], a["bytes"]) for a in one["artifacts"]] for one in (status, before)]
    assert named[0] == named[1]
    assert status["manifestDigest"] == before["manifestDigest"]
    assert tenant.read(UNDISTURBED, "manifest.json") == written
    until("its children are gone", lambda: not tenant.jobs(UNDISTURBED), timeout=60, pause=1)
    assert tenant.status(UNDISTURBED)["results"] == before["results"]


def before_manifest(job: dict[str, Any]) -> dict[str, Any]:
    """What was applied, out of what is stored."""
    metadata = {key: job["metadata"][key] for key in ("name", "namespace")}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "spec": dict(job["spec"])}
