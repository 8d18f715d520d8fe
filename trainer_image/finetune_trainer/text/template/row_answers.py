"""Which of its own choices a row's answer names: by text, name, letter or number, judged by the whole column; pure.

Beside ``labels.py``, for templates whose rows bring choices along. An answer 0 to the choices 3, 0, 5 is either the
first choice or the text "0", and only the other rows tell. Numbers count from 0, and only where every answer is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.labels import Answer, Answers, Remark, as_text, find, shown, whole_number

__all__ = ["RowAnswers"]

_LETTERS: Final = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_WORDS: Final = ("text", "label", "letter")
_WRITE: Final = "write the choice's text in every row, or numbers from 0 in every row"
_LABEL: Final = "write labels that are no numbers, such as A and B, and the choice's label in every row"


class RowAnswers:
    """A column of answers to the rows' own choices."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._rows = 0
        self._fit = dict.fromkeys(_WORDS, 0)
        self._unclear: tuple[str, str] | None = None
        self._unclear_in_text: tuple[str, str] | None = None
        self._unclear_number: dict[str, tuple[str, str]] = {}
        self._not_whole: str | None = None
        self._outside: tuple[str, str] | None = None
        self._first: tuple[str, str] | None = None
        self._zero = False
        self._readings: tuple[str, ...] = _WORDS

    def add(self, where: str, value: Any, choices: Sequence[str], names: Sequence[str]) -> None:
        """Look at a row."""
        self._rows += 1
        text = as_text(value)
        found = {word: choice for word in _WORDS if (choice := _named(word, text, choices, names)) is not None}
        for word in found:
            self._fit[word] += 1
        if len(set(found.values())) > 1:
            said = ", ".join(f"{shown(choice)} by its {word}" for word, choice in found.items())
            self._unclear = self._unclear or (where, f"the answer {shown(text)} names {said}")
        if found.get("text", "") != found.get("label", found.get("text", "")):
            self._unclear_in_text = self._unclear_in_text or self._unclear
        number = whole_number(text)
        if number is None:
            self._not_whole = self._not_whole or f"{where} has {shown(text)}"
        else:
            self._zero |= number == 0
            if "text" not in found:
                self._first = self._first or (where, text)
            if not 0 <= number < len(choices):
                self._outside = self._outside or (where, text)
            else:
                self._compare(where, text, choices[number], found, lettered=not names)

    def _compare(self, where: str, text: str, counted: str, found: Mapping[str, str], *, lettered: bool) -> None:
        """Note the first row whose answer names one choice as a word and another one as a number."""
        for word, choice in found.items():
            if choice != counted and word not in self._unclear_number:
                said = f"the answer {shown(text)} names {shown(choice)} by its {word}, and {shown(counted)} as a number"
                if word == "text":
                    mend = "write the choice's letter in every row, A for the first" if lettered else _LABEL
                else:
                    mend = "write the choice's text in every row"
                self._unclear_number[word] = where, f"{said} from 0, and both can be meant in every row; {mend}"

    def judge(self) -> Answers:
        """Return how the column is read.

        Raises
        ------
        StageError
            DatasetInvalid: names the row that can't be told, and why.
        """
        whole = [word for word in _WORDS if self._fit[word] == self._rows]
        if whole and whole[0] in self._unclear_number and self._could_be_numbers():
            self._refuse(self._unclear_number[whole[0]], mend="")
        if "text" in whole and not ("label" in whole and self._unclear_in_text):
            self._readings = ("text",)
        elif "text" in whole:
            self._refuse(self._unclear_in_text or ("", ""))
        elif whole:
            self._readings = (whole[0],)
        elif self._not_whole is None:
            self._check_numbers()
            self._readings = ("number",)
        elif self._unclear is not None:
            self._refuse(self._unclear)
        return self._read

    def describe(self) -> Remark | None:
        """Say what the answers are; None where they are the choices' texts."""
        if self._readings == ("text",) or not self._rows:
            return None
        words = " and ".join({"number": "numbers from 0"}.get(word, word + "s") for word in self._readings)
        return Remark(f"column {self._column!r} holds {words} of the choices")

    def _could_be_numbers(self) -> bool:
        return self._not_whole is None and self._outside is None and self._zero

    def _check_numbers(self) -> None:
        where, text = self._first or self._outside or ("", "")
        base = "" if self._zero else "; no 0 occurs, so they seem to be counted from 1"
        if self._outside is not None:
            at, outside = self._outside
            why = f"{shown(outside)} ({at}) is no number of its choices{base}"
        elif self._zero:
            return
        else:
            why = "no 0 occurs, so it can't be told whether they are counted from 0 or 1"
        self._refuse((where, f"the answer {shown(text)} is not the text of a choice, and no number from 0: {why}"))

    def _refuse(self, unclear: tuple[str, str], mend: str = f"; {_WRITE}") -> None:
        where, why = unclear
        raise StageError(Reason.DATASET_INVALID, f"{where}: column {self._column!r}: {why}{mend}", tells_mend=True)

    def _read(self, value: Any, choices: Sequence[str], names: Sequence[str]) -> Answer:
        text = as_text(value)
        for word in self._readings:
            choice = _named(word, text, choices, names)
            if choice is not None:
                spelt = value if isinstance(value, str) else text
                return Answer(choice, word == "text" and spelt != choice)
        return Answer(text)


def _named(word: str, text: str, choices: Sequence[str], names: Sequence[str]) -> str | None:
    """The choice that an answer names when it is read as a text, a label of the data, a letter or a number."""
    if word == "text":
        return find(text, choices)
    if word == "number":
        number = whole_number(text)
        return choices[number] if number is not None and 0 <= number < len(choices) else None
    given = names if word == "label" else () if names else _LETTERS
    name = find(text, given[: len(choices)])
    return None if name is None else choices[list(given).index(name)]
