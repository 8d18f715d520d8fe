"""Observing: what comes from the cache, what is read live, and when Events are asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_api.names import child_name
from finetune_operator.cluster.protocol import Raw
from finetune_operator.decide.plan import Observed
from tests.support.builders import runtime_spec
from tests.support.virtual_time import run_virtual, virtual_now
from tests.unit.operator.kit import KEY, Bench, child_manifest, pod_manifest

READS = {"get_job", "get_runtime", "get_child", "list_pods"}


def event(bench: Bench, uid: str, reason: str, message: str) -> None:
    bench.cluster.create(
        "events",
        {
            "metadata": {"namespace": KEY.namespace, "name": f"{uid}-{reason}-{message}"[:60]},
            "involvedObject": {"uid": uid},
            "reason": reason,
            "message": message,
            "lastTimestamp": virtual_now().strftime("%Y-%m-%dT%H:%M:%SZ"),
        },
    )


def test_the_cache_alone_is_asked_unless_live_reads_are_wanted() -> None:
    async def scenario() -> tuple[Observed, Any]:
        bench = Bench.new()
        bench.cache.put("jobs", bench.cluster.get("jobs", *KEY))
        bench.cache.put("children", bench.cluster.create("children", child_manifest(bench.uid)))
        return await bench.observed(live=False), bench.gateway.calls

    seen, calls = run_virtual(scenario())
    assert not seen.live
    assert len(seen.children) == 1
    assert not calls


def test_a_live_observation_reads_everything_and_teaches_the_cache() -> None:
    async def scenario() -> tuple[Observed, Observed, Any]:
        bench = Bench.new()
        bench.cluster.create("runtimes", {"metadata": {"name": "default"}, "spec": runtime_spec()})
        bench.cluster.create("children", child_manifest(bench.uid))
        bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Running"))
        seen = await bench.observed(live=True)
        return seen, await bench.observed(live=False), set(bench.gateway.calls)

    seen, again, calls = run_virtual(scenario())
    assert seen.live
    assert seen.runtime is not None
    assert [child.stage for child in seen.children] == ["train"]
    assert [pod.name for pod in seen.pods] == ["p"]
    assert calls == READS
    assert (again.job, again.runtime, again.children, again.pods) == (seen.job, seen.runtime, seen.children, seen.pods)


def test_a_live_observation_finds_a_job_without_labels_under_a_childs_name() -> None:
    async def scenario() -> Observed:
        bench = Bench.new()
        name = child_name(KEY.name, bench.uid, "prepare")
        bench.cluster.create("children", {"metadata": {"namespace": KEY.namespace, "name": name}})
        return await bench.observed(live=True)

    assert [(c.stage, c.owner_uid) for c in run_virtual(scenario()).children] == [("prepare", None)]


def test_what_a_live_observation_does_not_find_leaves_the_cache() -> None:
    async def scenario() -> tuple[Observed, Observed]:
        bench = Bench.new()
        gone = bench.cluster.create("children", child_manifest(bench.uid))
        runtime = bench.cluster.create("runtimes", {"metadata": {"name": "default"}, "spec": {}})
        for kind, raw in (("children", gone), ("runtimes", runtime)):
            bench.cache.put(kind, raw)
            bench.cluster.delete(kind, raw["metadata"].get("namespace", ""), raw["metadata"]["name"])
        return await bench.observed(live=True), await bench.observed(live=False)

    for seen in run_virtual(scenario()):
        assert (seen.children, seen.runtime) == ((), None)


@pytest.mark.parametrize("live", [False, True])
def test_a_job_that_is_gone_gives_nothing(live: bool) -> None:
    async def scenario() -> Any:
        bench = Bench.new()
        job = bench.cluster.get("jobs", *KEY)
        bench.cluster.delete("jobs", *KEY)
        if live:
            bench.cache.put("jobs", job)
        return await bench.observer.observe(KEY, live=live), bench.cache.job(KEY)

    assert run_virtual(scenario()) == (None, None)


# --- Events -----------------------------------------------------------------------------------------------------------


async def pending(age: float, **status: Any) -> tuple[Observed, int]:
    bench = Bench.new()
    pod = pod_manifest(bench.uid, "p", "Pending", **status)
    uid = bench.cluster.create("pods", pod)["metadata"]["uid"]
    event(bench, uid, "FailedMount", 'secret "s3" not found')
    event(bench, uid, "Scheduled", "fine")
    await asyncio.sleep(age)
    return await bench.observed(), bench.gateway.calls["list_events"]


def test_a_pod_that_does_not_start_is_explained_by_its_newest_mount_error() -> None:
    seen, _ = run_virtual(pending(3.5))
    assert seen.pods[0].start_error == 'secret "s3" not found'


MOUNTED: Raw = {"conditions": [{"type": "PodReadyToStartContainers", "status": "True"}]}


def waiting(reason: str) -> Raw:
    return {"phase": "Pending", "containerStatuses": [{"name": "trainer", "state": {"waiting": {"reason": reason}}}]}


@pytest.mark.parametrize(
    ("age", "fields"),
    [
        (2.5, {}),
        (60, {"status": {"phase": "Running"}}),
        (60, {"status": waiting("ErrImagePull")}),
        (60, {"status": waiting("ContainerCreating") | MOUNTED}),
    ],
    ids=["just made", "runs", "kubelet says why", "its volumes are mounted"],
)
def test_events_are_not_read_for_a_pod_that_needs_no_explanation(age: float, fields: Raw) -> None:
    seen, asked = run_virtual(pending(age, **fields))
    assert (seen.pods[0].start_error, asked) == (None, 0)


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_being_created_is_explained_too(reason: str) -> None:
    seen, _ = run_virtual(pending(60, status=waiting(reason)))
    assert seen.pods[0].start_error is not None


@pytest.mark.parametrize("reason", ["FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedScheduling"])
def test_every_event_that_keeps_a_pod_from_starting_is_read(reason: str) -> None:
    async def scenario() -> Observed:
        bench = Bench.new()
        pod = pod_manifest(bench.uid, "p", "Pending", **({"spec": {}} if reason == "FailedScheduling" else {}))
        event(bench, bench.cluster.create("pods", pod)["metadata"]["uid"], reason, "why")
        await asyncio.sleep(5)
        return await bench.observed()

    (pod,) = run_virtual(scenario()).pods
    assert (pod.start_error_reason, pod.start_error) == (reason, "why")


def test_a_mount_error_holds_however_old_its_event_is_while_nothing_is_mounted() -> None:
    """After 25 Events about a pod kubelet has one in five minutes."""
    seen, _ = run_virtual(pending(3000))
    assert seen.pods[0].start_error == 'secret "s3" not found'


@pytest.mark.parametrize("node", [None, "node-1"])
def test_a_want_of_nodes_is_told_while_the_pod_has_none_and_no_longer(node: str | None) -> None:
    async def scenario() -> Observed:
        bench = Bench.new()
        pod = bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Pending", spec={"nodeName": node}))
        event(bench, pod["metadata"]["uid"], "FailedScheduling", "0/4 nodes are available")
        await asyncio.sleep(1000)
        return await bench.observed()

    assert run_virtual(scenario()).pods[0].start_error == (None if node else "0/4 nodes are available")


def test_a_failed_pod_that_still_stands_does_not_hide_why_the_next_can_not_be_made() -> None:
    async def scenario() -> tuple[Observed, Observed]:
        bench = Bench.new()
        start = virtual_now().strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = child_manifest(bench.uid) | {"status": {"startTime": start}}
        uid = bench.cluster.create("children", manifest)["metadata"]["uid"]
        event(bench, uid, "FailedCreate", "an earlier trouble")
        await asyncio.sleep(60)
        end = {"terminated": {"exitCode": 30, "finishedAt": virtual_now().strftime("%Y-%m-%dT%H:%M:%SZ")}}
        status = {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": end}]}
        bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Failed", owner=uid, status=status))
        await asyncio.sleep(10)
        before = await bench.observed()
        event(bench, uid, "FailedCreate", "exceeded quota: pods")
        return before, await bench.observed()

    before, after = run_virtual(scenario())
    assert before.children[0].pod_create_error is None
    assert after.children[0].pod_create_error == "exceeded quota: pods"


def test_a_child_that_is_gone_is_known_with_when_it_was_missed() -> None:
    async def scenario() -> tuple[Observed, Any, Any, str]:
        bench = Bench.new()
        child = bench.cluster.create("children", child_manifest(bench.uid))
        await bench.observed()
        await asyncio.sleep(50)
        bench.cluster.delete("children", KEY.namespace, child["metadata"]["name"])
        missed = virtual_now()
        first = await bench.observed()
        await asyncio.sleep(50)
        again = await bench.observed()
        return first, missed, again.gone, child["metadata"]["uid"]

    first, missed, gone, uid = run_virtual(scenario())
    assert first.gone == gone == {uid: missed}


def test_a_child_that_has_ended_by_itself_is_not_missed() -> None:
    async def scenario() -> Observed:
        bench = Bench.new()
        ended = {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
        child = bench.cluster.create("children", child_manifest(bench.uid) | ended)
        await bench.observed()
        bench.cluster.delete("children", KEY.namespace, child["metadata"]["name"])
        return await bench.observed()

    assert run_virtual(scenario()).gone == {}


async def without_pod(age: float, status: Raw, *, pod: bool = False) -> tuple[Observed, int]:
    bench = Bench.new()
    start = virtual_now().strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest = child_manifest(bench.uid) | {"status": {"startTime": start, **status}}
    uid = bench.cluster.create("children", manifest)["metadata"]["uid"]
    event(bench, uid, "FailedCreate", "exceeded quota: gpus")
    if pod:
        bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Running", owner=uid))
    await asyncio.sleep(age)
    return await bench.observed(), bench.gateway.calls["list_events"]


def test_a_child_without_a_pod_is_explained_by_the_job_controllers_event() -> None:
    seen, _ = run_virtual(without_pod(3.5, {}))
    assert seen.children[0].pod_create_error == "exceeded quota: gpus"


@pytest.mark.parametrize(
    ("age", "status", "pod"),
    [
        (2.5, {}, False),
        (60, {"startTime": None}, False),
        (60, {"conditions": [{"type": "Complete", "status": "True"}]}, False),
        (60, {}, True),
    ],
    ids=["just started", "not started", "ended", "has a pod"],
)
def test_events_are_not_read_for_a_child_that_needs_no_explanation(age: float, status: Raw, pod: bool) -> None:
    seen, asked = run_virtual(without_pod(age, status, pod=pod))
    assert (seen.children[0].pod_create_error, asked) == (None, 0)


def test_events_that_can_not_be_read_hold_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> Observed:
        bench = Bench.new()
        bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Pending"))
        bench.gateway.broken = {"list_events"}
        await asyncio.sleep(10)
        return await bench.observed()

    assert run_virtual(scenario()).pods[0].start_error is None
    assert [record.event for record in caplog.records] == ["EventsUnreadable"]
