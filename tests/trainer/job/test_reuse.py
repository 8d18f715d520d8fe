"""What lies at output.uri already: another job's result, which is taken or refused, and rows of an earlier attempt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import FineTuneJobSpec
from finetune_api.kube_yaml import dump_yaml
from finetune_api.names import ENV_STAGE_INPUT, ENV_WORK_DIR
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import MAX_REPORT_BYTES, StageReport, encode_report, parse_report
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.__main__ import main
from finetune_trainer.job.dataset import prepare_rows
from finetune_trainer.job.reuse import spec_differences
from finetune_trainer.job.run import exit_code
from finetune_trainer.output.export import export
from finetune_trainer.output.ownership import claim
from finetune_trainer.process.environment import ENV_CREDENTIALS_DIR, ENV_TERMINATION_LOG
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.store import StoredFile, download
from tests.support.result_copy import ResultCopy, flip, snapshot, steps
from tests.support.s3server import S3Server
from tests.support.stage_run import run
from tests.support.tiny_job import job_document, job_spec, make_stage_input, topic_rows, write_rows

ROOT = Path(__file__).resolve().parents[2]


def refused(report: StageReport) -> str:
    assert report.failure is not None
    assert (report.failure.reason, exit_code(report)) == (Reason.OUTPUT_EXISTS, 19)
    assert report.results is None
    assert report.failure.message.endswith(REASONS[Reason.OUTPUT_EXISTS].mend)
    return report.failure.message


@pytest.fixture
def downloaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of what is downloaded of a model."""
    keys: list[str] = []

    def logged(store: Any, files: list[StoredFile], *rest: Any) -> None:
        keys.extend(file.key for file in files)
        download(store, files, *rest)

    monkeypatch.setattr("finetune_trainer.storage.fetch.download", logged)
    return keys


def test_a_job_made_again_gets_the_result_and_nothing_is_written(copy: ResultCopy, downloaded: list[str]) -> None:
    before = snapshot(copy.out)
    report, log = copy.stage()
    assert report == copy.full.report.model_copy(update={"stage": "prepare", "reused": True})
    assert snapshot(copy.out) == before
    assert "model.safetensors" not in downloaded
    assert steps(log) == {"check_result", "fetch_tokenizer", "fetch_rows", "read_rows", "split_rows", "encode_rows"}


def test_a_reused_result_says_whose_it_is(copy: ResultCopy) -> None:
    event = next(line for line in copy.stage()[1] if line["event"] == "reused")
    assert event["reused_job"] == "team-a/tiny, uid-1"
    assert "nothing was trained" in event["message"]


def test_prepares_report_of_a_reused_result_travels_as_that_of_the_job_itself(copy: ResultCopy) -> None:
    report, _ = copy.stage()
    data = encode_report(report)
    assert len(data) <= MAX_REPORT_BYTES
    read, own = parse_report(data.decode()), parse_report(encode_report(copy.full.report).decode())
    assert read is not None
    assert own is not None
    assert (read.reused, read.results, read.digest) == (True, own.results, report.digest)
    assert read.results is not None
    assert report.results is not None
    scores = [(s.score, s.correct, s.total, s.ci95, s.loss) for s in (read.results.baseline, read.results.test)]
    assert scores == [
        (s.score, s.correct, s.total, s.ci95, s.loss) for s in (report.results.baseline, report.results.test)
    ]


def test_a_job_with_one_stage_reuses_before_it_fetches_weights(copy: ResultCopy, downloaded: list[str]) -> None:
    before = snapshot(copy.out)
    report, log = copy.stage("train", includes_prepare=True)
    assert report == copy.full.report.model_copy(update={"reused": True})
    assert snapshot(copy.out) == before
    assert "model.safetensors" not in downloaded
    assert "fetch_model" not in steps(log)


def test_another_spec_is_refused_with_its_fields_and_nothing_is_read(copy: ResultCopy) -> None:
    before = snapshot(copy.out)
    report, log = copy.stage(training={**copy.spec["training"], "seed": 8, "epochs": 2})
    text = refused(report)
    assert f"{copy.spec['output']['uri']} holds a result of another job (team-a/tiny, uid-1) of another spec" in text
    assert "training.epochs, training.seed differ; set output.ifExists: Overwrite" in text
    assert steps(log) == set()
    assert snapshot(copy.out) == before


