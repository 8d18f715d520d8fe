"""The dataset's rows, read from the files anew in each pass.

Above ``readers.py``, which knows formats. No pass holds rows: a first one finds the columns and the rows that can't be
read, later ones (``prepare/``) make the split's keys and encode. Reading thrice costs seconds where tokenising costs
minutes, and a dataset may be larger than the memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.data.readers import BadRow, Row, read_rows
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress, no_progress

__all__ = ["Record", "Table", "read_table", "shown_columns"]

_SHOWN: Final = 20
_PROGRESS_ROWS: Final = 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One row on its way.

    Attributes
    ----------
    part
        The part that its file stands for; ``train`` for a single file.
    number
        Its line.
    where
        The same in words, with the part where there are several files.
    values
        Column to value.
    size
        Bytes that it takes in its file, more or less.
    """

    part: Part
    number: int
    where: str
    values: dict[str, Any]
    size: int


@dataclass(frozen=True, slots=True)
class Table:
    """A dataset that has been read through once.

    Attributes
    ----------
    files
        (part that the file stands for, its name in front of line numbers, path), in the order of reading.
    format
        ``dataset.format``.
    columns
        Every column that some row has, in the order of their coming.
    usable
        For each row, bad ones included, whether it can be used as far as is known: 0 or 1.
    """

    files: tuple[tuple[Part, str, Path], ...]
    format: str
    columns: tuple[str, ...]
    usable: bytearray

    @property
    def rows(self) -> int:
        """How many rows there are, bad ones included."""
        return len(self.usable)

    def records(self, progress: Progress = no_progress) -> Iterator[tuple[int, Record]]:
        """Read the usable rows once more, each with its place in ``usable``."""
        for place, (part, where, row) in enumerate(_read(self.files, self.format, progress, self.rows)):
            if self.usable[place] and isinstance(row, Row):
                yield place, Record(part, row.number, where, row.values, row.size)


def _read(
    files: Sequence[tuple[Part, str, Path]], declared: str, progress: Progress, total: int
) -> Iterator[tuple[Part, str, Row | BadRow]]:
    done = 0
    for part, prefix, path in files:
        for row in read_rows(path, declared):
            yield part, f"{prefix}line {row.number}", row
            done += 1
            if done % _PROGRESS_ROWS == 0:
                progress(done, total)


def read_table(
    files: Mapping[str, Path], dataset: Dataset, bad: BadRowLog, *, progress: Progress = no_progress
) -> Table:
    """Read all files once.

    Parameters
    ----------
    files
        Local paths by ``all``, or by part; they must stay as they are while the table is used.
    dataset
        Format, and the columns of the split, which must exist.
    bad
        Takes the rows that can't be read.
    progress
        Called with the rows read so far; how many there are is not known yet (0).

    Raises
    ------
    StageError
        DatasetInvalid: a file that is no dataset, or too many bad rows; InvalidSpec: a column of ``split`` that no row
        has.
    """
    columns: dict[str, None] = {}
    usable = bytearray()
    given: tuple[tuple[Part, str, Path], ...] = (
        (("train", "", files["all"]),)
        if "all" in files
        else tuple((part, f"{part} ", files[part]) for part in PARTS if part in files)
    )
    for _, where, row in _read(given, dataset.format, progress, 0):
        usable.append(isinstance(row, Row))
        if isinstance(row, BadRow):
            bad.add(where, row.why)
        else:
            columns.update(dict.fromkeys(row.values))
    table = Table(given, dataset.format, tuple(columns), usable)
    bad.check(table.rows)
    for field, column in (("stratifyBy", dataset.split.stratify_by), ("groupBy", dataset.split.group_by)):
        if column is not None and column not in columns:
            raise StageError(
                Reason.INVALID_SPEC,
                f"dataset.split.{field} names column {column!r}, which no row has; {shown_columns(table.columns)}",
            )
    return table


def shown_columns(columns: Sequence[str]) -> str:
    """The columns of the data in words, for messages."""
    names = ", ".join(columns[:_SHOWN])
    return f"columns: {names}" + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
