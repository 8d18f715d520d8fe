"""The dataset's rows, read from the files anew in each pass.

Above ``readers.py``, which knows formats. No pass holds rows: a first one finds the columns and the rows that can't be
read, later ones (``prepare/``) make the split's keys and encode. Reading thrice costs seconds where tokenising costs
minutes, and a dataset may be larger than the memory.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.classes import usable
from finetune_trainer.data.delimiters import DELIMITERS
from finetune_trainer.data.given_parts import PartColumn, part_named
from finetune_trainer.data.json_text import Shape
from finetune_trainer.data.mixed import SourceCounts, renamed
from finetune_trainer.data.parts import Part
from finetune_trainer.data.readers import BadRow, Row, Source, look_at, read_rows
from finetune_trainer.data.separated import lacks_first_name
from finetune_trainer.data.source import OWN_DELIMITER, file_name
from finetune_trainer.data.tsv_quotes import QuoteMarks
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.storage.rowfiles import RowFile, given_files

__all__ = ["Observer", "Record", "Table", "read_table", "shown_columns"]

_SHOWN: Final = 20
_SHOWN_CLASSES: Final = 10
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
    file
        The file's name where the rows of a part come from several; else empty.
    source
        Number of its entry in ``dataset.sources``, from 0.
    """

    part: Part
    number: int
    where: str
    values: dict[str, Any]
    size: int
    file: str = ""
    source: int = 0


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
    given
        Parts that were given; the rows of train are cut for the others.
    by
        Column that says the part of each row; None where the files do.
    read
        Rows of each entry of ``dataset.sources``, bad ones included.
    """

    files: tuple[tuple[Part, Source], ...]
    columns: tuple[str, ...]
    usable: bytearray
    given: frozenset[Part] = frozenset()
    by: str | None = None
    read: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows there are, bad ones included."""
        return len(self.usable)

    def records(self, progress: Progress = no_progress) -> Iterator[tuple[int, Record]]:
        """Read the usable rows once more, each with its place in ``usable``."""
        often = Counter(part for part, _ in self.files)
        for place, (part, source, row) in enumerate(_read(self.files, progress, self.rows)):
            if self.usable[place] and isinstance(row, Row):
                if self.by is not None:
                    part = part_named(row.values[self.by]) or part
                file = source.name if often["train" if self.by else part] > 1 else ""
                yield place, Record(part, row.number, _where(source, row), row.values, row.size, file, source.entry)


def _read(
    files: Sequence[tuple[Part, Source]],
    progress: Progress,
    total: int,
    look: Callable[[Source, Row], None] | None = None,
) -> Iterator[tuple[Part, Source, Row | BadRow]]:
    done = 0
    for part, source in files:
        first = True
        for row in read_rows(source):
            if first and look is not None and isinstance(row, Row):
                look(source, row)
                first = False
            yield part, source, renamed(row, source.columns)
            done += 1
            if done % _PROGRESS_ROWS == 0:
                progress(done, total)


def _where(source: Source, row: Row | BadRow) -> str:
    return f"{source.name} {source.unit} {row.number}"


