"""What the card and the page tell of the rows: every count that is there, and nothing of those that are not."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import Training
from finetune_api.status import DatasetSummary, NearDuplicates, Resolved, ResolvedSplit, Results, Score, TruncatedField
from finetune_trainer.output.data_words import left_out
from finetune_trainer.output.facts import data_facts, scored_rows, watched_rows


def facts(resolved: dict[str, Any] | None = None, **data: Any) -> list[str]:
    summary = DatasetSummary(rows=100, train=70, validation=9, test=18, duplicates=1, **data)
    return data_facts(summary, Resolved(**(resolved or {})))


@pytest.mark.parametrize(
    ("total", "told"), [(18, "18 sealed test rows"), (10, "10 of 18 sealed test rows (evaluation.limit)")]
)
def test_a_score_on_some_of_the_sealed_rows_says_of_how_many(total: int, told: str) -> None:
    score = Score(score="0.5", correct=total // 2, total=total)
    results = Results(metric="ChoiceAccuracy", baseline=score, test=score, gain="+0.0")
    assert scored_rows(results, DatasetSummary(rows=100, train=70, validation=9, test=18)) == told


def test_without_anything_special_only_the_parts_and_what_was_left_out_are_told() -> None:
    assert facts() == [
        "100 rows read: 70 trained on, 9 watched, 18 sealed.",
        left_out(DatasetSummary(rows=100, duplicates=1)),
    ]


@pytest.mark.parametrize(
    ("data", "resolved", "told"),
    [
        ({"test_unanswerable": 3}, {}, "3 test rows can't be answered"),
        ({"conflicts": 2}, {}, "2 rows have an input that also stands with another output"),
        ({"truncated": 5}, {}, "5 rows were shortened to fit maxLength."),
        (
            {"truncated": 5, "truncated_fields": [TruncatedField(name="context", rows=4)]},
            {},
            "5 rows were shortened to fit maxLength (context in 4).",
        ),
        ({"folded_labels": 6}, {}, "6 labels differed from the choice"),
        ({}, {"choices": 4}, "There are 4 choices."),
        ({"control_tokens": 7}, {}, "7 rows spell control tokens"),
        ({}, {"select_by": "Loss"}, "best ones by validation loss"),
        ({}, {"stop": ["\n", "Ü"]}, 'at an end token or at one of: "\\n", "Ü".'),
        (
            {},
            {"split": ResolvedSplit(train_percent=90, validation_percent=10, test_percent=0)},
            "18 sealed (test given, the rest asked: 90/10 percent).",
        ),
    ],
)
def test_each_count_of_the_report_is_told(data: dict[str, Any], resolved: dict[str, Any], told: str) -> None:
    assert any(told in fact for fact in facts(resolved, **data))


@pytest.mark.parametrize(
    ("data", "resolved", "told"),
    [
        ({"test_unanswerable": 1}, {}, "1 test row can't be answered"),
        ({"conflicts": 1}, {}, "1 row has an input that also stands with another output"),
        ({"truncated": 1}, {}, "1 row was shortened to fit maxLength."),
        ({"folded_labels": 1}, {}, "1 label differed from the choice"),
        ({}, {"choices": 1}, "There is 1 choice."),
        ({"control_tokens": 1}, {}, "1 row spells control tokens"),
        ({"train_answers": 1}, {}, "have 1 answer to learn."),
        ({"dropped": 1}, {}, "Left out: 1 bad row, 1 duplicate, 0 that"),
        (
            {"near_duplicates": NearDuplicates(train=1, validation=1, test=0, dropped=1)},
            {},
            "1 train row nearly repeats one of 0 test or 1 validation row (word 5-grams) and was left out of train.",
        ),
    ],
)
def test_one_row_is_no_rows(data: dict[str, Any], resolved: dict[str, Any], told: str) -> None:
    assert any(told in fact for fact in facts(resolved, **data))


@pytest.mark.parametrize(
    ("rows", "limit", "told"),
    [
        (0, None, ""),
        (1, None, "1 validation row"),
        (9, 9, "9 validation rows"),
        (9, 4, "4 of 9 validation rows (training.validation.limit)"),
    ],
)
def test_a_validation_says_on_how_many_rows_it_stands(rows: int, limit: int | None, told: str) -> None:
    training = Training.model_validate({"validation": {"limit": limit}} if limit else {})
    assert watched_rows(DatasetSummary(rows=100, validation=rows), training) == told


def test_answers_of_conversations_are_told() -> None:
    facts = data_facts(DatasetSummary(rows=9, train=7, train_answers=21), Resolved())
    assert "The conversations trained on have 21 answers to learn." in facts
