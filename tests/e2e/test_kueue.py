"""Two teams share one processor through the real Kueue: the more urgent job takes it, the other one loses nothing.

One job trains in the queue of its team. A job of another team with a higher priority comes; Kueue stops the first one,
runs the second and then lets the first go on. Beside them stand jobs that no queue will ever admit. Queues, priorities
and what the jobs say of them are those of ``examples/kueue``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.podlog import Entry, Pods, events, saved, trained
from tests.e2e.world import Tenant, World, rows, until
from tests.support.kueue import MANAGED, running_kueue

pytestmark = pytest.mark.timeout(900)

MACHINE: str = "10.77.0.1"
"""Where the development cluster reaches this machine."""

CALM, URGENT = "calm", "urgent"
HOPELESS: dict[str, dict[str, Any]] = {
    "no-queue": {"queueName": "nope"},
    "no-priority": {"queueName": "team", "workloadPriorityClassName": "nosuch"},
    "too-big": {"queueName": "team", "runtimeRef": {"name": "e2e-kueue-big"}},
}
"""What is wrong with each job that no queue ever admits."""

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/kueue"
ROOM_FOR_ONE = {"cpu": "1", "memory": "4Gi", "ephemeral-storage": "4Gi"}
"""In place of the example's quotas: the jobs of this test ask for no GPU, and only one pod may run at a time."""


def _queues(namespaces: dict[str, str]) -> list[dict[str, Any]]:
    """The example's queues with room for one pod, in these namespaces in place of the example's."""
    objects: list[dict[str, Any]] = list(yaml.safe_load_all((EXAMPLE / "queues.yaml").read_text(encoding="utf-8")))
    for one in objects:
        if "namespace" in one["metadata"]:
            one["metadata"]["namespace"] = namespaces[one["metadata"]["namespace"]]
        for group in one["spec"].get("resourceGroups", []) if one["kind"] == "ClusterQueue" else []:
            for flavor in group["flavors"]:
                for resource in flavor["resources"]:
                    resource["nominalQuota"] = ROOM_FOR_ONE.get(resource["name"], resource["nominalQuota"])
    return objects


def _queue_fields(name: str) -> dict[str, Any]:
    """How a job of the example says where it stands."""
    spec = yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text(encoding="utf-8"))["spec"]
    return {field: spec[field] for field in ("queueName", "workloadPriorityClassName")}


@dataclass
class Story:
    """What was seen."""

    waiting: dict[str, Any] = field(default_factory=dict)
    """Status of the calm job after it was stopped."""
    hopeless: dict[str, dict[str, Any]] = field(default_factory=dict)
    urgent: dict[str, Any] = field(default_factory=dict)
    calm: dict[str, Any] = field(default_factory=dict)
    """Status of both at their ends."""
    children: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The calm job's child before, between and after."""
    pods: list[list[Entry]] = field(default_factory=list)
    stood: float = 0.0
    """Seconds for which the calm job was stopped at least."""


def _job(tenant: Tenant, name: str, *, epochs: int, **spec: Any) -> dict[str, Any]:
    training = {"method": "Full", "epochs": epochs, "learningRate": "1e-3", "batchSize": 8, "maxLength": 64}
    return tenant.job(
        name, training=training, resources={"gpusPerNode": 0}, backoffLimit=0, activeDeadlineSeconds=1800, **spec
    )


