"""Whole stages on a two-layer model: from rows and weights to a measured model, in storage; and how they fail."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_api.digest import sha256_digest, spec_digest
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import MAX_REPORT_BYTES, StageReport, encode_report, parse_report
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_api.stage import StageInput
from finetune_trainer.console import Console
from finetune_trainer.errors import StageError
from finetune_trainer.output import publish
from finetune_trainer.stages import exit_code, failure_of, run_stage
from finetune_trainer.store import sha256_file
from tests.support.s3server import S3Server
from tests.support.tiny_job import environment, job_spec, make_stage_input, topic_rows, write_rows
from tests.support.tiny_model import make_model
from tests.support.tiny_tokenizer import TURN_END
from tests.trainer.conftest import write_keys


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a file of rows."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder / "model")
    write_rows(folder / "rows.jsonl")
    return folder


@dataclass
class Finished:
    """A job that has run: its reports, its log, and its output as plain files."""

    spec: dict[str, Any]
    prepare: StageReport | None
    report: StageReport
    log: list[dict[str, Any]]
    output: Path


def run(
    stage_input: StageInput, folder: Path, *, fresh: bool = False, credentials: Path | None = None
) -> tuple[StageReport, list[dict[str, Any]]]:
    stream = io.StringIO()
    console = Console(job="team-a/tiny", stage=stage_input.stage, stream=stream, interactive=False)
    report = run_stage(stage_input, environment=environment(folder, credentials), console=console, fresh=fresh)
    return report, [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture(scope="module")
def full_on_s3(tiny: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two stages, as with a GPU: everything in S3, a Full fine-tune."""
    folder = tmp_path_factory.mktemp("full")
    bucket = s3.make_bucket("full-job")
    client = s3.client()
    for path in (tiny / "model").iterdir():
        client.upload_file(str(path), bucket, f"model/{path.name}")
    client.upload_file(str(tiny / "rows.jsonl"), bucket, "rows.jsonl")
    for role in ("model", "dataset", "output"):
        write_keys(folder / "keys" / role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    storage = ResolvedStorage(model=one, dataset=one, output=one)
    spec = job_spec(model=f"s3://{bucket}/model/", rows=f"s3://{bucket}/rows.jsonl", output=f"s3://{bucket}/out/")
    first, log = run(make_stage_input("prepare", spec, storage=storage), folder, credentials=folder / "keys")
    assert first.failure is None, first.failure
    second, more = run(
        make_stage_input("train", spec, storage=storage, prepared_digest=first.digest),
        folder,
        credentials=folder / "keys",
    )
    assert second.failure is None, second.failure
    return Finished(spec, first, second, log + more, s3.folder / bucket / "out")


@pytest.fixture(scope="module")
def lora_on_disk(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One stage, as without a GPU: everything on disk, adapters and the merged model."""
    folder = tmp_path_factory.mktemp("lora")
    spec = job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{tiny}/rows.jsonl",
        output=f"file://{folder}/out/",
        method="LoRA",
        lora={"rank": 16, "alpha": 32},
        learningRate="5e-3",
        batchSize=8,
        epochs=10,
    )
    spec["output"]["export"] = "Both"
    report, log = run(make_stage_input("train", spec, includes_prepare=True), folder)
    assert report.failure is None, report.failure
    return Finished(spec, None, report, log, folder / "out")


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


def test_the_report_fits_and_parses_and_answers_its_spec(finished: Finished) -> None:
    data = encode_report(finished.report)
    assert len(data) <= MAX_REPORT_BYTES
    assert parse_report(data.decode()) == finished.report
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
    assert set(stored) - set(listed) == {"manifest.json", "owner.json"}


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


def test_metrics_have_a_line_for_training_and_one_for_each_epoch(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.output / "metrics.jsonl").read_text().splitlines()]
    assert any("train_loss" in line for line in lines)
    assert len([line for line in lines if "valid_loss" in line]) == finished.spec["training"]["epochs"]


def test_the_model_card_has_the_numbers_and_how_to_load(finished: Finished) -> None:
    card, results = (finished.output / "README.md").read_text(), finished.report.results
    assert results is not None
    for text in (results.baseline.score, results.test.score, results.gain, "pipeline(", "95 % interval"):
        assert text in card


def test_results_json_holds_the_reports_numbers(finished: Finished) -> None:
    assert finished.report.results is not None
    stored = json.loads((finished.output / "results.json").read_bytes())
    assert stored["results"] == finished.report.results.to_wire()


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


@pytest.fixture
def cheap(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """The spec of a job whose training takes no time."""
    return job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{tiny}/rows.jsonl",
        output=f"file://{tmp_path}/out/",
        epochs=1,
    )


def test_a_job_whose_report_was_lost_reports_again_without_training(cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    first, _ = run(stage_input, tmp_path)
    second, log = run(stage_input, tmp_path)
    assert second == first
    assert "already_complete" in {line["event"] for line in log}
    assert "train" not in {line["event"] for line in log}


@pytest.mark.parametrize("damage", ["a file is gone", "the manifest is another document"])
def test_a_damaged_result_is_made_again(damage: str, cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    first, _ = run(stage_input, tmp_path)
    if damage == "a file is gone":
        (tmp_path / "out/model/config.json").unlink()
    else:
        (tmp_path / "out/manifest.json").write_text('{"report": {}}')
    second, log = run(stage_input, tmp_path)
    assert "train" in {line["event"] for line in log}
    # The same rows, order and arithmetic: the same model.
    assert second.results == first.results
    assert (tmp_path / "out/manifest.json").exists()


def test_a_fresh_run_trains_again(cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    run(stage_input, tmp_path)
    _, log = run(stage_input, tmp_path, fresh=True)
    assert "train" in {line["event"] for line in log}


def test_the_manifest_is_gone_while_a_result_is_replaced(
    cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    run(stage_input, tmp_path)

    def crash(*_: object, **__: object) -> None:
        raise KeyError("boom")

    monkeypatch.setattr("finetune_trainer.train_stage.train", crash)
    run(stage_input, tmp_path, fresh=True)
    assert not (tmp_path / "out/manifest.json").exists()


def failed(report: StageReport) -> tuple[Reason, int, str]:
    assert report.failure is not None
    assert report.results is None
    assert report.failure.message.endswith(REASONS[report.failure.reason].mend)
    return report.failure.reason, exit_code(report), report.failure.message


def change_rows(spec: dict[str, Any], folder: Path, text: str) -> None:
    (folder / "bad.jsonl").write_text(text)
    spec["dataset"]["uri"] = f"file://{folder}/bad.jsonl"


def change_model(spec: dict[str, Any], folder: Path, change: Callable[[Path], object]) -> None:
    shutil.copytree(spec["model"]["uri"].removeprefix("file://"), folder / "changed")
    change(folder / "changed")
    spec["model"]["uri"] = f"file://{folder}/changed/"


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))


FAILURES: dict[str, tuple[Callable[[dict[str, Any], Path], object], Reason, int, str]] = {
    "a column that no row has": (
        lambda spec, _: spec["dataset"]["template"].update(columns={"text": "utterance"}),
        Reason.TEMPLATE_INVALID,
        16,
        "utterance",
    ),
    "rows that are no JSON": (
        lambda spec, folder: change_rows(spec, folder, "not json\n" * 20),
        Reason.DATASET_INVALID,
        11,
        "line 1",
    ),
    "a file that is not there": (
        lambda spec, _: spec["dataset"].update(uri="file:///nowhere/rows.jsonl"),
        Reason.DATASET_NOT_FOUND,
        15,
        "file:///nowhere/rows.jsonl",
    ),
    "a model that is not there": (
        lambda spec, _: spec["model"].update(uri="file:///nowhere/model/"),
        Reason.MODEL_NOT_FOUND,
        17,
        "file:///nowhere/model/",
    ),
    "a pickled model": (
        lambda spec, folder: change_model(spec, folder, pickled),
        Reason.UNSAFE_MODEL,
        13,
        "pytorch_model.bin",
    ),
    "a model that brings code along": (
        lambda spec, folder: change_model(spec, folder, with_code),
        Reason.UNSAFE_MODEL,
        13,
        "auto_map",
    ),
    "a tokenizer that can't be loaded": (
        lambda spec, folder: change_model(spec, folder, lambda f: (f / "tokenizer.json").write_text("[")),
        Reason.MODEL_INVALID,
        18,
        "tokenizer",
    ),
    "weights that are cut short": (
        lambda spec, folder: change_model(
            spec, folder, lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:99])
        ),
        Reason.MODEL_INVALID,
        18,
        "model.uri",
    ),
    "an output folder with strange files": (
        lambda _, folder: write_rows(folder / "out" / "mine.jsonl"),
        Reason.OUTPUT_EXISTS,
        19,
        "mine.jsonl",
    ),
    "a GPU that is not there": (
        lambda spec, _: spec["resources"].update(gpusPerNode=1),
        Reason.TRAINER_ERROR,
        1,
        "resources.gpusPerNode",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_has_its_reason_its_exit_code_and_names_the_culprit(
    name: str, cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "out").mkdir()
    change, reason, code, words = FAILURES[name]
    change(cheap, tmp_path)
    report, log = run(make_stage_input("train", cheap, includes_prepare=True), tmp_path)
    got = failed(report)
    assert got[:2] == (reason, code)
    assert words in got[2]
    assert [line["event"] for line in log if line["level"] == "error"] == ["failed"]


@pytest.mark.parametrize("simulated", [True, False])
def test_only_a_test_cluster_computes_on_the_cpu_in_place_of_a_gpu(
    simulated: bool, cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    cheap["resources"]["gpusPerNode"] = 1
    stage_input = make_stage_input("train", cheap, includes_prepare=True)
    report, log = run(stage_input.model_copy(update={"simulated_gpus": simulated}), tmp_path)
    assert (report.failure is None) is simulated
    assert ("simulated_gpu" in {line["event"] for line in log}) is simulated


def test_the_report_answers_with_the_operators_own_digest(cheap: dict[str, Any], tmp_path: Path) -> None:
    digest = "sha256:" + "d" * 64
    stage_input = make_stage_input("prepare", cheap).model_copy(update={"spec_digest": digest})
    assert run(stage_input, tmp_path)[0].spec_digest == digest


def on_s3(full: Finished, s3: S3Server, folder: Path, **keys: str) -> Callable[..., StageReport]:
    """Run a stage against the storage of the finished job; ``keys`` overrides the output's."""
    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    for role in ("model", "dataset", "output"):
        given = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        write_keys(folder / "keys" / role, **(given | keys if role == "output" else given))

    def go(spec: dict[str, Any] = full.spec, **options: Any) -> StageReport:
        storage = ResolvedStorage(model=one, dataset=one, output=one)
        stage_input = make_stage_input(options.pop("stage", "train"), spec, storage=storage, **options)
        return run(stage_input, folder, credentials=folder / "keys", fresh=True)[0]

    return go


def test_a_wrong_key_is_access_denied_and_in_no_message(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    canary = "canary-secret-0123456789"
    report = on_s3(full_on_s3, s3, tmp_path, AWS_SECRET_ACCESS_KEY=canary)(prepared_digest=full_on_s3.report.digest)
    assert failed(report)[:2] == (Reason.ACCESS_DENIED, 12)
    assert canary not in encode_report(report).decode()


def test_a_secret_without_a_key_is_credentials_not_found(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    report = on_s3(full_on_s3, s3, tmp_path, AWS_SECRET_ACCESS_KEY="")(stage="prepare")
    assert failed(report)[:2] == (Reason.CREDENTIALS_NOT_FOUND, 21)


def test_an_output_bucket_that_is_missing_is_a_failed_upload(
    full_on_s3: Finished, s3: S3Server, tmp_path: Path
) -> None:
    spec = {**full_on_s3.spec, "output": {"uri": "s3://no-such-bucket/out/"}}
    report = on_s3(full_on_s3, s3, tmp_path)(spec, stage="prepare")
    assert failed(report)[:2] == (Reason.ARTIFACT_UPLOAD_FAILED, 31)


def test_the_output_of_another_job_is_not_touched(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    before = (full_on_s3.output / "manifest.json").read_bytes()
    report = on_s3(full_on_s3, s3, tmp_path)(stage="prepare", uid="uid-2")
    reason, code, text = failed(report)
    assert (reason, code) == (Reason.OUTPUT_EXISTS, 19)
    assert "team-a/tiny" in text
    assert (full_on_s3.output / "manifest.json").read_bytes() == before


def copy_of_output(full: Finished, s3: S3Server, name: str) -> tuple[dict[str, Any], Path]:
    """The prepared rows of the finished job in a bucket of their own, without the result."""
    bucket = s3.make_bucket(name)
    target = s3.folder / bucket / "out"
    shutil.copytree(full.output / "prepared", target / "prepared")
    shutil.copy(full.output / "owner.json", target / "owner.json")
    return {**full.spec, "output": {"uri": f"s3://{bucket}/out/"}}, target


def test_another_prepared_digest_is_refused(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    spec, _ = copy_of_output(full_on_s3, s3, "other-digest")
    report = on_s3(full_on_s3, s3, tmp_path)(spec, prepared_digest="sha256:" + "0" * 64)
    assert failed(report)[:2] == (Reason.VERIFICATION_FAILED, 14)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_bit_that_flips_in_the_prepared_rows_is_found(
    number: int, full_on_s3: Finished, s3: S3Server, tmp_path: Path
) -> None:
    assert full_on_s3.prepare is not None
    spec, out = copy_of_output(full_on_s3, s3, f"flipped-{number}")
    path = sorted((out / "prepared").iterdir())[number]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = on_s3(full_on_s3, s3, tmp_path)(spec, prepared_digest=full_on_s3.prepare.digest)
    assert failed(report)[:2] == (Reason.VERIFICATION_FAILED, 14)


def test_prepared_rows_that_are_gone_are_named(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    assert full_on_s3.prepare is not None
    spec, out = copy_of_output(full_on_s3, s3, "gone")
    shutil.rmtree(out / "prepared")
    report = on_s3(full_on_s3, s3, tmp_path)(spec, prepared_digest=full_on_s3.prepare.digest)
    assert "prepared/manifest.json" in failed(report)[2]
    assert failed(report)[1] == 14


def test_a_stored_model_that_is_damaged_before_it_is_read_back_fails(
    cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(store: Any, files: Any, progress: Any) -> Any:
        entries: object = publish(store, files, progress)
        weights = tmp_path / "out/model/model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        return entries

    monkeypatch.setattr("finetune_trainer.train_stage.publish", damaging)
    report, _ = run(make_stage_input("train", cheap, includes_prepare=True), tmp_path)
    assert failed(report)[:2] == (Reason.VERIFICATION_FAILED, 14)
    assert not (tmp_path / "out/manifest.json").exists()


def told(error: Exception) -> tuple[Reason, str, list[dict[str, Any]]]:
    stream = io.StringIO()
    console = Console(job="x", stage="train", stream=stream, interactive=False)
    console.hide(["canary-key"])
    failure = failure_of(error, console)
    return failure.reason, failure.message, [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), Reason.GPU_OUT_OF_MEMORY),
        (KeyError("surprise"), Reason.TRAINER_ERROR),
        (StageError(Reason.DIVERGED, "the loss is nan at step 3"), Reason.DIVERGED),
    ],
)
def test_every_exception_has_a_reason(error: Exception, reason: Reason) -> None:
    assert told(error)[0] is reason


def test_a_surprise_has_its_traceback_in_the_log_only() -> None:
    try:
        {}["missing"]  # type: ignore[index]
    except KeyError as error:
        _, message, log = told(error)
    assert "Traceback" in log[0]["traceback"]
    assert "Traceback" not in message
    assert message.startswith("KeyError: 'missing'.")


def test_an_explained_failure_has_no_traceback() -> None:
    assert "traceback" not in told(StageError(Reason.DIVERGED, "x"))[2][0]


def test_a_message_is_one_printable_line_of_bounded_length() -> None:
    _, message, _ = told(StageError(Reason.DATASET_INVALID, "a\x1b[31m\nb\x00" + "é" * 2000))
    assert len(message) <= 1024
    assert message.isprintable()


def test_a_secret_in_an_exception_is_not_repeated() -> None:
    _, message, log = told(RuntimeError("header canary-key"))
    assert "canary-key" not in message + json.dumps(log)
