"""From scored rows to the numbers of the status."""

from __future__ import annotations

import pytest

from finetune_api.status import MetricName, SecondaryScore
from finetune_trainer.compute import Shape, compute, training_flops
from finetune_trainer.outcome import Evaluation, RowResult, TrainOutcome, results


def row(index: int, *, correct: bool, exact: bool = False, loss: float = 1.0, tokens: int = 1) -> RowResult:
    return RowResult(
        index=index,
        row=index + 1,
        chosen=0,
        right_choice=correct,
        exact_match=exact,
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
    assert scored.accuracy == pytest.approx(0.5)


def test_a_score_has_its_interval_and_the_other_metric() -> None:
    score = evaluation("xxxxxxxx..").score()
    assert (score.score, score.correct, score.total) == ("0.8000", 8, 10)
    assert score.ci95 == ["0.4902", "0.9433"]
    assert score.loss == "1.0000"
    assert score.secondary == [SecondaryScore(name="ExactMatch", score="0.0000")]


def test_exact_match_has_choice_accuracy_beside_it_where_choices_are_known() -> None:
    assert evaluation("xx..", "ExactMatch").secondary == (SecondaryScore(name="ChoiceAccuracy", score="0.5000"),)


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


# Llama-3.2-1B from its published shape: 16 layers of width 2048, 32 heads of 64, 8 key-value heads, 8192 inside.
ONE_BILLION = Shape(
    parameters=1_235_814_400,
    trained=1_235_814_400,
    body=16 * (2048 * 2048 + 2 * 2048 * 512 + 2048 * 2048 + 3 * 2048 * 8192),
    head=128_256 * 2048,
    attention_width=16 * 32 * 64,
    adapters=0,
)


def test_the_flops_of_a_known_model_are_those_of_the_formula() -> None:
    per_token = training_flops(ONE_BILLION, tokens=512, supervised=512, attention_pairs=512 * 512) / 512
    assert per_token == pytest.approx(7.5e9, rel=0.01)


def test_the_head_costs_only_what_is_supervised() -> None:
    all_of_it = training_flops(ONE_BILLION, tokens=1000, supervised=1000, attention_pairs=0)
    tenth = training_flops(ONE_BILLION, tokens=1000, supervised=100, attention_pairs=0)
    assert all_of_it - tenth == 6 * ONE_BILLION.head * 900


def test_frozen_weights_cost_two_thirds() -> None:
    shape = Shape(parameters=1000, trained=10, body=1000, head=0, attention_width=0, adapters=10)
    assert training_flops(shape, tokens=1, supervised=0, attention_pairs=0) == 4 * 1000 + 6 * 10


def test_compute_is_printed_for_the_status() -> None:
    outcome = TrainOutcome(
        losses=(1.0, 0.5),
        validation=(),
        best_epoch=1,
        stopped_early=False,
        tokens=400_000,
        supervised_tokens=40_000,
        attention_pairs=400_000 * 512,
        seconds=10.0,
        peak_memory_bytes=123,
    )
    spent = compute(ONE_BILLION, outcome)
    assert spent.flops == "2.44e15"
    assert spent.compute_optimal_tokens == 20 * 1_235_814_400
    assert (spent.train_tokens, spent.train_seconds, spent.tokens_per_second) == (400_000, 10, 40_000)
