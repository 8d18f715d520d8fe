"""A sealed row that no answer fits is wrong, before and after, and spoils nothing else."""

from __future__ import annotations

import pytest

from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.prepare.prepared import NO_ROOM, UNKNOWN_ANSWER
from tests.support.score_kit import END, Loader, Row, hand_over, plain_greedy, texts_of


def test_a_row_that_can_not_be_answered_is_wrong_even_if_the_model_says_just_that(model: Loader) -> None:
    loaded = model("llama")
    prompt = [5, 6, 7, 8]
    said = plain_greedy(loaded, prompt, 6)
    rows: list[Row] = [(prompt, said, -1), (prompt, said, -1)]
    part, prepared = hand_over(rows, unanswerable=[0, UNKNOWN_ANSWER])
    scored = evaluate(loaded, part, prepared, texts=texts_of(loaded, rows), generate=True)
    assert [r.correct for r in scored.rows] == [True, False]
    assert [r.exact_match for r in scored.rows] == [True, False]
    # Products of another shape are summed in another order, on some processors: the last bits may differ.
    assert scored.rows[0].loss == pytest.approx(scored.rows[1].loss, rel=1e-5)


def test_a_row_that_does_not_fit_is_wrong_and_adds_nothing_to_the_loss(model: Loader) -> None:
    loaded = model("llama")
    row: Row = ([5, 6, 7, 8], [9, END], 0)
    choices = [[[9], [10]]]
    part, prepared = hand_over([row, ([], [], -1)], choices, metric="ChoiceAccuracy", unanswerable=[0, NO_ROOM])
    alone, _ = hand_over([row], choices, metric="ChoiceAccuracy")
    both = evaluate(loaded, part, prepared, texts=(), generate=False)
    one = evaluate(loaded, alone, prepared, texts=(), generate=False)
    assert (both.total, both.correct) == (2, one.correct)
    assert both.loss == pytest.approx(one.loss)
    assert [r.right_choice for r in both.rows][1] is False
    assert both.score().secondary is not None


def test_without_one_row_that_fits_there_is_no_loss(model: Loader) -> None:
    part, prepared = hand_over([([], [], -1)], unanswerable=[NO_ROOM])
    scored = evaluate(model("llama"), part, prepared, texts=(), generate=False).score()
    assert (scored.correct, scored.total, scored.loss) == (0, 1, None)
