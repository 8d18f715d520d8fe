"""A job that is deleted and applied again goes on from what it had stored: its rows, its first score, its checkpoint.

That is how a failed job is mended, and what a GitOps tool does with one that it prunes. The job that comes after has
another uid, and a folder that belongs to the one before would else be refused. Two jobs are told side by side: one
fails, one is deleted while it trains.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.machine import kill_trainer
from tests.e2e.podlog import Entry, Pods, events, saved, trained
from tests.e2e.world import Tenant, World, rows

pytestmark = pytest.mark.timeout(600)

FAILED, DELETED = NAMES = ("failed", "deleted")
ROWS = 600
TRAINING = {"method": "Full", "epochs": 2, "learningRate": "1e-3", "batchSize": 8, "maxLength": 64}
FIRST, LATER = 20, 40
"""Steps of training at which something happens: the first pod is to have begun, the second one to have gone on."""


@dataclass
class Story:
    """One job, twice.

    Attributes
    ----------
    before, after
        The FineTuneJob when it was deleted, and at the end of the one that was applied then.
    earlier
        What the pods of the first one logged.
    later
        The same of the second one's only pod.
    """

    before: dict[str, Any]
    after: dict[str, Any]
    earlier: list[list[Entry]]
    later: list[Entry]


def fail(tenant: Tenant, name: str, pods: Pods) -> None:
    """Let a job store its state and then fail for good: a pod that is deleted saves it, one that is killed does not."""
    pod = pods.trains_to(FIRST)
    tenant.delete("pod", pod["metadata"]["name"])
    kill_trainer(pods.trains_to(LATER))
    assert tenant.wait_finished(name)["status"]["phase"] == "Failed"


def live(tenant: Tenant, manifest: dict[str, Any]) -> Story:
    """Tell the story of one job."""
    name = manifest["metadata"]["name"]
    first, second = Pods(tenant, name), Pods(tenant, name)
    try:
        if name == FAILED:
            fail(tenant, name, first)
        else:
            first.trains_to(FIRST)
        before = tenant.get(name)
        tenant.delete("ftj", name, "--cascade=foreground", "--wait")
        tenant.apply(manifest)
        second.next()
        after = tenant.wait_finished(name)
    finally:
        logs = [pods.close() for pods in (first, second)]
    (later,) = logs[1]
    return Story(before, after, logs[0], later)


@pytest.fixture(scope="module")
def stories(world: World, pair: str, shared_tenant: Tenant) -> dict[str, Story]:
    tenant = shared_tenant
    tenant.put_rows(rows(ROWS))
    manifests = [
        tenant.job(name, training=TRAINING, resources={"gpusPerNode": 0}, runtimeRef={"name": pair}, backoffLimit=0)
        for name in NAMES
    ]
    tenant.apply(*manifests)
    with ThreadPoolExecutor(len(NAMES)) as pool:
        return dict(zip(NAMES, pool.map(lambda manifest: live(tenant, manifest), manifests), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_job_that_is_applied_again_succeeds_instead_of_finding_its_folder_taken(
    name: str, stories: dict[str, Story], shared_tenant: Tenant
) -> None:
    before, after = stories[name].before, stories[name].after
    uids = [job["metadata"]["uid"] for job in (before, after)]
    assert uids[0] != uids[1]
    assert after["status"]["phase"] == "Succeeded", after["status"]
    assert {"baseline", "test"} <= after["status"]["results"].keys()
    owner = json.loads(shared_tenant.read(name, "owner.json"))
    assert (owner["jobUid"], owner["continues"]) == (uids[1], uids[:1])


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_the_newest_checkpoint_of_the_job_before(name: str, stories: dict[str, Story]) -> None:
    story = stories[name]
    (resumed,) = events(story.later, "resumed")
    assert resumed["step"] == max(step for log in story.earlier for step in saved(log)) >= FIRST
    assert min(trained(story.later)) == resumed["step"] + 1


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_the_rows_and_the_first_score_of_the_job_before(name: str, stories: dict[str, Story]) -> None:
    story = stories[name]
    assert len(events(story.later, "prepared_inherited")) == 1
    (measured,), (kept,) = events(story.earlier[0], "baseline_score"), events(story.later, "baseline_score")
    assert (measured["measured"], kept["measured"]) == (True, False)
    assert kept["score"] == measured["score"]


@pytest.mark.parametrize("name", NAMES)
def test_no_checkpoint_is_left_after_the_success(name: str, stories: dict[str, Story], shared_tenant: Tenant) -> None:
    assert stories[name].after["status"]["phase"] == "Succeeded"
    assert not shared_tenant.holds(name, "checkpoints/")
