"""Rows as the evaluator would have scored them, for metrics that need no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune_api.metrics import SecondaryName
from finetune_trainer.evaluation.metrics.metric import TextMetric
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.rows import RowResult, Rows

__all__ = ["labelled", "of_texts", "scored", "text_metric"]


def text_metric(name: SecondaryName) -> TextMetric:
    metric = METRICS[name]
    assert isinstance(metric, TextMetric)
    return metric


def of_texts(name: SecondaryName, said: Sequence[str], expected: Sequence[str]) -> float:
    """The score of texts under a metric."""
    metric = text_metric(name)
    return metric.of_all(np.array([metric.compare(a, b) for a, b in zip(said, expected, strict=True)]))


def scored(index: int, **changes: object) -> RowResult:
    fields: dict[str, object] = {
        "index": index,
        "row": index + 1,
        "chosen": None,
        "right_choice": None,
        "exact_match": False,
        "exact_match_tokens": False,
        "loss": 1.0,
        "tokens": 1,
        "tokens_correct": 0,
        "predicted": None,
        "generated": None,
        "expected": "",
        "correct": False,
    }
    return RowResult(**(fields | changes))  # type: ignore[arg-type]


def labelled(expected: Sequence[int], chosen: Sequence[int]) -> NDArray[np.float64]:
    """What the metrics over labels keep of rows with these labels."""
    rows = [
        scored(i, label=e, chosen=None if c < 0 else c, right_choice=e == c)
        for i, (e, c) in enumerate(zip(expected, chosen, strict=True))
    ]
    kept = METRICS["MacroF1"].keeps(Rows.of(rows))
    assert kept is not None
    return kept
