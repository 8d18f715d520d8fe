"""A training that is stopped in any way goes on where it was, and ends with the very same model.

Four jobs with the same spec run at once: one undisturbed, one that is suspended and resumed, one whose pod is deleted,
one whose process is killed. Each of them writes its own output; what they wrote must be equal to the bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from hack.demo.kube import CommandError
from tests.e2e.machine import kill_trainer
from tests.e2e.podlog import Entry, PodLog, events, whole_log
from tests.e2e.world import Tenant, World, rows, until

pytestmark = pytest.mark.timeout(900)

EPOCHS, ROWS, BATCH = 4, 1600, 8
NAMES = ("undisturbed", "suspended", "deleted", "killed")
DISTURBED = NAMES[1:]


@dataclass
class Story:
    """What became of one job.

    Attributes
    ----------
    first, last
        What the first pod logged, and the one that ended the job.
    saw
        What the disturbance noted.
    job, children
        The FineTuneJob at its end, and its child Jobs.
    """

    first: list[Entry]
    last: list[Entry]
    saw: dict[str, Any]
    job: dict[str, Any]
    children: list[dict[str, Any]]

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.job["status"]
        return status


def _train(entry: Entry) -> bool:
    return entry.get("event") == "train"


def edit_while_it_runs(tenant: Tenant, name: str, _pod: Entry, _log: PodLog) -> dict[str, Any]:
    """Nothing that would disturb: an edit that is refused, and a deadline that is raised."""
    said = ""
    try:
        tenant.patch(name, training={"epochs": EPOCHS + 1})
    except CommandError as error:
        said = str(error)
    tenant.patch(name, activeDeadlineSeconds=1900)

    def raised() -> bool:
        return all(job["spec"]["activeDeadlineSeconds"] == 1900 for job in tenant.jobs(name))

    until("the running child has the new deadline", raised, timeout=60, pause=1)
    return {"refused": said}


def suspend_and_resume(tenant: Tenant, name: str, _pod: Entry, _log: PodLog) -> dict[str, Any]:
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


def delete_pod(tenant: Tenant, name: str, pod: Entry, _log: PodLog) -> dict[str, Any]:
    """As a person or a drained node does."""
    tenant.delete("pod", pod["metadata"]["name"])
    return {}


def kill(_tenant: Tenant, _name: str, pod: Entry, log: PodLog) -> dict[str, Any]:
    """No time to save anything; something was saved before."""
    log.wait_for("a checkpoint is saved", lambda e: e.get("event") == "checkpoint_saved", timeout=120)
    step = log.entries[-1].get("step", 0)
    log.wait_for("training went on", lambda e: _train(e) and e["step"] > step, timeout=60)
    kill_trainer(pod)
    return {}


ACTIONS: dict[str, Callable[[Tenant, str, Entry, PodLog], dict[str, Any]]] = {
    "undisturbed": edit_while_it_runs,
    "suspended": suspend_and_resume,
    "deleted": delete_pod,
    "killed": kill,
}


def live(tenant: Tenant, name: str) -> Story:
    """Follow one job, disturb it in the middle of an epoch, and wait for its end."""
    pod = tenant.running_pod(name, timeout=300)
    log = PodLog(tenant, pod)
    middle = EPOCHS * ROWS // BATCH * 2 // 5
    log.wait_for("training is half way", lambda e: _train(e) and e["step"] >= middle, timeout=240)
    saw = ACTIONS[name](tenant, name, pod, log)
    first = log.close()
    job = tenant.wait_finished(name, timeout=400)
    newest = max(tenant.pods(name), key=lambda pod: pod["metadata"]["creationTimestamp"])
    return Story(first, whole_log(tenant, newest), saw, job, tenant.jobs(name))


@pytest.fixture(scope="module")
def stories(world: World, pair: str, shared_tenant: Tenant) -> dict[str, Story]:
    """All four, told at once; two pods run at a time."""
    tenant = shared_tenant
    tenant.put_rows(rows(ROWS * 10 // 8))
    split = {"trainPercent": 80, "validationPercent": 10, "testPercent": 10, "stratifyBy": "label"}
    training = {"method": "Full", "epochs": EPOCHS, "learningRate": "1e-3", "batchSize": BATCH, "maxLength": 64}
    manifests = [
        tenant.job(
            name,
            training=training,
            resources={"gpusPerNode": 0},
            runtimeRef={"name": pair},
            activeDeadlineSeconds=1800,
            backoffLimit=1 if name == "killed" else 0,
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


@pytest.mark.parametrize("name", DISTURBED)
def test_the_next_pod_goes_on_from_the_newest_checkpoint(name: str, stories: dict[str, Story]) -> None:
    story = stories[name]
    (resumed,) = events(story.last, "resumed")
    saved = [entry["step"] for entry in events(story.first, "checkpoint_saved")]
    assert resumed["step"] == max(saved)
    assert min(entry["step"] for entry in story.last if _train(entry)) == resumed["step"] + 1


@pytest.mark.parametrize("name", DISTURBED)
def test_losses_scores_and_weights_are_those_of_the_undisturbed_run_to_the_bit(
    name: str, stories: dict[str, Story], shared_tenant: Tenant
) -> None:
    ours, theirs = stories[name].status, stories["undisturbed"].status
    assert _steps(shared_tenant, name) == _steps(shared_tenant, "undisturbed")
    assert len(_steps(shared_tenant, name)) >= EPOCHS * ROWS // BATCH
    assert ours["validation"] == theirs["validation"]
    assert ours["results"] == theirs["results"]
    assert _weights(shared_tenant, name) == _weights(shared_tenant, "undisturbed")


@pytest.mark.parametrize("name", ["suspended", "deleted"])
def test_a_pod_that_is_told_to_stop_saves_its_state_first_and_loses_no_step(
    name: str, stories: dict[str, Story]
) -> None:
    first = stories[name].first
    assert events(first, "interrupted")
    assert max(entry["step"] for entry in events(first, "checkpoint_saved")) == max(
        entry["step"] for entry in first if _train(entry)
    )


def test_suspended_is_true_only_when_no_pod_is_left(stories: dict[str, Story]) -> None:
    saw = stories["suspended"].saw
    assert saw["said"][-1] == ("True", 0), saw["said"]
    assert [said for said in saw["said"] if said[0] == "True" and said[1]] == []
    assert any(pods for _, pods in saw["said"]), "the pod was gone before anybody looked"
    assert saw["phase"] == "Suspended"
    assert saw["left"] == []


@pytest.mark.parametrize("name", ["suspended", "deleted"])
def test_an_interruption_does_not_use_the_backoff_limit(name: str, stories: dict[str, Story]) -> None:
    """It is 0: one counted failure would have ended the job."""
    (child,) = stories[name].children
    assert child["spec"]["backoffLimit"] == 0
    assert child["status"]["succeeded"] == 1


@pytest.mark.parametrize(("name", "attempts"), [("undisturbed", 1), ("suspended", 2), ("deleted", 2), ("killed", 2)])
def test_every_pod_is_counted_as_an_attempt(name: str, attempts: int, stories: dict[str, Story]) -> None:
    (stage,) = stories[name].status["stages"]
    assert stage["attempts"] == attempts


@pytest.mark.parametrize("name", NAMES)
def test_no_checkpoint_is_left_after_the_success(name: str, stories: dict[str, Story], shared_tenant: Tenant) -> None:
    assert not shared_tenant.holds(name, "checkpoints/")


def test_an_edit_of_a_running_job_is_refused_with_the_field_and_the_mend(stories: dict[str, Story]) -> None:
    said = stories["undisturbed"].saw["refused"]
    assert "spec.training" in said
    assert "create a new FineTuneJob" in said


def test_a_job_that_is_created_anew_takes_its_result_over_without_training_and_without_a_gpu(
    stories: dict[str, Story], shared_tenant: Tenant, pair: str
) -> None:
    """Deleted and applied again, as a GitOps tool does that prunes; its time to live is 0 from the start."""
    tenant, before = shared_tenant, stories["undisturbed"].status
    manifest = before_manifest(stories["undisturbed"].job)
    manifest["spec"] |= {"resources": {"gpusPerNode": 1}, "ttlSecondsAfterFinished": 0}
    written = tenant.read("undisturbed", "manifest.json")
    tenant.delete("ftj", "undisturbed", "--cascade=foreground", "--wait")
    tenant.apply(manifest)
    status = tenant.wait_finished("undisturbed")["status"]
    assert status["phase"] == "Succeeded", status
    assert {stage["name"]: stage["state"] for stage in status["stages"]} == {"prepare": "Succeeded", "train": "Skipped"}
    assert status["results"] == before["results"]
    assert status["artifacts"] == before["artifacts"]
    assert status["manifestDigest"] == before["manifestDigest"]
    assert tenant.read("undisturbed", "manifest.json") == written
    until("its children are gone", lambda: not tenant.jobs("undisturbed"), timeout=60, pause=1)
    assert tenant.status("undisturbed")["results"] == before["results"]


def before_manifest(job: dict[str, Any]) -> dict[str, Any]:
    """What was applied, out of what is stored."""
    metadata = {key: job["metadata"][key] for key in ("name", "namespace")}
    return {"apiVersion": job["apiVersion"], "kind": job["kind"], "metadata": metadata, "spec": dict(job["spec"])}
