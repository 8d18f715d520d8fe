"""Which texts end an answer is decided from the train rows, and travels with them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.prepare.folder import load_prepared
from tests.support.prepare_kit import Dataset, intents, spec_of

RAW = {"name": "raw"}


def raw(completion: str, n: int = 60) -> list[dict[str, Any]]:
    return [{"prompt": f"{completion}, question number {i}", "completion": f"{completion} {i % 7}"} for i in range(n)]


def test_where_every_expected_answer_of_train_is_a_line_the_line_end_stops(dataset: Dataset) -> None:
    assert dataset.prepare(intents(60), spec_of()).stop == ("\n",)
    assert dataset.prepare(raw("an answer"), spec_of(RAW)).stop == ("\n",)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_one_answer_of_two_lines_in_train_is_enough_for_no_line_rule(dataset: Dataset, line_end: str) -> None:
    parts = {"train": raw("train"), "validation": raw("validation"), "test": raw("test")}
    files = {p: f"s3://data/{p}.jsonl" for p in parts}
    parts["train"][30]["completion"] = f"one{line_end}two"
    assert dataset.prepare(parts, spec_of(RAW, dataset={"files": files})).stop == ()


def test_answers_of_the_sealed_rows_do_not_decide(dataset: Dataset) -> None:
    parts = {"train": raw("train"), "validation": raw("a\nb"), "test": raw("c\nd")}
    files = {p: f"s3://data/{p}.jsonl" for p in parts}
    assert dataset.prepare(parts, spec_of(RAW, dataset={"files": files})).stop == ("\n",)


def test_texts_of_the_spec_take_the_place_of_the_line_end_and_are_read_back(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(60), spec_of(evaluation={"stop": ["###", "\nText:"]}))
    assert prepared.stop == ("###", "\nText:")
    assert load_prepared(dataset.out).stop == prepared.stop
