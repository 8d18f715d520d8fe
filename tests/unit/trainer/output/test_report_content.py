"""What stands on the page: counts by answer, confusion, what was gained and lost, the worst errors."""

from __future__ import annotations

import pytest

from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.output.report.content import by_answer, changed, confidences, confusion, curves, worst
from finetune_trainer.prepare.prepared import TextRow
from tests.support.evaluations import answered, answered_row

BEFORE = answered(("a", "b"), ("a", "a"), ("b", "?"), ("b", "a"))
AFTER = answered(("a", "a"), ("a", "b", 3.0), ("b", "b"), ("b", "?", 9.0))
TEXTS = [TextRow(i + 1, f"question {i}", row.expected) for i, row in enumerate(AFTER.rows)]


def test_right_rows_are_counted_by_expected_answer() -> None:
    assert [(a.text, a.rows, a.before, a.after) for a in by_answer(BEFORE, AFTER)] == [("a", 2, 1, 1), ("b", 2, 0, 1)]


def test_the_most_frequent_answer_comes_first() -> None:
    once = answered(("a", "a"), ("b", "b"), ("b", "b"))
    assert [a.text for a in by_answer(once, once)] == ["b", "a"]


def test_open_answers_have_no_table_and_no_confusion() -> None:
    different = answered(*((f"x{i}", "y") for i in range(40)))
    assert by_answer(different, different) == ()
    assert confusion(different) is None


def test_more_than_fifty_answers_have_no_table() -> None:
    many = answered(*((f"x{i % 51}", "y") for i in range(200)))
    assert by_answer(many, many) == ()


def test_a_single_answer_has_no_table_and_no_confusion() -> None:
    one = answered(("a", "a"), ("a", "b"))
    assert by_answer(one, one) == ()
    assert confusion(one) is None


def test_confusion_has_expected_answers_as_lines_and_strays_in_the_last_column() -> None:
    crossed = confusion(AFTER)
    assert crossed is not None
    assert crossed.labels == ("a", "b", "(another text)")
    assert crossed.counts == ((1, 1, 0), (0, 1, 1))


def test_how_sure_a_model_was_stands_against_how_often_it_was_right() -> None:
    rows = [answered_row(i, expected="a", predicted="ab"[i % 2], confidence=0.9) for i in range(4)]
    (one,) = confidences(Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0))
    assert (one.rows, one.confidence, one.right) == (4, pytest.approx(0.9), 0.5)
    assert (one.low, one.high) == (13 / 15, 14 / 15)


def test_a_model_without_choices_was_not_sure_of_any() -> None:
    assert confidences(BEFORE) == ()


def test_confusion_without_strays_has_the_labels_alone() -> None:
    crossed = confusion(answered(("a", "b"), ("b", "b"), ("a", "a")))
    assert crossed is not None
    assert (crossed.labels, crossed.counts) == (("a", "b"), ((1, 1), (0, 1)))


def test_every_row_is_in_the_confusion_once() -> None:
    crossed = confusion(AFTER)
    assert crossed is not None
    assert sum(map(sum, crossed.counts)) == AFTER.total


def test_gained_rows_were_wrong_before_and_are_right_after() -> None:
    count, shown = changed(TEXTS, BEFORE, AFTER, gained=True)
    assert (count, [one.row for one in shown]) == (2, [1, 3])


def test_lost_rows_were_right_before_and_are_wrong_after() -> None:
    count, shown = changed(TEXTS, BEFORE, AFTER, gained=False)
    assert (count, [(one.row, one.before, one.after) for one in shown]) == (1, [(2, "a", "b")])


def test_all_changed_rows_are_counted_though_ten_are_shown() -> None:
    before, after = answered(*[("a", "b")] * 13), answered(*[("a", "a")] * 13)
    texts = [TextRow(i + 1, "q", "a") for i in range(13)]
    count, shown = changed(texts, before, after, gained=True)
    assert (count, len(shown)) == (13, 10)


def test_the_worst_errors_are_those_with_the_least_likely_answer() -> None:
    count, shown = worst(TEXTS, BEFORE, AFTER)
    assert (count, [one.row for one in shown]) == (2, [4, 2])


def test_a_long_prompt_is_shown_by_its_end() -> None:
    texts = [TextRow(1, "x" * 5000 + "end", "a")]
    _, (one,) = worst(texts, answered(("a", "b")), answered(("a", "b")))
    assert one.cut
    assert one.prompt.endswith("xend")
    assert len(one.prompt) == 1200


def test_curves_keep_training_and_validation_apart() -> None:
    lines = [{"step": 1, "train_loss": 2.0}, {"step": 2, "valid_loss": 1.5, "valid_accuracy": 0.25}]
    found = curves(lines)
    assert (found.train_loss, found.validation_loss, found.validation_score) == (((1, 2.0),), ((2, 1.5),), ((2, 0.25),))
