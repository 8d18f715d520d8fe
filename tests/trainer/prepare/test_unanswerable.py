"""Prepare: a sealed row that is merely hard stays in its part and is counted; train loses it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_trainer.data.parts import Part
from finetune_trainer.prepare.prepared import NO_ROOM, UNKNOWN_ANSWER, Prepared
from tests.support.prepare_kit import LABELS, Dataset, intents, spec_of

LONG = "long " * 100
INLINE = {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}, "choices": list(LABELS)}


def given_files(template: dict[str, Any] | None = None, **blocks: Any) -> FineTuneJobSpec:
    files = {part: f"s3://data/{part}.jsonl" for part in ("train", "validation", "test")}
    dataset = {"files": files, **blocks.pop("dataset", {})}
    return spec_of(template, dataset=dataset, **blocks)


def open_rows(n: int, start: int, *more: str) -> list[dict[str, Any] | str]:
    answers = ["c"] * n + list(more)
    return [{"prompt": f"p {start + i}", "completion": answer} for i, answer in enumerate(answers)]


def kinds(prepared: Prepared, part: Part) -> list[int]:
    return [int(kind) for kind in prepared.parts[part].unanswerable]


@pytest.mark.parametrize("template", [{"name": "intent"}, INLINE])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_label_that_train_never_had_stays_in_its_part(dataset: Dataset, template: dict[str, Any], part: Part) -> None:
    rows = {"train": intents(40), "validation": intents(9, 100), "test": intents(9, 200)}
    rows[part].append({"text": "t", "label": "unseen"})
    prepared = dataset.prepare(rows, given_files(template))
    assert (len(prepared.parts[part]), prepared.summary.dropped) == (10, 0)
    assert kinds(prepared, part) == [0] * 9 + [UNKNOWN_ANSWER]
    assert prepared.summary.test_unanswerable == (part == "test")
    assert int(prepared.parts[part].answer[-1]) == -1
    assert int(prepared.parts[part].choice_set[-1]) == 0
    assert "the answer 'unseen' is no" in prepared.texts[part][-1].unanswerable


@pytest.mark.parametrize("part", ["validation", "test"])
def test_an_answer_longer_than_the_room_stays_in_its_part_without_tokens(dataset: Dataset, part: Part) -> None:
    rows = {"train": open_rows(40, 0), "validation": open_rows(9, 100), "test": open_rows(9, 200)}
    rows[part] += open_rows(0, 300, LONG)
    prepared = dataset.prepare(rows, given_files({"name": "raw"}, training={"maxLength": 40}))
    assert kinds(prepared, part) == [0] * 9 + [NO_ROOM]
    assert int(prepared.parts[part].lengths[-1]) == 0
    assert (prepared.summary.dropped, prepared.summary.test_unanswerable) == (0, int(part == "test"))
    last = prepared.texts[part][-1]
    assert last.completion == LONG
    assert "leaves no room for the prompt in training.maxLength 40" in last.unanswerable


def test_a_train_row_with_an_answer_longer_than_the_room_is_dropped(dataset: Dataset) -> None:
    rows = {"train": open_rows(40, 0, LONG), "validation": open_rows(9, 100), "test": open_rows(9, 200)}
    prepared = dataset.prepare(rows, given_files({"name": "raw"}, training={"maxLength": 40}))
    assert (prepared.summary.train, prepared.summary.dropped) == (40, 1)


def test_choices_without_room_make_a_sealed_row_unanswerable(dataset: Dataset) -> None:
    def rows(n: int, start: int) -> list[dict[str, Any]]:
        return [{"question": f"q {start + i}", "choices": ["a", "b"], "answer": "a"} for i in range(n)]

    hard = {"question": "q", "choices": ["a", LONG], "answer": "a"}
    files = {"train": rows(40, 0), "validation": rows(9, 100), "test": [*rows(9, 200), hard]}
    prepared = dataset.prepare(files, given_files({"name": "multiple-choice"}, training={"maxLength": 80}))
    assert kinds(prepared, "test") == [0] * 9 + [NO_ROOM]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_part_without_one_row_that_can_be_answered_is_refused(dataset: Dataset, part: Part) -> None:
    rows = {"train": open_rows(40, 0), "validation": open_rows(9, 100), "test": open_rows(9, 200)}
    rows[part] = open_rows(0, 300, LONG, LONG + "x")
    error = dataset.refused(rows, given_files({"name": "raw"}, training={"maxLength": 40}))
    assert error.reason is Reason.DATASET_INVALID
    assert f"none of the 2 {part} rows can be answered" in error.message
    assert f"{part}.jsonl line 1: its completion of" in error.message


def test_the_reason_is_stored_with_the_row_and_with_no_other(dataset: Dataset) -> None:
    rows = {"train": intents(40), "validation": intents(9, 100), "test": intents(3, 200)}
    rows["test"].append({"text": "t", "label": "unseen"})
    dataset.prepare(rows, given_files())
    lines = [json.loads(line) for line in (dataset.out / "texts.test.jsonl").read_text().splitlines()]
    assert ["unanswerable" in line for line in lines] == [False, False, False, True]
