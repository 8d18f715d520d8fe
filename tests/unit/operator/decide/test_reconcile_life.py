"""Whole lives of jobs against the tiny cluster: what is written, created and told on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.names import ENV_STAGE_INPUT, StageName
from finetune_api.report import StageReport
from finetune_api.status import Resolved
from tests.support import builders as b
from tests.support.simulation import Simulation


def two_stages(**spec: object) -> Simulation:
    return Simulation(b.job(b.job_spec(**spec)), runtime=b.runtime())


def one_stage(**spec: object) -> Simulation:
    return Simulation(b.job(b.cpu_spec(**spec)), runtime=b.runtime())


def play(life: Simulation) -> Simulation:
    """From apply to the end, with a look at every step of the cluster."""
    spec = life.job["spec"]
    life.settle()
    if spec["resources"]["gpusPerNode"]:
        life.settle(1).pod_waits("prepare").settle(2).pod_runs("prepare").settle(60)
        life.completes("prepare", b.prepare_report(spec)).settle(1)
    life.settle(1).pod_waits("train").settle(2).pod_runs("train").settle(600)
    return life.completes("train", b.train_report(spec)).settle(1)


def test_a_job_with_a_gpu_takes_two_stages_to_its_results() -> None:
    life = play(two_stages())
    assert life.status["phase"] == "Succeeded"
    assert [(s["name"], s["state"]) for s in life.status["stages"]] == [
        ("prepare", "Succeeded"),
        ("train", "Succeeded"),
    ]
    assert life.status["results"]["test"]["score"] == "0.8709"
    assert life.status["progress"] == {"percent": 100}


def test_a_job_on_the_cpu_takes_one_stage_that_prepares_too() -> None:
    life = play(one_stage())
    assert life.status["phase"] == "Succeeded"
    assert [s["name"] for s in life.status["stages"]] == ["train"]
    (manifest,) = life.manifests
    assert _stage_input(manifest)["includesPrepare"] is True


def test_one_stage_costs_five_writes_and_two_events() -> None:
    life = play(one_stage())
    assert life.writes == ["status", "create", "status", "status", "patch"]
    assert [event.reason for event in life.events] == ["Started", "Succeeded"]


@pytest.mark.parametrize(("spec", "stage"), [(b.job_spec(), "prepare"), (b.cpu_spec(), "train")])
def test_the_event_about_the_start_names_stage_job_and_pod(spec: dict[str, Any], stage: StageName) -> None:
    life = Simulation(b.job(spec), runtime=b.runtime()).settle()
    child = life.child(stage).name
    assert life.events[0].message == (
        f"Stage {stage} begins as Job {child}, in pod {child}-…; results go to s3://team-a-models/support-intent/"
    )


def test_two_stages_cost_nine_writes_and_two_events() -> None:
    life = play(two_stages())
    assert life.writes == ["status", "create", "status", "status", "create", "status", "status", "patch", "patch"]
    assert [event.reason for event in life.events] == ["Started", "Succeeded"]


def test_the_ttl_costs_one_write_for_each_child_when_the_result_is_in_status() -> None:
    life = play(two_stages(ttlSecondsAfterFinished=60))
    assert life.writes[6:] == ["status", "patch", "patch"]
    assert {child.ttl_seconds for child in life.children.values()} == {60}


def test_a_job_that_waits_in_both_stages_has_at_most_four_events() -> None:
    life = two_stages().settle()
    stages: list[tuple[StageName, StageReport]] = [("prepare", b.prepare_report()), ("train", b.train_report())]
    for stage, report in stages:
        life.pod_waits(stage, waiting_reason="ErrImagePull", waiting_message="no such image").settle(5)
        life.pod_runs(stage).settle(5).completes(stage, report).settle(5)
    assert life.status["phase"] == "Succeeded"
    assert [event.reason for event in life.events] == ["Started", "ImagePullFailed", "ImagePullFailed", "Succeeded"]


def test_the_runtime_stands_in_status_before_the_first_child_is_created() -> None:
    life = two_stages()
    plan = life.step()
    assert plan.status is not None
    assert plan.status["runtime"]["image"] == b.IMAGE
    assert life.writes == ["status", "create"]


def test_a_runtime_edited_after_the_start_has_no_effect_on_the_next_child() -> None:
    life = two_stages().settle().pod_runs("prepare").settle(1)
    life.runtime = b.runtime(b.runtime_spec(image="registry.example.com/other@sha256:" + "2" * 64), generation=4)
    life.pod_runs("prepare").settle(5).completes("prepare", b.prepare_report()).settle(5)
    assert life.manifests[1]["spec"]["template"]["spec"]["containers"][0]["image"] == b.IMAGE


def test_a_runtime_deleted_after_the_start_has_no_effect() -> None:
    life = two_stages().settle()
    life.runtime = None
    life.pod_runs("prepare").settle(5).completes("prepare", b.prepare_report()).settle(5)
    assert [m["metadata"]["labels"]["finetune.dev/stage"] for m in life.manifests] == ["prepare", "train"]


def test_no_gpu_is_requested_before_prepare_has_succeeded() -> None:
    life = two_stages().settle().pod_runs("prepare").settle(60)
    assert [m["metadata"]["labels"]["finetune.dev/stage"] for m in life.manifests] == ["prepare"]


def test_train_is_told_the_digest_that_prepare_reported() -> None:
    life = play(two_stages())
    assert "preparedDigest" not in _stage_input(life.manifests[0])
    assert _stage_input(life.manifests[1])["preparedDigest"] == b.DIGEST


def test_train_gets_the_seconds_that_prepare_left_over() -> None:
    life = two_stages(activeDeadlineSeconds=1000).settle().pod_runs("prepare").settle(300)
    life.completes("prepare", b.prepare_report()).settle(1)
    assert [m["spec"]["activeDeadlineSeconds"] for m in life.manifests] == [1000, 700]
    assert life.status["stages"][0]["runSeconds"] == 300


def test_a_job_whose_first_stage_used_all_its_seconds_fails_without_a_second_child() -> None:
    life = two_stages(activeDeadlineSeconds=60).settle().pod_runs("prepare").settle(60)
    life.completes("prepare", b.prepare_report()).settle(1)
    assert life.status["failure"]["reason"] == "DeadlineExceeded"
    assert life.status["failure"]["stage"] == "train"
    assert len(life.manifests) == 1


def test_without_a_deadline_of_its_own_a_job_has_the_runtimes() -> None:
    life = Simulation(b.job(), runtime=b.runtime(b.runtime_spec(limits={"activeDeadlineSeconds": 500}))).settle()
    assert life.manifests[0]["spec"]["activeDeadlineSeconds"] == 500


def test_a_deadline_that_is_raised_in_mid_run_reaches_the_running_child() -> None:
    life = two_stages(activeDeadlineSeconds=1000).settle().pod_runs("prepare").settle(300)
    life.completes("prepare", b.prepare_report()).settle(1).pod_runs("train").settle(1)
    life.edit(activeDeadlineSeconds=2000).settle(1)
    assert life.child("train").active_deadline_seconds == 1700
    assert life.status["observedGeneration"] == 2


def test_a_raised_deadline_ends_at_the_runtimes_limit() -> None:
    runtime = b.runtime(b.runtime_spec(limits={"activeDeadlineSeconds": 1500}))
    life = (
        Simulation(b.job(b.cpu_spec(activeDeadlineSeconds=1000)), runtime=runtime).settle().pod_runs("train").settle(1)
    )
    life.edit(activeDeadlineSeconds=20000).settle(1)
    assert life.child("train").active_deadline_seconds == 1500
    told = "activeDeadlineSeconds is 20000; the FineTuneRuntime allows 1500, which holds."
    assert life.condition("Succeeded")["message"].endswith(told)
    assert life.settle(100).condition("Succeeded")["message"].count(told) == 1


@pytest.mark.parametrize(
    ("steps", "phase"),
    [
        ([], "Pending"),
        (["wait"], "Pending"),
        (["wait", "run"], "Preparing"),
        (["wait", "run", "done"], "Preparing"),
        (["wait", "run", "done", "train"], "Training"),
    ],
)
def test_the_phase_follows_the_stage_that_runs(steps: list[str], phase: str) -> None:
    life = two_stages().settle()
    for step in steps:
        if step == "wait":
            life.pod_waits("prepare")
        elif step == "run":
            life.pod_runs("prepare")
        elif step == "done":
            life.completes("prepare", b.prepare_report())
        else:
            life.pod_runs("train")
        life.settle(1)
    assert life.status["phase"] == phase


@pytest.mark.parametrize("counts", [{"failed": 1}, {"succeeded": 1}])
def test_a_pod_that_nobody_saw_running_has_started_all_the_same(counts: dict[str, int]) -> None:
    life = one_stage().settle().change_child("train", active=0, **counts).settle(1)
    assert life.status["phase"] == "Training"
    assert life.status["stages"][0]["attempts"] == 1


def test_a_healthy_running_job_is_not_looked_at_again_by_itself() -> None:
    life = two_stages().settle().pod_runs("prepare").settle(5)
    assert life.plan.requeue_after is None


def test_a_pod_that_has_not_started_is_looked_at_again_soon_and_later_less_often() -> None:
    life = two_stages().settle().pod_waits("prepare", node="node-1").settle(5)
    assert life.plan.requeue_after == 10
    assert life.settle(300).plan.requeue_after == 30


def test_the_percentage_is_absent_until_the_end() -> None:
    life = two_stages().settle().pod_runs("prepare").settle(5)
    assert "progress" not in life.status


def test_prepare_leaves_the_counts_of_the_rows_in_status() -> None:
    life = two_stages().settle().pod_runs("prepare").settle(5).completes("prepare", b.prepare_report()).settle(1)
    assert life.status["dataset"]["test"] == 852
    assert life.condition("Prepared")["status"] == "True"
    assert life.condition("ArtifactPublished")["status"] == "Unknown"


def test_what_prepare_and_train_chose_stands_side_by_side() -> None:
    life = play(two_stages())
    assert life.status["resolved"] == {
        "method": "LoRA",
        "batchSize": 16,
        "metric": "ChoiceAccuracy",
        "choices": 27,
        "image": b.IMAGE,
    }


def test_the_image_stands_in_status_though_a_report_had_no_room_for_it() -> None:
    life = one_stage().settle().pod_runs("train").settle(5)
    spec = life.job["spec"]
    life.completes("train", b.train_report(spec, resolved=Resolved(method="LoRA"))).settle(1)
    assert life.status["resolved"]["image"] == b.IMAGE


def test_artifacts_and_the_manifests_digest_stand_in_status_at_the_end() -> None:
    life = play(two_stages())
    assert [artifact["path"] for artifact in life.status["artifacts"]] == ["model/"]
    assert life.status["manifestDigest"] == b.MANIFEST_DIGEST
    assert life.condition("ArtifactPublished")["status"] == "True"


def test_a_retried_pod_counts_as_an_attempt_and_leaves_the_phase_alone() -> None:
    life = one_stage().settle().pod_runs("train").settle(5).pod_fails("train", 30).settle(1)
    life.pod_waits("train").settle(1)
    assert life.status["stages"][0]["attempts"] == 2
    assert life.status["phase"] == "Training"
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_job_that_ran_while_nobody_looked_gets_its_results() -> None:
    life = one_stage().settle()
    life.pod_runs("train").passes(500).completes("train", b.train_report(life.job["spec"])).settle(1)
    assert life.status["phase"] == "Succeeded"
    assert life.status["stages"][0]["runSeconds"] == 500


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    life = two_stages()
    life.job["metadata"]["deletionTimestamp"] = "2026-03-01T09:00:00Z"
    life.settle()
    assert life.writes == []
    assert life.events == []


@pytest.mark.parametrize(
    "metadata",
    [
        {"uid": ""},
        {"uid": "u" * 65},
        {"uid": 7},
        {"namespace": ""},
        {"namespace": "n" * 64},
        {"namespace": None},
        {"name": ""},
    ],
)
def test_what_no_api_server_would_store_is_left_alone(metadata: dict[str, Any]) -> None:
    life = Simulation(b.job(**metadata), runtime=b.runtime()).settle()
    assert life.writes == []
    assert life.events == []


def _stage_input(manifest: dict[str, Any]) -> dict[str, Any]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    env = {item["name"]: item.get("value") for item in container["env"]}
    document: dict[str, Any] = json.loads(env[ENV_STAGE_INPUT])
    return document
