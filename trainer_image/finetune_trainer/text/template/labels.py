"""What the values of a label column stand for: judged by the whole column; pure.

A single value can't be judged: 1 may be the number of a choice counted from 0, from 1, or a choice itself, and a guess
row by row would shift some labels and drop the rest. So every value is looked at first (``add``), and then the column
is read in one way (``judge``) or refused. What only looks different (case, white space, Unicode form, 1 and 1.0 and
"1") is one label; rows that are folded so are told by :class:`Answer`. Used by ``survey.py``.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = [
    "Answer",
    "Answers",
    "FoundLabels",
    "GivenChoices",
    "Remark",
    "as_text",
    "find",
    "fold",
    "open_answer",
    "shown",
    "unique_folds",
    "whole_number",
]

MAX_SPELLINGS: Final = 65536
MAX_SPELLED_CHARS: Final = 2**24
"""More different values, or more text in them, is no column of labels; held until the column is judged."""

# Zero-width and formatting characters, and the two that choose how an emoji is drawn: none makes another label.
_INVISIBLE: Final = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad\u200e\u200f\ufe0e\ufe0f"))
_WHOLE: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.0+)?")
_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_BOOLEANS: Final = {"false": "0", "true": "1"}
_SHOWN: Final = 5


class Answer(NamedTuple):
    """The choice that a row's answer stands for, or its own text; ``folded``: the row spells it in another way."""

    text: str
    folded: bool = False


Answers = Callable[[Any, Sequence[str], Sequence[str]], Answer]
"""How a column is read: a value, the row's own choices and their names to the answer. A text that is none of the
choices comes back as it is: the row is real, and the caller decides what an unknown answer means for its part."""


class Remark(NamedTuple):
    """What is worth a word about a column; ``warns``: it may not be what was meant."""

    text: str
    warns: bool = False


def as_text(value: Any) -> str:
    """JSON's own spelling for booleans and null, Python's for numbers; no outer white space."""
    if isinstance(value, str):
        return value.strip()
    return json.dumps(value) if isinstance(value, bool) or value is None else str(value)


