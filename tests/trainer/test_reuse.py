"""What lies at output.uri already: another job's result, which is taken or refused, and rows of an earlier attempt."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import ENV_STAGE_INPUT, ENV_WORK_DIR
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import MAX_REPORT_BYTES, StageReport, encode_report, parse_report
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.__main__ import main
from finetune_trainer.environment import ENV_CREDENTIALS_DIR, ENV_TERMINATION_LOG
from finetune_trainer.export import export
from finetune_trainer.localstore import LocalStore
from finetune_trainer.ownership import claim
from finetune_trainer.reuse import spec_differences
from finetune_trainer.rows import prepare_rows
from finetune_trainer.stages import exit_code
from finetune_trainer.store import StoredFile, download
from tests.support.s3server import S3Server
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_document, job_spec, make_stage_input, topic_rows, write_rows
from tests.trainer.conftest import write_keys

ROOT = Path(__file__).resolve().parents[2]

Log = list[dict[str, Any]]
Stage = Callable[..., tuple[StageReport, Log]]


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest(),
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def steps(log: Log) -> set[str]:
    return {line["step"] for line in log if line["event"] == "step_started"}


def refused(report: StageReport) -> str:
    assert report.failure is not None
    assert (report.failure.reason, exit_code(report)) == (Reason.OUTPUT_EXISTS, 19)
    assert report.results is None
    assert report.failure.message.endswith(REASONS[Reason.OUTPUT_EXISTS].mend)
    return report.failure.message


class Copy:
    """The finished two-stage job in a bucket of its own, whose folder a test may change; ``stage`` runs one there."""

    def __init__(self, full: Finished, s3: S3Server, bucket: str, folder: Path) -> None:
        self.full, self.s3, self.folder = full, s3, folder
        self.out = s3.folder / bucket / "out"
        shutil.copytree(full.output, self.out)
        self.spec: dict[str, Any] = {**full.spec, "output": {"uri": f"s3://{bucket}/out/"}}
        for role in ("model", "dataset", "output"):
            write_keys(folder / "keys" / role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)

    @property
    def sources(self) -> str:
        """The bucket of model and rows."""
        return str(self.full.spec["model"]["uri"]).split("/")[2]

    def stage(self, stage: Any = "prepare", *, uid: str = "uid-2", **changes: Any) -> tuple[StageReport, Log]:
        one = Storage(prefix="s3://", endpoint=self.s3.endpoint)
        options = {name: changes.pop(name) for name in ("prepared_digest", "includes_prepare") if name in changes}
        spec = {**self.spec, "output": {**self.spec["output"], **changes.pop("output", {})}, **changes}
        storage = ResolvedStorage(model=one, dataset=one, output=one)
        stage_input = make_stage_input(stage, spec, storage=storage, uid=uid, **options)
        return run(stage_input, self.folder, credentials=self.folder / "keys")


@pytest.fixture
def copy(full_on_s3: Finished, s3: S3Server, bucket: str, tmp_path: Path) -> Copy:
    return Copy(full_on_s3, s3, bucket, tmp_path)


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of what is downloaded of a model."""
    keys: list[str] = []

    def logged(store: Any, files: list[StoredFile], *rest: Any) -> None:
        keys.extend(file.key for file in files)
        download(store, files, *rest)

    monkeypatch.setattr("finetune_trainer.fetch.download", logged)
    return keys


def test_a_job_that_was_made_again_gets_the_result_and_nothing_is_written(copy: Copy, downloaded: list[str]) -> None:
    before = snapshot(copy.out)
    report, log = copy.stage()
    assert report == copy.full.report.model_copy(update={"stage": "prepare", "reused": True})
    assert snapshot(copy.out) == before
    assert "model.safetensors" not in downloaded
    assert steps(log) == {"check_result", "fetch_tokenizer", "fetch_rows", "prepare"}


def test_a_reused_result_says_whose_it_is(copy: Copy) -> None:
    event = next(line for line in copy.stage()[1] if line["event"] == "reused")
    assert event["reused_job"] == "team-a/tiny, uid-1"
    assert "nothing was trained" in event["message"]


def test_prepares_report_of_a_reused_result_travels_whole(copy: Copy) -> None:
    report, _ = copy.stage()
    data = encode_report(report)
    assert len(data) <= MAX_REPORT_BYTES
    assert parse_report(data.decode()) == report


