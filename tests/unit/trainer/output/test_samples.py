"""``samples.jsonl`` and its section of the page: one line a row and moment, answers that stay the same told once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from finetune_trainer.output.report.learned import learned
from finetune_trainer.output.report.thought import Thought
from finetune_trainer.output.samples import SampleFile, sample_line
from finetune_trainer.prepare.prepared import Prepared, TextRow
from finetune_trainer.training.samples import Sample

TEXTS = (
    TextRow(7, "p" * 2000, "yes"),
    TextRow(9, "short", "e" * 3000, file="b.jsonl"),
    TextRow(11, "why", "yes", thought="t" * 3000),
)
PREPARED = cast(Prepared, SimpleNamespace(texts={"validation": TEXTS}))


def line(epoch: float, completion: str = "no", **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "step": 3, "row": 7, "prompt": "p", "expected": "yes", "completion": completion, **more}


def test_a_line_has_the_row_the_answer_and_the_verdict() -> None:
    sample = Sample(step=6, epoch=2.0, index=0, completion="no", choice="yes", correct=True)
    told = sample_line(sample, PREPARED)
    assert {**told, "prompt": len(told["prompt"])} == {
        "epoch": 2,
        "step": 6,
        "row": 7,
        "prompt": 1200,
        "promptCut": True,
        "expected": "yes",
        "completion": "no",
        "choice": "yes",
        "correct": True,
    }


def test_long_expected_answers_are_cut_and_say_so() -> None:
    told = sample_line(Sample(step=1, epoch=0.5, index=1, completion="no", cut=True, score=0.25), PREPARED)
    assert (len(told["expected"]), told["expectedCut"], told["cut"]) == (2000, True, True)
    assert (told["epoch"], told["score"], told["file"]) == (0.5, 0.25, "b.jsonl")
    assert "correct" not in told


def test_thoughts_stand_beside_both_answers_and_are_bounded() -> None:
    told = sample_line(
        Sample(step=1, epoch=1, index=2, completion="", cut=True, thought="hm", unfinished=True), PREPARED
    )
    assert (len(told["thought"]), told["thoughtCut"]) == (2000, True)
    assert (told["completion"], told["completionThought"], told["completionUnfinished"]) == ("", "hm", True)
    assert "completionThoughtCut" not in told


def test_a_thought_that_was_cut_to_what_is_kept_says_so() -> None:
    told = sample_line(Sample(step=1, epoch=1, index=0, completion="no", thought="hm", thought_cut=True), PREPARED)
    assert (told["completionThought"], told["completionThoughtCut"]) == ("hm", True)
    assert not {"thought", "completionUnfinished"} & told.keys()


def test_the_file_grows_and_is_not_there_before_the_first_sample(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text("of an earlier attempt\n")
    file, sample = SampleFile(path, PREPARED), Sample(step=0, epoch=0, index=0, completion="line\u2028end")
    file.add([])
    assert not path.exists()
    file.add([sample])
    file.add([sample])
    with path.open(encoding="utf-8") as lines:
        assert [json.loads(text)["completion"] for text in lines] == ["line\u2028end"] * 2


def test_answers_are_gathered_by_row_and_what_stays_the_same_is_told_once() -> None:
    lines = [line(0, correct=False), line(1, correct=False), line(2, "yes", correct=True), line(3, "yes", correct=True)]
    (one,) = learned([*lines, line(3.5, "ye", cut=True)])
    assert [(a.when, a.answer, a.verdict, a.right) for a in one.answers] == [
        ("Before to epoch 1", "no", "wrong", False),
        ("Epochs 2 to 3", "yes", "right", True),
        ("Epoch 3.5", "ye…", "cut, not judged", None),
    ]


def test_a_choice_stands_before_what_was_written() -> None:
    (one,) = learned([line(0, "I think so", choice="yes", correct=True), line(1, "yes", choice="yes", correct=True)])
    assert [(a.answer, a.written) for a in one.answers] == [("yes", "I think so"), ("yes", "")]


def test_a_row_of_its_own_score_shows_it() -> None:
    (one,) = learned([line(0, score=0.5)])
    assert (one.answers[0].verdict, one.answers[0].right) == ("0.5000", None)


def test_rows_of_the_same_number_in_two_files_are_two() -> None:
    assert len(learned([line(0, file="a"), line(0, file="b")])) == 2


def test_an_answer_is_shown_with_its_thought_and_another_thought_is_another_answer() -> None:
    thinking = {"thought": "so", "completionThought": "hm", "correct": True}
    (one,) = learned([line(0, **thinking), line(1, **{**thinking, "completionThought": "aha"})])
    assert one.thought == Thought("so")
    assert [(a.when, a.thought) for a in one.answers] == [("Before", Thought("hm")), ("Epoch 1", Thought("aha"))]


def test_a_thought_without_an_end_is_told_however_little_was_thought() -> None:
    lines = [line(0, "", completionUnfinished=True), line(1, "", completionUnfinished=True, completionThought="hm")]
    (one,) = learned([*lines, line(2, "", completionUnfinished=True, completionThought="hm", cut=True)])
    assert [a.thought for a in one.answers] == [
        Thought("", finished=False),
        Thought("hm", finished=False),
        Thought("hm…", finished=False),
    ]


def test_an_answer_without_a_thought_shows_none_and_a_long_one_its_beginning() -> None:
    (one,) = learned([line(0), line(1, completionThought="t" * 601), line(2, completionThought="t" * 600)])
    assert [a.thought for a in one.answers] == [None, Thought("t" * 600 + "…"), Thought("t" * 600)]
