"""What may change while a job runs: fields of its spec, its runtime, and the pods under it."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import StageName
from finetune_api.reasons import EXIT_RESUMABLE
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation


def running(*, runtime: dict[str, Any] | None = None, **spec: Any) -> Simulation:
    """A job on the CPU whose pod has run for 100 seconds."""
    life = Simulation(b.job(b.cpu_spec(**spec)), runtime=b.runtime(b.runtime_spec(**(runtime or {})))).settle()
    return life.pod_runs("train").settle(1).settle(99)


# --- the deadline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "child"),
    [(1000, 2000, 2000), (None, 2000, 2000), (None, 60, 60), (1000, 86400, 5000)],
    ids=["raised", "set", "set to less than has run", "raised beyond the runtime's"],
)
def test_a_deadline_that_is_edited_in_mid_run_reaches_the_child_in_one_patch(
    before: int | None, after: int, child: int
) -> None:
    life = running(runtime={"limits": {"activeDeadlineSeconds": 5000}}, activeDeadlineSeconds=before)
    writes = len(life.writes)
    life.edit(activeDeadlineSeconds=after).settle(1).settle(100)
    assert life.child("train").active_deadline_seconds == child
    assert life.writes[writes:] == ["status", "patch"]
    assert life.status["observedGeneration"] == 2


def test_a_deadline_that_is_set_below_what_earlier_stages_have_used_ends_the_child_at_once() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(300)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(1)
    life.edit(activeDeadlineSeconds=60).settle(1)
    assert life.child("train").active_deadline_seconds == 1


def test_a_deadline_patch_that_was_cut_off_is_made_later() -> None:
    life = running(activeDeadlineSeconds=1000).edit(activeDeadlineSeconds=2000)
    life.write(reconcile(life.observe(live=False)))
    assert life.child("train").active_deadline_seconds == 1000
    life.settle(1)
    assert life.child("train").active_deadline_seconds == 2000


def test_the_deadline_of_a_child_that_is_going_is_left_alone() -> None:
    life = running(activeDeadlineSeconds=1000).is_deleted("train").edit(activeDeadlineSeconds=2000).settle(1)
    assert "patch" not in life.writes


# --- other edits ------------------------------------------------------------------------------------------------------


def test_a_ttl_that_is_edited_in_mid_run_takes_effect_at_the_end() -> None:
    life = running().edit(ttlSecondsAfterFinished=60).settle(1)
    assert life.child("train").ttl_seconds is None
    life.completes("train", b.train_report(b.cpu_spec())).settle(1)
    assert life.child("train").ttl_seconds == 60


def test_a_ttl_of_zero_removes_the_child_only_after_its_result_is_in_status() -> None:
    life = running(ttlSecondsAfterFinished=0)
    assert life.child("train").ttl_seconds is None
    life.completes("train", b.train_report(b.cpu_spec())).settle(1)
    assert life.writes[-2:] == ["status", "patch"]
    assert life.child("train").ttl_seconds == 0
    life.remove("train").settle(100000)
    assert life.status["phase"] == "Succeeded"
    assert life.writes.count("create") == 1


def test_an_edit_in_mid_run_is_observed_and_changes_no_child() -> None:
    life = running()
    child = life.child("train")
    life.edit(ttlSecondsAfterFinished=60).settle(1)
    assert {c["observedGeneration"] for c in life.status["conditions"]} == {2}
    assert life.child("train") == child


@pytest.mark.parametrize("change", ["edited", "made unreadable", "deleted"])
def test_a_runtime_that_changes_in_mid_run_costs_no_write(change: str) -> None:
    life = running()
    writes = list(life.writes)
    runtimes = {
        "edited": b.runtime(b.runtime_spec(limits={"activeDeadlineSeconds": 60}), generation=4),
        "made unreadable": b.runtime({"image": 7}),
        "deleted": None,
    }
    life.runtime = runtimes[change]
    life.settle(1000)
    assert life.writes == writes


def test_the_longest_name_gives_children_and_pods_that_kubernetes_takes() -> None:
    name = "a" * 40
    life = Simulation(b.job(name=name), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(5)
    life.completes("train", b.train_report()).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert [len(manifest["metadata"]["name"]) + len("-x7k2p") for manifest in life.manifests] == [63, 61]
    assert all(len(value) <= 63 for m in life.manifests for value in m["metadata"]["labels"].values())


# --- pods that are told to go -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 5])
def test_a_job_that_is_preempted_costs_one_write_each_time_and_goes_on(times: int) -> None:
    life = running()
    writes = len(life.writes)
    for _ in range(times):
        life.preempted("train").settle(2).pod_runs("train").settle(100)
        assert life.reason == "Training"
        assert life.stage("train")["state"] == "Running"
    assert life.writes[writes:] == ["status"] * times
    assert life.stage("train")["attempts"] == 1 + times
    life.completes("train", b.train_report(b.cpu_spec())).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 100 + 102 * times


def test_a_pod_that_is_evicted_and_removed_costs_one_write_about_the_next_attempt() -> None:
    life = running()
    writes = len(life.writes)
    life.pods.clear()
    life.change_child("train", active=0).settle(1).pod_waits("train").settle(1).pod_runs("train").settle(100)
    assert life.writes[writes:] == ["status"]
    assert life.stage("train")["attempts"] == 2


def test_a_preempted_pod_that_finds_no_node_says_so() -> None:
    life = running().preempted("train").pod_waits("train", unschedulable="no GPU is free").settle(20)
    assert life.reason == "Unschedulable"
    assert life.status["phase"] == "Training"
    assert life.settle(86400).condition("Succeeded")["status"] == "Unknown"


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_a_pod_that_saved_its_state_is_no_failure_of_the_job(stage: StageName) -> None:
    spec = b.job_spec(backoffLimit=0) if stage == "prepare" else b.cpu_spec(backoffLimit=0)
    life = Simulation(b.job(spec), runtime=b.runtime()).settle().pod_runs(stage).settle(5)
    life.preempted(stage, EXIT_RESUMABLE).settle(5)
    assert life.child(stage).failed == 0
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert "failure" not in life.status
