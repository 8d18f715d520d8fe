"""An operator that dies, is upgraded or is away never harms a training, loses no result, and starts nothing twice.

Two jobs go through all of it: their operator is killed and upgraded while they are in mid-training, and away when they
end, for longer than they keep their children. One of them loses its pod meanwhile, and with it its report.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.e2e.machine import halted
from tests.e2e.podlog import Pods, is_step, whole_log
from tests.e2e.world import Tenant, World, rows, until

pytestmark = pytest.mark.timeout(600)

TOLD, LOST = NAMES = ("told", "lost")
TTL = 5
"""Seconds for which the one job keeps its children when it has ended."""

TRAINING = {"method": "Full", "epochs": 2, "learningRate": "1e-3", "batchSize": 8, "maxLength": 64}
FIRST = 20
"""The step of training at which it begins."""

PodStates = dict[str, tuple[str, str]]


@dataclass
class Story:
    """What stood there.

    Attributes
    ----------
    operators
        Uids of the operator's pods, one after the other.
    pods
        By job, uid and phase of its only pod: before anything happened, after the kill, after the upgrade.
    away
        Both jobs and their children when the operator had been away for longer than the children are kept.
    manifest
        manifest.json of the job that lost its pod, as that pod wrote it.
    """

    tenant: Tenant
    operators: list[str]
    pods: list[PodStates]
    away: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    manifest: str


def _only_pods(tenant: Tenant) -> PodStates:
    found = {}
    for name in NAMES:
        (pod,) = tenant.pods(name)
        found[name] = (pod["metadata"]["uid"], pod["status"]["phase"])
    return found


def _ended_at(job: dict[str, Any]) -> float | None:
    """When a child was complete."""
    at = job["status"].get("completionTime")
    return datetime.fromisoformat(at).timestamp() if at else None


@pytest.fixture(scope="module")
def story(world: World, pair: str, shared_tenant: Tenant) -> Story:
    """All of it, until the operator is back; the trainers are held still until it is away."""
    tenant = shared_tenant
    tenant.put_rows(rows(600))
    common = {"resources": {"gpusPerNode": 0}, "runtimeRef": {"name": pair}, "training": TRAINING}
    tenant.apply(tenant.job(TOLD, **common, ttlSecondsAfterFinished=TTL), tenant.job(LOST, **common))
    trainers = [Pods(tenant, name) for name in NAMES]
    operators, pods = [], []

    def note() -> None:
        (operator,) = world.operator_pods()
        operators.append(str(operator["metadata"]["uid"]))
        pods.append(_only_pods(tenant))

    def is_over() -> bool:
        children = tenant.jobs()
        assert len(children) == len(NAMES), "a child is gone before anybody has read its result"
        return all((at := _ended_at(child)) is not None and time.time() > at + TTL + 3 for child in children)

    try:
        with ExitStack() as still:
            with ThreadPoolExecutor(len(NAMES)) as pool:
                list(pool.map(lambda trainer: still.enter_context(halted(trainer.trains_to(FIRST))), trainers))
            note()
            world.kill_operator()
            note()
            world.upgrade(podAnnotations={"e2e/upgraded-for": tenant.namespace})
            note()
            world.scale_operator(0)
        until("both trainings have ended, and the time of their children is over", is_over, timeout=240, pause=1)
        away = {name: (tenant.get(name), tenant.jobs(name)[0]) for name in NAMES}
        tenant.delete("pod", tenant.pods(LOST)[0]["metadata"]["name"], "--wait")
        manifest = tenant.read(LOST, "manifest.json")
    finally:
        world.scale_operator(1)
        for trainer in trainers:
            trainer.close()
    return Story(tenant, operators, pods, away, manifest)


def test_an_operator_that_is_killed_in_mid_training_comes_back_to_the_same_pods(story: Story) -> None:
    assert story.operators[0] != story.operators[1]
    assert story.pods[1] == story.pods[0]
    assert {phase for _, phase in story.pods[1].values()} == {"Running"}


def test_an_upgrade_of_the_chart_in_mid_training_replaces_the_operator_and_not_the_pods(story: Story) -> None:
    assert story.operators[1] != story.operators[2]
    assert story.pods[2] == story.pods[0]
    assert {phase for _, phase in story.pods[2].values()} == {"Running"}


@pytest.mark.parametrize("name", NAMES)
def test_a_child_whose_result_nobody_has_read_stays_for_as_long_as_the_operator_is_away(
    name: str, story: Story
) -> None:
    job, child = story.away[name]
    assert job["status"]["phase"] not in ("Succeeded", "Failed")
    assert child["status"]["succeeded"] == 1
    assert "ttlSecondsAfterFinished" not in child["spec"]


def test_what_ended_while_the_operator_was_away_is_in_status_when_it_is_back_and_then_its_children_go(
    story: Story,
) -> None:
    tenant = story.tenant
    status = tenant.wait_finished(TOLD, timeout=90)["status"]
    assert status["phase"] == "Succeeded", status
    assert {"baseline", "test"} <= status["results"].keys()
    assert [stage["attempts"] for stage in status["stages"]] == [1]
    until("its children are gone", lambda: not tenant.jobs(TOLD) and not tenant.pods(TOLD), timeout=90, pause=1)
    assert tenant.status(TOLD)["results"] == status["results"]


def test_a_result_whose_report_is_lost_is_reported_again_and_not_computed_again(story: Story) -> None:
    tenant = story.tenant
    status = tenant.wait_finished(LOST, timeout=150)["status"]
    assert status["phase"] == "Succeeded", status
    assert "test" in status["results"]
    # The second pod only says again what the first one did.
    assert tenant.read(LOST, "manifest.json") == story.manifest
    (pod,) = tenant.pods(LOST)
    entries = whole_log(tenant, pod)
    assert "already_complete" in [entry["event"] for entry in entries]
    assert not any(map(is_step, entries))


def test_a_finished_job_is_never_run_again_after_its_children_are_gone(story: Story, world: World) -> None:
    tenant = story.tenant
    before = tenant.wait_finished(TOLD, timeout=90)["status"]
    until("its children are gone", lambda: not tenant.jobs(TOLD), timeout=90, pause=1)
    world.kill_operator()
    tenant.patch(TOLD, ttlSecondsAfterFinished=7200)
    until(
        "the edit is observed",
        lambda: tenant.status(TOLD)["observedGeneration"] == tenant.get(TOLD)["metadata"]["generation"],
        timeout=60,
    )
    assert tenant.jobs(TOLD) == []
    assert tenant.status(TOLD)["results"] == before["results"]
