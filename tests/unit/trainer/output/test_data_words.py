"""What the card and the page say of the rows."""

from __future__ import annotations

from finetune_api.status import DatasetSummary, DroppedRows, Resolved, ResolvedSplit
from finetune_trainer.output.data_words import left_out, shares


def test_drops_are_told_by_part() -> None:
    by = DroppedRows(unsplit=4, train=3, validation=2, test=1)
    text = left_out(DatasetSummary(rows=100, dropped=10, dropped_by=by, duplicates=7, leaked=6))
    assert "10 bad rows (train 3, validation 2, test 1, before the split 4), 7 duplicates, 6 that" in text


def test_sealed_rows_without_a_right_answer_are_told_only_where_there_are_any() -> None:
    assert "5 test rows can't be answered" in left_out(DatasetSummary(rows=100, test_unanswerable=5))
    assert "answered" not in left_out(DatasetSummary(rows=100))


def test_the_shares_are_those_that_held() -> None:
    split = ResolvedSplit(train_percent=80, validation_percent=15, test_percent=5)
    assert shares(Resolved(split=split)) == "(cut 80/15/5 percent)"
