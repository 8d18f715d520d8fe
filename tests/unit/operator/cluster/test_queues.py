"""What is read of Kueue about a child that it does not let run, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from finetune_operator.cluster.protocol import ForbiddenError, Raw
from finetune_operator.decide.plan import QueueWord
from tests.support.virtual_time import run_virtual, virtual_now
from tests.unit.operator.kit import KEY, Bench, child_manifest, pod_manifest

CALLS = {"kueue_version", "list_workloads", "get_workload_priority_class"}
PENDING = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": "1 more needed"}
RESERVED = {"type": "QuotaReserved", "status": "True", "reason": "QuotaReserved", "message": "Quota reserved"}
EVICTED = {"type": "Evicted", "status": "True", "reason": "Preempted", "message": "made room"}
WAS_EVICTED = {"type": "Evicted", "status": "False", "reason": "QuotaReserved", "message": "Previously: made room"}

Change = Callable[[Bench, str], None]


def installed(bench: Bench, _child: str = "") -> None:
    bench.cluster.kueue = "v1beta2"


def with_workload(*conditions: Raw, name: str = "job-x", created: str = "2026-03-01T08:00:00Z") -> Change:
    def change(bench: Bench, child: str) -> None:
        installed(bench)
        labels = {"kueue.x-k8s.io/job-uid": child}
        meta = {"namespace": KEY.namespace, "name": name, "labels": labels}
        bench.cluster.create("workloads", {"metadata": meta, "status": {"conditions": list(conditions)}})
        bench.cluster.patch("workloads", KEY.namespace, name, {"metadata": {"creationTimestamp": created}})

    return change


async def seen(
    *changes: Change, age: float = 10, labels: Raw | None = None, **spec: Any
) -> tuple[QueueWord | None, Counter[str]]:
    """What is seen of a child that was suspended so long ago, and the requests about it."""
    bench = Bench.new()
    manifest = child_manifest(bench.uid)
    manifest["metadata"]["labels"] |= {"kueue.x-k8s.io/queue-name": "team-a"} if labels is None else labels
    manifest["spec"] = {"suspend": True, **spec}
    stamp = virtual_now().strftime("%Y-%m-%dT%H:%M:%SZ")
    manifest["status"] = {"conditions": [{"type": "Suspended", "status": "True", "lastTransitionTime": stamp}]}
    uid = bench.cluster.create("children", manifest)["metadata"]["uid"]
    for change in changes:
        change(bench, uid)
    await asyncio.sleep(age)
    observed = await bench.observed()
    calls = Counter({name: count for name, count in bench.gateway.calls.items() if name in CALLS})
    return observed.children[0].word, calls


def test_a_workload_says_why_no_quota_is_reserved() -> None:
    word, calls = run_virtual(seen(with_workload(PENDING)))
    assert word == QueueWord(workload="job-x", reason="Pending", message="1 more needed")
    assert calls == {"kueue_version": 1, "list_workloads": 1}


def test_a_workload_that_was_evicted_says_why_until_it_has_a_reservation_again() -> None:
    word, _ = run_virtual(seen(with_workload(PENDING, EVICTED)))
    assert word is not None
    assert (word.evicted, word.evicted_message) == ("Preempted", "made room")
    word, _ = run_virtual(seen(with_workload(RESERVED, WAS_EVICTED)))
    assert word == QueueWord(workload="job-x")


def test_of_several_workloads_the_newest_one_counts() -> None:
    old = with_workload(PENDING, name="zz-old", created="2026-03-01T07:00:00Z")
    word, _ = run_virtual(seen(with_workload(EVICTED, name="aa-new"), old))
    assert word is not None
    assert word.workload == "aa-new"


def test_a_workload_that_holds_nonsense_says_nothing() -> None:
    word, _ = run_virtual(seen(with_workload({"type": "QuotaReserved", "status": "False", "reason": 7, "message": {}})))
    assert word == QueueWord(workload="job-x")


def test_a_cluster_without_kueue_is_told() -> None:
    word, calls = run_virtual(seen())
    assert word == QueueWord(installed=False)
    assert calls == {"kueue_version": 1}


def test_a_priority_class_is_looked_for_where_kueue_has_made_no_workload() -> None:
    labels = {"kueue.x-k8s.io/queue-name": "team-a", "kueue.x-k8s.io/priority-class": "low"}
    word, _ = run_virtual(seen(installed, labels=labels))
    assert word == QueueWord(priority_missing=True)

    def there(bench: Bench, _child: str) -> None:
        bench.cluster.create("workloadpriorityclasses", {"metadata": {"name": "low"}})

    word, calls = run_virtual(seen(installed, there, labels=labels))
    assert word == QueueWord()
    assert calls["get_workload_priority_class"] == 1
    word, calls = run_virtual(seen(installed))
    assert word == QueueWord()
    assert "get_workload_priority_class" not in calls


def refuse(bench: Bench, _child: str) -> None:
    def forbid(name: str) -> None:
        if name == "list_workloads":
            raise ForbiddenError("workloads is forbidden", code=403)

    bench.gateway.on_request = forbid


def test_an_operator_that_may_not_read_workloads_sees_that_much() -> None:
    word, _ = run_virtual(seen(installed, refuse))
    assert word == QueueWord(readable=False)


def test_a_fault_of_the_api_server_leaves_the_wait_unexplained(caplog: pytest.LogCaptureFixture) -> None:
    def broken(bench: Bench, _child: str) -> None:
        bench.gateway.broken.add("list_workloads")

    word, _ = run_virtual(seen(installed, broken))
    assert word is None
    assert "Kueue's Workloads could not be read" in caplog.text


def test_the_version_is_asked_for_again_only_where_it_is_served_no_more() -> None:
    async def scenario() -> list[tuple[QueueWord | None, int]]:
        bench = Bench.new()
        manifest = child_manifest(bench.uid)
        manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "team-a"
        manifest["spec"] = {"suspend": True}
        manifest["status"] = {
            "conditions": [{"type": "Suspended", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]
        }
        with_workload(PENDING)(bench, bench.cluster.create("children", manifest)["metadata"]["uid"])
        found = []
        for version in ("v1beta1", "v1beta1", "v1beta2", "v1beta2"):
            bench.cluster.kueue = version
            word = (await bench.observed()).children[0].word
            found.append((word, bench.gateway.calls["kueue_version"]))
        return found

    first, second, third, fourth = run_virtual(scenario())
    assert (first[1], second[1], third[1], fourth[1]) == (1, 1, 1, 2)
    assert third[0] is None
    assert first[0] == second[0] == fourth[0] == QueueWord(workload="job-x", reason="Pending", message="1 more needed")


@pytest.mark.parametrize(
    ("age", "fields"),
    [(1, {}), (10, {"labels": {}}), (10, {"suspend": False})],
    ids=["just made", "in no queue", "admitted"],
)
def test_nothing_is_read_of_a_child_that_does_not_wait_in_a_queue(age: float, fields: dict[str, Any]) -> None:
    assert run_virtual(seen(with_workload(PENDING), age=age, **fields)) == (None, {})


def test_a_child_that_still_has_a_pod_was_stopped_and_its_queue_is_asked_at_once() -> None:
    def pod(bench: Bench, child: str) -> None:
        bench.cluster.create("pods", pod_manifest(bench.uid, "p", "Running", owner=child))

    word, _ = run_virtual(seen(with_workload(PENDING, EVICTED), pod, age=0))
    assert word is not None
    assert word.evicted == "Preempted"
