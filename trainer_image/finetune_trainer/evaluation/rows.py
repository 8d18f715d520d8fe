"""Scored rows: each one a value to read, all of them a table, so that a large test part stays small. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from finetune_trainer.data.lazy import LazySequence

__all__ = ["RowResult", "Rows"]


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
        Whether what greedy decoding writes is the expected answer, both as the stop rule leaves them
        (:class:`~finetune_trainer.text.stop.StopRule`); calls of tools are compared as JSON.
    exact_match_tokens
        Whether greedy decoding yields the expected tokens, end tokens included.
    loss
        Summed cross-entropy of the completion tokens, end tokens included, in nats.
    tokens, tokens_correct
        Completion tokens, and those whose arg-max under teacher forcing is right; none of a row that does not fit into
        maxLength.
    predicted
        The answer as text: the chosen choice under ChoiceAccuracy, else :attr:`generated`.
    generated
        What greedy decoding writes, as the stop rule leaves it: the text that was compared. None without choices where
        it was decoded no further than the verdict needed.
    partial
        Whether :attr:`generated` is only its beginning, as far as it took to see that it is not the expected answer.
    expected
        The expected completion as text.
    correct
        Whether the row counts as right; where the metric knows no right and wrong rows, whether it is an exact match.
    right_norm
        Whether the choice with the highest likelihood a character is the expected one; None without choices.
    label
        The expected choice as an index into the choices that all rows share, their number where it is none of them;
        None where rows share none.
    confidence
        Share of the most likely choice among the likelihoods of all; None without choices, or where none was asked.
    measures
        What metrics over texts keep of the row, by their names
        (:class:`~finetune_trainer.evaluation.metrics.metric.TextMetric`).
    thought
        What the model thinks before it answers; None where it answers at once or was decoded no further than needed.
    unclosed
        Whether that thought never ends, so that there is no answer; None where models answer at once.
    """

    index: int
    row: int
    chosen: int | None
    right_choice: bool | None
    exact_match: bool
    exact_match_tokens: bool
    loss: float
    tokens: int
    tokens_correct: int
    predicted: str | None
    generated: str | None
    expected: str
    correct: bool
    right_norm: bool | None = None
    label: int | None = None
    confidence: float | None = None
    measures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    thought: str | None = None
    unclosed: bool | None = None
    partial: bool = False


_TEXTS: Final = ("predicted", "generated", "expected", "thought")
_DTYPE: Final = np.dtype(
    [
        ("index", "<i8"),
        ("row", "<i8"),
        ("chosen", "<i4"),  # -1 is None
        ("right_choice", "i1"),  # -1 is None
        ("exact_match", "?"),
        ("exact_match_tokens", "?"),
        ("loss", "<f8"),
        ("tokens", "<i4"),
        ("tokens_correct", "<i4"),
        *((name, "<i4") for name in _TEXTS),  # number of the text; -1 is None
        ("correct", "?"),
        ("right_norm", "i1"),  # -1 is None
        ("label", "<i4"),  # -1 is None
        ("confidence", "<f8"),  # -1 is None
        ("unclosed", "i1"),  # -1 is None
        ("partial", "?"),
    ]
)


class Rows(LazySequence[RowResult]):
    """Rows in a table of some 50 bytes each, besides their different texts; equal to any sequence of the same rows."""

    def __init__(self, count: int) -> None:
        self._table = np.zeros(count, dtype=_DTYPE)
        self._texts: list[str] = []
        self._numbers: dict[str, int] = {}
        self._measures: dict[str, NDArray[np.float64]] = {}

    @classmethod
    def of(cls, rows: Sequence[RowResult]) -> Self:
        """Return a table of rows."""
        table = cls(len(rows))
        for at, row in enumerate(rows):
            table.put(at, row)
        return table

    def put(self, at: int, row: RowResult) -> None:
        """Set a row; one that is never set is all zeros."""
        values: dict[str, Any] = {name: getattr(row, name) for name in _DTYPE.names or ()}
        for name in _TEXTS:
            values[name] = self._number(values[name])
        self._table[at] = tuple(-1 if value is None else value for value in values.values())
        for name, numbers in row.measures.items():
            if name not in self._measures:
                self._measures[name] = np.zeros((len(self), len(numbers)), dtype=np.float64)
            self._measures[name][at] = numbers

    def measure(self, name: str) -> NDArray[np.float64] | None:
        """Return what a metric over texts keeps of all rows, (rows, numbers); None where it was not asked."""
        return self._measures.get(name)

    def column(self, name: str) -> NDArray[Any]:
        """Return one attribute of all rows; -1 stands for None."""
        return self._table[name]

    def to_wire(self) -> dict[str, Any]:
        """Return the table as JSON can hold it."""
        return {
            "columns": {n: self._table[n].tolist() for n in _DTYPE.names or ()},
            "texts": self._texts,
            "measures": {name: numbers.tolist() for name, numbers in self._measures.items()},
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Self:
        """Read a table.

        Raises
        ------
        ValueError, KeyError
            It is none.
        """
        columns, texts = wire["columns"], wire["texts"]
        rows = cls(len(columns["index"]))
        try:
            for name in _DTYPE.names or ():
                if len(columns[name]) != len(rows):
                    raise ValueError(f"column {name} has {len(columns[name])} of {len(rows)} rows")
                rows._table[name] = columns[name]
            for text in texts:
                rows._number(str(text))
            for name, numbers in wire["measures"].items():
                if len(numbers) != len(rows):
                    raise ValueError(f"{name} has {len(numbers)} of {len(rows)} rows")
                rows._measures[str(name)] = np.array(numbers, dtype=np.float64).reshape(len(rows), -1)
        except TypeError as error:
            raise ValueError(str(error)) from error
        if any(len(rows) and int(rows.column(n).max()) >= len(rows._texts) for n in _TEXTS):
            raise ValueError("there are too few texts")
        return rows

    def _number(self, text: str | None) -> int:
        if text is None:
            return -1
        number = self._numbers.setdefault(text, len(self._texts))
        if number == len(self._texts):
            self._texts.append(text)
        return number

    @override
    def _item(self, index: int) -> RowResult:
        values: dict[str, Any] = dict(zip(_DTYPE.names or (), self._table[index].item(), strict=True))
        for name in _TEXTS:
            values[name] = None if values[name] < 0 else self._texts[values[name]]
        for name in ("right_choice", "right_norm", "chosen", "label", "confidence", "unclosed"):
            values[name] = None if values[name] < 0 else values[name]
        for name in ("right_choice", "right_norm", "unclosed"):
            values[name] = None if values[name] is None else bool(values[name])
        measures = {name: tuple(numbers[index].tolist()) for name, numbers in self._measures.items()}
        return RowResult(**values, measures=measures)

    @override
    def __len__(self) -> int:
        return len(self._table)

    @override
    def __repr__(self) -> str:
        return f"Rows({[asdict(row) for row in self[:3]]}, ... {len(self)} in all)"
