"""What stands on the page, as frozen values that the template only has to write down. Pure, no plots, no markup."""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_trainer.evaluation.metrics.over_choices import ConfidenceBin, reliability
from finetune_trainer.evaluation.results import Evaluation, RowResult
from finetune_trainer.evaluation.stats import decimal
from finetune_trainer.output.report.thought import Thought, shown_thought
from finetune_trainer.prepare.prepared import TextRow

__all__ = [
    "Answer",
    "Confusion",
    "Curves",
    "Example",
    "by_answer",
    "changed",
    "confidences",
    "confusion",
    "curves",
    "worst",
]

MOST_ERRORS: Final = 25
MOST_CHANGED: Final = 10
MOST_ANSWERS: Final = 50
MOST_CONFUSED: Final = 15
"""A confusion matrix with more labels than this can't be read."""
SHOWN: Final = 1200
"""Characters of a prompt that are shown; its end is what the answer goes on from."""
OTHER: Final = "(another text)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Rows that expect one answer: how many, and how many of them were right before and after."""

    text: str
    rows: int
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """How often each expected label (a line) was answered with each label (a column) by the tuned model."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sealed row with both answers; ``prompt`` is its end where ``cut``, ``note`` why no answer can be right.

    ``before_score`` and ``after_score`` are the row's own, where rows are neither right nor wrong. ``thought`` is what
    the row has before its answer.
    """

    row: int
    prompt: str
    cut: bool
    expected: str
    before: str
    after: str
    before_right: bool
    after_right: bool
    note: str
    before_score: str = ""
    after_score: str = ""
    thought: Thought | None = None
    before_thought: Thought | None = None
    after_thought: Thought | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Points (step, value) of the losses in nats a token and of the validation score."""

    train_loss: tuple[tuple[int, float], ...]
    validation_loss: tuple[tuple[int, float], ...]
    validation_score: tuple[tuple[int, float], ...]


def by_answer(before: Evaluation, after: Evaluation) -> tuple[Answer, ...]:
    """Count by expected answer, the most frequent first; nothing where answers are too many, or as many as rows.

    Nor where the metric knows no right rows.
    """
    if after.measure.verdict is None:
        return ()
    rows, was, now = Counter[str](), Counter[str](), Counter[str]()
    for one, other in zip(before.rows, after.rows, strict=True):
        rows[one.expected] += 1
        was[one.expected] += one.correct
        now[one.expected] += other.correct
        if len(rows) > MOST_ANSWERS:
            return ()
    if len(rows) in (1, after.total):
        return ()
    ordered = sorted(rows, key=lambda text: (-rows[text], text))
    return tuple(Answer(text=t, rows=rows[t], before=was[t], after=now[t]) for t in ordered)


def confusion(after: Evaluation) -> Confusion | None:
    """Cross expected labels with answers; None where there are no labels, or too many to be read.

    Answers that are no label share the last column.
    """
    pairs = Counter((row.expected, row.predicted) for row in after.rows)
    labels = sorted({expected for expected, _ in pairs})
    if len(labels) > MOST_CONFUSED or len(labels) in (1, after.total):
        return None
    strays = any(predicted not in labels for _, predicted in pairs)
    columns = (*labels, *((OTHER,) if strays else ()))
    counts = [[pairs[expected, answer] for answer in labels] for expected in labels]
    if strays:
        totals = Counter(row.expected for row in after.rows)
        counts = [[*line, totals[label] - sum(line)] for label, line in zip(labels, counts, strict=True)]
    return Confusion(labels=columns, counts=tuple(tuple(line) for line in counts))


def confidences(scored: Evaluation) -> tuple[ConfidenceBin, ...]:
    """Return how sure the model was against how often it was right; nothing where it had no choices."""
    kept = scored.kept("ECE")
    return () if kept is None else reliability(kept)


def changed(
    texts: Sequence[TextRow], before: Evaluation, after: Evaluation, *, gained: bool
) -> tuple[int, tuple[Example, ...]]:
    """Return how many rows only one of the two models got right, and the first of them.

    Parameters
    ----------
    gained
        True: rows that only the tuned model got right; False: those that only the untouched one did. Where rows are
        neither right nor wrong: those that score better with the tuned model, or worse, the most changed first.
    """
    if after.measure.verdict is None:
        return _moved(texts, before, after, gained=gained)
    pairs = zip(before.rows, after.rows, strict=True)
    found = [(was, now) for was, now in pairs if was.correct is not now.correct and now.correct is gained]
    return len(found), tuple(_example(texts, was, now) for was, now in found[:MOST_CHANGED])


def worst(texts: Sequence[TextRow], before: Evaluation, after: Evaluation) -> tuple[int, tuple[Example, ...]]:
    """Return how many rows the tuned model got wrong, and those whose expected answer it found least likely.

    Where rows are neither right nor wrong, all of them, and those with the worst scores of their own.
    """
    if after.measure.verdict is None:
        values = _goodness(after)
        places = heapq.nsmallest(MOST_ERRORS, range(len(values)), key=values.__getitem__)
        return len(values), tuple(_graded(texts, before, after, at) for at in places)
    wrong = sum(not row.correct for row in after.rows)
    shown = heapq.nsmallest(  # of a table of rows, which are made when they are read
        MOST_ERRORS,
        (pair for pair in zip(before.rows, after.rows, strict=True) if not pair[1].correct),
        key=lambda pair: -pair[1].loss / max(1, pair[1].tokens),  # last those that don't fit, which have no loss
    )
    return wrong, tuple(_example(texts, was, now) for was, now in shown)


def _moved(
    texts: Sequence[TextRow], before: Evaluation, after: Evaluation, *, gained: bool
) -> tuple[int, tuple[Example, ...]]:
    by = [b - a if gained else a - b for a, b in zip(_goodness(before), _goodness(after), strict=True)]
    found = [at for at, more in enumerate(by) if more > 0]
    places = heapq.nlargest(MOST_CHANGED, found, key=by.__getitem__)
    return len(found), tuple(_graded(texts, before, after, at) for at in places)


def _graded(texts: Sequence[TextRow], before: Evaluation, after: Evaluation, at: int) -> Example:
    return dataclasses.replace(
        _example(texts, before.rows[at], after.rows[at]),
        before_score=decimal(before.row_values[at]),
        after_score=decimal(after.row_values[at]),
    )


def _goodness(scored: Evaluation) -> list[float]:
    """Each row's own score, turned round where lower is better."""
    return scored.row_values if scored.measure.higher_is_better else [-value for value in scored.row_values]


def _example(texts: Sequence[TextRow], was: RowResult, now: RowResult) -> Example:
    text = texts[now.index]
    return Example(
        row=now.row,
        prompt=text.prompt[-SHOWN:],
        cut=len(text.prompt) > SHOWN,
        expected=now.expected,
        before=was.predicted or "",
        after=now.predicted or "",
        before_right=was.correct,
        after_right=now.correct,
        note=text.unanswerable,
        thought=shown_thought(text.thought),
        before_thought=shown_thought(was.thought, unfinished=was.unclosed),
        after_thought=shown_thought(now.thought, unfinished=now.unclosed),
    )


def curves(metrics: Iterable[Mapping[str, Any]], *, score: str = "valid_accuracy") -> Curves:
    """Read the lines of ``metrics.jsonl``; ``score`` is what the validation score is called there."""
    lines = list(metrics)

    def points(name: str) -> tuple[tuple[int, float], ...]:
        return tuple((int(line["step"]), float(line[name])) for line in lines if name in line)

    return Curves(
        train_loss=points("train_loss"),
        validation_loss=points("valid_loss"),
        validation_score=points(score),
    )
