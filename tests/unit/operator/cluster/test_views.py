"""Views of raw objects: what they tell, and that no object makes them raise."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.cluster import views
from finetune_operator.cluster.protocol import Raw
from finetune_operator.cluster.views import child_view, newest_event, pod_view, runtime_view, start_trouble
from finetune_operator.decide.text import parse_time
from tests.unit.operator.kit import child_manifest, pod_manifest

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def child(status: Raw, **metadata: Any) -> Raw:
    manifest = child_manifest("uid-of-the-job")
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "u", **metadata}, "status": status}


def pod(phase: str = "Running", *, statuses: list[Raw] | None = None, conditions: list[Raw] | None = None) -> Raw:
    raw = pod_manifest("uid-of-the-job", "pod", phase)
    raw["metadata"] |= {"uid": "p", "creationTimestamp": "2026-03-01T12:00:00Z"}
    raw["status"] |= {"containerStatuses": statuses or [], "conditions": conditions or []}
    return raw


def container(name: str = "trainer", **state: Any) -> Raw:
    return {"name": name, "state": state}


# --- children ---------------------------------------------------------------------------------------------------------


def test_a_fresh_child_is_unfinished_and_ours() -> None:
    view = child_view(child({}), stage="train")
    assert view is not None
    assert (view.owner_uid, view.ended, view.active, view.start_time, view.deleting) == (
        "uid-of-the-job",
        None,
        0,
        None,
        False,
    )


@pytest.mark.parametrize("kind", ["FailureTarget", "SuccessCriteriaMet", "Suspended"])
def test_conditions_on_the_way_to_the_end_are_not_the_end(kind: str) -> None:
    view = child_view(child({"conditions": [{"type": kind, "status": "True"}]}), stage="train")
    assert view is not None
    assert view.ended is None
    assert view.finished_at is None


def test_a_condition_that_is_not_true_is_not_the_end() -> None:
    view = child_view(child({"conditions": [{"type": "Failed", "status": "False"}]}), stage="train")
    assert view is not None
    assert view.ended is None


def test_a_complete_child_tells_when_it_ended() -> None:
    status = {
        "succeeded": 1,
        "startTime": "2026-03-01T11:00:00Z",
        "completionTime": "2026-03-01T12:00:00Z",
        "conditions": [
            {"type": "SuccessCriteriaMet", "status": "True"},
            {"type": "Complete", "status": "True", "lastTransitionTime": "2026-03-01T12:00:05Z"},
        ],
    }
    view = child_view(child(status), stage="train")
    assert view is not None
    assert (view.ended, view.completion_time, view.finished_at) == ("Complete", NOON, NOON)
    assert (view.start_time, view.failed_reason) == (NOON - timedelta(hours=1), None)


def test_a_failed_child_tells_why_and_when() -> None:
    failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "m"}
    view = child_view(
        child({"failed": 3, "conditions": [{**failed, "lastTransitionTime": "2026-03-01T12:00:00Z"}]}), stage="train"
    )
    assert view is not None
    assert (view.ended, view.failed, view.failed_reason, view.failed_message) == (
        "Failed",
        3,
        "DeadlineExceeded",
        "m",
    )
    assert (view.completion_time, view.finished_at) == (None, NOON)


def test_an_owner_that_is_no_controller_does_not_count() -> None:
    view = child_view(child({}, ownerReferences=[{"uid": "other", "controller": False}, {"uid": "x"}]), stage="train")
    assert view is not None
    assert view.owner_uid is None


def test_a_marked_child_is_deleting() -> None:
    view = child_view(child({}, deletionTimestamp="2026-03-01T12:00:00Z"), stage="train")
    assert view is not None
    assert view.deleting
    assert view.deleted_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_the_limits_of_a_child_are_read_from_its_spec() -> None:
    raw = child({}) | {"spec": {"ttlSecondsAfterFinished": 7, "activeDeadlineSeconds": 8}}
    view = child_view(raw, stage="train")
    assert view is not None
    assert (view.ttl_seconds, view.active_deadline_seconds) == (7, 8)


# --- pods -------------------------------------------------------------------------------------------------------------


def test_the_trainers_container_counts_among_those_of_a_mesh() -> None:
    ended = container(
        terminated={"exitCode": 11, "reason": "Error", "message": "m", "finishedAt": "2026-03-01T12:00:00Z"}
    )
    view = pod_view(pod("Failed", statuses=[container("istio-proxy", running={}), ended]))
    assert view is not None
    assert (view.exit_code, view.terminated_reason, view.termination_message) == (11, "Error", "m")
    assert view.finished_at == NOON


def test_among_strange_containers_none_counts() -> None:
    ended = [container(name, terminated={"exitCode": 3}) for name in ("a", "b")]
    view = pod_view(pod("Failed", statuses=ended))
    assert view is not None
    assert view.exit_code is None


def test_a_container_that_waits_says_why() -> None:
    view = pod_view(
        pod("Pending", statuses=[container(waiting={"reason": "ErrImagePull", "message": "no such image"})])
    )
    assert view is not None
    assert (view.waiting_reason, view.waiting_message, view.exit_code) == ("ErrImagePull", "no such image", None)


@pytest.mark.parametrize(
    ("reason", "status", "expected"),
    [("Unschedulable", "False", "0/3 nodes"), ("SchedulingGated", "False", None), ("Unschedulable", "True", None)],
)
def test_only_a_pod_that_no_node_takes_is_unschedulable(reason: str, status: str, expected: str | None) -> None:
    scheduled = {"type": "PodScheduled", "status": status, "reason": reason, "message": "0/3 nodes"}
    view = pod_view(pod("Pending", conditions=[scheduled]))
    assert view is not None
    assert view.unschedulable == expected


def test_a_phase_that_nobody_knows_counts_as_unknown() -> None:
    view = pod_view(pod("Dreaming"))
    assert view is not None
    assert view.phase == "Unknown"


# --- times and events -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01T12:00:00Z", NOON),
        ("2026-03-01T12:00:00.000000Z", NOON),
        ("2026-03-01T14:00:00+02:00", NOON),
        ("2026-03-01T12:00:00", NOON),
        ("0001-01-01T00:00:00+14:00", None),
        ("noon", None),
        ("", None),
        (None, None),
        (5, None),
    ],
)
def test_times_are_read_as_utc(text: Any, expected: datetime | None) -> None:
    assert parse_time(text) == expected


def test_an_event_of_before_is_not_the_newest_one() -> None:
    events: list[Raw] = [{"reason": "FailedMount", "message": "old", "lastTimestamp": "2026-03-01T11:59:59Z"}]
    assert newest_event(events, ["FailedMount"], since=NOON) is None
    events[0]["lastTimestamp"] = "2026-03-01T12:00:00Z"
    assert newest_event(events, ["FailedMount"], since=NOON.replace(microsecond=900000)) == ("FailedMount", "old")


def test_a_child_that_others_have_suspended_tells_who_since_when_and_in_which_queue() -> None:
    raw = child({"conditions": [{"type": "Suspended", "status": "True", "lastTransitionTime": "2026-03-01T12:00:00Z"}]})
    raw["spec"] = {"suspend": True}
    raw["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team-a"}
    raw["metadata"]["managedFields"] = [
        {"manager": "finetune-operator", "time": "2026-03-01T11:00:00Z", "fieldsV1": {"f:spec": {"f:template": {}}}},
        {"manager": "kueue", "time": "2026-03-01T11:00:00Z", "fieldsV1": {"f:spec": {"f:suspend": {}}}},
        {"manager": "kubectl-patch", "time": "2026-03-01T12:00:00Z", "fieldsV1": {"f:spec": {"f:suspend": {}}}},
    ]
    view = child_view(raw, stage="train")
    assert view is not None
    assert (view.suspended, view.suspended_at, view.suspended_by, view.queue) == (True, NOON, "kubectl-patch", "team-a")
    raw["spec"] = {"suspend": False}
    running = child_view(raw, stage="train")
    assert running is not None
    assert (running.suspended, running.suspended_at, running.suspended_by) == (False, None, None)


def test_a_child_tells_its_queue_its_priority_and_what_it_was_made_for_also_while_it_runs() -> None:
    raw = child({})
    raw["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "moved", "kueue.x-k8s.io/priority-class": "low"}
    raw["metadata"]["annotations"] = {"finetune.dev/queue": "team-a/high"}
    view = child_view(raw, stage="train")
    assert view is not None
    assert (view.queue, view.priority, view.made_for) == ("moved", "low", "team-a/high")


@pytest.mark.parametrize(
    ("others", "outlived"),
    [
        ([], False),
        ([{"name": "proxy", "state": {"running": {}}}], True),
        ([{"name": "proxy", "state": {"terminated": {"exitCode": 0}}}], False),
    ],
)
def test_a_container_that_outlives_the_trainers_is_seen(others: list[Raw], outlived: bool) -> None:
    ended = container(terminated={"exitCode": 0})
    view = pod_view(pod("Running", statuses=[*others, ended]))
    assert view is not None
    assert (view.exit_code, view.outlived) == (0, outlived)
    runs = pod_view(pod("Running", statuses=[*others, container(running={})]))
    assert runs is not None
    assert not runs.outlived


def test_what_the_node_says_of_a_pod_is_kept() -> None:
    raw = pod("Failed", conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}])
    raw["status"] |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
    raw["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
    view = pod_view(raw)
    assert view is not None
    assert (view.reason, view.message) == ("Evicted", "The node was low on resource: memory.")
    assert (view.disruption, view.deleting, view.gone_by) == ("PreemptionByScheduler", True, NOON)


def test_the_newest_event_is_found_by_whichever_time_it_has() -> None:
    events: list[Raw] = [
        {"reason": "FailedMount", "message": "first", "lastTimestamp": "2026-03-01T12:00:00Z"},
        {"reason": "FailedMount", "message": "series", "series": {"lastObservedTime": "2026-03-01T12:09:00.000000Z"}},
        {"reason": "FailedMount", "message": "new", "lastTimestamp": None, "eventTime": "2026-03-01T12:05:00.000000Z"},
        {"reason": "Pulled", "message": "other", "lastTimestamp": "2026-03-01T13:00:00Z"},
        {"reason": "FailedMount", "message": "timeless"},
        {"reason": "FailedMount", "lastTimestamp": "2026-03-01T13:00:00Z"},
    ]
    assert newest_event(events, ["FailedMount"]) == ("FailedMount", "series")
    assert newest_event(events, ["FailedCreate"]) is None


def mount_event(minute: int, message: str, reason: str = "FailedMount") -> Raw:
    return {"reason": reason, "message": message, "lastTimestamp": f"2026-03-01T12:{minute:02}:00Z"}


def missing(secret: str) -> str:
    return f'MountVolume.SetUp failed for volume "v-{secret}" : secret "{secret}" not found'


def test_volumes_that_fail_side_by_side_are_told_together_whichever_was_tried_last() -> None:
    first = start_trouble([mount_event(1, missing("a")), mount_event(2, missing("b"))], ["FailedMount"])
    second = start_trouble([mount_event(3, missing("a")), mount_event(2, missing("b"))], ["FailedMount"])
    assert first == second == ("FailedMount", f"{missing('a')}; {missing('b')}")


def test_a_volume_that_has_not_failed_for_long_is_not_told_beside_one_that_does() -> None:
    events = [mount_event(1, missing("a")), mount_event(9, missing("b"))]
    assert start_trouble(events, ["FailedMount"]) == ("FailedMount", missing("b"))


def test_a_summary_renews_the_cause_that_was_told_of_its_volume() -> None:
    summary = (
        "Unable to attach or mount volumes: unmounted volumes=[v-a], unattached volumes=[], failed to process "
        "volumes=[]: context deadline exceeded"
    )
    events = [mount_event(1, missing("a")), mount_event(9, missing("b")), mount_event(20, summary)]
    assert start_trouble(events, ["FailedMount"]) == ("FailedMount", missing("a"))
    assert start_trouble(events[1:], ["FailedMount"]) == ("FailedMount", summary)


def test_of_sandboxes_only_the_newest_is_told_since_each_has_another_id() -> None:
    events = [mount_event(minute, f"sandbox {minute}", "FailedCreatePodSandBox") for minute in (1, 2)]
    assert start_trouble(events, ["FailedMount", "FailedCreatePodSandBox"]) == ("FailedCreatePodSandBox", "sandbox 2")


@pytest.mark.parametrize(("status", "expected"), [("True", True), ("False", False)])
def test_a_pod_whose_volumes_are_mounted_is_ready_to_start(status: str, expected: bool) -> None:
    view = pod_view(pod("Pending", conditions=[{"type": "PodReadyToStartContainers", "status": status}]))
    assert view is not None
    assert view.ready_to_start is expected


# --- malformed objects ------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=5,
)


def mangled(raw: Any) -> st.SearchStrategy[Any]:
    """The object with some of its parts replaced by anything."""
    if isinstance(raw, dict):
        return st.fixed_dictionaries({key: st.one_of(mangled(value), JSON) for key, value in raw.items()})
    if isinstance(raw, list):
        return st.tuples(*[st.one_of(mangled(item), JSON) for item in raw]).map(list)
    return st.just(raw)


FULL_CHILD = child({"startTime": "2026-03-01T12:00:00Z", "conditions": [{"type": "Complete", "status": "True"}]})
FULL_POD = pod(
    "Failed",
    statuses=[container(waiting={"reason": "x", "message": "y"}, terminated={"exitCode": 1, "message": "m"})],
    conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}],
)


@settings(deadline=None)
@given(mangled(FULL_CHILD))
def test_no_child_makes_its_view_raise(raw: Any) -> None:
    view = child_view(raw, stage="train")
    assert view is None or (view.name and view.uid)


@settings(deadline=None)
@given(mangled(FULL_POD))
def test_no_pod_makes_its_view_raise(raw: Any) -> None:
    view = pod_view(raw)
    assert view is None or (view.name and view.uid and view.created.tzinfo)


FULL_JOB: Raw = {
    "metadata": {"name": "n", "namespace": "s", "generation": 1, "labels": {}},
    "spec": {"runtimeRef": {"name": "r"}},
    "status": {"conditions": [{"type": "Finished", "status": "True"}]},
}
FULL_EVENT: Raw = {
    "reason": "FailedMount",
    "message": "m",
    "lastTimestamp": "2026-03-01T12:00:00Z",
    "metadata": {"creationTimestamp": "2026-03-01T12:00:00Z"},
    "series": {"lastObservedTime": "2026-03-01T12:00:00Z"},
}


@settings(deadline=None)
@given(mangled(FULL_JOB))
def test_no_object_makes_the_small_readers_raise(raw: Any) -> None:
    for read in (runtime_view, views.job_key, views.owner_key, views.owner_uid, views.is_finished, views.runtime_name):
        read(raw)


@settings(deadline=None)
@given(st.lists(mangled(FULL_EVENT), max_size=3))
def test_no_event_makes_the_search_raise(events: list[Any]) -> None:
    newest_event(events, ["FailedMount"])
    start_trouble(events, ["FailedMount"])
