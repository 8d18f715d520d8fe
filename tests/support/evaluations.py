"""Made-up evaluations: rows that were asked for one answer and got another."""

from __future__ import annotations

from finetune_trainer.evaluation.results import Evaluation, RowResult

__all__ = ["answered", "answered_row"]


def answered_row(
    index: int, *, expected: str, predicted: str, loss: float = 1.0, tokens: int = 2, confidence: float | None = None
) -> RowResult:
    return RowResult(
        index=index,
        row=index + 1,
        chosen=0,
        right_choice=expected == predicted,
        exact_match=expected == predicted,
        exact_match_tokens=False,
        loss=loss,
        tokens=tokens,
        tokens_correct=1,
        predicted=predicted,
        generated=None,
        expected=expected,
        correct=expected == predicted,
        confidence=confidence,
    )


def answered(*answers: tuple[str, str] | tuple[str, str, float]) -> Evaluation:
    """Expected and given answer of each row, and its loss where it matters."""
    rows = tuple(
        answered_row(i, expected=given[0], predicted=given[1], loss=given[2] if len(given) > 2 else 1.0)
        for i, given in enumerate(answers)
    )
    return Evaluation(metric="ChoiceAccuracy", rows=rows, seconds=1.0)