def test_a_job_with_one_stage_reuses_before_it_fetches_weights(copy: Copy, downloaded: list[str]) -> None:
    before = snapshot(copy.out)
    report, log = copy.stage("train", includes_prepare=True)
    assert report == copy.full.report.model_copy(update={"reused": True})
    assert snapshot(copy.out) == before
    assert "model.safetensors" not in downloaded
    assert "fetch_model" not in steps(log)


def test_another_spec_is_refused_with_its_fields_and_nothing_is_read(copy: Copy) -> None:
    before = snapshot(copy.out)
    report, log = copy.stage(training={**copy.spec["training"], "seed": 8, "epochs": 2})
    text = refused(report)
    assert f"{copy.spec['output']['uri']} holds a result of another job (team-a/tiny, uid-1) of another spec" in text
    assert "training.epochs, training.seed differ; set output.ifExists: Overwrite" in text
    assert steps(log) == set()
    assert snapshot(copy.out) == before


@contextmanager
def replaced(copy: Copy, key: str, data: bytes) -> Iterator[None]:
    """Store something else at a source of the job, for a while."""
    client = copy.s3.client()
    original = client.get_object(Bucket=copy.sources, Key=key)["Body"].read()
    client.put_object(Bucket=copy.sources, Key=key, Body=data)
    try:
        yield
    finally:
        client.put_object(Bucket=copy.sources, Key=key, Body=original)


def test_rows_that_changed_under_the_same_uri_are_refused(copy: Copy, tmp_path: Path) -> None:
    before = snapshot(copy.out)
    with replaced(copy, "rows.jsonl", write_rows(tmp_path / "rows.jsonl", topic_rows(241)).read_bytes()):
        report, _ = copy.stage()
    text = refused(report)
    assert "the rows of dataset have changed" in text
    assert "set output.ifExists: Overwrite" in text
    assert snapshot(copy.out) == before


