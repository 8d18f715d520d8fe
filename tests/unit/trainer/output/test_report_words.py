"""The sentence on top of the page never claims more than the rows show."""

from __future__ import annotations

import pytest

from finetune_api.status import Compute, DatasetSummary, Resolved, Results
from finetune_trainer.evaluation.results import results
from finetune_trainer.output.report.words import chinchilla, headline
from tests.support.evaluations import answered


def compared(*, kept: int = 0, gained: int = 0, lost: int = 0, wrong: int = 0) -> Results:
    before = [("a", "a")] * kept + [("a", "b")] * gained + [("a", "a")] * lost + [("a", "b")] * wrong
    after = [("a", "a")] * kept + [("a", "a")] * gained + [("a", "b")] * lost + [("a", "b")] * wrong
    return results(answered(*before), answered(*after))


def said(found: Results, data: DatasetSummary | None = None) -> str:
    return headline("hf://org/model", found, data, Resolved(method="LoRA"))


def test_the_sentence_names_model_method_metric_rows_and_both_scores() -> None:
    text = said(compared(kept=20, gained=60, wrong=20))
    for part in (
        "LoRA tuning of hf://org/model",
        "ChoiceAccuracy on 100 sealed test rows",
        "from 0.2000 (95 %",
        "to 0.8000 (95 %",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (compared(kept=20, gained=60, wrong=20), "a gain of +0.6000 that chance would hardly give"),
        (compared(kept=20, lost=60, wrong=20), "a loss of 0.6000 that chance would hardly give"),
        (compared(kept=20, gained=3, lost=1), "a difference of +0.0833 that may well be chance"),
        (compared(kept=20, gained=1, lost=3), "a difference of -0.0833 that may well be chance"),
        (compared(kept=20, gained=3, lost=3), "no difference"),
    ],
)
def test_the_verdict_follows_the_paired_test(found: Results, verdict: str) -> None:
    assert verdict in said(found)


def test_five_gained_rows_may_still_be_chance() -> None:
    # Exact McNemar: 2 / 2**5 = 0.0625.
    assert "may well be chance (p = 0.0625)" in said(compared(kept=5, gained=5))


def test_six_gained_rows_are_told_as_a_gain() -> None:
    # 2 / 2**6 = 0.03125.
    assert "chance would hardly give (p = 0.0313)" in said(compared(kept=5, gained=6))


def test_a_limit_on_the_scored_rows_is_told() -> None:
    assert "on 10 of 37 sealed test rows" in said(compared(kept=10), DatasetSummary(rows=99, test=37))


def test_the_tokens_are_compared_with_training_from_scratch() -> None:
    text = chinchilla(Compute(train_tokens=3_690_000, compute_optimal_tokens=2_690_300_160))
    assert "3,690,000 tokens, 0.14 % of the 2,690,300,160" in text


def test_nothing_is_compared_without_counts() -> None:
    assert chinchilla(Compute(train_tokens=5)) == ""
