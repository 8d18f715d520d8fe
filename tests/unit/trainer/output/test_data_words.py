"""What the card and the page say of the rows."""

from __future__ import annotations

import pytest

from finetune_api.status import DatasetSummary, DroppedRows, NearDuplicates, Resolved, ResolvedSplit
from finetune_trainer.output.data_words import left_out, shares


def test_drops_are_told_by_part() -> None:
    by = DroppedRows(unsplit=4, train=3, validation=2, test=1)
    text = left_out(DatasetSummary(rows=100, dropped=10, dropped_by=by, duplicates=7, leaked=6))
    assert "10 bad rows (train 3, validation 2, test 1, before the split 4), 7 duplicates, 6 that" in text


def test_sealed_rows_without_a_right_answer_are_told_only_where_there_are_any() -> None:
    assert "5 test rows can't be answered" in left_out(DatasetSummary(rows=100, test_unanswerable=5))
    assert "answered" not in left_out(DatasetSummary(rows=100))


@pytest.mark.parametrize(
    ("percents", "validation", "told"),
    [
        ((80, 15, 5), 30, "(asked: 80/15/5 percent)"),
        ((90, 0, 10), 0, "(asked: 90/0/10 percent)"),
        ((90, 10, 0), 30, "(test given, the rest asked: 90/10 percent)"),
        ((90, 0, 10), 30, "(validation given, the rest asked: 90/10 percent)"),
        ((100, 0, 0), 30, "(validation and test given)"),
        ((100, 0, 0), 0, "(test given)"),
    ],
)
def test_the_split_is_told_as_it_was_asked(percents: tuple[int, int, int], validation: int, told: str) -> None:
    train, watched, sealed = percents
    split = ResolvedSplit(train_percent=train, validation_percent=watched, test_percent=sealed)
    data = DatasetSummary(rows=100, train=70, validation=validation, test=10)
    assert shares(data, Resolved(split=split)) == told


@pytest.mark.parametrize(("dropped", "words"), [(0, "are in train all the same"), (5, "were left out of train")])
def test_rows_that_are_nearly_alike_are_told_with_what_became_of_them(dropped: int, words: str) -> None:
    near = NearDuplicates(train=5, validation=1, test=3, dropped=dropped)
    text = left_out(DatasetSummary(rows=100, near_duplicates=near))
    assert f"5 train rows nearly repeat one of 3 test or 1 validation row (word 5-grams) and {words}." in text
    assert "nearly" not in left_out(DatasetSummary(rows=100))
