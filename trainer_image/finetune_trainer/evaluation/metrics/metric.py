"""What a metric is: what it keeps of a row, and the score of many rows from that.

A score is a function of what was kept of the rows and of how often each row counts. With every row once it is the score
itself; with rows drawn anew it is a bootstrap's, which so never looks at a text again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from finetune_api.metrics import LOWER_IS_BETTER, SecondaryName
from finetune_trainer.evaluation.rows import Rows

__all__ = ["Array", "Metric", "Needs", "TextMetric", "mean", "share"]

Array = NDArray[np.float64]
Needs = Literal["nothing", "choices", "labels"]
"""Labels are choices that all rows share."""
Kind = Literal["predict", "score"]
Verdict = Literal["right_choice", "right_norm", "exact_match", "exact_match_tokens", "measure"]
"""What tells whether a row is right: a column of the table, or what the metric keeps of it."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric over what the table of scored rows holds.

    Attributes
    ----------
    name
        In the API.
    kind
        ``predict`` compares generated text with what was expected; ``score`` looks at likelihoods.
    meaning
        What the score is, to be read after "is" or "when" (see ``counted``).
    keeps
        What is kept of the rows, (rows, numbers); None where some row has no such thing.
    value
        Scores, from the kept numbers (cells, numbers) and from how often each cell counts, (scores, cells).
    counted
        Whether the score is the share of right rows: it then has a count, Wilson's interval and McNemar's test.
    verdict
        What makes a row right; None where rows are neither right nor wrong.
    needs
        What rows must have.
    most
        The highest value there is; None without one. The lowest is 0, or 1 for Perplexity.
    beside
        What to tell beside it on the same rows, the most telling first.
    """

    name: SecondaryName
    kind: Kind
    meaning: str
    keeps: Callable[[Rows], Array | None]
    value: Callable[[Array, Array], Array]
    counted: bool = False
    verdict: Verdict | None = None
    needs: Needs = "nothing"
    most: float | None = 1.0
    beside: tuple[SecondaryName, ...] = ()

    @property
    def higher_is_better(self) -> bool:
        """Whether a model with the higher score is the better one."""
        return self.name not in LOWER_IS_BETTER

    def of_all(self, kept: Array) -> float:
        """Return the score of rows, each counted once."""
        cells, counts = np.unique(kept, axis=0, return_counts=True)  # sorted: the rows' order leaves no trace
        return float(self.value(cells, counts[None].astype(np.float64))[0])


@dataclass(frozen=True, kw_only=True)
class TextMetric(Metric):
    """A metric over the text that a model wrote and the expected one, both as the stop rule leaves them.

    Attributes
    ----------
    compare
        What is kept of a row: (said, expected) -> numbers.
    unanswered
        What is kept of a row that no answer can be right for: expected -> numbers; as of an empty answer, unless an
        empty one can be right.
    scorable
        Why no answer at all can score against an expected text; empty where one can.
    """

    kind: Kind = "predict"
    keeps: Callable[[Rows], Array | None] = field(init=False)
    compare: Callable[[str, str], tuple[float, ...]]
    unanswered: Callable[[str], tuple[float, ...]] | None = None
    scorable: Callable[[str], str] = lambda _: ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keeps", lambda rows: rows.measure(self.name))

    def without_answer(self, expected: str) -> tuple[float, ...]:
        """Return what is kept of a row that no answer can be right for."""
        return self.compare("", expected) if self.unanswered is None else self.unanswered(expected)


def mean(kept: Array, weights: Array) -> Array:
    """Return the mean of the rows' own values."""
    return np.asarray(weights @ kept[:, 0] / weights.sum(axis=1), dtype=np.float64)


def share(kept: Array, weights: Array) -> Array:
    """Return the sum of the first number over that of the second; 0 where that is 0."""
    sums = weights @ kept
    return np.asarray(sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], 1), dtype=np.float64)