def shown(text: str) -> str:
    """A value for messages."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def whole_number(text: str) -> int | None:
    """The number that 1, -1 or 1.0 spells; None for other texts, and for 01 or 1.10, which are names."""
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None


def fold(text: str) -> str:
    """Return the same text for all spellings of a label."""
    # Lower case, not case folding: that would make one word of Mass and Maß.
    text = " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE).lower()).split())
    number = whole_number(text)
    return text if number is None else str(number)


def unique_folds(choices: Sequence[str]) -> dict[str, str]:
    """Folded text to choice; spellings that several choices share are left out, so that they must match exactly."""
    folds = [fold(choice) for choice in choices]
    return {key: choice for key, choice in zip(folds, choices, strict=True) if folds.count(key) == 1}


def find(text: str, choices: Sequence[str], folds: Mapping[str, str] | None = None) -> str | None:
    """The choice that a text spells: exactly, else folded."""
    if text in choices:
        return text
    return (unique_folds(choices) if folds is None else folds).get(fold(text))


def _differs(value: Any, choice: str) -> bool:
    return (value if isinstance(value, str) else as_text(value)) != choice


class GivenChoices:
    """A column whose choices the spec gives: texts of choices, or all of them numbers of choices from 0.

    Among texts, one that is no choice is a matter of its row. Where no value is a choice, or numbers could be meant
    both ways, the whole column is refused.
    """

    def __init__(self, choices: tuple[str, ...], column: str) -> None:
        self._choices, self._column = choices, column
        self._folds = unique_folds(choices)
        self._fits = 0
        self._unfit: tuple[str, str] | None = None
        self._not_whole: tuple[str, str] | None = None
        self._outside: tuple[str, str] | None = None
        self._zero = self._any_number = False

    def add(self, where: str, value: Any) -> None:
        """Look at a value."""
        text = as_text(value)
        if find(text, self._choices, self._folds) is not None:
            self._fits += 1
        elif self._unfit is None:
            self._unfit = text, where
        self._any_number |= _number_or_boolean(text)
        number = whole_number(text)
        if number is None:
            self._not_whole = self._not_whole or (text, where)
        elif not 0 <= number < len(self._choices):
            self._outside = self._outside or (text, where)
        self._zero |= number == 0

    def judge(self) -> Answers:
        """Return how the column is read.

        Raises
        ------
        StageError
            DatasetInvalid: no value is a choice, or the values are choices and numbers of choices as well; names the
            first that is no choice.
        """
        if self._are_numbers():
            return self._by_number
        if self._unfit is None or (self._fits and not self._could_be_numbers()):
            return self._by_text
        raise self._refusal(*self._unfit)

    def describe(self) -> Remark | None:
        """Say that numbers were read as choices; None if they were not."""
        if not self._are_numbers():
            return None
        first = ", ".join(f"{n} = {choice}" for n, choice in enumerate(self._choices[:_SHOWN]))
        return Remark(f"column {self._column!r} holds numbers of dataset.template.choices, counted from 0: {first}")

    def _are_numbers(self) -> bool:
        return self._unfit is not None and self._why_not_numbers() is None

    def _could_be_numbers(self) -> bool:
        return self._not_whole is None and self._outside is None and self._zero

    def _by_text(self, value: Any, _choices: Sequence[str], _names: Sequence[str]) -> Answer:
        text = as_text(value)
        choice = find(text, self._choices, self._folds)
        return Answer(text) if choice is None else Answer(choice, _differs(value, choice))

    def _by_number(self, value: Any, _choices: Sequence[str], _names: Sequence[str]) -> Answer:
        number = whole_number(as_text(value))
        return Answer(as_text(value)) if number is None else Answer(self._choices[number])

    def _why_not_numbers(self) -> str | None:
        own = next((choice for choice in self._choices if whole_number(choice) is not None), None)
        if own is not None:
            return f"the choice {shown(own)} is a number itself, so numbers mean choices of that text"
        if [fold(choice) for choice in self._choices] == ["true", "false"]:
            return "0 would be true and 1 false; write true and false, or list choices as false, true"
        if self._not_whole is not None:
            return f"{shown(self._not_whole[0])} ({self._not_whole[1]}) is no whole number"
        base = "" if self._zero else "; no 0 occurs, so they seem to be counted from 1"
        if self._outside is not None:
            text, where = self._outside
            return f"{shown(text)} ({where}) is not between 0 and {len(self._choices) - 1}{base}"
        return None if self._zero else "no 0 occurs, so it can't be told whether they are counted from 0 or 1"

    def _refusal(self, text: str, where: str) -> StageError:
        if not self._any_number:
            names = ", ".join(self._choices[:_SHOWN]) + (", ..." if len(self._choices) > _SHOWN else "")
            return StageError(
                Reason.DATASET_INVALID,
                f"no value of column {self._column!r} is one of dataset.template.choices ({names}); the first is "
                f"{shown(text)} ({where}); list the column's own labels, or map the column that holds the choices",
            )
        return StageError(
            Reason.DATASET_INVALID,
            f"{where}: the answer {shown(text)} in column {self._column!r} is none of dataset.template.choices, and "
            f"the column does not hold numbers of choices from 0 either: {self._why_not_numbers()}; write the choices' "
            "texts, or numbers from 0 in every row",
        )


class FoundLabels:
    """A column whose values are the labels; spellings of one label become the most frequent of them."""

    def __init__(self, column: str, template: str) -> None:
        self._column, self._template = column, template
        self._spellings: dict[tuple[str, str], int] = {}
        self._chars = 0
        self._texts: dict[tuple[str, str], tuple[str, tuple[str, str]]] = {}

    def add(self, _where: str, value: Any) -> None:
        """Look at a value.

        Raises
        ------
        StageError
            DatasetInvalid: so many different values are no labels.
        """
        key = self._key(value)
        count = self._spellings.get(key, 0)
        self._spellings[key] = count + 1
        if count:
            return
        self._chars += len(key[1])
        if len(self._spellings) > MAX_SPELLINGS or self._chars > MAX_SPELLED_CHARS:
            raise StageError(
                Reason.DATASET_INVALID,
                f"column {self._column!r} has more than {len(self._spellings) - 1} different values, too many to be "
                f"labels, as template {self._template} needs; use template instruction, qa or raw for open answers",
            )

    def judge(self) -> Answers:
        """Return how the column is read."""
        for spellings in self._groups():
            best = max(spellings, key=self._spellings.__getitem__)  # of equals the one that came first
            text = unicodedata.normalize("NFC", best[1])
            self._texts.update(dict.fromkeys(spellings, (text, best)))
        return self._read

    def describe(self) -> Remark | None:
        """Say which spellings became one label, and what may be one; None if nothing needs a word."""
        said = []
        for spellings in self._groups():
            text, best = self._texts[spellings[0]]
            others = [f"{kind} {shown(spelt)}" for kind, spelt in spellings if (kind, spelt) != best]
            if others:
                said.append(f"{shown(text)} is also spelt as {', '.join(others[:4])}")
        kinds = {kind for kind, _ in self._spellings}
        if {"boolean", "number"} <= kinds and not self._booleans_are_numbers():
            said.append("true or false stands beside numbers other than 0 and 1")
        more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        return Remark(f"column {self._column!r}: {'; '.join(said[:_SHOWN])}{more}", warns=True) if said else None

    def _groups(self) -> list[list[tuple[str, str]]]:
        merged = _BOOLEANS if self._booleans_are_numbers() else {}
        groups: dict[str, list[tuple[str, str]]] = {}
        for kind, text in self._spellings:
            key = fold(text)
            groups.setdefault(merged.get(key, key), []).append((kind, text))
        return list(groups.values())

    def _booleans_are_numbers(self) -> bool:
        """Whether the column holds true or false, and no number but 0 and 1."""
        folded = {fold(text) for _, text in self._spellings}
        numbers = {text for text in folded if whole_number(text) is not None}
        return bool(folded & _BOOLEANS.keys()) and bool(numbers) and numbers <= {"0", "1"}

    def _read(self, value: Any, _choices: Sequence[str], _names: Sequence[str]) -> Answer:
        key = self._key(value)
        text, best = self._texts.get(key, (key[1], key))
        return Answer(text, key[0] != best[0] or _differs(value, text))

    @staticmethod
    def _key(value: Any) -> tuple[str, str]:
        kind = "text" if isinstance(value, str) else "boolean" if isinstance(value, bool) else "number"
        return kind, as_text(value)


def _number_or_boolean(text: str) -> bool:
    return text.lower() in _BOOLEANS or _NUMBER.fullmatch(text) is not None


def open_answer(value: Any, _choices: Sequence[str] = (), _names: Sequence[str] = ()) -> Answer:
    """Read an answer that may be any text."""
    return Answer(as_text(value))
