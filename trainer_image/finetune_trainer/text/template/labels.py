"""What the values of a label column stand for: judged by the whole column; pure.

A single value can't be judged: 1 may be the number of a choice counted from 0, from 1, or a choice itself, and a guess
row by row would shift some labels and drop the rest. So every value is looked at first (``add``), and then the column
is read in one way (``judge``) or refused. What only looks different (case, white space, Unicode form, 1 and 1.0 and
"1") is one label; rows that are folded so are told by :class:`Answer`. Used by ``survey.py``.
"""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections import Counter
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
_YES_NO: Final = {"false": "no", "true": "yes"}
_GIVEN: Final = "dataset.template.choices"
_DIGITS: Final = re.compile(r"\d+")
_SHOWN: Final = 5
_SHOWN_SPELLINGS: Final = 4
_NAMED_SPELLINGS: Final = 64
"""So many spellings are kept for the log."""
# A label that may be another one misspelt: in how few rows, how long, how much rarer, and how like.
_RARE, _LONG_ENOUGH, _FREQUENT, _ALIKE, _COMPARED = 2, 4, 10, 0.8, 256


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
    """A column whose choices are given: texts of choices, or all of them numbers of choices from 0.

    Among texts, one that is no choice is a matter of its row. Where no value is a choice, or numbers could be meant
    both ways, the whole column is refused.
    """

    def __init__(self, choices: tuple[str, ...], column: str, given_by: str | None = None) -> None:
        self._choices, self._column, self._given_by = choices, column, given_by or _GIVEN
        self._folds = unique_folds(choices)
        self._fits = 0
        self._unfit: tuple[str, str] | None = None
        self._not_whole: tuple[str, str] | None = None
        self._outside: tuple[str, str] | None = None
        self._zero = self._any_number = False
        self._booleans = set(self._folds) == {"no", "yes"}
        self._spelt: dict[tuple[str, str], str] = {}

    def add(self, where: str, value: Any) -> None:
        """Look at a value."""
        text = as_text(value)
        choice = find(text, self._choices, self._folds)
        if choice is not None:
            self._fits += 1
            if _differs(value, choice) and len(self._spelt) < _NAMED_SPELLINGS:
                self._spelt.setdefault(_spelling(value), choice)
        elif self._unfit is None:
            self._unfit = text, where
        self._any_number |= _number_or_boolean(text)
        self._booleans = self._booleans and fold(text) in _YES_NO
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
        if self._are_booleans():
            return self._by_boolean
        if self._unfit is None or (self._fits and not self._could_be_numbers()):
            return self._by_text
        raise self._refusal(*self._unfit)

    def describe(self) -> Remark | None:
        """Say that numbers were read as choices, or which spellings became one; None if nothing needs a word."""
        if self._are_booleans():
            return Remark(f"column {self._column!r} holds true and false, which are read as yes and no")
        if not self._are_numbers():
            by_choice: dict[str, list[tuple[str, str]]] = {}
            for spelling, choice in self._spelt.items():
                by_choice.setdefault(choice, []).append(spelling)
            return _remark(
                self._column, [_also_spelt(choice, spelt) for choice, spelt in by_choice.items()], warns=False
            )
        first = ", ".join(f"{n} = {choice}" for n, choice in enumerate(self._choices[:_SHOWN]))
        return Remark(f"column {self._column!r} holds numbers of {self._given_by}, counted from 0: {first}")

    def _are_numbers(self) -> bool:
        return self._unfit is not None and self._why_not_numbers() is None

    def _are_booleans(self) -> bool:
        """Whether the choices are no and yes, and every value is true or false."""
        return self._unfit is not None and self._booleans

    def _could_be_numbers(self) -> bool:
        return self._not_whole is None and self._outside is None and self._zero

    def _by_boolean(self, value: Any, _choices: Sequence[str], _names: Sequence[str]) -> Answer:
        text = _YES_NO.get(fold(as_text(value)), "")
        return Answer(self._folds.get(text, as_text(value)))

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
            where_to = "" if self._given_by == _GIVEN else f" in {_GIVEN}"
            names = ", ".join(self._choices[:_SHOWN]) + (", ..." if len(self._choices) > _SHOWN else "")
            return StageError(
                Reason.DATASET_INVALID,
                f"no value of column {self._column!r} is one of {self._given_by} ({names}); the first is {shown(text)} "
                f"({where}); list the column's own labels{where_to}, or map the column that holds the choices",
                tells_mend=True,
            )
        return StageError(
            Reason.DATASET_INVALID,
            f"{where}: the answer {shown(text)} in column {self._column!r} is none of {self._given_by}, and "
            f"the column does not hold numbers of choices from 0 either: {self._why_not_numbers()}; write the choices' "
            "texts, or numbers from 0 in every row",
            tells_mend=True,
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
        key = _spelling(value)
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
                tells_mend=True,
            )

    def judge(self) -> Answers:
        """Return how the column is read."""
        counts = Counter[tuple[str, str]]()
        for (kind, spelt), count in self._spellings.items():
            counts[kind, spelt.strip()] += count
        for spellings in self._groups():
            # Of equals the one that came first; outer white space makes no other spelling of the label itself.
            best = max(spellings, key=lambda one: counts[one[0], one[1].strip()])
            text = unicodedata.normalize("NFC", best[1].strip())
            self._texts.update(dict.fromkeys(spellings, (text, best)))
        return self._read

    def describe(self) -> Remark | None:
        """Say which spellings became one label, and what may be one; None if nothing needs a word."""
        said, counts = [], {}
        for spellings in self._groups():
            text, best = self._texts[spellings[0]]
            counts[text] = sum(self._spellings[spelling] for spelling in spellings)
            others = [(kind, spelt) for kind, spelt in spellings if kind != best[0] or spelt != text]
            if others:
                said.append(_also_spelt(text, others))
        said += [
            f"{shown(rare)} in {counts[rare]} of the rows may be {shown(frequent)} misspelt; correct it, or set "
            "dataset.template.choices"
            for rare, frequent in _misspelt(counts)
        ]
        if counts and all(whole_number(text) is not None for text in counts):
            said.append(
                "all labels are whole numbers, so the model is asked for digits; dataset.template.choices gives names"
            )
        kinds = {kind for kind, _ in self._spellings}
        if {"boolean", "number"} <= kinds and not self._booleans_are_numbers():
            said.append("true or false stands beside numbers other than 0 and 1")
        return _remark(self._column, said, warns=True)

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
        key = _spelling(value)
        text, best = self._texts.get(key, (as_text(value), key))
        return Answer(text, key[0] != best[0] or _differs(value, text))


