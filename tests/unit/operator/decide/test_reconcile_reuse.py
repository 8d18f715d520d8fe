"""A report that names the result of an earlier job: the job has succeeded at once, and nothing more is run."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.names import StageName
from finetune_api.report import StageReport
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation

SCORES = "ChoiceAccuracy 0.4120 before, 0.8709 after (+0.4589) on 852 sealed rows"


def reuse_report(spec: dict[str, Any] | None = None, *, stage: StageName = "prepare", **changes: Any) -> StageReport:
    """What a stage says that found the result of the same spec, model and rows below output.uri."""
    values: dict[str, Any] = {"stage": stage, "reused": True, "resolved": None}
    return b.train_report(spec, **(values | changes))


def reused(**changes: Any) -> Simulation:
    """A job with a GPU whose prepare found such a result."""
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(60)
    return life.completes("prepare", reuse_report(**changes)).settle(1)


def test_a_result_that_is_found_by_prepare_ends_the_job_without_a_gpu() -> None:
    life = reused()
    assert life.status["phase"] == "Succeeded"
    assert [m["metadata"]["labels"]["finetune.dev/stage"] for m in life.manifests] == ["prepare"]
    assert life.settle(100000).writes.count("create") == 1


def test_the_stages_say_what_ran_and_what_did_not() -> None:
    life = reused()
    prepare, train = life.status["stages"]
    assert (prepare["state"], prepare["attempts"], prepare["runSeconds"]) == ("Succeeded", 1, 60)
    assert train == {"name": "train", "state": "Skipped", "attempts": 0, "failures": 0, "recreated": 0, "runSeconds": 0}


def test_the_conditions_say_that_the_artifact_was_there() -> None:
    life = reused()
    assert {item["type"]: (item["status"], item["reason"]) for item in life.status["conditions"]} == {
        "Succeeded": ("True", "ReusedExistingArtifact"),
        "Finished": ("True", "ReusedExistingArtifact"),
        "Suspended": ("False", "NotSuspended"),
        "Prepared": ("True", "Prepared"),
        "ArtifactPublished": ("True", "Published"),
        "Reconciling": ("False", "ReusedExistingArtifact"),
        "Stalled": ("False", "ReusedExistingArtifact"),
    }


def test_the_message_says_whose_result_it_is_and_both_scores() -> None:
    life = reused()
    message = life.condition("Succeeded")["message"]
    assert message.startswith("The result of an earlier job with the same spec, model and rows")
    assert "s3://team-a-models/support-intent/" in message
    assert message.endswith(SCORES)
    assert (life.events[-1].reason, life.events[-1].message) == ("Succeeded", message)


def test_a_message_about_the_longest_place_is_one_that_is_stored_whole() -> None:
    spec = b.job_spec(output={"uri": "s3://team-a-models/" + "x" * 1000 + "/"})
    life = Simulation(b.job(spec), runtime=b.runtime()).settle().pod_runs("prepare").settle(60)
    life.completes("prepare", reuse_report(spec)).settle(1)
    assert life.events[-1].message == life.condition("Succeeded")["message"]
    assert life.events[-1].message.endswith(SCORES)


def test_the_numbers_and_the_artifacts_are_those_of_the_earlier_job() -> None:
    life = reused()
    assert life.status["results"]["test"]["score"] == "0.8709"
    assert life.status["manifestDigest"] == b.MANIFEST_DIGEST
    assert [artifact["path"] for artifact in life.status["artifacts"]] == ["model/"]
    assert life.status["progress"] == {"percent": 100}


def test_a_result_that_is_found_by_the_only_stage_ends_the_job_alike() -> None:
    spec = b.cpu_spec()
    life = Simulation(b.job(spec), runtime=b.runtime()).settle().pod_runs("train").settle(60)
    life.completes("train", reuse_report(spec, stage="train")).settle(1)
    assert life.reason == "ReusedExistingArtifact"
    assert [stage["state"] for stage in life.status["stages"]] == ["Succeeded"]
    assert life.status["manifestDigest"] == b.MANIFEST_DIGEST
    assert life.condition("Succeeded")["message"].endswith(SCORES)


def test_it_costs_five_writes_and_two_events() -> None:
    life = reused()
    assert life.writes == ["status", "create", "status", "status", "patch"]
    assert [event.reason for event in life.events] == ["Started", "Succeeded"]


@pytest.mark.parametrize("stage", ["prepare", "train"])
@pytest.mark.parametrize("missing", ["results", "digest"])
def test_a_report_that_names_a_result_without_saying_it_is_no_valid_report(stage: StageName, missing: str) -> None:
    spec = b.job_spec() if stage == "prepare" else b.cpu_spec()
    life = Simulation(b.job(spec), runtime=b.runtime()).settle().pod_runs(stage).settle(60)
    life.completes(stage, reuse_report(spec, stage=stage, **{missing: None})).settle(1)
    assert life.stage(stage)["recreated"] == 1
    assert life.condition("Succeeded")["status"] == "Unknown"
    life.pod_runs(stage).settle(5).completes(stage, reuse_report(spec, stage=stage, **{missing: None})).settle(1)
    assert life.status["failure"]["reason"] == "NotReported"


def test_a_result_for_another_spec_is_not_taken() -> None:
    life = reused(spec_digest=b.digest_of_spec(b.job_spec(training={"seed": 8})))
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_job_that_finds_a_result_while_it_is_suspended_has_succeeded() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(60)
    life.completes("prepare", reuse_report()).edit(suspend=True).settle(1)
    assert life.reason == "ReusedExistingArtifact"
    assert life.condition("Suspended")["status"] == "False"


def test_a_job_may_find_a_result_after_it_was_resumed() -> None:
    life = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(60)
    life.edit(suspend=True).settle(5)
    life.edit(suspend=False).settle(5).pod_runs("prepare").settle(60)
    life.completes("prepare", reuse_report()).settle(1)
    assert life.reason == "ReusedExistingArtifact"
    assert life.stage("train")["state"] == "Skipped"


def test_stages_that_are_recorded_without_an_end_are_ended_as_reused() -> None:
    life = reused()
    status = {key: value for key, value in life.status.items() if key not in ("conditions", "phase")}
    plan = reconcile(b.observed({**life.job, "status": status}, runtime=b.runtime(), now=life.now, live=True))
    assert plan.status is not None
    assert plan.status["conditions"][0]["reason"] == "ReusedExistingArtifact"
    assert plan.actions == ()
