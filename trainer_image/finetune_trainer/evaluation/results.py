"""What an evaluation yields, and how the numbers of the status are made from it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self, cast

from finetune_api.metrics import METRICS as NAMES
from finetune_api.metrics import MetricName, SecondaryName
from finetune_api.status import FewShotScore, Results, Score, SecondaryScore
from finetune_trainer.evaluation.bootstrap import percentile_interval, same_rows_differ
from finetune_trainer.evaluation.metrics.metric import Array, Metric
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.rows import RowResult, Rows
from finetune_trainer.evaluation.stats import decimal, mcnemar, signed, wilson

__all__ = ["Evaluation", "RowResult", "compared", "few_shot_score", "results"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The rows of a part as one model answered them, in the order of the part.

    Attributes
    ----------
    cut
        Positions of the rows whose answer was decoded to ``max_new_tokens`` and had not ended; not kept.
    """

    metric: MetricName
    rows: Sequence[RowResult]
    seconds: float
    cut: frozenset[int] = field(default=frozenset(), compare=False)

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
    def measure(self) -> Metric:
        """The metric itself."""
        return METRICS[self.metric]

    @property
    def correct(self) -> int:
        """Rows that count as right; see :attr:`~finetune_trainer.evaluation.rows.RowResult.correct`."""
        return int(self._table.column("correct").sum())

    @property
    def verdicts(self) -> list[bool]:
        """Whether each row counts as right."""
        verdicts: list[bool] = self._table.column("correct").tolist()
        return verdicts

    def kept(self, name: SecondaryName) -> Array | None:
        """Return what a metric keeps of the rows, (rows, numbers); None where it says nothing about some row."""
        return METRICS[name].keeps(self._table)

    @cached_property
    def value(self) -> float:
        """The score under :attr:`metric`."""
        return self.measure.of_all(self._kept)

    @property
    def goodness(self) -> float:
        """The score, turned round where lower is better: of two models the better one has more of it."""
        return self.value if self.measure.higher_is_better else -self.value

    @cached_property
    def row_values(self) -> list[float]:
        """The score of each row as if it were the only one."""
        kept = self._kept
        return [self.measure.of_all(kept[i : i + 1]) for i in range(len(kept))]

    @property
    def _kept(self) -> Array:
        kept = self.kept(self.metric)
        if kept is None:
            raise ValueError(f"these rows were not scored by {self.metric}")
        return kept

    @property
    def tokens(self) -> int:
        """Completion tokens of all rows."""
        return int(self._table.column("tokens").sum())

    @property
    def unclosed(self) -> int:
        """Rows without an answer, since the model's thought before it never ends."""
        return int((self._table.column("unclosed") == 1).sum())

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
        """What is told beside the metric, on the same rows; one that says nothing about some row is left out."""
        return tuple(
            SecondaryScore(name=name, score=decimal(value))
            for name in self.measure.beside
            if (value := self.value_of(name)) is not None
        )

    def value_of(self, name: SecondaryName) -> float | None:
        """Return the score under another metric; None where it was not asked, or says nothing about some row."""
        kept = self.kept(name)
        return None if kept is None else METRICS[name].of_all(kept)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval: Wilson's of a share of right rows, else by a bootstrap; None where that knows nothing."""
        if self.measure.counted:
            return wilson(self.correct, self.total)
        return percentile_interval(self._kept, self.measure.value)

    def score(self) -> Score:
        """Return the form of the status."""
        bounds = self.interval
        return Score(
            score=decimal(self.value),
            correct=self.correct if self.measure.counted else None,
            total=self.total,
            ci95=None if bounds is None else [decimal(bound) for bound in bounds],
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
        if wire["metric"] not in NAMES:
            raise ValueError(f"there is no metric {wire['metric']}")
        kept = cls(metric=cast(MetricName, wire["metric"]), rows=Rows.from_wire(wire), seconds=float(wire["seconds"]))
        if kept.total:
            _ = kept._kept  # whether the rows have what the metric looks at
        return kept


def results(baseline: Evaluation, test: Evaluation) -> Results:
    """Compare two models on the same rows.

    Raises
    ------
    ValueError
        When the two did not score the same rows by the same metric.
    """
    gain, p_value = compared(baseline, test)
    return Results(
        metric=test.metric,
        baseline=baseline.score(),
        test=test.score(),
        gain=gain,
        p_value=p_value,
        paired_test="McNemarExact" if test.measure.counted else "PairedBootstrap",
    )


def few_shot_score(few_shot: Evaluation, test: Evaluation, *, examples: int, fewer: int, context: int) -> FewShotScore:
    """Return the few-shot baseline in the form of the status, with what the tuned model gains over it.

    Parameters
    ----------
    examples, fewer, context
        Examples before a row, rows that got fewer, and the mean of the tokens that they take.

    Raises
    ------
    ValueError
        When the two did not score the same rows by the same metric.
    """
    gain, p_value = compared(few_shot, test)
    score = few_shot.score()
    told = {name: getattr(score, name) for name in type(score).model_fields}
    return FewShotScore(**told, examples=examples, fewer=fewer, context_tokens=context, gain=gain, p_value=p_value)


def compared(before: Evaluation, after: Evaluation) -> tuple[str, str]:
    """Return how much better the later one is, and the two-sided p-value that the two differ by chance.

    Raises
    ------
    ValueError
        When the two did not score the same rows by the same metric.
    """
    if before.metric != after.metric or before.indices != after.indices:
        raise ValueError("two models can be compared on the same rows by the same metric only")
    if after.measure.counted:
        pairs = list(zip(before.verdicts, after.verdicts, strict=True))
        p = mcnemar(gained=pairs.count((False, True)), lost=pairs.count((True, False)))
    else:
        p = same_rows_differ(before._kept, after._kept, after.measure.value)
    return signed(after.goodness - before.goodness), str(p)