def read_table(
    files: Mapping[str, Path] | Sequence[RowFile],
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
        In the order of reading, or local paths by ``all`` or by part; they must stay as they are while the table is
        used.
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
    rows = given_files(files, dataset)
    sources = _sources(rows, dataset)
    alike = _SameHeader()
    seen = SourceCounts()
    parts = PartColumn(dataset.split.by) if dataset.split.by else None
    for part, source, row in _read(sources, progress, 0, alike.check):
        where = _where(source, row)
        seen.count(source, row)
        usable.append(isinstance(row, Row))
        if isinstance(row, BadRow):
            bad.add_unsplit(where, row.why, None if parts else part)
        else:
            columns.update(dict.fromkeys(row.values))
            if observe is not None:
                observe(where, row.values)
            if parts is not None and (why := parts.look(row.values)) is not None:
                usable[-1] = 0
                bad.add_unsplit(where, why, None)
    _check_any(usable, rows)
    if not columns:  # where no row can be read, that is what is wrong, not the name of a column
        bad.check(len(usable))
    _check_columns(dataset, tuple(columns))
    bad.check(len(usable))
    seen.check([source for _, source in sources])
    given = parts.given() if parts else frozenset(file.part for file in rows if file.part is not None)
    return Table(sources, tuple(columns), usable, given, dataset.split.by, seen.rows(dataset))


def _check_columns(dataset: Dataset, columns: Sequence[str]) -> None:
    split = dataset.split
    named = {"by": split.by, "orderBy": split.order_by, "stratifyBy": split.stratify_by, "groupBy": split.group_by}
    for field, column in named.items():
        if column is not None and column not in columns:
            raise StageError(
                Reason.INVALID_SPEC,
                f"dataset.split.{field} names column {column!r}, which no row has; {shown_columns(columns)}",
            )


def _sources(files: Sequence[RowFile], dataset: Dataset) -> tuple[tuple[Part, Source], ...]:
    """Look at each file; those of one name are told apart by their part."""
    names = [file_name(file.name) for file in files]
    often = Counter(names)
    given: list[tuple[Part, Source]] = []
    told: set[str] = set()
    for file, name in zip(files, names, strict=True):
        one = dataset.sources[file.source] if dataset.sources and file.source is not None else None
        about = dataset.model_copy(update={"format": one.format}) if one and one.format else dataset
        source = replace(look_at(file.path, about, name, scratch=file.scratch), classes=file.classes)
        for found in _told(source):
            # Of a folder once: its files are mostly alike.
            if (kind := found.replace(name, "")) not in told:
                _log.info("%s", found)
            if file.folder:
                told.add(kind)
        part: Part = file.part or "train"
        of = part if one is None else f"sources[{file.source}]"
        source = replace(
            source,
            name=f"{of} {name}" if often[name] > 1 else name,
            folder=file.folder,
            entry=file.source or 0,
            columns=tuple((one.columns or {}).items()) if one else (),
        )
        given.append((part, source))
    return tuple(given)


class _SameHeader:
    """Looks whether the tables of a folder have one header: a file without one would give its first row for it."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, frozenset[str]]] = {}

    def check(self, source: Source, row: Row) -> None:
        """Compare the columns of a file's first row.

        Raises
        ------
        StageError
            DatasetInvalid: they are others than those of the first file.
        """
        if not source.folder or source.format not in ("Csv", "Tsv"):
            return
        name, columns = self._first.setdefault(source.folder, (source.name, frozenset(row.values)))
        if columns != row.values.keys():
            odd = ", ".join(repr(column[:40]) for column in sorted(columns ^ row.values.keys())[:4])
            raise StageError(
                Reason.DATASET_INVALID,
                f"{source.name} has another header than {name} in the same folder (columns in one of them alone: {odd})"
                "; give each file the same header",
                tells_mend=True,
            )


def _check_any(usable: bytearray, files: Sequence[RowFile]) -> None:
    """Make sure that the files of a folder, each of which may be empty, hold a row together."""
    if not usable:
        raise StageError(Reason.DATASET_INVALID, f"none of the {len(files)} files of {files[0].folder} has a row")


def _told(source: Source) -> Iterator[str]:
    """Say what was found out about a file that its user may not know."""
    if source.encoding != "UTF-8":
        yield f"{source.name} is read as {source.encoding}"
    if source.shape not in (None, Shape.LINES):
        yield f"{source.name} is {source.shape.value}"
    if source.classes:
        yield from _told_classes(source)
    if source.format not in ("Csv", "Tsv"):
        return
    if source.delimiter != OWN_DELIMITER[source.format]:
        yield f"the cells of {source.name} are parted by {DELIMITERS[source.delimiter]}"
    if source.delimiter == "\t" and source.marks is not QuoteMarks.NONE:
        yield f"the quotation marks in {source.name} are read as {source.marks.value}"
    if lacks_first_name(source):
        yield f"the first column of {source.name} has no name and is left out"


def _told_classes(source: Source) -> Iterator[str]:
    """Say which numbers become names of classes by the dataset's card; what a file brings itself comes first."""
    own: Mapping[str, Sequence[str]] = {}
    if source.is_columnar:
        from finetune_trainer.data.columnar import own_classes  # noqa: PLC0415 - loads pyarrow

        own = own_classes(source)
    for column, names in usable(dict(source.classes), source.choices).items():
        about = f"the numbers in the column {column!r} of {source.name}"
        listed = ", ".join(names[:_SHOWN_CLASSES]) + (", ..." if len(names) > _SHOWN_CLASSES else "")
        if column not in own:
            yield f"{about} are classes, by the names in the dataset's README.md: {listed}"
        elif list(own[column]) != list(names):
            yield f"{about} have the names that the file brings; those in the dataset's README.md are others: {listed}"


def shown_columns(columns: Sequence[str]) -> str:
    """The columns of the data in words, for messages."""
    names = ", ".join(columns[:_SHOWN])
    return f"columns: {names}" + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
