"""Whole stages on a two-layer model: from rows and weights in storage to a measured model in storage."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.digest import sha256_digest, spec_digest
from finetune_api.reasons import Reason
from finetune_api.report import MAX_REPORT_BYTES, encode_report, parse_report
from finetune_trainer.output.folder import is_log
from finetune_trainer.prepare.folder import load_prepared
from finetune_trainer.storage.store import sha256_file
from tests.support.result_copy import snapshot
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_tokenizer import TURN_END


@pytest.fixture(params=["full_on_s3", "lora_on_disk"])
def finished(request: pytest.FixtureRequest) -> Finished:
    got: Finished = request.getfixturevalue(request.param)
    return got


def test_the_tuned_model_beats_the_baseline_beyond_chance(finished: Finished) -> None:
    results = finished.report.results
    assert results is not None
    assert results.baseline.ci95 is not None
    assert float(results.test.score) > float(results.baseline.ci95[1])
    assert results.p_value is not None
    assert float(results.p_value) < 0.001
    assert float(results.gain) == pytest.approx(float(results.test.score) - float(results.baseline.score), abs=2e-4)


def test_the_loss_falls_from_epoch_to_epoch(finished: Finished) -> None:
    points = finished.report.validation or []
    assert float(points[-1].loss) < 0.6 * float(points[0].loss)


def test_baseline_and_test_are_scored_on_the_same_sealed_rows(finished: Finished) -> None:
    results, data = finished.report.results, finished.report.dataset
    assert results is not None
    assert data is not None
    assert results.baseline.total == results.test.total == data.test > 30


def test_a_report_says_what_was_resolved_and_what_it_cost(finished: Finished) -> None:
    resolved, compute = finished.report.resolved, finished.report.compute
    assert resolved is not None
    assert compute is not None
    assert (resolved.method, resolved.precision, resolved.metric, resolved.choices) == (
        finished.spec["training"]["method"],
        "Float32",
        "ChoiceAccuracy",
        5,
    )
    assert resolved.model_revision
    assert compute.train_tokens
    assert compute.trained_parameters


def test_a_report_says_how_many_steps_were_planned_and_how_the_rate_went(finished: Finished) -> None:
    resolved, data = finished.report.resolved, finished.report.dataset
    assert resolved is not None
    assert data is not None
    assert (resolved.optimizer, resolved.scheduler) == ("AdamW", "Cosine")
    total = -(-data.train // (resolved.batch_size or 0)) * finished.spec["training"]["epochs"]
    assert (resolved.total_steps, resolved.warmup_steps) == (total, total // 20)
    assert (finished.report.validation or [])[-1].step == total


def test_a_report_says_where_answers_end_and_what_the_epoch_is_the_best_by(finished: Finished) -> None:
    resolved, results = finished.report.resolved, finished.report.results
    assert resolved is not None
    assert results is not None
    assert resolved.stop == ["\n"]  # every label is a line
    assert resolved.select_by == "Loss"  # of 24 validation rows
    for score in (results.baseline, results.test):
        assert [s.name for s in score.secondary or []] == [
            "ExactMatch",
            "ChoiceAccuracyNorm",
            "MacroF1",
            "ECE",
        ]


def test_the_report_fits_and_parses_and_answers_its_spec(finished: Finished) -> None:
    data = encode_report(finished.report)
    assert len(data) <= MAX_REPORT_BYTES
    read = parse_report(data.decode())
    assert read is not None
    kept = ("compute", "dataset", "digest")  # the image, artifacts' digests, some metrics and old points may go
    assert [getattr(read, name) for name in kept] == [getattr(finished.report, name) for name in kept]
    assert read.results is not None
    assert finished.report.results is not None
    few = [s.secondary and s.secondary[:1] for s in (finished.report.results.baseline, finished.report.results.test)]
    assert [s.secondary and s.secondary[:1] for s in (read.results.baseline, read.results.test)] == few
    assert read.results.test.ci95 == finished.report.results.test.ci95
    points = finished.report.validation or []
    assert points
    assert read.validation is None or read.validation == points[-len(read.validation) :]
    with_one = parse_report(encode_report(read.model_copy(update={"validation": points[-1:]})).decode())
    assert read.validation or (with_one is not None and not with_one.validation), "there is room for the newest point"
    assert finished.report.spec_digest == spec_digest(make_stage_input("train", finished.spec).spec)


def test_every_log_line_is_an_event_of_the_job(finished: Finished) -> None:
    assert all({"ts", "level", "job", "stage", "event"} <= line.keys() for line in finished.log)
    events = {line["event"] for line in finished.log}
    assert {"dataset", "model", "train", "validation", "baseline_score", "test_score"} <= events
    assert not [line for line in finished.log if line["level"] == "error"]


def test_every_file_is_in_the_manifest_with_its_digest(finished: Finished) -> None:
    manifest = json.loads((finished.output / "manifest.json").read_bytes())
    listed = {entry["path"]: (entry["sha256"], entry["bytes"]) for entry in manifest["files"]}
    stored = {
        path.relative_to(finished.output).as_posix(): (sha256_file(path), path.stat().st_size)
        for path in finished.output.rglob("*")
        if path.is_file()
    }
    assert {name: stored[name] for name in listed} == listed
    assert set(stored) - set(listed) == {"manifest.json", "owner.json", *(name for name in stored if is_log(name))}


def test_the_manifest_is_the_one_that_the_report_names(finished: Finished) -> None:
    assert finished.report.digest == sha256_digest((finished.output / "manifest.json").read_bytes())


def test_the_manifest_says_what_the_result_was_made_from(finished: Finished) -> None:
    manifest = json.loads((finished.output / "manifest.json").read_bytes())
    data = finished.report.dataset
    assert data is not None
    assert manifest["fingerprint"] == data.fingerprint
    assert manifest["specDigest"] == finished.report.spec_digest
    assert manifest["image"].startswith("registry.example/trainer@sha256:")
    assert manifest["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "transformers", "peft"} <= manifest["versions"].keys()
    assert manifest["seed"] == 7
    assert manifest["templateDigest"].startswith("sha256:")


def test_predictions_hold_both_answers_to_every_test_row(finished: Finished) -> None:
    results = finished.report.results
    assert results is not None
    rows = [json.loads(line) for line in (finished.output / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == results.test.total
    assert sum(row["tunedCorrect"] for row in rows) == results.test.correct
    assert sum(row["baselineCorrect"] for row in rows) == results.baseline.correct
    source = topic_rows()
    for row in rows:
        assert source[row["row"] - 1]["text"] in row["prompt"]
        assert source[row["row"] - 1]["label"] == row["expected"]
        assert (row["tuned"] == row["expected"]) is row["tunedCorrect"]
        for model in ("baseline", "tuned"):  # each exact match can be understood from the line
            written = row.get(f"{model}Generated", row[model])
            exact = written == row["expected"] and not row.get(f"{model}GeneratedCut")
            assert exact is row[f"{model}ExactMatch"]


def test_metrics_have_a_line_for_training_and_one_for_each_epoch(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.output / "metrics.jsonl").read_text().splitlines()]
    assert any("train_loss" in line for line in lines)
    assert len([line for line in lines if "valid_loss" in line]) == finished.spec["training"]["epochs"]


def test_the_pages_data_card_has_the_numbers_of_the_prepared_rows(finished: Finished) -> None:
    prepared = load_prepared(finished.output / "prepared")
    text = re.sub(r"<[^>]+>|\s+", " ", (finished.output / "report/index.html").read_text())
    shown = " ".join(text.split())
    for name, part in prepared.parts.items():
        prompts = sorted(part.prompt_lengths.tolist())
        least, median = prompts[0], prompts[math.ceil(len(prompts) / 2) - 1]
        high, most = prompts[math.ceil(0.95 * len(prompts)) - 1], prompts[-1]
        assert f"{name} {len(part)} prompt {least} {median} {high} {most} completion" in shown
    source = topic_rows()
    labels = {row["label"] for row in source}
    for label in labels:
        counts = [sum(source[r - 1]["label"] == label for r in part.rows) for part in prepared.parts.values()]
        assert f"{label} {' '.join(map(str, counts))}" in shown


def test_samples_show_ten_validation_rows_as_the_model_learns(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.output / "samples.jsonl").read_text().splitlines()]
    epochs = finished.spec["training"]["epochs"]
    by_epoch = [[line for line in lines if line["epoch"] == epoch] for epoch in range(epochs + 1)]
    rows = [[line["row"] for line in told] for told in by_epoch]
    assert [len(set(told)) for told in rows] == [10] * (epochs + 1)
    assert all(told == rows[0] for told in rows)
    assert sum(line["correct"] for line in by_epoch[-1]) > sum(line["correct"] for line in by_epoch[0])
    source = topic_rows()
    assert all(source[line["row"] - 1]["label"] == line["expected"] for line in lines)
    scored = {json.loads(line)["row"] for line in (finished.output / "predictions.jsonl").read_text().splitlines()}
    assert scored.isdisjoint(rows[0])


def test_the_manifest_names_the_samples_and_card_and_page_show_them(finished: Finished) -> None:
    files = {file["path"]: file for file in json.loads((finished.output / "manifest.json").read_bytes())["files"]}
    digest = sha256_digest((finished.output / "samples.jsonl").read_bytes())
    assert files["samples.jsonl"]["sha256"] == digest
    assert "the same 10 validation rows as it learned" in (finished.output / "README.md").read_text()
    assert "How its answers changed" in (finished.output / "report/index.html").read_text()


def test_the_model_card_has_the_numbers_and_how_to_load(finished: Finished) -> None:
    card, results = (finished.output / "README.md").read_text(), finished.report.results
    assert results is not None
    for text in (results.baseline.score, results.test.score, results.gain, "apply_chat_template(", "95 % interval"):
        assert text in card


def test_card_and_page_tell_the_calibration_and_that_less_of_it_is_better(finished: Finished) -> None:
    results = finished.report.results
    assert results is not None
    error = {score.name: score.score for score in results.test.secondary or []}["ECE"]
    card, page = (finished.output / name for name in ("README.md", "report/index.html"))
    line = next(line for line in card.read_text().splitlines() if line.startswith("ECE "))
    assert "lower is better" in line
    assert f" {error} after" in line
    assert f"{error} after; lower is better" in page.read_text()


def test_results_json_holds_the_reports_numbers(finished: Finished) -> None:
    assert finished.report.results is not None
    stored = json.loads((finished.output / "results.json").read_bytes())
    assert stored["results"] == finished.report.results.to_wire()


def test_results_json_says_how_sure_both_models_were_of_the_rows_that_were_scored(finished: Finished) -> None:
    told = json.loads((finished.output / "results.json").read_bytes())
    for which in ("baseline", "test"):
        score, bins = told["results"][which], told["calibration"][which]
        assert sum(one["rows"] for one in bins) == score["total"]
        assert sum(round(one["rows"] * one["right"]) for one in bins) == score["correct"]
        error = sum(one["rows"] * abs(one["right"] - one["confidence"]) for one in bins) / score["total"]
        (ece,) = [float(other["score"]) for other in score["secondary"] if other["name"] == "ECE"]
        assert ece == pytest.approx(error, abs=1e-4)


def test_plain_transformers_loads_the_exported_model_and_answers_a_row(finished: Finished) -> None:
    row = next(
        json.loads(line)
        for line in (finished.output / "predictions.jsonl").read_text().splitlines()
        if json.loads(line)["tunedCorrect"]
    )
    tokenizer: Any = AutoTokenizer.from_pretrained(finished.output / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(finished.output / "model", dtype=torch.float32)
    chat = [{"role": "user", "content": row["prompt"]}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    # This tokenizer's turns end with another token than EOS, and the base's generation config names EOS only.
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=end)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == row["expected"]


def test_adapters_are_stored_beside_the_merged_model_when_both_are_asked_for(lora_on_disk: Finished) -> None:
    assert (lora_on_disk.output / "adapter/adapter_model.safetensors").exists()
    names = {artifact.name for artifact in lora_on_disk.report.artifacts or []}
    assert {"model", "adapter", "prepared", "predictions", "results", "report"} == names


def test_two_stages_and_one_prepare_the_same_rows(full_on_s3: Finished, lora_on_disk: Finished) -> None:
    assert full_on_s3.report.dataset is not None
    assert lora_on_disk.report.dataset is not None
    assert full_on_s3.report.dataset.fingerprint == lora_on_disk.report.dataset.fingerprint


def test_prepare_reports_the_rows_and_needs_no_weights(full_on_s3: Finished) -> None:
    assert full_on_s3.prepare is not None
    assert full_on_s3.prepare.dataset == full_on_s3.report.dataset
    assert full_on_s3.prepare.results is None
    assert full_on_s3.prepare.digest == sha256_digest((full_on_s3.output / "prepared/manifest.json").read_bytes())


def test_nothing_is_left_in_the_work_folder(tiny: Path, tmp_path: Path) -> None:
    spec = job_spec(
        model=f"file://{tiny}/model/", rows=f"file://{tmp_path}/none.jsonl", output=f"file://{tmp_path}/out/"
    )
    run(make_stage_input("train", spec, includes_prepare=True), tmp_path)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_job_whose_report_was_lost_reports_again_without_training(cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    first, _ = run(stage_input, tmp_path)
    second, log = run(stage_input, tmp_path)
    assert second == first
    assert second.reused is None
    assert "already_complete" in {line["event"] for line in log}
    assert "train" not in {line["event"] for line in log}


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file is gone": lambda out: (out / "model/config.json").unlink(),
    "a file has other content": lambda out: (out / "model/config.json").write_bytes(
        (out / "model/config.json").read_bytes().swapcase()
    ),
    "the manifest is another job's": lambda out: (out / "manifest.json").write_bytes(
        (out / "manifest.json").read_bytes().replace(b"uid-1", b"uid-2")
    ),
    "the manifest is another document": lambda out: (out / "manifest.json").write_text('{"report": {}}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_made_again(damage: str, cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    first, _ = run(stage_input, tmp_path)
    DAMAGES[damage](tmp_path / "out")
    second, log = run(stage_input, tmp_path)
    assert "train" in {line["event"] for line in log}
    # The same rows, order and arithmetic: the same model.
    assert second.results == first.results
    assert (tmp_path / "out/manifest.json").exists()


def test_a_run_by_hand_that_comes_again_takes_its_result(cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    first, _ = run(stage_input, tmp_path)
    before = snapshot(tmp_path / "out")
    second, log = run(stage_input, tmp_path, fresh=True)
    assert "train" not in {line["event"] for line in log}
    assert second == first.model_copy(update={"reused": True})
    assert snapshot(tmp_path / "out") == before


def test_a_corrected_job_of_another_uid_takes_the_folder_of_one_that_failed_on_its_spec(
    cheap: dict[str, Any], tmp_path: Path
) -> None:
    uri = cheap["dataset"]["uri"]
    cheap["dataset"]["uri"] = f"file://{tmp_path}/mistyped.jsonl"
    failed, _ = run(make_stage_input("train", cheap, includes_prepare=True), tmp_path)
    assert failed.failure is not None
    assert failed.failure.reason == Reason.DATASET_NOT_FOUND
    cheap["dataset"]["uri"] = uri
    corrected = make_stage_input("train", cheap, includes_prepare=True)
    corrected = corrected.model_copy(update={"job": corrected.job.model_copy(update={"uid": "another"})})
    report, _ = run(corrected, tmp_path)
    assert report.failure is None


@pytest.mark.parametrize("if_exists", ["Reuse", "Fail"])
def test_a_run_by_hand_with_other_rows_leaves_the_earlier_result(
    if_exists: str, cheap: dict[str, Any], tmp_path: Path
) -> None:
    cheap["dataset"]["uri"] = f"file://{write_rows(tmp_path / 'rows.jsonl')}"
    run(make_stage_input("train", cheap, includes_prepare=True), tmp_path)
    before = snapshot(tmp_path / "out")
    write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    cheap["output"]["ifExists"] = if_exists
    report, _ = run(make_stage_input("train", cheap, includes_prepare=True), tmp_path, fresh=True)
    assert report.failure is not None
    assert report.failure.reason == Reason.OUTPUT_EXISTS
    assert "an earlier run of this job" in report.failure.message
    assert snapshot(tmp_path / "out") == before


def test_a_run_by_hand_that_overwrites_trains_again(cheap: dict[str, Any], tmp_path: Path) -> None:
    cheap["output"]["ifExists"] = "Overwrite"
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    run(stage_input, tmp_path)
    _, log = run(stage_input, tmp_path, fresh=True)
    assert "train" in {line["event"] for line in log}


def test_the_manifest_is_gone_while_a_result_is_replaced(
    cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap["output"]["ifExists"] = "Overwrite"
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    run(stage_input, tmp_path)

    def crash(*_: object, **__: object) -> None:
        raise KeyError("boom")

    monkeypatch.setattr("finetune_trainer.job.base_model.load_model", crash)
    run(stage_input, tmp_path, fresh=True)
    assert not (tmp_path / "out/manifest.json").exists()
