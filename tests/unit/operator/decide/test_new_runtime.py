"""The snapshot of the runtime is taken for good when the job has begun, not before."""

from __future__ import annotations

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
