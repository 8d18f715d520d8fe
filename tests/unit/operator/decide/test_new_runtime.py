"""The snapshot of the runtime is taken for good when the job has begun, not before."""

from __future__ import annotations

from typing import Any

from finetune_api.names import ENV_STAGE_INPUT
from finetune_api.stage import StageInput
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC

MENDED = "registry.example.com/finetune-trainer@sha256:" + "2" * 64


def waiting_for_its_image() -> Simulation:
    life = Simulation(b.job(SPEC), runtime=b.runtime(), lingering=True).settle()
    return life.pod_waits(
        "train", node="node-1", waiting_reason="ErrImagePull", waiting_message="no such image"
    ).settle(5)


def image(life: Simulation) -> str:
    return str(life.manifests[-1]["spec"]["template"]["spec"]["containers"][0]["image"])


def test_a_wrong_image_that_is_mended_in_the_runtime_lets_the_job_go_on() -> None:
    life = waiting_for_its_image()
    assert life.reason == "ImagePullFailed"
    life.runtime = b.runtime(b.runtime_spec(image=MENDED), generation=4)
    life.settle(1)
    assert life.writes[-2:] == ["status", "delete"]
    assert "FineTuneRuntime default was edited" in life.condition("Succeeded")["message"]
    life.goes("train").settle(1)
    assert image(life) == MENDED
    assert life.status["runtime"]["image"] == MENDED
    life.pod_runs("train").settle(5).completes("train", b.train_report(SPEC)).settle()
    assert life.status["phase"] == "Succeeded"


def test_an_edit_that_changes_nothing_for_the_job_replaces_nothing() -> None:
    life = waiting_for_its_image()
    writes = list(life.writes)
    life.runtime = b.runtime(b.runtime_spec(allowedNamespaces=["team-a", "team-b"]), generation=4)
    assert life.settle(1).writes == writes


def test_a_runtime_that_refuses_the_job_by_now_replaces_nothing() -> None:
    life = waiting_for_its_image()
    writes = list(life.writes)
    life.runtime = b.runtime(b.runtime_spec(allowedNamespaces=["team-b"]), generation=4)
    assert life.settle(1).writes == writes


def test_a_pod_that_runs_keeps_the_runtime_though_status_does_not_say_yet_that_it_does() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime()).settle().pod_runs("train")
    life.runtime = b.runtime(b.runtime_spec(image=MENDED), generation=4)
    assert life.settle(1).writes.count("delete") == 0
    assert life.status["runtime"]["image"] == b.IMAGE


def test_a_child_is_replaced_on_live_reads_only() -> None:
    life = waiting_for_its_image()
    life.runtime = b.runtime(b.runtime_spec(image=MENDED), generation=4)
    assert reconcile(life.observe(live=False)).needs_live


def test_a_runtime_that_was_deleted_and_made_anew_counts_as_edited() -> None:
    """Its generation begins at 1 again, so it says nothing."""
    life = waiting_for_its_image()
    life.runtime = b.runtime(b.runtime_spec(image=MENDED), generation=life.status["runtime"]["generation"])
    assert life.settle(1).writes[-1] == "delete"


# --- a snapshot that an earlier version took --------------------------------------------------------------------------

NO_URI = b.cpu_spec(output={"uri": None})
ELSEWHERE = b.runtime_spec(outputPrefix="s3://elsewhere/", storage=[{"prefix": "s3://results/", "region": "eu"}])


def of_an_earlier_version(life: Simulation) -> Simulation:
    """The status as the API server gives it after the upgrade: without keys that the schema has no longer."""
    runtime: dict[str, Any] = life.status["runtime"]
    for stage in ("prepare", "train"):
        del runtime[stage]
    return life


def begun() -> Simulation:
    """A job on the CPU that runs, with a status of an earlier version; results go below the runtime's outputPrefix."""
    life = Simulation(b.job(NO_URI), runtime=b.runtime()).settle().pod_runs("train").settle(100)
    return of_an_earlier_version(life)


def test_a_job_that_began_under_an_earlier_version_goes_on_with_its_child_and_its_folder() -> None:
    life = begun()
    child, place, began = life.child("train").uid, life.status["outputUri"], life.status["startTime"]
    life.runtime = b.runtime(ELSEWHERE, generation=4)
    life.settle(5)
    assert life.child("train").uid == child
    assert {"create", "delete", "patch"} & set(life.writes) == {"create"}
    assert life.writes.count("create") == 1
    assert life.status["outputUri"] == place == "s3://results/tuned/team-a/support-intent/"
    assert life.status["startTime"] == began
    taken = life.status["runtime"]
    assert (taken["generation"], taken["outputUri"], taken["train"]["nodeSelector"]) == (4, place, {"gpu": "a100"})
    assert taken["storage"]["output"]["region"] == "eu"
    life.completes("train", b.train_report(NO_URI)).settle(5)
    assert (life.status["phase"], life.status["outputUri"]) == ("Succeeded", place)


