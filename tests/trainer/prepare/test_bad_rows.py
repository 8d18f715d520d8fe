"""Prepare: rows that can't be used, parts that must not be empty, the bound of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.status import DroppedRows
from finetune_trainer.data.parts import PARTS
from tests.support.prepare_kit import LABELS, Dataset, intents, spec_of


def test_bad_rows_of_every_kind_are_dropped_and_counted(dataset: Dataset) -> None:
    rows: list[dict[str, Any] | str] = [
        *intents(200),
        "no json",
        "[]",
        {"text": "", "label": "bug"},
        {"label": "bug"},
    ]
    prepared = dataset.prepare(rows, spec_of())
    assert (prepared.summary.rows, prepared.summary.dropped) == (204, 4)
    assert sum(len(prepared.parts[p]) for p in PARTS) == 200


@pytest.mark.parametrize(("percent", "fine"), [(2, True), (1, False), (0, False)])
def test_more_bad_rows_than_allowed_end_the_job(dataset: Dataset, percent: int, fine: bool) -> None:
    rows: list[dict[str, Any] | str] = [*intents(98), "x", {"text": "a"}]
    spec = spec_of(dataset={"badRows": {"maxPercent": percent}})
    if fine:
        assert dataset.prepare(rows, spec).summary.dropped == 2
        return
    error = dataset.refused(rows, spec)
    assert error.reason is Reason.DATASET_INVALID
    if percent == 1:
        assert error.message == (
            "2 of 100 rows can't be used, more than dataset.badRows.maxPercent 1: "
            "rows.jsonl line 99: not JSON: Expecting value at column 1; rows.jsonl line 100: column 'label' is missing"
        )
    else:
        assert "1 of 100 rows can't be used" in error.message


def test_rows_that_fail_only_when_encoded_count_against_the_limit_too(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "" if i % 10 == 0 else "c"} for i in range(100)]
    inline = {"inline": {"prompt": "{{ prompt }}", "completion": "{{ completion }}"}}
    error = dataset.refused(rows, spec_of(inline))
    assert error.reason is Reason.DATASET_INVALID
    assert "10 of 100 rows can't be used, more than dataset.badRows.maxPercent 5" in error.message


def test_when_every_row_is_bad_the_rows_are_named_not_the_empty_parts(dataset: Dataset) -> None:
    error = dataset.refused([{"text": " ", "label": "bug"}] * 30, spec_of())
    assert error.message.startswith("30 of 30 rows can't be used")
    assert "line 1: column 'text' is empty" in error.message


def test_of_many_bad_rows_each_reason_is_told_once_with_its_rows(dataset: Dataset) -> None:
    message = dataset.refused([*intents(10), *["x"] * 20], spec_of()).message
    assert message.endswith(
        "maxPercent 5: 20 rows, the first rows.jsonl line 11: not JSON: Expecting value at column 1"
    )


def test_policy_fail_ends_at_the_first_bad_row(dataset: Dataset) -> None:
    spec = spec_of(dataset={"badRows": {"policy": "Fail", "maxPercent": 100}})
    error = dataset.refused([*intents(50), "x", "y"], spec)
    assert error.reason is Reason.DATASET_INVALID
    assert error.message.startswith("rows.jsonl line 51: not JSON")


def test_a_completion_too_long_for_max_length_is_a_bad_row_and_a_prompt_is_cut(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "c"} for i in range(98)]
    rows += [{"prompt": "long " * 100, "completion": "c"}, {"prompt": "p", "completion": "long " * 100}]
    prepared = dataset.prepare(rows, spec_of({"name": "raw"}, training={"maxLength": 40}))
    assert (prepared.summary.dropped, prepared.summary.truncated) == (1, 1)
    assert max(int(prepared.parts[p].lengths.max()) for p in PARTS) == 40


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ({"trainPercent": 98, "validationPercent": 1, "testPercent": 1}, "validation"),
        ({"trainPercent": 99, "validationPercent": 0, "testPercent": 1}, "test"),
        ({"trainPercent": 1, "validationPercent": 1, "testPercent": 98}, "train"),
    ],
)
def test_an_empty_part_is_refused_with_what_to_change(dataset: Dataset, split: dict[str, Any], part: str) -> None:
    error = dataset.refused(intents(3), spec_of(dataset={"split": split}))
    assert error.reason is Reason.DATASET_INVALID
    assert f"no row fell into {part} (train " in error.message
    assert f"raise split.{part}Percent above {split[part + 'Percent']}" in error.message
    assert "set split.stratifyBy for exact shares, or choose another split.seed" in error.message


def test_validation_may_be_empty_if_asked_for(dataset: Dataset) -> None:
    split = {"trainPercent": 80, "validationPercent": 0, "testPercent": 20}
    prepared = dataset.prepare(intents(50), spec_of(dataset={"split": split}))
    part = prepared.parts["validation"]
    assert (len(part), prepared.summary.validation) == (0, 0)
    assert list(part.offsets) == [0]


def test_a_given_test_file_without_a_usable_row_is_refused(dataset: Dataset) -> None:
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
        }
    )
    error = dataset.refused({"train": intents(60), "test": ["x"]}, spec)
    assert error.reason is Reason.DATASET_INVALID
    assert "dataset.files.test has no row that can be used (1 bad row: test.jsonl line 1: not JSON" in error.message


def test_the_bound_of_a_generated_answer_is_the_longest_expected_one_plus_a_margin(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "x" if i != 7 else "z" * 99} for i in range(60)]
    assert dataset.prepare(rows, spec_of({"name": "raw"})).max_new_tokens == 100 + 25
    assert dataset.prepare(rows[10:], spec_of({"name": "raw"})).max_new_tokens == 2 + 8
    asked = spec_of({"name": "raw"}, evaluation={"maxNewTokens": 5})
    assert dataset.prepare(rows, asked).max_new_tokens == 5


def test_each_part_is_held_to_the_limit_and_counted_by_itself(dataset: Dataset) -> None:
    inline = {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}
    files = {part: f"s3://data/{part}.jsonl" for part in PARTS}
    broken: dict[str, Any] = {"text": "t", "label": None}
    rows = {"train": [*intents(200), "x"], "validation": intents(20, 300), "test": [*intents(9, 400), broken]}
    error = dataset.refused(rows, spec_of(inline, dataset={"files": files}))
    assert "1 of 10 test rows can't be used, more than dataset.badRows.maxPercent 5: test.jsonl line 1" in error.message
    allowed = spec_of(inline, dataset={"files": files, "badRows": {"maxPercent": 10}})
    assert dataset.prepare(rows, allowed).summary.dropped_by == DroppedRows(train=1, test=1)


def test_bad_rows_of_an_array_in_one_line_are_as_many_as_they_are(dataset: Dataset) -> None:
    rows = [row | {"label": "unheard of"} if i < 40 else row for i, row in enumerate(intents(120))]
    spec = spec_of({"name": "intent", "choices": list(LABELS)}, dataset={"badRows": {"maxPercent": 60}})
    lines = dataset.prepare(rows, spec).summary
    array = dataset.prepare([json.dumps(rows)], spec).summary
    assert lines.dropped > 20
    assert (array.dropped, array.train) == (lines.dropped, lines.train)


def test_each_row_of_an_array_in_one_line_can_be_found_again(dataset: Dataset) -> None:
    prepared = dataset.prepare([json.dumps(intents(120))], spec_of())
    found = [int(row) for part in PARTS for row in prepared.parts[part].rows]
    assert sorted(found) == list(range(1, 121))
