"""Metrics over choices: which of the possible answers has the highest likelihood. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from finetune_trainer.evaluation.metrics.metric import Array, Metric, mean
from finetune_trainer.evaluation.rows import Rows

__all__ = [
    "BALANCED_ACCURACY",
    "BINS",
    "CHOICE_ACCURACY",
    "CHOICE_ACCURACY_NORM",
    "ECE",
    "MACRO_F1",
    "ConfidenceBin",
    "confusion",
    "reliability",
]

BINS: Final = 15
"""Of equal width, over confidences from 0 to 1, as in Guo et al. 2017."""


def _column(rows: Rows, name: str) -> Array | None:
    column = rows.column(name)
    return None if (column < 0).any() else column.astype(np.float64)[:, None]


def _labels(rows: Rows) -> Array | None:
    """(expected, chosen) of each row; a row that was not asked has chosen nothing."""
    labels = rows.column("label")
    if (labels < 0).any():
        return None
    return np.stack([labels, rows.column("chosen")], axis=1).astype(np.float64)


def confusion(kept: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Count by label: rows that are right, that expect it, that were given it; (scores, labels) each."""
    expected, chosen = kept.astype(np.int64).T
    labels = np.arange(max(int(expected.max()), int(chosen.max())) + 1)
    expects, given = (expected[:, None] == labels).astype(np.float64), (chosen[:, None] == labels).astype(np.float64)
    return weights @ (expects * given), weights @ expects, weights @ given


def _macro_f1(kept: Array, weights: Array) -> Array:
    right, expects, given = confusion(kept, weights)
    return _mean_of_labels(2 * right, expects + given)


def _balanced(kept: Array, weights: Array) -> Array:
    right, expects, _ = confusion(kept, weights)
    return _mean_of_labels(right, expects)


def _mean_of_labels(above: Array, below: Array) -> Array:
    """Mean of the quotients of those labels that have one."""
    there = below > 0
    return np.asarray(np.where(there, above / np.where(there, below, 1), 0).sum(axis=1) / there.sum(axis=1))


def _confidences(rows: Rows) -> Array | None:
    """(confidence, right) of the rows that were asked."""
    right, confidence = rows.column("right_choice"), rows.column("confidence")
    if (right < 0).any() or (confidence < 0).all():
        return None
    return np.stack([confidence, right], axis=1).astype(np.float64)


def _belongs(confidence: Array) -> Array:
    """(rows, bins): 1 where a row lies in a bin, its upper edge counted; rows that were not asked lie in none."""
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1)
    return np.asarray((bins[:, None] == np.arange(BINS)) & (confidence >= 0)[:, None], dtype=np.float64)


def _calibration(kept: Array, weights: Array) -> Array:
    confidence, right = kept.T
    belongs = _belongs(confidence)
    apart = np.abs(weights @ (belongs * (confidence - right)[:, None])).sum(axis=1)
    return np.asarray(apart / np.maximum(1, weights @ belongs.sum(axis=1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceBin:
    """Rows that a model was about as sure of: how many, its mean confidence in them, and the share that is right.

    Confidences above ``low`` and up to ``high``.
    """

    low: float
    high: float
    rows: int
    confidence: float
    right: float


def reliability(kept: Array) -> tuple[ConfidenceBin, ...]:
    """Sort rows by confidence, from the least sure to the surest; bins without rows are left out.

    The mean of ``abs(confidence - right)``, weighted by rows, is the score of :data:`ECE`.

    Parameters
    ----------
    kept
        What ECE keeps of the rows, (rows, 2).
    """
    confidence, right = kept.T
    belongs = _belongs(confidence)
    counts, sure, hits = belongs.sum(axis=0), confidence @ belongs, right @ belongs
    return tuple(
        ConfidenceBin(
            low=at / BINS,
            high=(at + 1) / BINS,
            rows=int(counts[at]),
            confidence=float(sure[at] / counts[at]),
            right=float(hits[at] / counts[at]),
        )
        for at in np.flatnonzero(counts).tolist()
    )


CHOICE_ACCURACY: Final = Metric(
    name="ChoiceAccuracy",
    kind="score",
    meaning="the most likely of the choices is the expected one",
    keeps=lambda rows: _column(rows, "right_choice"),
    value=mean,
    counted=True,
    verdict="right_choice",
    needs="choices",
    beside=("ExactMatch", "ChoiceAccuracyNorm", "MacroF1", "ECE"),
)
"""Share of rows whose expected choice has the highest sum of token log-probabilities, ties to the first: ``acc`` of
lm-evaluation-harness (Gao et al. 2021)."""

CHOICE_ACCURACY_NORM: Final = Metric(
    name="ChoiceAccuracyNorm",
    kind="score",
    meaning="the choice with the highest log-likelihood a character is the expected one",
    keeps=lambda rows: _column(rows, "right_norm"),
    value=mean,
    counted=True,
    verdict="right_norm",
    needs="choices",
    beside=("ChoiceAccuracy", "ExactMatch", "MacroF1", "ECE"),
)
"""The same with each sum divided by the characters (code points, not bytes) of the choice as it is written, so that
long choices are not at a disadvantage: ``acc_norm`` of lm-evaluation-harness."""

MACRO_F1: Final = Metric(
    name="MacroF1",
    kind="score",
    meaning="the mean over labels of F1, where the most likely choice is the answer",
    keeps=_labels,
    value=_macro_f1,
    verdict="right_choice",
    needs="labels",
    beside=("ChoiceAccuracy", "BalancedAccuracy", "ExactMatch", "ECE"),
)
"""Unweighted mean of F1 = 2 TP / (2 TP + FP + FN) over the labels that are expected or were given somewhere
(``f1_score(average="macro")`` of scikit-learn). Rows whose answer is no choice, or
that don't fit into maxLength, are a label of their own, with F1 0."""

BALANCED_ACCURACY: Final = Metric(
    name="BalancedAccuracy",
    kind="score",
    meaning="the mean over expected labels of the share of their rows that are right",
    keeps=_labels,
    value=_balanced,
    verdict="right_choice",
    needs="labels",
    beside=("ChoiceAccuracy", "MacroF1", "ExactMatch", "ECE"),
)
"""Unweighted mean of recall over the labels that are expected somewhere (Brodersen et al. 2010;
``balanced_accuracy_score`` of scikit-learn)."""

ECE: Final = Metric(
    name="ECE",
    kind="score",
    meaning="the expected calibration error, how far the confidence in the most likely choice lies from the share of "
    "rows in which it is right: lower is better, 0 is the best",
    keeps=_confidences,
    value=_calibration,
    needs="choices",
)
"""Expected calibration error over 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599); the confidence is the
chosen choice's likelihood over the sum of all choices' likelihoods. Rows that were not asked have none, and rows that
no answer can be right for count as wrong. Also under ChoiceAccuracyNorm it is that of the most likely choice."""