def test_such_a_job_waits_without_a_clock_while_the_runtime_has_fields_of_then() -> None:
    life = begun()
    place = life.status["outputUri"]
    life.runtime = b.runtime(b.runtime_spec(nodeSelector={"gpu": "a100"}), generation=4)
    life.settle(5).settle(3600)
    assert life.reason == "RuntimeNotFound"
    assert "nodeSelector has moved" in life.condition("Succeeded")["message"]
    assert life.status["outputUri"] == place
    assert "delete" not in life.writes
    life.runtime = b.runtime(generation=5)
    assert life.settle(5).reason == "Training"
    assert (life.status["outputUri"], life.writes.count("create")) == (place, 1)


def test_such_a_job_that_is_suspended_counts_the_time_that_it_ran() -> None:
    life = begun().edit(suspend=True).settle(5).settle(5)
    assert life.writes.count("delete") == 1
    assert life.status["phase"] == "Suspended"
    assert life.stage("train")["runSeconds"] >= 100


def test_a_child_of_an_earlier_version_that_never_ran_is_replaced_where_its_results_would_go_elsewhere() -> None:
    life = Simulation(b.job(NO_URI), runtime=b.runtime(), lingering=True).settle().pod_waits("train").settle(5)
    of_an_earlier_version(life)
    life.runtime = b.runtime(ELSEWHERE, generation=4)
    life.settle(5)
    assert life.writes[-2:] == ["status", "delete"]
    life.goes("train").settle(1)
    told = str(life.manifests[-1])
    assert life.status["outputUri"] == "s3://elsewhere/team-a/support-intent/"
    assert life.status["outputUri"] in told
    assert "s3://results/tuned/" not in told


def test_a_child_of_an_earlier_version_that_never_ran_is_kept_where_nothing_has_moved() -> None:
    life = Simulation(b.job(SPEC), runtime=b.runtime(), lingering=True).settle().pod_waits("train").settle(5)
    assert "delete" not in of_an_earlier_version(life).settle(5).writes
    assert life.status["runtime"]["train"]["nodeSelector"] == {"gpu": "a100"}


def test_a_job_that_has_begun_keeps_its_child_though_nothing_of_its_snapshot_can_be_read() -> None:
    life = begun()
    life.job["status"]["outputUri"] = ["no", "text"]
    assert "delete" not in life.settle(5).writes


NAMED = b.cpu_spec(dataset={"template": {"name": "urgency", "columns": None}})


def templates(text: str) -> dict[str, Any]:
    return b.runtime_spec(templates=[{"name": "urgency", "document": text}])


def told_template(life: Simulation) -> tuple[str, str]:
    """The text and the digest that the newest child is told."""
    told = next(e["value"] for e in container(life)["env"] if e["name"] == ENV_STAGE_INPUT)
    stage_input = StageInput.model_validate_json(told)
    assert stage_input.template is not None
    assert stage_input.spec_digest is not None
    return stage_input.template.document, stage_input.spec_digest


def container(life: Simulation) -> dict[str, Any]:
    found: dict[str, Any] = life.manifests[-1]["spec"]["template"]["spec"]["containers"][0]
    return found


def test_a_template_that_is_edited_before_the_job_begins_is_asked_for_under_another_digest() -> None:
    life = Simulation(b.job(NAMED), runtime=b.runtime(templates("first")), lingering=True).settle()
    before = told_template(life)
    assert before == ("first", life.status["specDigest"])
    life.pod_waits("train", node="node-1", waiting_reason="ErrImagePull", waiting_message="no image").settle(5)
    life.runtime = b.runtime(templates("second"), generation=4)
    life.settle(1)
    life.goes("train").settle(1)
    text, digest = told_template(life)
    assert (text, digest) == ("second", life.status["specDigest"])
    assert digest != before[1]


def test_a_template_that_is_edited_or_removed_after_the_job_has_begun_stays_what_it_was() -> None:
    life = Simulation(b.job(NAMED), runtime=b.runtime(templates("first"))).settle().pod_runs("train").settle(5)
    digest = life.status["specDigest"]
    for runtime in (b.runtime(templates("second"), generation=4), b.runtime(generation=5), None):
        life.runtime = runtime
        life.settle(5)
        assert life.status["runtime"]["template"] == {"name": "urgency", "document": "first"}
        assert life.status["specDigest"] == digest
    assert life.status["phase"] != "Failed"


def test_a_job_whose_template_comes_later_waits_for_it_and_runs() -> None:
    life = Simulation(b.job(NAMED), runtime=b.runtime()).settle()
    assert life.reason == "NotPermitted"
    assert "dataset.template.name urgency" in life.condition("Succeeded")["message"]
    life.runtime = b.runtime(templates("first"), generation=4)
    life.settle(5)
    assert told_template(life)[0] == "first"
