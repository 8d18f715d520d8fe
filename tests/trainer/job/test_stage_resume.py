"""Whole stages that are stopped and run again: SIGTERM, SIGKILL, damaged checkpoints, a store that refuses."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.names import ENV_POD_UID, ENV_STAGE_INPUT
from finetune_api.reasons import EXIT_RESUMABLE, Reason
from finetune_api.report import StageReport, parse_report
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_api.stage import StageInput
from finetune_trainer.checkpoint import background as checkpointer_module
from finetune_trainer.checkpoint import terms
from finetune_trainer.checkpoint.catalog import Catalog
from finetune_trainer.errors import StageError
from finetune_trainer.job import base_model, tune
from finetune_trainer.job.run import exit_code
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.process.environment import ENV_CREDENTIALS_DIR, ENV_TERMINATION_LOG
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.training.observer import LogEntry
from tests.support.s3server import S3Server
from tests.support.stage_run import events, run
from tests.support.tiny_job import job_spec, make_stage_input
from tests.trainer.conftest import write_keys

ROOT = Path(__file__).resolve().parents[2]
Log = list[dict[str, Any]]


def not_here(code: int) -> None:
    pytest.fail(f"the process would have ended with {code}")


def few_rows(tiny: Path, folder: Path) -> Path:
    lines = (tiny / "rows.jsonl").read_text().splitlines(keepends=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(lines[:80]))
    return path


@pytest.fixture
def job(tiny: Path, tmp_path: Path) -> StageInput:
    """Six optimizer steps in two epochs."""
    rows = few_rows(tiny, tmp_path)
    spec = job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{rows}",
        output=f"file://{tmp_path}/out/",
        epochs=2,
        precision="Auto",
    )
    return make_stage_input("train", spec, includes_prepare=True)


def content(out: Path) -> dict[str, Any]:
    """What of a result must not depend on how often its pod was stopped."""
    report = json.loads((out / "results.json").read_bytes())
    curve = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": (out / "model/model.safetensors").read_bytes(),
        "predictions": (out / "predictions.jsonl").read_bytes(),
        "results": report["results"],
        "validation": report["validation"],
        "curve": [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in curve],
    }


def names(log: Log) -> list[str]:
    return [line["event"] for line in log]


def one(log: Log, event: str) -> dict[str, Any]:
    (line,) = [line for line in log if line["event"] == event]
    return line


def interrupted(job: StageInput, folder: Path, monkeypatch: pytest.MonkeyPatch, *, at: int) -> Log:
    """Run the stage until it is told to stop when optimizer step ``at`` has been told."""
    interrupt, stream = Interrupt(leave=not_here), io.StringIO()
    original = TrainingWatcher.on_log

    def tell(self: TrainingWatcher, entry: LogEntry) -> None:
        original(self, entry)
        if entry.step == at:
            interrupt.handle()

    with monkeypatch.context() as patch:
        patch.setattr(TrainingWatcher, "on_log", tell)
        with pytest.raises(Interrupted):
            run(job, folder, interrupt=interrupt, stream=stream)
    return events(stream)


def finish(job: StageInput, folder: Path) -> tuple[StageReport, Log]:
    report, log = run(job, folder)
    assert report.failure is None, report.failure
    return report, log


def test_a_job_that_is_stopped_again_and_again_ends_like_one_that_never_was(
    job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, log = finish(job, tmp_path)
    assert "checkpoint_saved" not in names(log)  # too short to be worth one
    expected = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")

    for attempt, step in enumerate((2, 3, 5), start=1):
        log = interrupted(job, tmp_path, monkeypatch, at=step)
        assert one(log, "interrupted")["saved"] is True
        assert one(log, "checkpoint_saved")["step"] == step
        assert list((tmp_path / "work").iterdir()) == []
        if attempt > 1:
            assert (one(log, "resumed")["step"], one(log, "resumed")["attempt"]) == ({2: 2, 3: 3}[attempt], attempt)
    monkeypatch.setattr(base_model, "resolve_precision", lambda *_: pytest.fail("the precision is settled"))
    _, log = finish(job, tmp_path)
    assert content(tmp_path / "out") == expected
    assert [line["step"] for line in log if line["event"] == "train"] == [6]
    assert one(log, "baseline_score")["measured"] is False
    assert "machine_differs" not in names(log)
    assert not (tmp_path / "out/checkpoints").exists()


def test_a_training_that_was_complete_when_the_pod_died_is_not_repeated(
    job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer_module, "MIN_EPOCH_SECONDS", 0.0)

    def crash(*_: object, **__: object) -> None:
        raise KeyError("boom")

    with monkeypatch.context() as patch:
        patch.setattr(tune, "export", crash)
        report, log = run(job, tmp_path)
    assert report.failure is not None
    assert [line["step"] for line in log if line["event"] == "checkpoint_saved"] == [3, 6]
    _, log = finish(job, tmp_path)
    assert one(log, "resumed")["step"] == 6
    assert not {"train", "validation", "checkpoint_saved"} & set(names(log))
    assert one(log, "test_score")["measured"] is True
    assert not (tmp_path / "out/checkpoints").exists()


def test_checkpoints_that_a_complete_job_left_behind_go_when_it_reports_again(job: StageInput, tmp_path: Path) -> None:
    first, _ = finish(job, tmp_path)
    left = tmp_path / "out/checkpoints/000000003-001-x/manifest.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")
    second, log = finish(job, tmp_path)
    assert second == first
    assert "already_complete" in names(log)
    assert not (tmp_path / "out/checkpoints").exists()


@pytest.mark.parametrize("damage", ["of one file", "of every file"])
def test_damaged_checkpoints_cost_time_and_never_the_job(
    damage: str, job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(job, tmp_path, monkeypatch, at=4)
    files = [path for path in (tmp_path / "out/checkpoints").rglob("*") if path.is_file()]
    for path in files if damage == "of every file" else [next(p for p in files if p.name == "masters.safetensors")]:
        path.write_bytes(b"not what it was")
    _, log = finish(job, tmp_path)
    assert [line["step"] for line in log if line["event"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert one(log, "baseline_score")["measured"] is (damage == "of every file")
    assert "skipped" in " ".join(line.get("message", "") for line in log if line["level"] == "warning")
    assert not (tmp_path / "out/checkpoints").exists()


def test_another_machine_is_warned_of(job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted(job, tmp_path, monkeypatch, at=4)
    monkeypatch.setattr(terms, "machine_of", lambda *_: {"threads": 99, "torch": torch.__version__})
    _, log = finish(job, tmp_path)
    line = one(log, "machine_differs")
    assert line["level"] == "warning"
    assert "threads" in line["fields"]
    assert "99 here" in line["message"]


def refuse(self: Catalog, *_: object, **__: object) -> None:
    raise StageError(Reason.ACCESS_DENIED, "writing was refused")


def test_a_job_that_is_stopped_and_cannot_save_anything_has_failed(
    job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Catalog, "write", refuse)
    interrupt = Interrupt(leave=not_here)
    monkeypatch.setattr(TrainingWatcher, "on_log", lambda *_: interrupt.handle())
    report, log = run(job, tmp_path, interrupt=interrupt)
    assert report.failure is not None
    assert report.failure.reason is Reason.ARTIFACT_UPLOAD_FAILED
    assert exit_code(report) == 31
    assert "writing was refused" in report.failure.message
    assert one(log, "interrupted")["saved"] is False


def test_a_job_that_is_stopped_and_cannot_save_goes_on_from_the_checkpoint_before(
    job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(job, tmp_path, monkeypatch, at=2)
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "write", refuse)
        log = interrupted(job, tmp_path, monkeypatch, at=4)
    assert one(log, "interrupted")["saved"] is False
    _, log = finish(job, tmp_path)
    assert one(log, "resumed")["step"] == 2


def test_a_job_that_is_stopped_before_its_first_step_leaves_no_state(
    job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = Interrupt(leave=not_here)
    monkeypatch.setattr(TrainingWatcher, "training", lambda *_: interrupt.handle())
    with pytest.raises(Interrupted):
        run(job, tmp_path, interrupt=interrupt)
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["baseline.json"]


def test_checkpoints_that_cannot_be_stored_do_not_stop_a_training(
    job: StageInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointer_module, "MIN_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(Catalog, "write", refuse)
    _, log = finish(job, tmp_path)
    assert names(log).count("checkpoint_failed") == 2


# Real processes, a real store, real signals

PROGRAM = (
    "import sys; from finetune_trainer.checkpoint import background; background.MIN_EPOCH_SECONDS = 0.0;"
    "from finetune_trainer.__main__ import main; sys.exit(main(['stage', 'train']))"
)


@pytest.fixture
def pod(tiny: Path, s3: S3Server, bucket: str, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the train stage as kubelet would; every call is another pod of the same job."""
    client = s3.client()
    for path in (tiny / "model").iterdir():
        client.upload_file(str(path), bucket, f"model/{path.name}")
    client.upload_file(str(few_rows(tiny, tmp_path)), bucket, "rows.jsonl")
    for role in ("model", "dataset", "output"):
        write_keys(tmp_path / "keys" / role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    place = Storage(prefix="s3://", endpoint=s3.endpoint)
    pods = iter(range(1, 9))

    def start(output: str = "out", *, signals: bool = True) -> subprocess.Popen[str]:
        spec = job_spec(
            model=f"s3://{bucket}/model/",
            rows=f"s3://{bucket}/rows.jsonl",
            output=f"s3://{bucket}/{output}/",
            epochs=8,
        )
        stage_input = make_stage_input(
            "train", spec, storage=ResolvedStorage(model=place, dataset=place, output=place), includes_prepare=True
        ).model_copy(update={"grace_seconds": 120})
        work = tmp_path / f"pod-{next(pods)}"
        work.mkdir()
        variables = {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("crds", "trainer_image")),
            ENV_STAGE_INPUT: stage_input.model_dump_json(by_alias=True, exclude_none=True),
            ENV_CREDENTIALS_DIR: str(tmp_path / "keys"),
            ENV_TERMINATION_LOG: str(tmp_path / "termination-log"),
            ENV_POD_UID: f"{work.name}-uid",
            "FINETUNE_WORK_DIR": str(work),
        }
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
        )

    return start


