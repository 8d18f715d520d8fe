"""Whatever goes wrong in a stage has its reason, exit code and culprit, and tells no secret."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.names import StageName
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import StageReport, encode_report
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.job.run import exit_code, failure_of
from finetune_trainer.process.console import Console
from finetune_trainer.storage.files import publish
from tests.support.s3server import S3Server
from tests.support.s3stub import Answer, error_answer, running_stub
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import make_stage_input, write_rows
from tests.trainer.conftest import write_keys


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
    own = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps({**config, **own}))


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
    assert report.failure is not None
    assert (report.failure.reason, exit_code(report)) == (Reason.ACCESS_DENIED, 12)
    # Whoever holds the key can mend it, so the message says where instead of asking for rights.
    assert "AWS_SECRET_ACCESS_KEY in the Secret of output.credentialsRef" in report.failure.message
    assert canary not in encode_report(report).decode()


def test_a_secret_without_a_key_is_credentials_not_found(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    report = on_s3(full_on_s3, s3, tmp_path, AWS_SECRET_ACCESS_KEY="")(stage="prepare")
    assert failed(report)[:2] == (Reason.CREDENTIALS_NOT_FOUND, 21)


def test_an_output_bucket_that_is_missing_ends_the_job_with_the_field_and_the_mend(
    full_on_s3: Finished, s3: S3Server, tmp_path: Path
) -> None:
    spec = {**full_on_s3.spec, "output": {"uri": "s3://no-such-bucket/out/"}}
    report = on_s3(full_on_s3, s3, tmp_path)(spec, stage="prepare")
    assert failed(report)[:2] == (Reason.OUTPUT_NOT_FOUND, 23)
    assert report.failure is not None
    assert report.failure.message == (
        "reading s3://no-such-bucket/out/owner.json (output.uri): there is no bucket 'no-such-bucket'. "
        "Create the bucket, or correct output.uri."
    )


def test_the_output_bucket_of_a_runtimes_prefix_is_for_the_platform_team_to_mend(
    full_on_s3: Finished, s3: S3Server, tmp_path: Path
) -> None:
    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    write_keys(tmp_path / "keys" / "output", AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    stage_input = make_stage_input("prepare", full_on_s3.spec, storage=ResolvedStorage(output=one))
    spec = stage_input.spec.model_copy(update={"output": stage_input.spec.output.model_copy(update={"uri": None})})
    update = {"spec": spec, "output_uri": "s3://no-such-bucket/team-a/tiny/"}
    report, _ = run(stage_input.model_copy(update=update), tmp_path, credentials=tmp_path / "keys")
    assert report.failure is not None
    assert report.failure.reason is Reason.OUTPUT_NOT_FOUND
    assert report.failure.message.endswith(
        "(outputPrefix of the FineTuneRuntime): there is no bucket 'no-such-bucket'. The platform team creates the "
        "bucket or corrects outputPrefix of the FineTuneRuntime."
    )


@pytest.mark.parametrize("stage", ["prepare", "train"])
def test_an_output_that_may_not_be_written_is_told_before_the_rows_are_read(
    stage: StageName, cheap: dict[str, Any], tmp_path: Path
) -> None:
    """The rows are not there at all, which would be told if they were looked for."""
    empty = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></ListBucketResult>'
    cheap["dataset"]["uri"] = "file:///nowhere/rows.jsonl"
    cheap["output"] = {"uri": "s3://team-a-models/out/"}
    write_keys(tmp_path / "keys" / "output", AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret")

    def answer(method: str, path: str) -> Answer:
        if method == "PUT":
            return error_answer(403, "AccessDenied")
        return Answer(200, empty) if "list-type" in path else error_answer(404, "NoSuchKey")

    with running_stub() as stub:
        stub.answer = answer
        storage = ResolvedStorage(output=Storage(prefix="s3://", endpoint=stub.endpoint))
        stage_input = make_stage_input(stage, cheap, storage=storage, includes_prepare=stage == "train")
        report, _ = run(stage_input, tmp_path, credentials=tmp_path / "keys")
    assert report.failure is not None
    assert (report.failure.reason, exit_code(report)) == (Reason.ACCESS_DENIED, 12)
    assert report.failure.message == (
        "writing s3://team-a-models/out/owner.json (output.uri) was refused: AccessDenied. Give the identity of "
        "output.credentialsRef the right to do this: s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload."
    )


def test_the_output_of_another_job_is_not_touched(full_on_s3: Finished, s3: S3Server, tmp_path: Path) -> None:
    before = (full_on_s3.output / "manifest.json").read_bytes()
    spec = {**full_on_s3.spec, "output": {**full_on_s3.spec["output"], "ifExists": "Fail"}}
    report = on_s3(full_on_s3, s3, tmp_path)(spec, stage="prepare", uid="uid-2")
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


@pytest.mark.parametrize(
    ("export", "path"),
    [
        ("Full Model", "model/model.safetensors"),
        ("LoRA Model", "model/model.safetensors"),
        ("LoRA Adapter", "adapter/adapter_model.safetensors"),
        ("LoRA Both", "model/model.safetensors"),
        ("LoRA Both", "adapter/adapter_model.safetensors"),
        ("Full Model", "predictions.jsonl"),
    ],
)
def test_a_bit_that_flips_in_storage_before_a_file_is_read_back_fails_the_job(
    export: str, path: str, cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(store: Any, files: Any, progress: Any) -> Any:
        entries: object = publish(store, files, progress)
        if path in files:
            stored = tmp_path / "out" / path
            data = bytearray(stored.read_bytes())
            data[-1] ^= 1
            stored.write_bytes(data)
        return entries

    monkeypatch.setattr("finetune_trainer.job.publish.publish", damaging)
    cheap["training"]["method"], cheap["output"]["export"] = export.split()
    report, _ = run(make_stage_input("train", cheap, includes_prepare=True), tmp_path)
    reason, code, text = failed(report)
    assert (reason, code) == (Reason.VERIFICATION_FAILED, 14)
    assert f"{path} is not what was written there" in text
    assert not (tmp_path / "out/manifest.json").exists()


def test_a_bit_that_flips_in_the_prepared_rows_before_they_are_read_back_fails_prepare(
    cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaging(store: Any, files: Any, progress: Any) -> Any:
        entries: object = publish(store, files, progress)
        (tmp_path / "out/prepared/prepared.json").write_bytes(b"{}")
        return entries

    monkeypatch.setattr("finetune_trainer.job.handover.publish", damaging)
    report, _ = run(make_stage_input("prepare", cheap), tmp_path)
    assert failed(report)[:2] == (Reason.VERIFICATION_FAILED, 14)
    assert not (tmp_path / "out/prepared/manifest.json").exists()


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
