"""Terminal is terminal: what still happens to a job that has ended, and what never does."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.plan import DeleteChild, SetChildTTL
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.kstatus import kstatus
from tests.support.simulation import Simulation

SPEC = b.cpu_spec()


def done(**spec: Any) -> Simulation:
    """A job that has succeeded."""
    spec = b.cpu_spec(**spec)
    life = Simulation(b.job(spec), runtime=b.runtime()).settle().pod_runs("train").settle(100)
    return life.completes("train", b.train_report(spec)).settle(1)


def test_success_tells_both_scores_in_one_sentence() -> None:
    life = done()
    words = "ChoiceAccuracy 0.4120 before, 0.8709 after (+0.4589) on 852 sealed rows"
    assert life.condition("Succeeded")["message"] == words
    assert life.events[-1].message == words
    assert life.events[-1].type == "Normal"


@pytest.mark.parametrize(
    ("kind", "truth"),
    [
        ("Succeeded", "True"),
        ("Finished", "True"),
        ("Suspended", "False"),
        ("Prepared", "True"),
        ("ArtifactPublished", "True"),
        ("Reconciling", "False"),
        ("Stalled", "False"),
    ],
)
def test_the_conditions_of_a_job_that_has_succeeded(kind: str, truth: str) -> None:
    assert done().condition(kind)["status"] == truth


def test_a_finished_job_never_gets_a_child_again() -> None:
    life = done().remove("train").settle(100000)
    assert life.children == {}
    assert life.writes.count("create") == 1


def test_a_finished_job_that_nothing_happens_to_is_left_alone() -> None:
    life = done()
    assert life.settle(1000).plan.status is None
    assert life.plan.actions == ()
    assert life.plan.requeue_after is None


def test_an_edit_after_the_end_is_observed_and_changes_nothing_else() -> None:
    life = done()
    before = life.status
    life.edit(ttlSecondsAfterFinished=86400)
    assert kstatus(life.job) == "InProgress"
    life.kstatuses.clear()
    life.settle(10)
    assert kstatus(life.job) == "Current"
    assert life.status["observedGeneration"] == 2
    assert {c["observedGeneration"] for c in life.status["conditions"]} == {2}
    assert life.status["results"] == before["results"]
    assert life.status["completionTime"] == before["completionTime"]
    times = {c["type"]: c["lastTransitionTime"] for c in before["conditions"]}
    assert {c["type"]: c["lastTransitionTime"] for c in life.status["conditions"]} == times


@pytest.mark.parametrize("wanted", [0, 60, 86400])
def test_a_child_has_no_ttl_until_its_result_is_in_status(wanted: int) -> None:
    life = done(ttlSecondsAfterFinished=wanted)
    assert "ttlSecondsAfterFinished" not in life.manifests[0]["spec"]
    assert life.child("train").ttl_seconds == wanted
    assert life.writes[-2:] == ["status", "patch"]


def test_an_operator_that_was_down_for_two_days_finds_the_result() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle().pod_runs("train").settle(100)
    life.passes(50).completes("train", b.train_report(SPEC)).passes(172800).restart().settle()
    assert life.status["phase"] == "Succeeded"
    assert life.stage("train")["runSeconds"] == 150


def test_the_ttl_is_set_only_after_the_result_is_in_status() -> None:
    life = Simulation(b.job(b.cpu_spec(ttlSecondsAfterFinished=0)), runtime=b.runtime()).settle()
    life.pod_runs("train").settle(5).completes("train", b.train_report(SPEC)).settle(1)
    assert life.writes[-2:] == ["status", "patch"]


def test_a_ttl_that_is_edited_after_the_end_reaches_the_child() -> None:
    life = done()
    life.edit(ttlSecondsAfterFinished=7200)
    life.kstatuses.clear()
    life.settle(10)
    assert life.child("train").ttl_seconds == 7200


@pytest.mark.parametrize("odd", ["soon", -1, 31536001, None, 1.5])
def test_a_ttl_that_can_not_be_read_after_the_end_counts_as_a_day(odd: object) -> None:
    life = done(ttlSecondsAfterFinished=7200)
    life.job["spec"]["ttlSecondsAfterFinished"] = odd
    life.settle(1)
    assert life.child("train").ttl_seconds == 86400


def test_a_ttl_patch_that_was_cut_off_is_made_later() -> None:
    life = Simulation(b.job(b.cpu_spec(ttlSecondsAfterFinished=60)), runtime=b.runtime()).settle()
    life.pod_runs("train").settle(5).completes("train", b.train_report(SPEC))
    plan = reconcile(life.observe(live=True))
    assert plan.status is not None
    life.job = {**life.job, "status": plan.status}
    child = life.child("train")
    assert reconcile(life.observe(live=False)).actions == (SetChildTTL(name=child.name, uid=child.uid, seconds=60),)


def test_a_child_that_still_runs_after_the_end_is_deleted_on_live_reads() -> None:
    life = done()
    life.change_child("train", ended=None, active=1)
    assert reconcile(life.observe(live=False)).needs_live
    (action,) = reconcile(life.observe(live=True)).actions
    assert isinstance(action, DeleteChild)


def test_jobs_of_others_are_never_touched_after_the_end() -> None:
    life = done().remove("train")
    foreign = b.child("train", uid="foreign", owner_uid="other")
    life.children[foreign.name] = foreign
    assert reconcile(life.observe(live=True)).actions == ()


def test_a_job_restored_without_status_starts_afresh() -> None:
    life = done().remove("train")
    life.job = {**life.job, "status": {"observedGeneration": -1}}
    life.kstatuses.clear()
    life.settle(10)
    assert life.writes.count("create") == 2


def test_the_end_is_read_from_odd_conditions_too() -> None:
    status = {"conditions": [None, 3, {"type": "Succeeded", "status": "True"}], "stages": "junk"}
    plan = reconcile(b.observed(b.job(SPEC, status=status), runtime=b.runtime(), live=True))
    assert plan.actions == ()
    assert plan.status is not None
    assert plan.status["observedGeneration"] == 1


def test_stages_recorded_as_done_without_results_do_not_pass_as_success() -> None:
    life = done()
    status = {"stages": life.status["stages"], "runtime": life.status["runtime"], "outputUri": "s3://x-y-z/"}
    plan = reconcile(b.observed(b.job(SPEC, status=status), live=True))
    assert plan.status is not None
    assert plan.status["failure"]["reason"] == "NotReported"


def test_an_unreadable_part_of_status_is_dropped_and_the_rest_is_kept() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(5)
    life.job["status"]["dataset"] = {"rows": "many"}
    life.job["status"]["conditions"].append({"type": "junk"})
    life.settle(5)
    assert "dataset" not in life.status
    assert life.status["stages"][0]["state"] == "Succeeded"
    assert life.writes.count("create") == 2