def read_until(process: subprocess.Popen[str], last: Callable[[dict[str, Any]], bool]) -> Log:
    """Read the log up to a line."""
    assert process.stderr is not None
    log = []
    for text in process.stderr:
        log.append(json.loads(text))
        if last(log[-1]):
            return log
    pytest.fail(f"the process ended with {process.wait()}: {log[-3:]}")


def rest(process: subprocess.Popen[str]) -> Log:
    _, text = process.communicate(timeout=300)
    return [json.loads(line) for line in text.splitlines()]


def test_a_pod_that_is_terminated_and_one_that_is_killed_are_taken_up_where_they_were(
    pod: Callable[..., subprocess.Popen[str]], s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    undisturbed = pod("undisturbed")
    rest(undisturbed)
    assert undisturbed.returncode == 0
    (tmp_path / "termination-log").unlink()
    folder = s3.folder / bucket

    first = pod()
    read_until(first, lambda line: line["event"] == "train" and line["step"] >= 4)
    first.terminate()
    log = rest(first)
    assert first.returncode == EXIT_RESUMABLE
    stopped = one(log, "interrupted")
    assert stopped["saved"] is True
    assert not (tmp_path / "termination-log").exists()
    assert (folder / f"out/checkpoints/{stopped['step']:09d}-001-pod2uid/manifest.json").exists()

    second = pod()
    log = read_until(second, lambda line: line["event"] == "checkpoint_saved" and line["step"] > stopped["step"])
    second.send_signal(signal.SIGKILL)
    log += rest(second)
    assert second.returncode == -signal.SIGKILL
    assert one(log, "resumed")["step"] == stopped["step"]
    saved = max(line["step"] for line in log if line["event"] == "checkpoint_saved")

    third = pod()
    log = rest(third)
    assert third.returncode == 0
    assert one(log, "resumed")["step"] >= saved
    report = parse_report((tmp_path / "termination-log").read_text())
    assert report is not None
    assert report.failure is None
    assert content(folder / "out") == content(folder / "undisturbed")
    assert not [file for file in (folder / "out/checkpoints").rglob("*") if file.is_file()]
