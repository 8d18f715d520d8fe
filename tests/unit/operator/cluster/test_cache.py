"""The cache: what it takes from events and lists, and which ghosts it gets rid of."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from finetune_api.names import child_labels
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.protocol import JobKey, Kind, Raw
from tests.unit.operator.kit import KEY, child_manifest, pod_manifest

UID = "0f3c9a1b-1111-4222-8333-444455556666"


def job(name: str = "a", *, version: str = "1", uid: str = "u", **fields: Any) -> Raw:
    return {"metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": version}, **fields}


def child(**metadata: Any) -> Raw:
    manifest = child_manifest(UID)
    return {**manifest, "metadata": {**manifest["metadata"], "uid": "c", "resourceVersion": "1", **metadata}}


def pod(name: str = "p", phase: str = "Running", **metadata: Any) -> Raw:
    raw = pod_manifest(UID, name, phase)
    raw["metadata"] |= {"uid": name, "resourceVersion": "1", "creationTimestamp": "2026-03-01T12:00:00Z", **metadata}
    return raw


def names(cache: Cache) -> list[str]:
    return sorted(key.name for key in cache.job_keys())


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["ADDED", "MODIFIED", None])
def test_an_object_of_any_event_is_known(event: str | None) -> None:
    cache = Cache()
    assert cache.event("jobs", event, job()) == JobKey("ns", "a")
    assert cache.job(JobKey("ns", "a")) == job()


def ended(**status: Any) -> Raw:
    """A job that has ended, with more in it than is read after its end."""
    conditions = [{"type": "Succeeded", "status": "True"}, {"type": "Finished", "status": "True", "message": "m"}]
    return job(
        spec={"ttlSecondsAfterFinished": 60, "runtimeRef": {"name": "gpu"}, "dataset": {"uri": "s3://a/b"}},
        status={"conditions": conditions, "phase": "Succeeded", "results": {"gain": "+0.1"}, **status},
    )


def test_of_a_job_that_has_ended_only_what_is_read_after_its_end_is_kept() -> None:
    cache, raw = Cache(), ended(observedGeneration=1)
    cache.put("jobs", raw)
    assert cache.job(JobKey("ns", "a")) == {
        "apiVersion": None,
        "kind": None,
        "metadata": raw["metadata"],
        "spec": {"ttlSecondsAfterFinished": 60, "runtimeRef": {"name": "gpu"}},
        "status": {"conditions": raw["status"]["conditions"], "phase": "Succeeded", "observedGeneration": 1},
    }


def test_a_job_that_only_looks_ended_is_kept_whole() -> None:
    cache, raw = Cache(), ended(conditions=[{"type": "Succeeded", "status": "Unknown"}])
    cache.put("jobs", raw)
    assert cache.job(JobKey("ns", "a")) == raw


def test_a_deleted_object_is_forgotten() -> None:
    cache = Cache()
    cache.event("jobs", "ADDED", job())
    assert cache.event("jobs", "DELETED", job(version="2")) == JobKey("ns", "a")
    assert names(cache) == []


def test_the_deletion_of_a_former_object_does_not_touch_its_successor() -> None:
    cache = Cache()
    cache.event("jobs", "ADDED", job(uid="new", version="9"))
    cache.event("jobs", "DELETED", job(uid="old", version="8"))
    assert names(cache) == ["a"]


@pytest.mark.parametrize(("first", "second", "kept"), [("9", "10", "10"), ("10", "9", "10"), ("x", "w", "w")])
def test_an_older_version_never_replaces_a_newer_one(first: str, second: str, kept: str) -> None:
    cache = Cache()
    cache.event("jobs", "MODIFIED", job(version=first))
    cache.event("jobs", "MODIFIED", job(version=second))
    stored = cache.job(JobKey("ns", "a"))
    assert stored is not None
    assert stored["metadata"]["resourceVersion"] == kept


def test_a_new_object_of_the_same_name_replaces_the_former_whatever_its_version() -> None:
    cache = Cache()
    cache.event("jobs", "MODIFIED", job(version="10", uid="old"))
    cache.event("jobs", "ADDED", job(version="9", uid="new"))
    stored = cache.job(JobKey("ns", "a"))
    assert stored is not None
    assert stored["metadata"]["uid"] == "new"


def test_managed_fields_are_not_kept_and_the_event_is_not_changed() -> None:
    cache, raw = Cache(), job()
    raw["metadata"]["managedFields"] = [{"manager": "kubectl"}]
    cache.event("jobs", "ADDED", raw)
    stored = cache.job(JobKey("ns", "a"))
    assert stored is not None
    assert "managedFields" not in stored["metadata"]
    assert "managedFields" in raw["metadata"]


@pytest.mark.parametrize("kind", ["jobs", "runtimes", "children", "pods"])
@pytest.mark.parametrize("raw", [{}, {"metadata": None}, {"metadata": {"name": 3}}, {"metadata": {"name": "x"}}])
def test_a_malformed_object_is_passed_over(kind: Kind, raw: Raw) -> None:
    cache = Cache()
    cache.event(kind, "ADDED", raw)
    cache.event(kind, "DELETED", raw)
    assert cache.job_keys() == []


# --- children and pods ------------------------------------------------------------------------------------------------


def test_children_and_pods_are_found_by_the_job_that_they_name() -> None:
    cache = Cache()
    assert cache.event("children", "ADDED", child()) == KEY
    assert cache.event("pods", "ADDED", pod()) == KEY
    assert [view.uid for view in cache.children(KEY.namespace, UID)] == ["c"]
    assert [view.uid for view in cache.pods(KEY.namespace, UID)] == ["p"]


def test_a_pod_of_another_namespace_never_counts() -> None:
    cache = Cache()
    cache.event("pods", "ADDED", pod(namespace="elsewhere"))
    assert cache.pods(KEY.namespace, UID) == ()


@pytest.mark.parametrize(
    "metadata",
    [{"name": "some-other-job"}, {"labels": child_labels(KEY.name, "another-uid", "train")}, {"labels": {}}],
    ids=["another name", "another job's uid", "no labels"],
)
def test_a_job_that_does_not_stand_under_its_stages_name_is_no_child(metadata: Raw) -> None:
    cache = Cache()
    cache.event("children", "ADDED", child(**metadata))
    assert cache.children(KEY.namespace, UID) == ()


def test_a_foreign_job_under_a_childs_name_is_seen_with_its_owner() -> None:
    cache = Cache()
    cache.event("children", "ADDED", child(ownerReferences=[{"uid": "stranger", "controller": True}]))
    assert [view.owner_uid for view in cache.children(KEY.namespace, UID)] == ["stranger"]


def test_a_deleted_pod_leaves_its_job() -> None:
    cache = Cache()
    cache.event("pods", "ADDED", pod("p1"))
    cache.event("pods", "ADDED", pod("p2"))
    cache.event("pods", "DELETED", pod("p1"))
    assert [view.name for view in cache.pods(KEY.namespace, UID)] == ["p2"]


def test_a_pod_that_changes_its_job_leaves_the_former_one() -> None:
    cache = Cache()
    cache.event("pods", "ADDED", pod())
    cache.event("pods", "MODIFIED", pod(labels=child_labels("other", "u2", "train"), resourceVersion="2"))
    assert cache.pods(KEY.namespace, UID) == ()
    assert len(cache.pods(KEY.namespace, "u2")) == 1


# --- replacing --------------------------------------------------------------------------------------------------------


def test_a_full_list_drops_what_it_does_not_have_and_names_it() -> None:
    cache = Cache()
    for name in "abc":
        cache.event("jobs", "ADDED", job(name))
    with cache.replacing("jobs") as replacement:
        for name in "bd":
            replacement.put(job(name))
        replacement.finish()
    assert names(cache) == ["b", "d"]
    assert sorted(replacement.ghosts) == [("ns", "a"), ("ns", "c")]


def test_a_ghost_pod_names_the_job_that_is_to_be_looked_at() -> None:
    cache = Cache()
    cache.event("pods", "ADDED", pod())
    with cache.replacing("pods") as replacement:
        replacement.finish()
    assert replacement.ghosts == [KEY]
    assert cache.pods(KEY.namespace, UID) == ()


def test_a_list_that_breaks_off_drops_nothing() -> None:
    cache = Cache()
    cache.event("jobs", "ADDED", job("a"))
    with contextlib.suppress(OSError), cache.replacing("jobs") as replacement:
        replacement.put(job("b"))
        raise OSError("the list breaks off")
    assert names(cache) == ["a", "b"]


def test_what_a_watch_says_while_the_list_is_read_outranks_the_list() -> None:
    cache = Cache()
    cache.event("jobs", "ADDED", job("gone", version="1"))
    with cache.replacing("jobs") as replacement:
        cache.event("jobs", "ADDED", job("new", version="7"))
        cache.event("jobs", "DELETED", job("gone", version="8"))
        replacement.put(job("gone", version="1"))
        replacement.finish()
    assert names(cache) == ["new"]
    assert replacement.ghosts == []


def test_what_a_watch_said_before_the_list_was_asked_for_does_not() -> None:
    cache = Cache()
    with cache.replacing("jobs") as replacement:
        cache.event("jobs", "ADDED", job("a"))
        replacement.finish()
    with cache.replacing("jobs") as replacement:
        replacement.finish()
    assert names(cache) == []


@pytest.mark.parametrize("known", ["1", "9"], ids=["an older one", "a newer one, as before a restored backup"])
def test_a_list_is_taken_whatever_version_the_cache_holds(known: str) -> None:
    cache = Cache()
    cache.event("jobs", "MODIFIED", job(version=known, status={"phase": "Succeeded"}))
    with cache.replacing("jobs") as replacement:
        replacement.put(job(version="5", status={"phase": "Training"}))
        replacement.finish()
    stored = cache.job(JobKey("ns", "a"))
    assert stored is not None
    assert stored["status"] == {"phase": "Training"}


def test_what_a_watch_said_while_the_list_was_read_outranks_an_older_version_in_it() -> None:
    cache = Cache()
    with cache.replacing("jobs") as replacement:
        cache.event("jobs", "MODIFIED", job(version="9", status={"phase": "Succeeded"}))
        replacement.put(job(version="5", status={"phase": "Training"}))
        replacement.finish()
    stored = cache.job(JobKey("ns", "a"))
    assert stored is not None
    assert stored["status"] == {"phase": "Succeeded"}
