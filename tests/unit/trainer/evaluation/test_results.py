"""From scored rows to the numbers of the status."""

from __future__ import annotations

import pytest

from finetune_api.status import MetricName, SecondaryScore
from finetune_trainer.evaluation.results import Evaluation, RowResult, results


def row(index: int, *, correct: bool, exact: bool = False, loss: float = 1.0, tokens: int = 1) -> RowResult:
    return RowResult(
        index=index,
        row=index + 1,
        chosen=0,
        right_choice=correct,
        exact_match=exact,
        exact_match_tokens=False,
        loss=loss,
        tokens=tokens,
        tokens_correct=int(exact) * tokens,
        predicted=None,
        generated=None,
        expected="",
        correct=correct,
    )


def evaluation(marks: str, metric: MetricName = "ChoiceAccuracy") -> Evaluation:
    rows = tuple(row(i, correct=mark == "x") for i, mark in enumerate(marks))
    return Evaluation(metric=metric, rows=rows, seconds=1.0)


def test_loss_and_token_accuracy_weigh_tokens_not_rows() -> None:
    rows = (row(0, correct=True, exact=True, loss=2.0, tokens=1), row(1, correct=False, loss=4.0, tokens=9))
    scored = Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0)
    assert scored.loss == pytest.approx(0.6)
    assert scored.token_accuracy == pytest.approx(0.1)
    assert scored.value == pytest.approx(0.5)


def test_a_score_has_its_interval_and_the_other_metric() -> None:
    score = evaluation("xxxxxxxx..").score()
    assert (score.score, score.correct, score.total) == ("0.8000", 8, 10)
    assert score.ci95 == ["0.4902", "0.9433"]
    assert score.loss == "1.0000"
    assert score.secondary == [SecondaryScore(name="ExactMatch", score="0.0000")]


def test_exact_match_has_choice_accuracy_beside_it_where_choices_are_known() -> None:
    assert evaluation("xx..", "ExactMatch").secondary[0] == SecondaryScore(name="ChoiceAccuracy", score="0.5000")


def test_results_pair_the_same_rows() -> None:
    compared = results(evaluation("x.........."), evaluation(".xxxxxxxx.."))
    assert compared.gain == "+0.6364"
    assert compared.p_value == "0.0391"  # 8 gained, 1 lost: 2 * (1 + 9) / 2**9
    assert compared.paired_test == "McNemarExact"
    assert (compared.baseline.correct, compared.test.correct) == (1, 8)


@pytest.mark.parametrize("other", [evaluation("xx"), evaluation("xxx", "ExactMatch")])
def test_results_of_different_rows_or_metrics_are_not_compared(other: Evaluation) -> None:
    with pytest.raises(ValueError, match="same rows"):
        results(evaluation("xxx"), other)
