"""What an evaluation yields, and how the numbers of the status are made from it. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.status import MetricName, Results, Score, SecondaryScore
from finetune_trainer.evaluation.stats import decimal, mcnemar, signed, wilson

__all__ = ["Evaluation", "RowResult", "results"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowResult:
    """One scored row.

    Attributes
    ----------
    index
        Position of the row in its part, from 0.
    row
        Number of the row in its source file, from 1.
    chosen
        Most likely choice as an index into the row's choice set; None without choices.
    right_choice
        Whether that is the expected one; None without choices.
    exact_match
        Whether greedy decoding yields the expected completion: token for token, or the same text when white space is
        folded (known only where text was generated).
    loss
        Summed cross-entropy of the completion tokens, end tokens included, in nats.
    tokens, tokens_correct
        Completion tokens, and those whose arg-max under teacher forcing is right; none of a row that does not fit into
        maxLength.
    predicted
        The answer as text: the chosen choice under ChoiceAccuracy, else what greedy decoding writes; None where nothing
        was generated.
    generated
        What greedy decoding writes; None where nothing was generated.
    expected
        The expected completion as text.
    """

    index: int
    row: int
    chosen: int | None
    right_choice: bool | None
    exact_match: bool
    loss: float
    tokens: int
    tokens_correct: int
    predicted: str | None
    generated: str | None
    expected: str
    correct: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The rows of a part as one model answered them, in the order of the part."""

    metric: MetricName
    rows: tuple[RowResult, ...]
    seconds: float

    @property
    def total(self) -> int:
        """Rows scored."""
        return len(self.rows)

    @property
    def correct(self) -> int:
        """Rows answered correctly under :attr:`metric`."""
        return sum(r.correct for r in self.rows)

    @property
    def accuracy(self) -> float:
        """Share of rows answered correctly, 0 to 1."""
        return self.correct / self.total

    @property
    def tokens(self) -> int:
        """Completion tokens of all rows."""
        return sum(r.tokens for r in self.rows)

    @property
    def loss(self) -> float:
        """Mean cross-entropy of a completion token (not of a row), in nats; 0 where no row has any."""
        return math.fsum(r.loss for r in self.rows) / max(1, self.tokens)

    @property
    def token_accuracy(self) -> float:
        """Share of completion tokens whose arg-max under teacher forcing is right."""
        return sum(r.tokens_correct for r in self.rows) / max(1, self.tokens)

    @property
    def secondary(self) -> tuple[SecondaryScore, ...]:
        """The other metric on the same rows; empty where choices are unknown."""
        if self.metric == "ChoiceAccuracy":
            right = [r.exact_match for r in self.rows]
            return (SecondaryScore(name="ExactMatch", score=decimal(sum(right) / self.total)),)
        if any(r.right_choice is None for r in self.rows):
            return ()
        chosen = sum(bool(r.right_choice) for r in self.rows)
        return (SecondaryScore(name="ChoiceAccuracy", score=decimal(chosen / self.total)),)

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


def results(baseline: Evaluation, test: Evaluation) -> Results:
    """Compare two models on the same rows.

    Raises
    ------
    ValueError
        When the two did not score the same rows by the same metric.
    """
    if baseline.metric != test.metric or [r.index for r in baseline.rows] != [r.index for r in test.rows]:
        raise ValueError("baseline and test must score the same rows by the same metric")
    pairs = [(b.correct, t.correct) for b, t in zip(baseline.rows, test.rows, strict=True)]
    p = mcnemar(gained=pairs.count((False, True)), lost=pairs.count((True, False)))
    return Results(
        metric=test.metric,
        baseline=baseline.score(),
        test=test.score(),
        gain=signed(test.accuracy - baseline.accuracy),
        p_value=str(p),
        paired_test="McNemarExact",
    )
