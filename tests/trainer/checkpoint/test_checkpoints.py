"""The door that the job sees: what is settled, the kept scores, and the newest state that fits."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.checkpoint.checkpoints import Checkpoints, Settled, Terms
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt
from tests.support.recording_store import IDENTITY, Recording
from tests.trainer.checkpoint.test_catalog import SETTINGS, SHAPES, make_state
from tests.trainer.checkpoint.test_kept_baseline import evaluation

TERMS = Terms(precision="Float32", settings=SETTINGS, machine={"threads": 2}, shapes=SHAPES)


class Attempt:
    def __init__(self, folder: Path) -> None:
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        (scratch / "metrics.jsonl").write_text('{"step": 1}\n')
        self.stream, self.interrupt = io.StringIO(), Interrupt()
        self.checkpoints = Checkpoints(
            Recording(folder / "out"),
            IDENTITY,
            folder=scratch,
            pod=None,
            interval=600,
            metrics=scratch / "metrics.jsonl",
            may_write=lambda: None,
            console=Console(job="x", stage="train", stream=self.stream, interactive=False),
            interrupt=self.interrupt,
        )

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [line for line in lines if line["event"] == event]


def test_the_first_attempt_finds_nothing_settled_no_scores_and_no_state(tmp_path: Path) -> None:
    first = Attempt(tmp_path)
    assert first.checkpoints.settled is None
    assert first.checkpoints.baseline(precision="Float32", indices=[0, 1, 2, 3, 4, 5]) is None
    assert first.checkpoints.newest(TERMS) is None
    assert first.interrupt.resumable is False


def test_kept_scores_settle_how_a_later_attempt_computes(tmp_path: Path) -> None:
    Attempt(tmp_path).checkpoints.keep_baseline(evaluation(), Settled(precision="BFloat16", branching=False))
    assert Attempt(tmp_path).checkpoints.settled == Settled(precision="BFloat16", branching=False)


def test_a_state_says_what_is_settled_before_kept_scores_do(tmp_path: Path) -> None:
    first = Attempt(tmp_path).checkpoints
    first.keep_baseline(evaluation(), Settled(precision="BFloat16", branching=False))
    first.newest(TERMS)
    assert first.save_now(make_state(2)) is None
    assert Attempt(tmp_path).checkpoints.settled == Settled(precision="Float32", branching=True)


@pytest.mark.parametrize(
    ("precision", "indices", "taken"),
    [
        ("Float32", [0, 1, 2, 3, 4, 5], True),
        ("BFloat16", [0, 1, 2, 3, 4, 5], False),
        ("Float32", [0, 1, 2, 3, 4], False),
    ],
)
def test_kept_scores_are_taken_for_the_same_rows_in_the_same_precision(
    precision: Any, indices: list[int], taken: bool, tmp_path: Path
) -> None:
    Attempt(tmp_path).checkpoints.keep_baseline(evaluation(), Settled(precision="Float32", branching=True))
    again = Attempt(tmp_path).checkpoints.baseline(precision=precision, indices=indices)
    assert again == (evaluation() if taken else None)


def test_the_newest_state_that_fits_is_gone_on_from_and_told(tmp_path: Path) -> None:
    first = Attempt(tmp_path).checkpoints
    first.newest(TERMS)
    for step in (1, 2):
        assert first.save_now(make_state(step)) is None
    second = Attempt(tmp_path)
    newest = second.checkpoints.newest(TERMS)
    assert newest is not None
    assert newest.state.progress == make_state(2).progress
    assert newest.metrics == '{"step": 1}\n'
    assert second.interrupt.resumable is True
    assert [(line["step"], line["attempt"]) for line in second.log("resumed")] == [(2, 2)]
    assert second.log("machine_differs") == []


def test_nothing_is_saved_before_its_terms_are_known(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ask for the newest state first"):
        Attempt(tmp_path).checkpoints.save(make_state(1))


def test_what_is_cleared_is_gone_scores_and_states(tmp_path: Path) -> None:
    checkpoints = Attempt(tmp_path).checkpoints
    checkpoints.keep_baseline(evaluation(), Settled(precision="Float32", branching=True))
    checkpoints.newest(TERMS)
    checkpoints.save_now(make_state(1))
    checkpoints.close()
    checkpoints.clear()
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
