"""An operator that was away, and clocks that disagree: neither runs a job for a second, nor loses a result."""

from __future__ import annotations

from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, running

TWO_DAYS = 172800


def test_a_child_that_was_removed_while_the_operator_was_down_is_made_again_with_all_its_time() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000)).remove("train").passes(TWO_DAYS).restart().settle()
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert life.manifests[-1]["spec"]["activeDeadlineSeconds"] == 1000
    life.pod_runs("train").settle(5).completes("train", b.train_report(life.job["spec"])).settle()
    assert life.status["phase"] == "Succeeded"


def test_a_child_that_runs_on_while_the_operator_is_down_counts_by_its_own_times() -> None:
    life = running().passes(500).restart()
    life.completes("train", b.train_report(SPEC)).passes(TWO_DAYS).settle()
    assert life.stage("train")["runSeconds"] == 600


def test_a_clock_that_is_hours_ahead_uses_up_no_more_than_the_childs_deadline() -> None:
    life = running(b.cpu_spec(activeDeadlineSeconds=1000)).passes(36000)
    life.edit(suspend=True).settle()
    assert life.stage("train")["runSeconds"] == 1000


def test_a_clock_that_is_hours_behind_gives_no_negative_seconds() -> None:
    life = running().passes(-36000).edit(suspend=True).settle()
    assert life.stage("train")["runSeconds"] == 0


def test_a_version_with_a_new_default_takes_up_a_running_job() -> None:
    """The digest of the spec stands in status since the start; the new version would compute another one."""
    life = running()
    digest = life.status["specDigest"]
    assert digest == b.digest_of_spec(SPEC)
    older = "sha256:" + "d" * 64
    life.job = {**life.job, "status": {**life.status, "specDigest": older}}
    life.completes("train", b.train_report(SPEC, spec_digest=older)).settle(1)
    assert life.status["phase"] == "Succeeded"


def test_a_job_of_a_version_that_kept_no_digest_is_judged_by_its_spec() -> None:
    life = running()
    life.job = {**life.job, "status": {k: v for k, v in life.status.items() if k != "specDigest"}}
    life.completes("train", b.train_report(SPEC)).settle(1)
    assert life.status["phase"] == "Succeeded"


def test_the_digest_that_children_answer_is_the_one_in_status() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle()
    (container,) = life.manifests[0]["spec"]["template"]["spec"]["containers"]
    assert f'"specDigest":"{life.status["specDigest"]}"' in container["env"][0]["value"]
