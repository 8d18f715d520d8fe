"""When not to trust the numbers: warnings from what is known at the end of a job. Pure, no torch.

Each check is a function of :class:`Evidence` that returns its sentence or None; all thresholds stand here. They are
plain on purpose: a reader has to be able to say why a warning came.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.status import DatasetSummary, Results, Score
from finetune_api.trust import WARNING_TYPES, ResultWarning, WarningType
from finetune_trainer.evaluation.stats import decimal, wilson
from finetune_trainer.prepare.prepared import TextRow

__all__ = ["Evidence", "warnings_of"]

CHANCE: Final = 0.05
"""A gain whose p-value is not below this may be chance."""
FEW_ROWS: Final = 100
ONE_LABEL: Final = 0.9
LEAKING: Final = 0.9
"""Share of test rows whose prompt tells the label and no other, from which on it is no chance."""
LOOKED_AT: Final = 1000
"""Test rows whose prompts are searched."""
FAR_ABOVE: Final = 0.1
TRUNCATED: Final = 0.05
UNANSWERED: Final = 0.1
"""An untouched model whose exact answers are rarer than this, and whose choices are better by FORMAT, knows the answers
and not the format."""
FORMAT: Final = 0.2


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the warnings are made from.

    Attributes
    ----------
    rows
        The test rows as text.
    choices
        The one list of choices; empty where answers are open or each row has its own.
    answers
        Numbers of the right choices of the test rows, -1 where there is none; empty like ``choices``.
    overlapping
        Whether the tokens of a choice begin those of another one.
    validation
        Score and number of rows of the validation whose weights were kept; None without validation rows.
    train
        Score of the stored model on some train rows; None where it wasn't asked.
    """

    results: Results
    data: DatasetSummary
    rows: Sequence[TextRow]
    choices: tuple[str, ...]
    answers: NDArray[np.integer]
    overlapping: bool
    validation: tuple[float, int] | None
    train: Score | None


def warnings_of(evidence: Evidence) -> list[ResultWarning]:
    """Return the warnings in the order of the table."""
    found = ((kind, _CHECKS[kind](evidence)) for kind in WARNING_TYPES)
    return [ResultWarning(type=kind, message=message) for kind, message in found if message]


def _no_gain(e: Evidence) -> str | None:
    gain, p = e.results.gain, e.results.p_value
    if float(gain) <= 0:
        return f"the tuned model is not better than the untouched one: {gain}"
    return f"the gain of {gain} may be chance (p {p})" if p is not None and float(p) >= CHANCE else None


def _few_test_rows(e: Evidence) -> str | None:
    total, bounds = e.results.test.total, e.results.test.ci95
    if total >= FEW_ROWS:
        return None
    between = f": the score lies between {' and '.join(bounds)}" if bounds else ""
    return f"{total} test rows are fewer than {FEW_ROWS}{between}"


def _label_in_prompt(e: Evidence) -> str | None:
    rows = e.rows[:LOOKED_AT]
    if len(e.choices) < 2 or not len(rows):
        return None
    named = [_occurrences(row.prompt, e.choices) for row in rows]
    # What every prompt says, such as the list of choices, tells nothing.
    always = np.array(named).min(axis=0)
    pairs = zip(named, e.answers[: len(rows)].tolist(), strict=True)
    telling = sum(_tells(np.array(counts) > always, answer, e.choices) for counts, answer in pairs)
    if telling < LEAKING * len(rows):
        return None
    return f"the prompts of {telling} of {len(rows)} test rows name the right label and no other one; see the columns"


def _occurrences(prompt: str, choices: Sequence[str]) -> list[int]:
    text = prompt.casefold()
    return [len(re.findall(rf"(?<!\w){re.escape(choice.casefold())}(?!\w)", text)) for choice in choices]


def _tells(named: NDArray[np.bool_], answer: int, choices: Sequence[str]) -> bool:
    """Whether the choices that a prompt names are the right one, and others only as a part of its words."""
    if answer < 0 or not named[answer]:
        return False
    right = choices[answer].casefold()
    return all(choices[other].casefold() in right for other in np.flatnonzero(named).tolist())


def _one_label(e: Evidence) -> str | None:
    known = e.answers[e.answers >= 0] if len(e.answers) else e.answers
    if not len(known):
        return None
    counts = np.bincount(known)
    share = int(counts.max()) / len(known)
    if share <= ONE_LABEL:
        return None
    label = e.choices[int(counts.argmax())]
    short = label if len(label) <= 40 else label[:39] + "…"
    return f"{int(counts.max())} of {len(known)} test rows have one label, {short!r}: to say always that is {share:.4f}"


def _overfitted(e: Evidence) -> str | None:
    train, test = e.train, e.results.test
    if train is None or not train.ci95 or not test.ci95:
        return None
    if float(train.ci95[0]) <= float(test.ci95[1]) or float(train.score) - float(test.score) < FAR_ABOVE:
        return None
    return f"{train.score} on {train.total} train rows is far above {test.score} on the test rows: learned by heart"


def _validation_disagrees(e: Evidence) -> str | None:
    test = e.results.test
    if e.validation is None or not test.ci95 or test.correct is None:
        return None
    score, rows = e.validation
    low, high = wilson(round(score * rows), rows)
    if low <= float(test.ci95[1]) and float(test.ci95[0]) <= high:
        return None
    return f"{decimal(score)} on {rows} validation rows and {test.score} on the test rows differ beyond chance"


def _truncated_prompts(e: Evidence) -> str | None:
    rows = e.data.train + e.data.validation + e.data.test
    if not rows or e.data.truncated < TRUNCATED * rows:
        return None
    return f"{e.data.truncated} of {rows} prompts were shortened to fit training.maxLength"


def _choices_overlap(e: Evidence) -> str | None:
    return (
        "the tokens of a choice begin those of another one; end tokens decide between them" if e.overlapping else None
    )


def _format_only(e: Evidence) -> str | None:
    before = e.results.baseline
    choosing = next((float(s.score) for s in before.secondary or [] if s.name == "ChoiceAccuracy"), None)
    if e.results.metric != "ExactMatch" or choosing is None or float(before.score) >= UNANSWERED:
        return None
    if choosing - float(before.score) < FORMAT:
        return None
    return (
        f"the untouched model writes {before.score} exactly and chooses {decimal(choosing)} rightly: much of the "
        "gain is the format"
    )


_CHECKS: Final[Mapping[WarningType, Callable[[Evidence], str | None]]] = {
    "NoGain": _no_gain,
    "FewTestRows": _few_test_rows,
    "LabelInPrompt": _label_in_prompt,
    "OneLabel": _one_label,
    "Overfitted": _overfitted,
    "ValidationDisagrees": _validation_disagrees,
    "TruncatedPrompts": _truncated_prompts,
    "ChoicesOverlap": _choices_overlap,
    "FormatOnly": _format_only,
}
