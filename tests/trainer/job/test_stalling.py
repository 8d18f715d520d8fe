"""A stage that gets no further is ended from beside, unless it is about to end anyway."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_trainer.job import run as stages
from finetune_trainer.job.context import Work
from finetune_trainer.process.interrupt import Interrupt
from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input

Codes = list[int]
Log = list[dict[str, Any]]


def hang(folder: Path, monkeypatch: pytest.MonkeyPatch, *, stopping: bool = False) -> tuple[Codes, Log]:
    """Run a stage whose work waits until the process would have ended; return with which codes, and the log."""
    codes: Codes = []
    ended = threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        ended.set()

    def work(work: Work) -> StageReport:
        with work.console.step("wait", "wait"):
            ended.wait(3 if stopping else 60)
        raise RuntimeError("woken")

    interrupt = Interrupt(leave=leave)
    interrupt.requested = stopping
    monkeypatch.setattr(stages, "_run", work)
    spec = job_spec(model="file:///none/", rows="file:///none", output=f"file://{folder}/out/")
    stage_input = make_stage_input("train", spec).model_copy(update={"stall_seconds": 1})
    _, log = run(stage_input, folder, interrupt=interrupt)
    return codes, log


def test_the_process_ends_with_the_code_of_stalled_and_the_log_names_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, log = hang(tmp_path, monkeypatch)
    assert codes == [33]
    (stalled,) = [line for line in log if line["event"] == "stalled"]
    assert "in work" in stalled["threads"]["MainThread"]
    failed = next(line for line in log if line["event"] == "failed")
    assert failed["reason"] == Reason.STALLED
    assert "in step wait" in failed["message"]


def test_a_stage_that_is_being_stopped_is_left_to_its_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes, log = hang(tmp_path, monkeypatch, stopping=True)
    assert not codes
    assert not [line for line in log if line["event"] == "stalled"]