def test_a_model_that_changed_under_the_same_uri_is_refused_before_rows_are_read(copy: Copy) -> None:
    before = snapshot(copy.out)
    config = (copy.s3.folder / copy.sources / "model/config.json").read_bytes()
    with replaced(copy, "model/config.json", config + b"\n"):
        report, log = copy.stage()
    assert "what lies at model.uri has changed" in refused(report)
    assert "fetch_rows" not in steps(log)
    assert snapshot(copy.out) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is gone": (lambda out: (out / "model/model.safetensors").unlink(), "model/model.safetensors is gone"),
    "a file is cut": (lambda out: (out / "predictions.jsonl").write_bytes(b"x"), "predictions.jsonl has 1 bytes where"),
    "a small file has another bit": (lambda out: flip(out / "results.json"), "results.json is not what was written"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_result_that_is_no_longer_complete_is_refused_and_the_file_is_named(name: str, copy: Copy) -> None:
    change, words = DAMAGES[name]
    change(copy.out)
    before = snapshot(copy.out)
    report, log = copy.stage()
    assert f"is no longer complete: {words}" in refused(report)
    assert "fetch_rows" not in steps(log)
    assert snapshot(copy.out) == before


def test_a_result_that_is_replaced_while_the_rows_are_read_is_refused(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Any:
        flip(copy.out / "manifest.json")
        return prepare_rows(*arguments)

    monkeypatch.setattr("finetune_trainer.reuse.prepare_rows", slow)
    assert "was replaced a moment ago" in refused(copy.stage()[0])


def test_overwrite_takes_the_folder_and_its_owner_can_no_longer_train(copy: Copy) -> None:
    (copy.out / "notes.txt").write_text("mine")
    report, _ = copy.stage(output={"ifExists": "Overwrite"})
    assert report.failure is None
    assert (report.reused, report.results) == (None, None)
    names = {name.split("/")[0] for name in snapshot(copy.out)}
    assert names == {"owner.json", "prepared", "notes.txt"}
    before = snapshot(copy.out)
    assert copy.full.prepare is not None
    loser, log = copy.stage("train", uid="uid-1", prepared_digest=copy.full.prepare.digest)
    assert "was taken over by another job (team-a/tiny, uid-2)" in refused(loser)
    assert steps(log) == set()
    assert snapshot(copy.out) == before


def test_a_job_that_loses_its_folder_while_it_trains_publishes_nothing(
    cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_input = make_stage_input("train", cheap, includes_prepare=True)

    def taken_meanwhile(*arguments: Any, **options: Any) -> Any:
        store = LocalStore(role="output", folder=tmp_path / "out")
        other = stage_input.job.model_copy(update={"uid": "uid-2"})
        claim(store, other, spec_digest="sha256:" + "0" * 64, if_exists="Overwrite")
        return export(*arguments, **options)

    monkeypatch.setattr("finetune_trainer.train_stage.export", taken_meanwhile)
    report, _ = run(stage_input, tmp_path)
    assert "was taken over by another job (team-a/tiny, uid-2)" in refused(report)
    assert set(snapshot(tmp_path / "out")) == {"owner.json"}


def test_a_retried_prepare_reports_again_without_reading_anything(copy: Copy) -> None:
    before = snapshot(copy.out)
    with replaced(copy, "rows.jsonl", b"no rows any more"):
        report, log = copy.stage(uid="uid-1")
    assert report == copy.full.prepare
    assert steps(log) == {"fetch_prepared"}
    assert "already_prepared" in {line["event"] for line in log}
    assert snapshot(copy.out) == before


@pytest.mark.parametrize("name", ["rows.safetensors", "prepared.json", "manifest.json"])
def test_stored_rows_that_are_damaged_are_prepared_anew(name: str, copy: Copy) -> None:
    path = copy.out / "prepared" / name
    flip(path) if name != "manifest.json" else path.write_bytes(path.read_bytes()[:-9])
    report, log = copy.stage(uid="uid-1")
    assert report == copy.full.prepare
    assert "prepared_damaged" in {line["event"] for line in log}
    again, log = copy.stage(uid="uid-1")
    assert again == report
    assert steps(log) == {"fetch_prepared"}


def test_rows_that_another_job_left_are_not_taken_for_ones_own(copy: Copy) -> None:
    """As after an overwriting that was stopped before the files of the other job were removed."""
    (copy.out / "manifest.json").unlink()
    (copy.out / "owner.json").write_text('{"jobUid": "uid-2"}')
    (copy.out / "checkpoints").mkdir()
    (copy.out / "checkpoints/1").write_text("state of another job")
    report, log = copy.stage()
    assert report.failure is None
    assert "prepare" in steps(log)
    assert {name.split("/")[0] for name in snapshot(copy.out)} == {"owner.json", "prepared"}
    assert json.loads((copy.out / "prepared/manifest.json").read_bytes())["jobUid"] == "uid-2"


def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyError("stopped")

    monkeypatch.setattr("finetune_trainer.train_stage.load_model", stop)


@pytest.fixture
def half_done(cheap: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A job with one stage that is always stopped after it has its rows; they lie in ``rows.jsonl``, and there is a
    checkpoint.
    """
    write_rows(tmp_path / "rows.jsonl")
    cheap["dataset"]["uri"] = f"file://{tmp_path}/rows.jsonl"
    stage_input = make_stage_input("train", cheap, includes_prepare=True)

    def go(*, fresh: bool = False) -> tuple[StageReport, Log]:
        return run(stage_input, tmp_path, fresh=fresh)

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
    assert not {"fetch_tokenizer", "fetch_rows", "prepare"} & steps(log)
    assert snapshot(tmp_path / "out") == before


def test_a_run_by_hand_goes_on_with_what_is_stored_if_the_rows_are_the_same(half_done: Stage, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "out")
    _, log = half_done(fresh=True)
    assert "prepare" in steps(log)
    assert snapshot(tmp_path / "out") == before


def test_a_run_by_hand_with_other_rows_forgets_what_is_stored(half_done: Stage, tmp_path: Path) -> None:
    before = snapshot(tmp_path / "out")
    write_rows(tmp_path / "rows.jsonl", topic_rows(60))
    half_done(fresh=True)
    after = snapshot(tmp_path / "out")
    assert "checkpoints/other" not in after
    assert after["prepared/manifest.json"] != before["prepared/manifest.json"]


def test_a_run_by_hand_over_a_complete_result_begins_anew(
    lora_on_disk: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(lora_on_disk.output, tmp_path / "out")
    (tmp_path / "out/checkpoints").mkdir()
    (tmp_path / "out/checkpoints/last").write_text("a checkpoint that was not removed in time")
    spec = {**lora_on_disk.spec, "output": {"uri": f"file://{tmp_path}/out/", "export": "Both"}}
    stopped(monkeypatch)
    run(make_stage_input("train", spec, includes_prepare=True), tmp_path, fresh=True)
    assert {name.split("/")[0] for name in snapshot(tmp_path / "out")} == {"owner.json", "prepared"}


def test_a_run_by_hand_says_that_it_reused_and_whose_result(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "model": f"file://{tiny}/model/",
        "rows": f"file://{tiny}/rows.jsonl",
        "output": f"file://{tmp_path}/out/",
    }
    document = job_document(**places, epochs=1)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    run(make_stage_input("train", document["spec"], includes_prepare=True), tmp_path)
    before = snapshot(tmp_path / "out")
    assert main(["run", str(tmp_path / "job.yaml")]) == 0
    assert "reused the complete result of team-a/tiny, uid-1" in capsys.readouterr().err
    assert snapshot(tmp_path / "out") == before


def spec_of(document: dict[str, Any]) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(document, context={"local": True})


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda s: None, []),
        (lambda s: s["training"].update(seed=8), ["training.seed"]),
        (lambda s: s["dataset"]["split"].update(seed=8, trainPercent=65, testPercent=25), [
            "dataset.split.seed", "dataset.split.testPercent", "dataset.split.trainPercent",
        ]),
        (lambda s: s["dataset"]["template"].update(columns={"text": "x"}), ["dataset.template.columns.text"]),
        (lambda s: s["dataset"]["template"].update(columns={"text": "text", "a\n b": "x"}), [
            "dataset.template.columns",
        ]),
        (lambda s: s["model"].update(uri="file:///elsewhere/"), ["model.uri"]),
        (lambda s: s["training"].update(method="LoRA"), ["output.export", "training.lora", "training.method"]),
        (lambda s: s["resources"].update(gpusPerNode=1), []),
        (lambda s: s.pop("model"), []),
    ],
)  # fmt: skip
def test_the_fields_that_ask_for_another_result_are_named(
    change: Callable[[dict[str, Any]], object], fields: list[str], cheap: dict[str, Any]
) -> None:
    cheap["dataset"]["template"]["columns"] = {"text": "text"}
    other = json.loads(json.dumps(cheap))
    change(other)
    assert spec_differences(spec_of(cheap), other) == fields


def test_of_two_jobs_that_begin_at_once_one_trains_and_a_third_gets_its_result(
    tiny: Path, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    client = s3.client()
    for path in [*(tiny / "model").iterdir(), tiny / "rows.jsonl"]:
        client.upload_file(str(path), bucket, path.relative_to(tiny).as_posix())
    where = f"s3://{bucket}"
    spec = job_spec(model=f"{where}/model/", rows=f"{where}/rows.jsonl", output=f"{where}/out/", epochs=1)
    keys = tmp_path / "keys"
    for role in ("model", "dataset", "output"):
        write_keys(keys / role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    storage = ResolvedStorage(model=one, dataset=one, output=one)

    def begin(uid: str) -> subprocess.Popen[bytes]:
        (tmp_path / uid).mkdir()
        stage_input = make_stage_input("prepare", spec, storage=storage, uid=uid)
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "stage", "prepare"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer_image")),
                ENV_STAGE_INPUT: stage_input.model_dump_json(by_alias=True),
                ENV_CREDENTIALS_DIR: str(keys),
                ENV_TERMINATION_LOG: str(tmp_path / uid / "termination-log"),
                ENV_WORK_DIR: str(tmp_path / uid),
            },
            stderr=subprocess.DEVNULL,
        )

    running = {uid: begin(uid) for uid in ("uid-1", "uid-2")}
    codes = {uid: process.wait(timeout=300) for uid, process in running.items()}
    assert sorted(codes.values()) == [0, 19]
    reports = {uid: parse_report((tmp_path / uid / "termination-log").read_text()) for uid in codes}
    winner, loser = sorted(codes, key=lambda uid: codes[uid])
    won, lost = reports[winner], reports[loser]
    assert won is not None
    assert lost is not None
    assert f"team-a/tiny, {winner}" in refused(lost)

    def stage(name: Any, uid: str, **options: Any) -> StageReport:
        return run(make_stage_input(name, spec, storage=storage, uid=uid, **options), tmp_path, credentials=keys)[0]

    trained = stage("train", winner, prepared_digest=won.digest)
    assert trained.failure is None
    assert stage("prepare", "uid-3") == trained.model_copy(update={"stage": "prepare", "reused": True})
