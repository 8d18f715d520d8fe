"""What an evaluation yields, and how the numbers of the status are made from it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

from finetune_api.status import MetricName, Results, Score, SecondaryName, SecondaryScore
from finetune_trainer.evaluation.rows import RowResult, Rows
from finetune_trainer.evaluation.stats import decimal, mcnemar, signed, wilson

__all__ = ["Evaluation", "RowResult", "results"]

_VERDICTS: Final[Mapping[SecondaryName, str]] = {
    "ChoiceAccuracy": "right_choice",
    "ExactMatch": "exact_match",
    "ExactMatchTokens": "exact_match_tokens",
}
"""Every metric's verdict on a row; the score is the share of rows that it is true for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The rows of a part as one model answered them, in the order of the part."""

    metric: MetricName
    rows: Sequence[RowResult]
    seconds: float

    @cached_property
    def _table(self) -> Rows:
        return self.rows if isinstance(self.rows, Rows) else Rows.of(self.rows)

    @property
    def total(self) -> int:
        """Rows scored."""
        return len(self.rows)

    @property
    def indices(self) -> list[int]:
        """Positions of the rows in their part."""
        indices: list[int] = self._table.column("index").tolist()
        return indices

    @property
    def correct(self) -> int:
        """Rows answered correctly under :attr:`metric`."""
        return int(self._table.column("correct").sum())

    @property
    def verdicts(self) -> list[bool]:
        """Whether each row was answered correctly under :attr:`metric`."""
        verdicts: list[bool] = self._table.column("correct").tolist()
        return verdicts

    @property
    def accuracy(self) -> float:
        """Share of rows answered correctly, 0 to 1."""
        return self.correct / self.total

    @property
    def tokens(self) -> int:
        """Completion tokens of all rows."""
        return int(self._table.column("tokens").sum())

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a completion token (not of a row), in nats; 0 where no row has any."""
        return math.fsum(self._table.column("loss").tolist()) / max(1, self.tokens)

    @property
    def token_accuracy(self) -> float:
        """Share of completion tokens whose arg-max under teacher forcing is right."""
        return int(self._table.column("tokens_correct").sum()) / max(1, self.tokens)

    @property
    def secondary(self) -> tuple[SecondaryScore, ...]:
        """The other metrics on the same rows; one that says nothing about some row is left out."""
        verdicts = {name: self._table.column(column) for name, column in _VERDICTS.items() if name != self.metric}
        return tuple(
            SecondaryScore(name=name, score=decimal(int(verdict.sum()) / self.total))
            for name, verdict in verdicts.items()
            if not (verdict < 0).any()
        )

    def score(self) -> Score:
        """Return the form of the status, with the Wilson interval."""
        low, high = wilson(self.correct, self.total)
        return Score(
            score=decimal(self.accuracy),
            correct=self.correct,
            total=self.total,
            ci95=[decimal(low), decimal(high)],
            loss=decimal(self.loss) if self.tokens else None,
            secondary=list(self.secondary) or None,
        )

    def to_wire(self) -> dict[str, Any]:
        """Return it as JSON can hold it, with every bit of its numbers."""
        return {"metric": self.metric, "seconds": self.seconds, **self._table.to_wire()}

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_wire` returned.

        Raises
        ------
        ValueError, KeyError
            It is something else.
        """
        metric: MetricName = "ChoiceAccuracy" if wire["metric"] == "ChoiceAccuracy" else "ExactMatch"
        if wire["metric"] != metric:
            raise ValueError(f"there is no metric {wire['metric']}")
        return cls(metric=metric, rows=Rows.from_wire(wire), seconds=float(wire["seconds"]))


def results(baseline: Evaluation, test: Evaluation) -> Results:
    """Compare two models on the same rows.

    Raises
    ------
    ValueError
        When the two did not score the same rows by the same metric.
    """
    if baseline.metric != test.metric or baseline.indices != test.indices:
        raise ValueError("baseline and test must score the same rows by the same metric")
    pairs = list(zip(baseline.verdicts, test.verdicts, strict=True))
    p = mcnemar(gained=pairs.count((False, True)), lost=pairs.count((True, False)))
    return Results(
        metric=test.metric,
        baseline=baseline.score(),
        test=test.score(),
        gain=signed(test.accuracy - baseline.accuracy),
        p_value=str(p),
        paired_test="McNemarExact",
    )
