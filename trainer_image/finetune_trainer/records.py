"""The dataset's rows as the split and the templates need them, read from the files anew in each pass.

Between ``data.py``, which knows files, and ``prepare.py``, which knows the order of things. No pass holds rows: a first
one finds the columns and the rows that can't be read, a second one makes the split's keys, a third one encodes. Reading
thrice costs seconds where tokenising costs minutes, and a dataset may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.badrows import BadRowLog
from finetune_trainer.console import Progress, no_progress
from finetune_trainer.data import BadRow, Row, read_rows
from finetune_trainer.errors import StageError
from finetune_trainer.prepared import PARTS, Part
from finetune_trainer.split import Keyed, RowKeys, exact_key, input_key
from finetune_trainer.template.catalog import PromptTemplate
from finetune_trainer.template.fields import Projected, project
from finetune_trainer.template.render import Uses

__all__ = ["KeyedTable", "Record", "Table", "key_records", "read_table", "shown_columns"]

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
    projected
        The fields of a named template; None for an inline one.
    """

    part: Part
    number: int
    where: str
    values: dict[str, Any]
    size: int
    projected: Projected | None = None


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


@dataclass(frozen=True, slots=True)
class KeyedTable:
    """A table whose usable rows have keys.

    Attributes
    ----------
    table, template
        Its usable rows all give what the template needs.
    keys
        What the split knows of each usable row.
    answers
        uint64 (usable rows,): a hash of each answer where answers are labels; empty otherwise.
    """

    table: Table
    template: PromptTemplate
    keys: RowKeys
    answers: NDArray[np.uint64]

    def records(self) -> Iterator[Record]:
        """Read the usable rows once more, in the order of the keys, with the fields of a named template."""
        for _, record in self.table.records():
            yield _projected(record, self.template) if self.template.fields else record

    def answers_of(self, rows: Sequence[int]) -> list[str]:
        """Answers of some usable rows; reads no further than it must."""
        wanted, last = set(rows), max(rows)
        found: dict[int, str] = {}
        for number, record in enumerate(self.records()):
            if number in wanted and record.projected is not None:
                found[number] = record.projected.answer
            if number == last:
                break
        return [found[row] for row in rows]


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


def key_records(
    table: Table,
    template: PromptTemplate,
    dataset: Dataset,
    uses: tuple[Uses, Uses] | None,
    bad: BadRowLog,
    *,
    progress: Progress = no_progress,
) -> KeyedTable:
    """Read all rows once more and make the split's keys.

    Parameters
    ----------
    table
        From :func:`read_table`; rows that lack what the template needs are marked as not usable.
    template
        Named or inline.
    dataset
        Names the columns of the split.
    uses
        What an inline template's prompt and completion read; None for a named one, whose fields say it.
    bad
        Takes the rows that lack what a named template needs.
    progress
        Called with rows read and rows in all.

    Raises
    ------
    StageError
        TemplateInvalid: a field's column is in no row, or an inline prompt or completion reads no column, so that it
        would be the same for every row; DatasetInvalid: too many bad rows.
    """
    _check_fields(template, table.columns)
    read = _columns_read(uses, table.columns)
    keys, answers = RowKeys(), array("Q")
    for place, record in table.records(progress):
        if template.fields:
            try:
                projected = project(template, record.values)
            except ValueError as e:
                bad.add(record.where, str(e))
                table.usable[place] = 0
                continue
            key, output = input_key(projected.inputs), exact_key({"answer": projected.answer})
            if template.choice_source == "labels":
                answers.append(_hash(projected.answer))
        else:
            inputs, outputs = ({c: record.values.get(c) for c in names} for names in read)
            key, output = input_key(inputs), exact_key(outputs)
        split = dataset.split
        keys.add(Keyed(key, output, _as_text(record, split.group_by), _as_text(record, split.stratify_by)), record.part)
    bad.check(table.rows)
    return KeyedTable(table, template, keys, np.array(answers, dtype=np.uint64))


def _check_fields(template: PromptTemplate, columns: Sequence[str]) -> None:
    for field in template.fields:
        if field.column not in columns and not (field.optional and field.column == field.name):
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"dataset.template {template.name} needs column {field.column!r}, which no row has; "
                f"map it with template.columns: {{{field.name}: YOUR_COLUMN}}; {shown_columns(columns)}",
            )


def _columns_read(uses: tuple[Uses, Uses] | None, columns: Sequence[str]) -> list[list[str]]:
    """Columns that an inline template's prompt and completion read."""
    read: list[list[str]] = []
    for part, use in zip(("prompt", "completion"), uses or (), strict=False):
        read.append([c for c in columns if use.whole_row or c in use.names])
        if not read[-1]:
            unknown = sorted(use.names - {"choices", "row"})
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"dataset.template.inline.{part} "
                + (f"uses {unknown[0]!r}, which no row has" if unknown else "uses no column of the data")
                + f"; {shown_columns(columns)}",
            )
    return read


def _projected(record: Record, template: PromptTemplate) -> Record:
    fields = project(template, record.values)
    return Record(record.part, record.number, record.where, record.values, record.size, fields)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _as_text(record: Record, column: str | None) -> str | None:
    value = None if column is None else record.values.get(column)
    if value is None or isinstance(value, str):
        return value.strip() or None if value else None
    return json.dumps(value, sort_keys=True)


def shown_columns(columns: Sequence[str]) -> str:
    """The columns of the data in words, for messages."""
    names = ", ".join(columns[:_SHOWN])
    return f"columns: {names}" + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
