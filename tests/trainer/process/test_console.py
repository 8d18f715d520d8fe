"""The log is one JSON object a line, or readable lines on a terminal, and never holds a secret."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_api.job import LoRA
from finetune_trainer.model.load import load_model
from finetune_trainer.model.lora import add_lora
from finetune_trainer.process.console import Console
from finetune_trainer.process.logs import logging_to
from tests.support.tiny_model import make_model


def make(*, interactive: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(job="team-a/x", stage="train", stream=stream, interactive=interactive), stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_pipe_gets_json_and_a_terminal_does_not() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert not Console(job="x", stage=None, stream=io.StringIO()).interactive
    assert Console(job="x", stage=None, stream=Terminal()).interactive


def test_every_line_says_when_how_bad_which_job_and_stage() -> None:
    console, stream = make(interactive=False)
    console.event("train", step=3, level="warning")
    (line,) = lines(stream)
    assert line.pop("ts").endswith("Z")
    assert line == {"level": "warning", "job": "team-a/x", "stage": "train", "event": "train", "step": 3}


def test_text_with_line_breaks_stays_on_one_json_line() -> None:
    console, stream = make(interactive=False)
    console.event("failed", "one\ntwo", traceback="a\nb")
    (line,) = lines(stream)
    assert (line["message"], line["traceback"]) == ("one\ntwo", "a\nb")


def test_a_step_says_when_it_starts_and_how_long_it_took() -> None:
    console, stream = make(interactive=False)
    with console.step("fetch", "fetch it"):
        pass
    assert [line["event"] for line in lines(stream)] == ["step_started", "step_finished"]
    assert lines(stream)[1]["seconds"] >= 0
    assert console.seconds["fetch"] >= 0


def test_a_step_that_fails_is_not_reported_as_finished() -> None:
    console, stream = make(interactive=False)
    with pytest.raises(ZeroDivisionError), console.step("fetch", "fetch it"):
        raise ZeroDivisionError
    assert [line["event"] for line in lines(stream)] == ["step_started"]


def test_progress_in_a_log_is_told_at_its_first_sign_and_rarely_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("finetune_trainer.process.console.time.perf_counter", lambda: now[0])
    console, stream = make(interactive=False)
    with console.step("train", "train") as progress:
        for done in range(100):
            now[0] += 1.0
            progress(done, 100)
    written = [line for line in lines(stream) if line["event"] == "progress"]
    assert [line["done"] for line in written] == list(range(0, 100, 10))


def test_a_terminal_gets_a_bar_and_a_line_with_the_time() -> None:
    console, stream = make(interactive=True)
    with console.step("train", "train the model") as progress:
        progress(1, 2)
        progress(2, 2)
    assert "train the model" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("s")


def test_a_table_is_for_people_only() -> None:
    for interactive in (True, False):
        console, stream = make(interactive=interactive)
        console.table([("before", "0.1"), ("after", "0.9")])
        assert bool(stream.getvalue()) is interactive


@pytest.mark.parametrize("interactive", [True, False])
def test_a_secret_is_never_written(interactive: bool) -> None:
    console, stream = make(interactive=interactive)
    console.hide(["canary-key"])
    console.event("failed", "the key is canary-key", detail="canary-key", nested={"a": ["canary-key"]})
    console.table([("key", "canary-key")])
    assert "canary-key" not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_secrets_are_hidden_for_the_next_stage_too() -> None:
    console, stream = make(interactive=False)
    console.hide(["canary-key"])
    console.for_stage("prepare").event("x", "canary-key")
    assert "canary-key" not in stream.getvalue()


def test_a_short_secret_does_not_blank_the_log() -> None:
    console, stream = make(interactive=False)
    console.hide(["a", ""])
    console.event("train")
    assert lines(stream)[0]["event"] == "train"


def test_log_records_and_warnings_become_json_lines() -> None:
    console, stream = make(interactive=False)
    with logging_to(console):
        logging.getLogger("finetune_trainer.data.readers").info("rows\nread")
        logging.getLogger("some.library").info("too much detail")
        logging.getLogger("some.library").warning("careful")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("old", FutureWarning, stacklevel=1)
    said = [(line["level"], line["message"]) for line in lines(stream)]
    assert ("info", "rows read") in said
    assert ("warning", "careful") in said
    assert any(level == "warning" and "old" in text for level, text in said)
    assert not any("too much detail" in text for _, text in said)


def test_the_old_name_that_peft_asks_by_is_no_warning_to_a_user(tmp_path: Path) -> None:
    make_model(tmp_path)
    loaded = load_model(tmp_path, device=torch.device("cpu"), precision="Float32")
    console, stream = make(interactive=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_to(console):
            add_lora(loaded, LoRA(rank=2), seed=0)
            warnings.warn("old", FutureWarning, stacklevel=1)
    told = [line["message"] for line in lines(stream) if line["level"] == "warning"]
    assert not any("is_gradient_checkpointing" in text for text in told)
    assert any("old" in text for text in told)


def test_logging_is_as_before_afterwards() -> None:
    root = logging.getLogger()
    before = (root.handlers[:], logging.getLogger("finetune_trainer").level)
    with logging_to(make(interactive=False)[0]):
        pass
    assert (root.handlers, logging.getLogger("finetune_trainer").level) == before
