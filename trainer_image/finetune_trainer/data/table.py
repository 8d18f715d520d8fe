"""The dataset's rows, read from the files anew in each pass.

Above ``readers.py``, which knows formats. No pass holds rows: a first one finds the columns and the rows that can't be
read, later ones (``prepare/``) make the split's keys and encode. Reading thrice costs seconds where tokenising costs
minutes, and a dataset may be larger than the memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.delimiters import DELIMITERS
from finetune_trainer.data.json_text import Shape
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.data.readers import BadRow, Row, Source, look_at, read_rows
from finetune_trainer.data.separated import lacks_first_name
from finetune_trainer.data.source import OWN_DELIMITER, file_name
from finetune_trainer.data.tsv_quotes import QuoteMarks
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress, no_progress

__all__ = ["Observer", "Record", "Table", "read_table", "shown_columns"]

_SHOWN: Final = 20
_PROGRESS_ROWS: Final = 1024

Observer = Callable[[str, Mapping[str, Any]], None]
"""Takes where a row stands, in words, and its values."""

_log = logging.getLogger(__name__)


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
        The same in words, with the file's name.
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
        (part that the file stands for, the file), in the order of reading.
    columns
        Every column that some row has, in the order of their coming.
    usable
        For each row, bad ones included, whether it can be used as far as is known: 0 or 1.
    """

    files: tuple[tuple[Part, Source], ...]
    columns: tuple[str, ...]
    usable: bytearray

    @property
    def rows(self) -> int:
        """How many rows there are, bad ones included."""
        return len(self.usable)

    def records(self, progress: Progress = no_progress) -> Iterator[tuple[int, Record]]:
        """Read the usable rows once more, each with its place in ``usable``."""
        for place, (part, where, row) in enumerate(_read(self.files, progress, self.rows)):
            if self.usable[place] and isinstance(row, Row):
                yield place, Record(part, row.number, where, row.values, row.size)


def _read(
    files: Sequence[tuple[Part, Source]], progress: Progress, total: int
) -> Iterator[tuple[Part, str, Row | BadRow]]:
    done = 0
    for part, source in files:
        for row in read_rows(source):
            yield part, f"{source.name} {source.unit} {row.number}", row
            done += 1
            if done % _PROGRESS_ROWS == 0:
                progress(done, total)


def read_table(
    files: Mapping[str, Path],
    dataset: Dataset,
    bad: BadRowLog,
    *,
    progress: Progress = no_progress,
    observe: Observer | None = None,
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
    observe
        Gets every row that can be read, in their order.

    Raises
    ------
    StageError
        DatasetInvalid: a file that is no dataset, or too many bad rows; InvalidSpec: a column of ``split`` that no row
        has.
    """
    columns: dict[str, None] = {}
    usable = bytearray()
    given = _sources(files, dataset)
    for part, where, row in _read(given, progress, 0):
        usable.append(isinstance(row, Row))
        if isinstance(row, BadRow):
            bad.add_unsplit(where, row.why, part)
        else:
            columns.update(dict.fromkeys(row.values))
            if observe is not None:
                observe(where, row.values)
    table = Table(given, tuple(columns), usable)
    bad.check(table.rows)
    for field, column in (("stratifyBy", dataset.split.stratify_by), ("groupBy", dataset.split.group_by)):
        if column is not None and column not in columns:
            raise StageError(
                Reason.INVALID_SPEC,
                f"dataset.split.{field} names column {column!r}, which no row has; {shown_columns(table.columns)}",
            )
    return table


def _sources(files: Mapping[str, Path], dataset: Dataset) -> tuple[tuple[Part, Source], ...]:
    """Look at each file; those of one name are told apart by their part."""
    uris: dict[str, str | None] = {"all": dataset.uri}
    if dataset.files is not None:
        uris |= {part: getattr(dataset.files, part) for part in PARTS}
    names = {key: file_name(uris.get(key) or path.name) for key, path in files.items()}
    given: list[tuple[Part, Source]] = []
    for part in PARTS:
        key = "all" if part == "train" and "all" in files else part
        if key not in files:
            continue
        name = names[key]
        source = look_at(files[key], dataset, name)
        for found in _told(source):
            _log.info("%s", found)
        twice = list(names.values()).count(name) > 1
        given.append((part, replace(source, name=f"{part} {name}") if twice else source))
    return tuple(given)


def _told(source: Source) -> Iterator[str]:
    """Say what was found out about a file that its user may not know."""
    if source.encoding != "UTF-8":
        yield f"{source.name} is read as {source.encoding}"
    if source.shape not in (None, Shape.LINES):
        yield f"{source.name} is {source.shape.value}"
    if source.format not in ("Csv", "Tsv"):
        return
    if source.delimiter != OWN_DELIMITER[source.format]:
        yield f"the cells of {source.name} are parted by {DELIMITERS[source.delimiter]}"
    if source.delimiter == "\t" and source.marks is not QuoteMarks.NONE:
        yield f"the quotation marks in {source.name} are read as {source.marks.value}"
    if lacks_first_name(source):
        yield f"the first column of {source.name} has no name and is left out"


def shown_columns(columns: Sequence[str]) -> str:
    """The columns of the data in words, for messages."""
    names = ", ".join(columns[:_SHOWN])
    return f"columns: {names}" + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
