"""Rows are prepared once for a job: what an earlier attempt stored is used, if it is this job's and whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.report import StageReport
from finetune_trainer.job.dataset import prepare_rows
from tests.support.result_copy import Log, ResultCopy, flip, snapshot, steps
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import make_stage_input, topic_rows, write_rows

Stage = Callable[..., tuple[StageReport, Log]]


def test_a_retried_prepare_reports_again_without_reading_anything(copy: ResultCopy) -> None:
    before = snapshot(copy.out)
    with copy.replaced("rows.jsonl", b"no rows any more"):
        report, log = copy.stage(uid="uid-1")
    assert report == copy.full.prepare
    assert steps(log) == {"fetch_prepared"}
    assert "already_prepared" in {line["event"] for line in log}
    assert snapshot(copy.out) == before


@pytest.mark.parametrize("name", ["rows.safetensors", "prepared.json", "manifest.json"])
def test_stored_rows_that_are_damaged_are_prepared_anew(name: str, copy: ResultCopy) -> None:
    path = copy.out / "prepared" / name
    flip(path) if name != "manifest.json" else path.write_bytes(path.read_bytes()[:-9])
    report, log = copy.stage(uid="uid-1")
    assert report == copy.full.prepare
    assert "prepared_damaged" in {line["event"] for line in log}
    again, log = copy.stage(uid="uid-1")
    assert again == report
    assert steps(log) == {"fetch_prepared"}


def test_rows_that_another_job_left_are_not_taken_for_ones_own(copy: ResultCopy) -> None:
    """As after an overwriting that was stopped before the files of the other job were removed."""
    (copy.out / "manifest.json").unlink()
    (copy.out / "owner.json").write_text('{"jobUid": "uid-2"}')
    (copy.out / "checkpoints").mkdir()
    (copy.out / "checkpoints/1").write_text("state of another job")
    report, log = copy.stage()
    assert report.failure is None
    assert "encode_rows" in steps(log)
    assert {name.split("/")[0] for name in snapshot(copy.out)} == {"owner.json", "prepared"}
    assert json.loads((copy.out / "prepared/manifest.json").read_bytes())["jobUid"] == "uid-2"


def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyError("stopped")

    monkeypatch.setattr("finetune_trainer.job.base_model.load_model", stop)


@pytest.fixture
def half_done(cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A job with one stage that is always stopped after it has its rows; they lie in ``rows.jsonl``, and there is a
    checkpoint.
    """
    write_rows(tmp_path / "rows.jsonl")
    cheap["dataset"]["uri"] = f"file://{tmp_path}/rows.jsonl"
    stage_input = make_stage_input("train", cheap, includes_prepare=True)

    def go(*, fresh: bool = False, uid: str = "uid-1") -> tuple[StageReport, Log]:
        job = stage_input.job.model_copy(update={"uid": uid})
        return run(stage_input.model_copy(update={"job": job}), tmp_path, fresh=fresh)

    with monkeypatch.context() as patch:
        stopped(patch)
        go()
        (tmp_path / "out/checkpoints").mkdir(exist_ok=True)
        (tmp_path / "out/checkpoints/other").write_text("state")
        yield go


def test_a_restarted_stage_goes_on_with_the_rows_that_it_had(half_done: Stage, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "out")
    write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    _, log = half_done()
    assert "fetch_prepared" in steps(log)
    assert not {"fetch_tokenizer", "fetch_rows", "encode_rows"} & steps(log)
    assert snapshot(tmp_path / "out") == before


def test_a_failed_job_that_is_applied_again_keeps_what_was_computed_of_the_same_rows(
    half_done: Stage, tmp_path: Path
) -> None:
    before = snapshot(tmp_path / "out")
    report, log = half_done(uid="applied-again")
    assert "encode_rows" in steps(log)  # the rows are looked at as they are today
    assert "prepared_inherited" in {line["event"] for line in log}
    after = snapshot(tmp_path / "out")
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"owner.json", "prepared/manifest.json"}
    assert json.loads((tmp_path / "out/prepared/manifest.json").read_bytes())["jobUid"] == "applied-again"
    assert report.failure is not None
    assert "stopped" in report.failure.message


def test_a_job_that_loses_the_folder_while_it_looks_at_the_rows_leaves_what_it_inherited(
    half_done: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / "out/prepared/manifest.json").read_bytes()

    def lose(*arguments: Any, **options: Any) -> Any:
        owner = {"jobUid": "uid-9", "job": "team-a/tiny", "continues": ["uid-1"]}
        (tmp_path / "out/owner.json").write_text(json.dumps(owner))
        return prepare_rows(*arguments, **options)

    monkeypatch.setattr("finetune_trainer.job.handover.prepare_rows", lose)
    report, _ = half_done(uid="applied-again")
    assert report.failure is not None
    assert "was taken over by another job" in report.failure.message
    assert (tmp_path / "out/prepared/manifest.json").read_bytes() == before


def test_a_failed_job_that_is_applied_again_with_other_rows_begins_anew(half_done: Stage, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    _, log = half_done(uid="applied-again")
    assert "prepared_inherited" not in {line["event"] for line in log}
    assert "checkpoints/other" not in snapshot(tmp_path / "out")


def test_a_run_by_hand_goes_on_with_what_is_stored_if_the_rows_are_the_same(half_done: Stage, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "out")
    _, log = half_done(fresh=True)
    assert "encode_rows" in steps(log)
    assert snapshot(tmp_path / "out") == before


def test_a_run_by_hand_with_other_rows_forgets_what_is_stored(half_done: Stage, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "out")
    write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    half_done(fresh=True)
    after = snapshot(tmp_path / "out")
    assert "checkpoints/other" not in after
    assert after["prepared/manifest.json"] != before["prepared/manifest.json"]


def test_a_run_by_hand_that_overwrites_a_complete_result_begins_anew(
    lora_on_disk: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lora_on_disk.output, tmp_path / "out")
    (tmp_path / "out/checkpoints").mkdir()
    (tmp_path / "out/checkpoints/last").write_text("a checkpoint that was not removed in time")
    spec = {
        **lora_on_disk.spec,
        "output": {"uri": f"file://{tmp_path}/out/", "export": "Both", "ifExists": "Overwrite"},
    }
    stopped(monkeypatch)
    run(make_stage_input("train", spec, includes_prepare=True), tmp_path, fresh=True)
    assert {name.split("/")[0] for name in snapshot(tmp_path / "out")} == {"owner.json", "prepared"}