def _spelling(value: Any) -> tuple[str, str]:
    """What kind of JSON value it is, and its text with the outer white space that it has."""
    if isinstance(value, str):
        return "text", value
    return "boolean" if isinstance(value, bool) else "number", as_text(value)


def _also_spelt(text: str, others: Sequence[tuple[str, str]]) -> str:
    more = f" and in {len(others) - _SHOWN_SPELLINGS} more ways" if len(others) > _SHOWN_SPELLINGS else ""
    named = ", ".join(f"{kind} {shown(spelt)}" for kind, spelt in others[:_SHOWN_SPELLINGS])
    return f"{shown(text)} is also spelt as {named}{more}"


def _remark(column: str, said: Sequence[str], *, warns: bool) -> Remark | None:
    more = f" and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return Remark(f"column {column!r}: {'; '.join(said[:_SHOWN])}{more}", warns) if said else None


def _misspelt(counts: Mapping[str, int]) -> list[tuple[str, str]]:
    """Labels of one or two rows that look like a frequent one, each with that one.

    Labels that differ in digits only are names of a series; with more than some hundred labels it can't be told.
    """
    if len(counts) > _COMPARED:
        return []
    pairs = []
    for rare in (text for text, count in counts.items() if count <= _RARE and len(text) >= _LONG_ENOUGH):
        for frequent, count in counts.items():
            one, other = fold(rare), fold(frequent)
            in_digits = _DIGITS.sub("", one) == _DIGITS.sub("", other)
            if count < _FREQUENT * counts[rare] or in_digits or abs(len(one) - len(other)) > _RARE:
                continue
            if difflib.SequenceMatcher(None, one, other, autojunk=False).ratio() >= _ALIKE:
                pairs.append((rare, frequent))
                break
    return pairs


def _number_or_boolean(text: str) -> bool:
    return text.lower() in _BOOLEANS or _NUMBER.fullmatch(text) is not None


def open_answer(value: Any, _choices: Sequence[str] = (), _names: Sequence[str] = ()) -> Answer:
    """Read an answer that may be any text."""
    return Answer(as_text(value))
