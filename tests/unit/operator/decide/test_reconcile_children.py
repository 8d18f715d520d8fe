"""Children that go in mid-run, and Jobs of others under their names."""

from __future__ import annotations

import pytest

from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, ended_with, running


def test_a_child_deleted_in_mid_run_is_made_again_and_told() -> None:
    life = running().remove("train").settle(50)
    assert life.writes.count("create") == 2
    assert "ChildDeleted" in [event.reason for event in life.events]
    assert life.status["phase"] == "Training"
    assert life.reason == "Restarting"


def test_the_seconds_of_a_deleted_child_are_not_given_back() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000)).remove("train").settle(50)
    assert [m["spec"]["activeDeadlineSeconds"] for m in life.manifests] == [1000, 850]


def test_a_child_that_is_missed_when_the_time_is_used_up_ends_the_job_at_once() -> None:
    """Saying that the stage starts anew would be untrue."""
    life = Simulation(b.job(b.cpu_spec(activeDeadlineSeconds=600)), runtime=b.runtime()).settle()
    life.pod_runs("train").settle(5).passes(600).remove("train").step()
    assert (life.status["phase"], life.status["failure"]["reason"]) == ("Failed", "DeadlineExceeded")
    assert "Restarting" not in str(life.status)


def test_a_child_that_only_the_cache_misses_is_not_told_as_deleted() -> None:
    life = running()
    children, life.children = life.children, {}
    assert reconcile(life.observe(live=False)).needs_live
    life.children = children
    assert reconcile(life.observe(live=True)).events == ()


def test_a_child_that_is_being_deleted_is_waited_for() -> None:
    life = running()
    life.is_deleted("train").settle(5)
    assert life.writes.count("create") == 1
    assert "delete" not in life.writes
    assert life.reason == "Restarting"
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_child_that_a_person_deletes_counts_until_it_was_noticed_and_is_followed_by_one_with_what_is_left() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000))
    life.lingering = True
    writes = len(life.writes)
    life.is_deleted("train").settle(10).settle(170).goes("train").settle(300)
    assert life.writes[writes:] == ["status", "create"]
    assert [event.reason for event in life.events] == ["Started", "ChildDeleted"]
    assert life.manifests[-1]["spec"]["activeDeadlineSeconds"] == 890
    assert life.stage("train")["runSeconds"] == 110
    assert "starts anew" in life.condition("Succeeded")["message"]


def test_a_deletion_that_only_the_cache_shows_is_looked_at_live() -> None:
    life = running().is_deleted("train")
    assert reconcile(life.observe(live=False)).needs_live


@pytest.mark.parametrize("noticed", [True, False])
def test_a_child_that_fails_because_a_person_deleted_it_has_not_failed_the_job(noticed: bool) -> None:
    life = running().is_deleted("train")
    if noticed:
        life.settle(1)
    life.passes(5).pod_fails("train", 137).fails("train", "BackoffLimitExceeded").settle(1)
    assert life.condition("Succeeded")["status"] == "Unknown"
    life.goes("train").settle(1)
    assert life.writes.count("create") == 2


def test_a_child_that_had_failed_before_it_was_cleaned_up_has_failed_the_job() -> None:
    life = running().pod_fails("train", 1).fails("train", "BackoffLimitExceeded").passes(3600).is_deleted("train")
    assert ended_with(life.settle(1))[0] == "TrainerError"


def test_a_stage_that_has_succeeded_is_never_run_again_though_its_child_is_gone() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(5)
    life.remove("prepare").settle(300)
    assert [m["metadata"]["labels"]["finetune.dev/stage"] for m in life.manifests] == ["prepare", "train"]
    assert life.status["phase"] == "Training"


@pytest.mark.parametrize("owner", [None, "another-uid"])
def test_a_job_of_somebody_else_under_our_name_is_a_conflict(owner: str | None) -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    foreign = b.child("train", uid="foreign", owner_uid=owner)
    life.children[foreign.name] = foreign
    life.settle(1)
    reason, message = ended_with(life)
    assert reason == "NameConflict"
    assert foreign.name in message
    assert life.children == {foreign.name: foreign}
    assert life.writes == ["status"]


def test_a_conflict_is_judged_on_live_reads_only() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    foreign = b.child("train", uid="foreign", owner_uid=None)
    life.children[foreign.name] = foreign
    assert reconcile(life.observe(live=False)).needs_live
    assert not reconcile(life.observe(live=True)).needs_live


def test_a_job_of_somebody_else_that_is_going_is_waited_for() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    foreign = b.child("train", uid="foreign", owner_uid=None, deleting=True)
    life.children[foreign.name] = foreign
    life.settle(1)
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_conflict_with_a_stage_that_is_done_does_not_matter() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).remove("prepare").pod_runs("train")
    foreign = b.child("prepare", uid="foreign", owner_uid=None)
    life.children[foreign.name] = foreign
    life.settle(1)
    assert life.status["phase"] == "Training"
