"""The data card of the page: how long rows are, how labels are spread, what was left out and why. Pure.

All of it is counted on the encoded rows, which is what was trained and scored, and in the summary of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.status import DatasetSummary
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared

__all__ = ["Balance", "DataCard", "LeftOut", "Lengths", "Spread", "data_card", "left_out_rows"]

MOST_LABELS: Final = 50
BINS: Final = 20
NO_LABEL: Final = "(none of the choices)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of some numbers of tokens: each is the number of a row (nearest rank), none is made up between two."""

    least: int
    median: int
    most_of: int
    """95 of 100 rows have no more."""
    most: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Tokens of the rows of a part.

    Attributes
    ----------
    rows
        Those that were encoded: one that doesn't fit into maxLength has no tokens.
    prompt, completion
        What is read, and what is learned or expected with its end tokens. Of a conversation the prompt is all that is
        not learned.
    histogram
        Rows by all their tokens: so many each, in :data:`BINS` bins of equal width up to the card's longest row.
    """

    part: Part
    rows: int
    prompt: Spread
    completion: Spread
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Rows with one label, by part."""

    label: str
    train: int
    validation: int
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCard:
    """What is counted on the encoded rows.

    Attributes
    ----------
    longest
        Tokens of the longest row of all parts.
    balance
        The most frequent label of train first; empty where rows share no choices.
    other_labels
        Labels beyond those shown.
    """

    lengths: tuple[Lengths, ...]
    longest: int
    balance: tuple[Balance, ...]
    other_labels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Rows that don't count, or count as wrong, for one reason; ``parts`` says where they fell, if that is known."""

    why: str
    rows: int
    parts: str


def data_card(prepared: Prepared) -> DataCard:
    """Count the encoded rows of all parts that have any."""
    parts = [(name, prepared.parts[name]) for name in PARTS if len(prepared.parts[name])]
    longest = max((int(part.lengths.max()) for _, part in parts), default=0)
    balance = _balance(prepared)
    return DataCard(
        lengths=tuple(_lengths(name, part, longest) for name, part in parts if part.lengths.any()),
        longest=longest,
        balance=balance[:MOST_LABELS],
        other_labels=max(0, len(balance) - MOST_LABELS),
    )


def _lengths(name: Part, part: EncodedPart, longest: int) -> Lengths:
    there = part.unanswerable != NO_ROOM
    total, completion = part.lengths[there], part.completion_lengths[there]
    return Lengths(
        part=name,
        rows=len(total),
        prompt=_spread(total - completion),
        completion=_spread(completion),
        histogram=tuple(np.histogram(total, bins=BINS, range=(0, longest))[0].tolist()),
    )


def _spread(numbers: NDArray[np.int64]) -> Spread:
    least, median, most_of, most = np.percentile(numbers, [0, 50, 95, 100], method="inverted_cdf").tolist()
    return Spread(least=int(least), median=int(median), most_of=int(most_of), most=int(most))


def _balance(prepared: Prepared) -> tuple[Balance, ...]:
    if len(prepared.choice_sets) != 1:
        return ()
    labels: Sequence[str] = (*prepared.choice_sets[0].texts, NO_LABEL)
    counts = {}
    for name in PARTS:
        answer = prepared.parts[name].answer
        counts[name] = np.bincount(np.where(answer < 0, len(labels) - 1, answer), minlength=len(labels)).tolist()
    told = [
        Balance(label=label, train=counts["train"][i], validation=counts["validation"][i], test=counts["test"][i])
        for i, label in enumerate(labels)
    ]
    if not (told[-1].train or told[-1].validation or told[-1].test):
        told.pop()
    return tuple(sorted(told, key=lambda one: -one.train))


def left_out_rows(data: DatasetSummary) -> tuple[LeftOut, ...]:
    """List why rows don't count, or count as wrong; reasons that no row has are left out."""
    by, near = data.dropped_by, data.near_duplicates
    told = [
        LeftOut(why="bad rows, left out", rows=data.dropped, parts=_parts(by.train, by.validation, by.test, by.unsplit))
        if by is not None
        else LeftOut(why="bad rows, left out", rows=data.dropped, parts=""),
        LeftOut(why="rendered to nothing, left out", rows=data.skipped or 0, parts=""),
        LeftOut(why="exact duplicates, left out", rows=data.duplicates, parts=""),
        LeftOut(why="leaks: in a more sealed file or group too, left out", rows=data.leaked, parts=""),
        LeftOut(
            why="nearly repeat a sealed row, left out" if near and near.dropped else "nearly repeat a sealed row, kept",
            rows=near.train if near else 0,
            parts="train",
        ),
        LeftOut(why="the same input with another output, kept", rows=data.conflicts, parts=""),
        LeftOut(why="shortened to fit maxLength, kept", rows=data.truncated, parts=""),
        LeftOut(why="no answer can be right, kept and counted as wrong", rows=data.test_unanswerable, parts="test"),
    ]
    return tuple(one for one in told if one.rows)


def _parts(train: int, validation: int, test: int, unsplit: int) -> str:
    counts = {"train": train, "validation": validation, "test": test, "before the split": unsplit}
    return ", ".join(f"{name} {rows}" for name, rows in counts.items() if rows)