@pytest.fixture(scope="module")
def story(world: World, pair: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Play it once."""
    seen, folder = Story(), Path(tmp_path_factory.mktemp("kueue"))
    big = {"cpu": "1500m", "memory": "3Gi", "ephemeralStorage": "3Gi"}
    with ExitStack() as stack:
        stack.enter_context(running_kueue(world.kube, folder, address=MACHINE))
        stack.enter_context(world.runtime("e2e-kueue-big", train={"resources": big}))
        ours, theirs = (stack.enter_context(world.tenant(f"kueue-{name}")) for name in (CALM, URGENT))
        for tenant in (ours, theirs):
            world.kube.kubectl("label", "namespace", tenant.namespace, *(f"{k}={v}" for k, v in MANAGED.items()))
            tenant.put_rows(rows(800))
        world.kube.apply(*_queues({"team-a": ours.namespace, "team-b": theirs.namespace}))
        _play(seen, ours, theirs, pair)
        yield seen
        for tenant in (ours, theirs):
            tenant.delete("ftj", "--all", "--cascade=foreground", "--wait", "--timeout=120s")


def _play(seen: Story, ours: Tenant, theirs: Tenant, runtime: str) -> None:
    where, pods = {"runtimeRef": {"name": runtime}}, Pods(ours, CALM)
    ours.apply(_job(ours, CALM, epochs=4, **where, **_queue_fields("research")))
    try:
        pods.trains_to(80)
        seen.children["before"] = ours.jobs(CALM)
        theirs.apply(_job(theirs, URGENT, epochs=1, **where, **_queue_fields("production")))
        theirs.apply(*(_job(theirs, name, epochs=1, **{**where, **wrong}) for name, wrong in HOPELESS.items()))
        until("the calm job is stopped", lambda: "Preempted" in _said(ours, CALM), timeout=120)
        stopped = time.monotonic()
        seen.waiting = ours.status(CALM)
        seen.children["between"] = ours.jobs(CALM)
        for name in HOPELESS:
            until(f"{name} is told", partial(_is_told, theirs, name), timeout=120, pause=2)
            seen.hopeless[name] = theirs.status(name)
        seen.urgent = theirs.wait_finished(URGENT, timeout=300)["status"]
        seen.stood = time.monotonic() - stopped
        pods.next()
        seen.calm = ours.wait_finished(CALM, timeout=300)["status"]
        seen.children["after"] = ours.jobs(CALM)
    finally:
        seen.pods = pods.close()


def _said(tenant: Tenant, name: str) -> str:
    return str(tenant.condition("Succeeded", name).get("message", ""))


def _is_told(tenant: Tenant, name: str) -> bool:
    return tenant.condition("Succeeded", name).get("reason") == "Inadmissible"


def _message(status: dict[str, Any]) -> str:
    return next(str(c["message"]) for c in status["conditions"] if c["type"] == "Succeeded")


def test_both_jobs_succeed(story: Story) -> None:
    assert (story.urgent["phase"], story.calm["phase"]) == ("Succeeded", "Succeeded")


def test_the_job_that_makes_room_is_queued_and_says_that_it_goes_on(story: Story) -> None:
    assert story.waiting["phase"] == "Queued"
    assert "(Preempted): Preempted to accommodate a workload" in _message(story.waiting)
    assert _message(story.waiting).endswith("It goes on from what it saved when LocalQueue team admits it again.")


def test_the_job_goes_on_from_the_step_that_it_saved_when_it_was_told_to_go(story: Story) -> None:
    first, second = story.pods
    (resumed,) = events(second, "resumed")
    assert resumed["step"] == saved(first)[-1] >= 80
    assert min(trained(second)) == resumed["step"] + 1


def test_being_stopped_is_no_failure_and_one_child_lives_through_it(story: Story) -> None:
    uids = {child["metadata"]["uid"] for children in story.children.values() for child in children}
    assert len(uids) == 1
    (child,) = story.children["after"]
    assert child["status"].get("failed", 0) == 0
    (stage,) = story.calm["stages"]
    assert (stage["attempts"], stage.get("failures", 0)) == (2, 0)


def test_only_kueue_has_ever_written_whether_the_child_runs(story: Story) -> None:
    (between,), (after,) = story.children["between"], story.children["after"]
    assert (between["spec"]["suspend"], after["spec"]["suspend"]) == (True, False)


def test_the_time_in_which_it_stood_still_is_free(story: Story) -> None:
    (stage,) = story.calm["stages"]
    lived = _seconds(story.calm["startTime"], story.calm["completionTime"])
    assert stage["runSeconds"] <= lived - story.stood + 2
    (before,), (after,) = story.children["before"], story.children["after"]
    assert before["spec"]["activeDeadlineSeconds"] == 1800
    assert after["spec"]["activeDeadlineSeconds"] < 1800


def _seconds(start: str, end: str) -> float:
    read = "%Y-%m-%dT%H:%M:%SZ"
    return time.mktime(time.strptime(end, read)) - time.mktime(time.strptime(start, read))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no-queue", "LocalQueue nope doesn't exist. Create it in the namespace of the job"),
        ("no-priority", 'WorkloadPriorityClass "nosuch" does not exist'),
        ("too-big", "asks for more than LocalQueue team can ever give it"),
    ],
)
def test_a_job_that_no_queue_ever_admits_is_told(story: Story, name: str, words: str) -> None:
    assert story.hopeless[name]["phase"] == "Queued"
    assert words in _message(story.hopeless[name])