def test_rows_that_changed_under_the_same_uri_are_refused(copy: ResultCopy, tmp_path: Path) -> None:
    before = snapshot(copy.out)
    with copy.replaced("rows.jsonl", write_rows(tmp_path / "rows.jsonl", topic_rows(241)).read_bytes()):
        report, _ = copy.stage()
    text = refused(report)
    assert "the rows of dataset have changed" in text
    assert "set output.ifExists: Overwrite" in text
    assert snapshot(copy.out) == before


def test_a_model_that_changed_under_the_same_uri_is_refused_before_rows_are_read(copy: ResultCopy) -> None:
    before = snapshot(copy.out)
    config = (copy.s3.folder / copy.sources / "model/config.json").read_bytes()
    with copy.replaced("model/config.json", config + b"\n"):
        report, log = copy.stage()
    assert "what lies at model.uri has changed" in refused(report)
    assert "fetch_rows" not in steps(log)
    assert snapshot(copy.out) == before


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is gone": (lambda out: (out / "model/model.safetensors").unlink(), "model/model.safetensors is gone"),
    "a file is cut": (lambda out: (out / "predictions.jsonl").write_bytes(b"x"), "predictions.jsonl has 1 bytes where"),
    "a small file has another bit": (lambda out: flip(out / "results.json"), "results.json is not what was written"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_result_that_is_no_longer_complete_is_refused_and_the_file_is_named(name: str, copy: ResultCopy) -> None:
    change, words = DAMAGES[name]
    change(copy.out)
    before = snapshot(copy.out)
    report, log = copy.stage()
    assert f"is no longer complete: {words}" in refused(report)
    assert "fetch_rows" not in steps(log)
    assert snapshot(copy.out) == before


def test_a_result_that_is_replaced_while_the_rows_are_read_is_refused(
    copy: ResultCopy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*arguments: Any) -> Any:
        flip(copy.out / "manifest.json")
        return prepare_rows(*arguments)

    monkeypatch.setattr("finetune_trainer.job.reuse.prepare_rows", slow)
    assert "was replaced a moment ago" in refused(copy.stage()[0])


def test_overwrite_takes_the_folder_and_its_owner_can_no_longer_train(copy: ResultCopy) -> None:
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

    monkeypatch.setattr("finetune_trainer.job.tune.export", taken_meanwhile)
    report, _ = run(stage_input, tmp_path)
    assert "was taken over by another job (team-a/tiny, uid-2)" in refused(report)
    assert set(snapshot(tmp_path / "out")) == {"owner.json"}


def test_a_run_by_hand_says_that_it_reused_and_whose_result(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {
        "model": f"file://{tiny}/model/",
        "rows": f"file://{tiny}/rows.jsonl",
        "output": f"file://{tmp_path}/out/",
    }
    document = job_document(**places, epochs=1)
    (tmp_path / "job.yaml").write_text(dump_yaml(document))
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
        (lambda s: s["dataset"]["template"].update(columns={"text": "text", "a\n b": "x"}), []),
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
    tiny: Path, s3: S3Server, bucket: str, tmp_path: Path, credentials: Path
) -> None:
    client = s3.client()
    for path in [*(tiny / "model").iterdir(), tiny / "rows.jsonl"]:
        client.upload_file(str(path), bucket, path.relative_to(tiny).as_posix())
    where = f"s3://{bucket}"
    spec = job_spec(model=f"{where}/model/", rows=f"{where}/rows.jsonl", output=f"{where}/out/", epochs=1)

    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    storage = ResolvedStorage(model=one, dataset=one, output=one)

    def begin(uid: str) -> subprocess.Popen[bytes]:
        (tmp_path / uid).mkdir()
        stage_input = make_stage_input("prepare", spec, storage=storage, uid=uid)
        stage_input = stage_input.model_copy(
            update={
                "job": stage_input.job.model_copy(update={"name": f"tiny-{uid}"})
            }  # else it would be the same again
        )
        return subprocess.Popen(
            [sys.executable, "-m", "finetune_trainer", "stage", "prepare"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer_image")),
                ENV_STAGE_INPUT: stage_input.model_dump_json(by_alias=True),
                ENV_CREDENTIALS_DIR: str(credentials),
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
    assert f"team-a/tiny-{winner}, {winner}" in refused(lost)

    def stage(name: Any, uid: str, **options: Any) -> StageReport:
        return run(
            make_stage_input(name, spec, storage=storage, uid=uid, **options), tmp_path, credentials=credentials
        )[0]

    trained = stage("train", winner, prepared_digest=won.digest)
    assert trained.failure is None
    assert stage("prepare", "uid-3") == trained.model_copy(update={"stage": "prepare", "reused": True})
