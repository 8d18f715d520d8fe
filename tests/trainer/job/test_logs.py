"""The log of every attempt lies below output.uri, so that what happened can be asked when the pod is gone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.report import StageReport
from finetune_api.stage import JobIdentity, StageInput
from finetune_trainer.errors import StageError
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.output.logs import KEPT_LOGS, store_log
from finetune_trainer.output.ownership import claim, release
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import Store
from finetune_trainer.training.observer import LogEntry
from tests.support.stage_run import events, run
from tests.support.tiny_job import job_spec, make_stage_input

JOB = JobIdentity(namespace="team-a", name="mine", uid="uid-1")
DIGEST = "sha256:" + "5" * 64


def stage_of(tiny: Path, folder: Path, *, rows: str | None = None, **changes: Any) -> StageInput:
    path = folder / "rows.jsonl"
    path.write_text(rows or "".join((tiny / "rows.jsonl").read_text().splitlines(keepends=True)[:80]))
    spec = job_spec(model=f"file://{tiny}/model/", rows=f"file://{path}", output=f"file://{folder}/out/", epochs=1)
    return make_stage_input("train", {**spec, **changes}, includes_prepare=True)


def log_at(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/logs" / name).read_text().splitlines()]


def owned(access: Access, folder: Path) -> Store:
    store = access.open("output", f"file://{folder}/out/")
    claim(store, JOB, spec_digest=DIGEST, if_exists="Reuse")
    return store


def console_with(event: str) -> Console:
    console = Console(job="team-a/mine", stage="train", stream=io.StringIO(), interactive=False)
    console.event(event)
    return console


def test_a_failed_attempt_leaves_its_log_and_its_failure_names_it(tiny: Path, tmp_path: Path) -> None:
    report, log = run(stage_of(tiny, tmp_path, rows="not json\n" * 20), tmp_path)
    assert report.failure is not None
    assert report.failure.log == "logs/train-1.jsonl"
    stored = log_at(tmp_path, "train-1.jsonl")
    assert stored == log[: len(stored)]
    assert stored[-1]["event"] == "failed"
    assert "line 1" in stored[-1]["message"]


def test_a_job_that_succeeds_leaves_its_log_and_a_result_that_is_whole(tiny: Path, tmp_path: Path) -> None:
    report, _ = run(stage_of(tiny, tmp_path), tmp_path)
    assert report.failure is None
    assert {"train", "step_finished"} <= {line["event"] for line in log_at(tmp_path, "train-1.jsonl")}
    again, _ = run(stage_of(tiny, tmp_path), tmp_path)
    assert again.results == report.results


def test_whoever_reuses_a_result_writes_no_log_into_it(tiny: Path, tmp_path: Path) -> None:
    first = stage_of(tiny, tmp_path)
    run(first, tmp_path)
    other = first.model_copy(update={"job": first.job.model_copy(update={"uid": "another"})})
    report, log = run(other, tmp_path)
    assert report.reused
    assert [path.name for path in (tmp_path / "out/logs").iterdir()] == ["train-1.jsonl"]
    assert "log_not_stored" not in {line["event"] for line in log}


def test_a_pod_that_is_told_to_stop_in_mid_training_leaves_its_log(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt = Interrupt(leave=lambda code: pytest.fail(f"left with {code}"))
    on_log = TrainingWatcher.on_log

    def stop(self: TrainingWatcher, entry: LogEntry) -> None:
        on_log(self, entry)
        interrupt.handle()

    monkeypatch.setattr(TrainingWatcher, "on_log", stop)
    stream = io.StringIO()
    with pytest.raises(Interrupted):
        run(stage_of(tiny, tmp_path), tmp_path, interrupt=interrupt, stream=stream)
    stored = log_at(tmp_path, "train-1.jsonl")
    assert stored == events(stream)[: len(stored)]
    assert any(line["event"] == "train" for line in stored)


def test_attempts_are_numbered_by_stage_and_the_newest_are_kept(access: Access, tmp_path: Path) -> None:
    store = owned(access, tmp_path)
    assert store_log(store, JOB, "prepare", console_with("x")) == "logs/prepare-1.jsonl"
    for number in range(1, KEPT_LOGS + 3):
        assert store_log(store, JOB, "train", console_with(f"attempt-{number}")) == f"logs/train-{number}.jsonl"
    kept = sorted(int(file.key[11:-6]) for file in store.list() if file.key.startswith("logs/train-"))
    assert kept == list(range(3, KEPT_LOGS + 3))
    assert b"attempt-7" in store.get_bytes("logs/train-7.jsonl")


def test_files_of_others_in_the_folder_of_logs_are_left_alone(access: Access, tmp_path: Path) -> None:
    store = owned(access, tmp_path)
    strange = ["logs/train-x.jsonl", "logs/notes.txt", "logs/deep/train-9.jsonl"]
    for key in strange:
        store.put_bytes(key, b"1")
    for _ in range(KEPT_LOGS + 2):
        store_log(store, JOB, "train", console_with("x"))
    assert set(strange) <= {file.key for file in store.list()}


def test_logs_alone_dont_make_a_folder_taken(access: Access, tmp_path: Path) -> None:
    store = owned(access, tmp_path)
    store_log(store, JOB, "train", console_with("x"))
    release(store, JOB)
    other = JobIdentity(namespace="team-a", name="other", uid="uid-2")
    assert claim(store, other, spec_digest=DIGEST, if_exists="Fail") is None
    assert store.size("logs/train-1.jsonl") is not None


def test_logs_beside_a_strangers_file_leave_the_folder_taken(access: Access, tmp_path: Path) -> None:
    store = owned(access, tmp_path)
    store_log(store, JOB, "train", console_with("x"))
    release(store, JOB)
    store.put_bytes("model.bin", b"1")
    with pytest.raises(StageError, match=r"such as 'model\.bin'"):
        claim(store, JOB, spec_digest=DIGEST, if_exists="Reuse")


def test_a_log_that_cant_be_stored_fails_nothing(access: Access, tmp_path: Path) -> None:
    store, console = owned(access, tmp_path), console_with("x")
    (tmp_path / "out/logs").write_text("a file stands where the folder should be")
    assert store_log(store, JOB, "train", console) is None
    assert b"log_not_stored" in console.kept.read()


def test_what_is_hidden_in_the_log_is_hidden_in_the_stored_one(access: Access, tmp_path: Path) -> None:
    store, console = owned(access, tmp_path), console_with("x")
    console.hide(["a-secret-key"])
    console.event("failed", "with a-secret-key in it", traceback="a-secret-key")
    path = store_log(store, JOB, "train", console)
    assert path is not None
    assert b"secret" not in store.get_bytes(path)


def test_the_report_of_a_failure_keeps_the_log_when_it_is_short() -> None:
    from finetune_api.report import SHORT_REPORT_BYTES, ReportedFailure, encode_report, parse_report

    failure = ReportedFailure(reason="DatasetInvalid", message="x" * 1024, log="logs/train-1.jsonl")
    data = encode_report(StageReport(stage="train", spec_digest=DIGEST, failure=failure), SHORT_REPORT_BYTES)
    parsed = parse_report(data.decode())
    assert parsed is not None
    assert parsed.failure is not None
    assert parsed.failure.log == "logs/train-1.jsonl"
