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
from finetune_trainer.counted import counted
from finetune_trainer.evaluation.stats import decimal, wilson
from finetune_trainer.prepare.prepared import TextRow
from finetune_trainer.text.choices import shared_beginning

__all__ = ["Evidence", "warnings_of"]

CHANCE: Final = 0.05
"""A gain whose p-value is not below this may be chance."""
FEW_ROWS: Final = 100
FEW_VALIDATION_ROWS: Final = 30
"""Of fewer rows even the loss may be best by chance; it is steadier than a score, which takes more."""
ONE_LABEL: Final = 0.9
LEAKING: Final = 0.9
"""Share of test rows whose prompt tells the label and no other, from which on it is no chance."""
LOOKED_AT: Final = 1000
"""Test rows whose prompts are searched."""
NEARLY_SEEN: Final = 0.01
"""Share of test rows that train nearly repeats, from which on the score may be a point too high for them."""
FAR_ABOVE: Final = 0.1
TRUNCATED: Final = 0.05
UNANSWERED: Final = 0.1
"""An untouched model whose exact answers are rarer than this, and whose choices are better by FORMAT, knows the answers
and not the format."""
FORMAT: Final = 0.2

UNFINISHED: Final = 0.01
"""Share of answers that are cut off within their thought, from which on a score may be a point too low for them."""


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
    alike
        Tokens that all choices begin with.
    validation
        Score and number of rows of the validation whose weights were kept; None without validation rows.
    validations
        How many were compared to choose it.
    train
        Score of the stored model on some train rows; None where it wasn't asked.
    few_shot
        Why there is no few-shot baseline though it was asked for; empty otherwise.
    unclosed
        Test rows without an answer, since the thought before it doesn't end: of the untouched and of the tuned model.
    """

    results: Results
    data: DatasetSummary
    rows: Sequence[TextRow]
    choices: tuple[str, ...]
    answers: NDArray[np.integer]
    overlapping: bool
    alike: int
    validation: tuple[float, int] | None
    train: Score | None
    few_shot: str = ""
    unclosed: tuple[int, int] = (0, 0)
    validations: int = 1


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
    return f"{counted(total, 'test row is', 'test rows are')} fewer than {FEW_ROWS}{between}"


def _few_validation_rows(e: Evidence) -> str | None:
    if e.validation is None or e.validations < 2 or e.validation[1] >= FEW_VALIDATION_ROWS:
        return None
    rows = counted(e.validation[1], "validation row")
    return f"the kept weights were the best of {e.validations} validations on {rows}, fewer than {FEW_VALIDATION_ROWS}"


def _label_in_prompt(e: Evidence) -> str | None:
    rows = e.rows[:LOOKED_AT]
    if len(e.choices) < 2 or not len(rows):
        return None
    named = [_occurrences(row.prompt, e.choices) for row in rows]
    # What every prompt says, such as the list of choices, tells nothing; of a shortened one it may be cut away.
    whole = [counts for row, counts in zip(rows, named, strict=True) if not row.shortened]
    always = np.array(whole or named).min(axis=0)
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
    # Rows whose label no train row has are rows of other labels.
    counts, total = np.bincount(known), len(e.answers)
    share = int(counts.max()) / total
    if share <= ONE_LABEL:
        return None
    label = _quoted(e.choices[int(counts.argmax())])
    return f"{int(counts.max())} of {total} test rows have one label, {label}: to say always that is {share:.4f}"


def _quoted(text: str) -> str:
    """Quote a text in at most 42 characters, however many of them have to be escaped."""
    quoted = repr(text)
    return quoted if len(quoted) <= 42 else quoted[:40] + "…" + quoted[0]


def _near_duplicates(e: Evidence) -> str | None:
    near = e.data.near_duplicates
    # What was dropped from train was never learned.
    if near is None or near.dropped or not near.test or near.test < NEARLY_SEEN * e.data.test:
        return None
    are = "is" if near.test == 1 else "are"
    return f"{near.test} of {e.data.test} test rows {are} nearly repeated in train; dataset.nearDuplicates: Drop helps"


def _overfitted(e: Evidence) -> str | None:
    train, test = e.train, e.results.test
    if train is None or not train.ci95 or not test.ci95:
        return None
    if float(train.ci95[0]) <= float(test.ci95[1]) or float(train.score) - float(test.score) < FAR_ABOVE:
        return None
    rows = counted(train.total, "train row")
    return f"{train.score} on {rows} is far above {test.score} on the test rows: learned by heart"


def _validation_disagrees(e: Evidence) -> str | None:
    test = e.results.test
    if e.validation is None or not test.ci95 or test.correct is None:
        return None
    score, rows = e.validation
    low, high = wilson(round(score * rows), rows)
    if low <= float(test.ci95[1]) and float(test.ci95[0]) <= high:
        return None
    return (
        f"{decimal(score)} on {counted(rows, 'validation row')} and {test.score} on the test rows differ beyond chance"
    )


def _truncated_prompts(e: Evidence) -> str | None:
    rows = e.data.train + e.data.validation + e.data.test
    if not rows or e.data.truncated < TRUNCATED * rows:
        return None
    return f"{e.data.truncated} of {rows} prompts were shortened to fit training.maxLength"


def _choices_overlap(e: Evidence) -> str | None:
    if e.overlapping:
        return "the tokens of a choice begin those of another one; end tokens decide between them"
    # Whole words alone: tokens may share a quotation mark, or a piece of a word that tells the choices apart.
    shared = e.choices[0][: shared_beginning(e.choices)] if e.alike else ""
    found = re.match(r".*[^\W_].*(?=[\W_])", shared, re.DOTALL)
    if found is None:
        return None
    return f"all choices begin with {_quoted(found[0])}, which tells no answer: loss and TokenAccuracy look too good"


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


def _not_above_few_shot(e: Evidence) -> str | None:
    few_shot = e.results.few_shot
    if few_shot is None or few_shot.gain is None:
        return None
    told = f"the untouched model with {counted(few_shot.examples, 'example')} in its prompt reaches {few_shot.score}"
    if float(few_shot.gain) <= 0:
        return f"{told}, and the tuned model is not better: {e.results.test.score}"
    p = few_shot.p_value
    return f"{told}; the gain of {few_shot.gain} over it may be chance (p {p})" if p and float(p) >= CHANCE else None


def _no_few_shot(e: Evidence) -> str | None:
    return e.few_shot or None


def _thought_unfinished(e: Evidence) -> str | None:
    before, after = e.unclosed
    total = e.results.test.total
    if not before + after or max(before, after) < UNFINISHED * total:
        return None
    return (
        f"{before} of {total} answers of the untouched model and {after} of the tuned one end within their thought: "
        "raise evaluation.maxNewTokens"
    )


_CHECKS: Final[Mapping[WarningType, Callable[[Evidence], str | None]]] = {
    "NoGain": _no_gain,
    "FewTestRows": _few_test_rows,
    "FewValidationRows": _few_validation_rows,
    "LabelInPrompt": _label_in_prompt,
    "OneLabel": _one_label,
    "NearDuplicates": _near_duplicates,
    "Overfitted": _overfitted,
    "ValidationDisagrees": _validation_disagrees,
    "TruncatedPrompts": _truncated_prompts,
    "ChoicesOverlap": _choices_overlap,
    "FormatOnly": _format_only,
    "NotAboveFewShot": _not_above_few_shot,
    "NoFewShot": _no_few_shot,
    "ThoughtUnfinished": _thought_unfinished,
}
