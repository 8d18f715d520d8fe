"""Scores in words, the same on the console, on the card and on the page. Pure, no torch."""

from __future__ import annotations

from typing import Final

from finetune_api.metrics import LOWER_IS_BETTER, MetricName, SecondaryName
from finetune_api.status import Results, Score
from finetune_trainer.evaluation.metrics.registry import METRICS

__all__ = ["TESTS", "gain_of", "meaning_of", "rows_of", "validation_name"]

TESTS: Final = {"McNemarExact": "exact McNemar test", "PairedBootstrap": "paired bootstrap over rows"}
"""The tests behind a p-value."""


def rows_of(score: Score) -> str:
    """Say on how many rows a score stands: ``90 of 120``, or ``120 rows`` where rows are not right or wrong."""
    return f"{score.total} rows" if score.correct is None else f"{score.correct} of {score.total}"


def meaning_of(name: SecondaryName) -> str:
    """Say what a score under a metric is, as a clause without a full stop."""
    metric = METRICS[name]
    return f"the share of rows in which {metric.meaning}" if metric.counted else metric.meaning


def gain_of(results: Results) -> str:
    """Tell the gain, and what is better where that is not the usual way round."""
    return f"{results.gain} (lower is better)" if results.metric in LOWER_IS_BETTER else results.gain


def validation_name(metric: MetricName) -> str:
    """Name the score of a validation in metrics.jsonl: as OpenAI's files do where it is an accuracy."""
    return "valid_accuracy" if METRICS[metric].counted else f"valid_{metric}"
