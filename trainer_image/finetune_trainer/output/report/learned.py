"""How the answers to a few validation rows changed from epoch to epoch, from the lines of ``samples.jsonl``. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from finetune_trainer.output.report.thought import Thought, shown_thought

__all__ = ["Learned", "Said", "learned"]

SHOWN: Final = 400
"""Characters of a prompt that are shown: its end."""
_TOLD: Final = ("completion", "choice", "cut", "correct", "score", "completionThought", "completionUnfinished")
"""Of a line: what makes an answer another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An answer for as long as it stayed the same.

    Attributes
    ----------
    when
        "Before", "Epoch 2", "Epochs 3 to 5".
    answer
        What was judged: the choice under a metric over choices, else the text.
    written
        The text, where that is not what was judged.
    verdict
        "right", "wrong", the row's own score, or that it was cut before it could be judged.
    right
        None where rows are neither right nor wrong.
    thought
        What was thought before it; None where nothing was.
    """

    when: str
    answer: str
    written: str
    verdict: str
    right: bool | None
    thought: Thought | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """One validation row with its answers; ``prompt`` is its end where ``cut``, ``thought`` is before ``expected``."""

    row: int
    prompt: str
    cut: bool
    expected: str
    answers: tuple[Said, ...]
    thought: Thought | None = None


def learned(lines: Iterable[Mapping[str, Any]]) -> tuple[Learned, ...]:
    """Gather the answers by row, in the order of the file; those that stay the same are told once."""
    by_row: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for line in lines:
        by_row.setdefault((line.get("file", ""), line["row"]), []).append(line)
    return tuple(_row(answers) for answers in by_row.values())


def _row(answers: Sequence[Mapping[str, Any]]) -> Learned:
    first = answers[0]
    runs = [list(run) for _, run in itertools.groupby(answers, key=_same)]
    return Learned(
        row=first["row"],
        prompt=first["prompt"][-SHOWN:],
        cut=len(first["prompt"]) > SHOWN or first.get("promptCut", False),
        expected=first["expected"] + ("…" if first.get("expectedCut") else ""),
        answers=tuple(_said(run) for run in runs),
        thought=shown_thought(first.get("thought"), cut=first.get("thoughtCut", False)),
    )


def _same(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in _TOLD)


def _said(run: Sequence[Mapping[str, Any]]) -> Said:
    line = run[0]
    text, choice = line["completion"] + ("…" if line.get("cut") else ""), line.get("choice")
    return Said(
        when=_when(run[0]["epoch"], run[-1]["epoch"]),
        answer=text if choice is None else choice,
        written="" if choice in (None, text) else text,
        verdict=_verdict(line),
        right=line.get("correct"),
        thought=shown_thought(
            line.get("completionThought"),
            unfinished=line.get("completionUnfinished"),
            cut=line.get("completionThoughtCut", False) or line.get("cut", False),
        ),
    )


def _when(first: float, last: float) -> str:
    if first == last:
        return f"Epoch {first:g}" if first else "Before"
    return f"Epochs {first:g} to {last:g}" if first else f"Before to epoch {last:g}"


def _verdict(line: Mapping[str, Any]) -> str:
    if "correct" in line:
        return "right" if line["correct"] else "wrong"
    return f"{line['score']:.4f}" if "score" in line else "cut, not judged"
