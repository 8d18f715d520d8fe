"""Prepare: label sets, choices, duplicates, groups and given files."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from tokenizers import normalizers

from finetune_api.reasons import Reason
from finetune_trainer.data.parts import PARTS
from tests.support.prepare_kit import LABELS, Dataset, intents, spec_of
from tests.support.tiny_tokenizer import make_tokenizer


def test_the_label_set_comes_from_the_train_rows_alone(dataset: Dataset) -> None:
    rows = {"train": intents(50), "test": [*intents(30, 100), {"text": "t", "label": "unseen"}]}
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
        }
    )
    prepared = dataset.prepare(rows, spec)
    assert prepared.choice_sets[0].texts == LABELS
    assert (prepared.summary.test, prepared.summary.test_unanswerable, prepared.summary.dropped) == (31, 1, 0)


INLINE = {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}, "choices": list(LABELS)}
NAMED = {"name": "intent", "choices": list(LABELS)}
GIVEN = {
    "files": {part: f"s3://data/{part}.jsonl" for part in PARTS},
    "split": {"trainPercent": 100, "validationPercent": 0, "testPercent": 0},
}


@pytest.mark.parametrize("template", [NAMED, INLINE])
def test_an_answer_that_is_no_choice_is_a_bad_row_of_train_and_unanswerable_elsewhere(
    dataset: Dataset, template: dict[str, Any]
) -> None:
    other = {"text": "t", "label": "other"}
    parts = {"train": [*intents(40), other], "validation": [*intents(9, 100), other | {"text": "u"}]}
    parts["test"] = [*intents(9, 200), other | {"text": "v"}, {"text": "w", "label": 1}]
    prepared = dataset.prepare(parts, spec_of(template, dataset=GIVEN))
    summary = prepared.summary
    assert (summary.train, summary.validation, summary.test) == (40, 10, 11)
    assert (summary.dropped, summary.test_unanswerable) == (1, 2)
    assert summary.dropped_by is not None
    assert summary.dropped_by.train == 1
    assert [int(answer) for answer in prepared.parts["test"].answer[-2:]] == [-1, -1]
    strict = spec_of(template, dataset={**GIVEN, "badRows": {"policy": "Fail"}})
    message = "train.jsonl line 41: the answer 'other' is none of dataset.template.choices"
    assert message in dataset.refused(parts, strict).message


def test_the_policy_ends_a_job_with_many_answers_that_are_no_choice(dataset: Dataset) -> None:
    rows = [row | ({"label": "other"} if i % 4 == 0 else {}) for i, row in enumerate(intents(100))]
    message = dataset.refused(rows, spec_of(NAMED)).message
    assert "rows can't be used, more than dataset.badRows.maxPercent 5" in message
    assert "the answer 'other' is none of dataset.template.choices" in message


def test_one_choice_and_a_misfit_are_nothing_to_learn(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": "bug" if i else "other"} for i in range(100)]
    error = dataset.refused(rows, spec_of(NAMED, dataset={"badRows": {"maxPercent": 100}}))
    assert "train rows have the answer 'bug' in column 'label'" in error.message


def test_completions_of_an_inline_template_are_choices_in_every_spelling(dataset: Dataset) -> None:
    choices = ["Caf\u00e9", "tea time", "1"]
    spellings = ["Caf\u00e9", "Cafe\u0301", "CAF\u00c9", "tea\u00a0 time", "Tea time", "tea time", "1.0", 1]
    rows = [{"text": f"t {i}", "label": spellings[i % 8]} for i in range(80)]
    prepared = dataset.prepare(rows, spec_of(INLINE | {"choices": choices}))
    assert prepared.choice_sets[0].texts == tuple(choices)
    assert (prepared.summary.folded_labels, prepared.summary.dropped, prepared.summary.test_unanswerable) == (50, 0, 0)
    expected = [0, 0, 0, 1, 1, 1, 2, 2]
    for part in PARTS:
        lines = zip(prepared.parts[part].rows, prepared.parts[part].answer, strict=True)
        assert all(int(answer) == expected[(int(row) - 1) % 8] for row, answer in lines)


@pytest.mark.parametrize(
    ("template", "rows", "level", "words"),
    [
        (
            NAMED,
            [{"text": f"t {i}", "label": i % 3} for i in range(60)],
            "INFO",
            "counted from 0: 0 = billing, 1 = bug",
        ),
        (
            {"name": "multiple-choice"},
            [{"question": f"q {i}", "choices": ["a", "b"], "answer": i % 2} for i in range(60)],
            "INFO",
            "column 'answer' holds numbers from 0 of the choices",
        ),
        (
            {"name": "intent"},
            [{"text": f"t {i}", "label": ("a", "b", "A")[i % 3]} for i in range(60)],
            "WARNING",
            "'a' is also spelt as text 'A'",
        ),
    ],
)
def test_how_a_column_was_read_is_told(  # noqa: PLR0917  # a case of a table
    dataset: Dataset,
    caplog: pytest.LogCaptureFixture,
    template: dict[str, Any],
    rows: list[dict[str, Any]],
    level: str,
    words: str,
) -> None:
    with caplog.at_level(logging.INFO):
        dataset.prepare(rows, spec_of(template))
    assert [record.levelname for record in caplog.records if words in record.getMessage()] == [level]


@pytest.mark.parametrize("choices", [None, ["billing", "bug"]])
def test_a_classification_with_one_label_is_refused(dataset: Dataset, choices: list[str] | None) -> None:
    rows = [{"text": f"t {i}", "label": "bug"} for i in range(50)]
    error = dataset.refused(rows, spec_of({"name": "topic", **({"choices": choices} if choices else {})}))
    assert error.reason is Reason.DATASET_INVALID
    assert "train rows have the answer 'bug' in column 'label'" in error.message


def test_a_column_of_free_text_is_no_label(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": f"l {i}"} for i in range(400)]
    error = dataset.refused(rows, spec_of())
    assert error.reason is Reason.DATASET_INVALID
    assert "different values in the train rows, and template intent is for at most 256 labels" in error.message


def test_choices_that_are_the_same_tokens_are_refused(dataset: Dataset) -> None:
    dataset.tokenizer = make_tokenizer(dataset.folder / "nfc")
    dataset.tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    choices = ["x\u00b2", "x2"]
    rows = [{"text": f"t {i}", "label": choices[i % 2]} for i in range(50)]
    error = dataset.refused(rows, spec_of())
    assert error.reason is Reason.TEMPLATE_INVALID
    assert "are the same tokens to this model" in error.message
    own = [{"question": f"q {i}", "choices": ["a", "b"], "answer": 0} for i in range(99)]
    own.append({"question": "last", "choices": choices, "answer": 0})
    assert dataset.prepare(own, spec_of({"name": "multiple-choice"})).summary.dropped == 1


def test_end_tokens_are_scored_where_one_choice_begins_another(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": ("card", "card arrival")[i % 2]} for i in range(50)]
    assert dataset.prepare(rows, spec_of()).score_end_tokens
    assert not dataset.prepare(intents(50), spec_of()).score_end_tokens


def test_choice_accuracy_without_choices_is_refused(dataset: Dataset) -> None:
    rows = [{"prompt": f"p {i}", "completion": "c"} for i in range(50)]
    inline = {"inline": {"prompt": "{{ prompt }}", "completion": "{{ completion }}"}}
    error = dataset.refused(rows, spec_of(inline, evaluation={"metric": "ChoiceAccuracy"}))
    assert error.reason is Reason.INVALID_SPEC
    assert "set dataset.template.choices" in error.message


def test_a_metric_in_the_spec_wins(dataset: Dataset) -> None:
    prepared = dataset.prepare(intents(50), spec_of(evaluation={"metric": "ExactMatch"}))
    assert prepared.metric == "ExactMatch"
    assert prepared.choice_sets


def test_duplicates_and_conflicts_are_counted_and_never_straddle_parts(dataset: Dataset) -> None:
    rows = intents(200)
    rows += [{"text": f" {r['text']}", "label": r["label"]} for r in rows[:20]]
    rows += [{"text": r["text"].upper(), "label": "other"} for r in rows[100:110]]
    prepared = dataset.prepare(rows, spec_of())
    assert (prepared.summary.duplicates, prepared.summary.conflicts, prepared.summary.rows) == (20, 20, 230)
    side = {int(r): p for p in PARTS for r in prepared.parts[p].rows}
    assert all(side[101 + i] == side[221 + i] for i in range(10))


def test_rows_that_differ_in_an_unused_column_only_are_duplicates(dataset: Dataset) -> None:
    rows = [r | {"id": i} for i, r in enumerate([*intents(60), *intents(60)])]
    for template in ({"name": "intent"}, {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}):
        assert dataset.prepare(rows, spec_of(template)).summary.duplicates == 60
    whole = {"inline": {"prompt": "{{ row | tojson }}", "completion": "{{ label }}"}}
    assert dataset.prepare(rows, spec_of(whole)).summary.duplicates == 0


def test_group_and_stratum_columns_shape_the_split(dataset: Dataset) -> None:
    rows = [r | {"who": {"id": i // 4}} for i, r in enumerate(intents(400))]
    prepared = dataset.prepare(rows, spec_of(dataset={"split": {"groupBy": "who"}}))
    for part in PARTS:
        lines = {int(r) for r in prepared.parts[part].rows}
        assert all(4 * ((r - 1) // 4) + j + 1 in lines for r in lines for j in range(4))
    prepared = dataset.prepare(intents(300), spec_of(dataset={"split": {"stratifyBy": "label"}}))
    assert [getattr(prepared.summary, p) for p in PARTS] == [240, 30, 30]
    assert list(np.bincount(prepared.parts["test"].answer)) == [10, 10, 10]


def test_a_group_is_one_however_its_number_is_written(dataset: Dataset) -> None:
    rows = [
        r | {"who": (i // 4, float(i // 4), str(i // 4), f" {i // 4}.0")[i % 4]} for i, r in enumerate(intents(200))
    ]
    prepared = dataset.prepare(rows, spec_of(dataset={"split": {"groupBy": "who"}}))
    for part in PARTS:
        lines = {int(r) for r in prepared.parts[part].rows}
        assert all(4 * ((r - 1) // 4) + j + 1 in lines for r in lines for j in range(4))


@pytest.mark.parametrize("field", ["groupBy", "stratifyBy"])
def test_a_split_column_that_no_row_has_is_refused(dataset: Dataset, field: str) -> None:
    error = dataset.refused(intents(50), spec_of(dataset={"split": {field: "who"}}))
    assert error.reason is Reason.INVALID_SPEC
    assert f"dataset.split.{field} names column 'who', which no row has; columns: text, label" in error.message


def test_given_files_keep_their_rows_and_leaks_leave_train(dataset: Dataset) -> None:
    train, test = intents(200), intents(50, 190)
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
        }
    )
    prepared = dataset.prepare({"train": train, "test": test}, spec)
    assert (prepared.summary.test, prepared.summary.leaked) == (50, 10)
    assert prepared.summary.train + prepared.summary.validation == 190
    assert prepared.summary.rows == 250
    assert max(int(r) for p in ("train", "validation") for r in prepared.parts[p].rows) == 190


def test_a_bad_row_is_named_with_its_file(dataset: Dataset) -> None:
    spec = spec_of(
        dataset={
            "files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"},
            "split": {"trainPercent": 80, "validationPercent": 20, "testPercent": 0},
            "badRows": {"policy": "Fail"},
        }
    )
    error = dataset.refused({"train": intents(50), "test": [*intents(2, 90), "no json"]}, spec)
    assert error.reason is Reason.DATASET_INVALID
    assert error.message.startswith("test.jsonl line 3: not JSON")


def test_spellings_of_a_label_become_one_and_are_counted(dataset: Dataset) -> None:
    spellings = ["Caf\u00e9", "Caf\u00e9", "Cafe\u0301", " Caf\u00e9\u00a0", "CAF\u00c9", "tea"]
    rows = [{"text": f"t {i}", "label": spellings[i % 6]} for i in range(60)]
    prepared = dataset.prepare(rows, spec_of())
    assert prepared.choice_sets[0].texts == ("Caf\u00e9", "tea")
    assert prepared.summary.folded_labels == 30


def test_numbers_counted_from_1_end_the_job_however_many_bad_rows_are_allowed(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": 1 + i % 3} for i in range(60)]
    spec = spec_of({"name": "intent", "choices": list(LABELS)}, dataset={"badRows": {"maxPercent": 100}})
    error = dataset.refused(rows, spec)
    assert error.reason is Reason.DATASET_INVALID
    assert error.message.startswith("rows.jsonl line 1: the answer '1' in column 'label' is none of dataset")
    assert (
        "'3' (rows.jsonl line 3) is not between 0 and 2; no 0 occurs, so they seem to be counted from 1"
        in error.message
    )


def test_numbers_counted_from_0_name_the_choices_in_their_order(dataset: Dataset) -> None:
    rows = [{"text": f"t {i}", "label": float(i % 3)} for i in range(60)]
    prepared = dataset.prepare(rows, spec_of({"name": "intent", "choices": list(LABELS)}))
    assert all(prepared.parts["train"].answer == (prepared.parts["train"].rows - 1) % 3)
    assert prepared.summary.folded_labels == 0
