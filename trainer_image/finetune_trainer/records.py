"""Reads the dataset's files into records: what the split and the templates need of each row.

Between ``data.py``, which knows files, and ``prepare.py``, which knows the order of things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.badrows import BadRowLog
from finetune_trainer.data import BadRow, Row, read_rows
from finetune_trainer.errors import StageError
from finetune_trainer.prepared import PARTS, Part
from finetune_trainer.split import Keyed, exact_key, input_key
from finetune_trainer.template.catalog import PromptTemplate
from finetune_trainer.template.fields import Projected, project
from finetune_trainer.template.render import Uses

__all__ = ["Record", "Table", "key_records", "project_records", "read_table", "shown_columns"]

_SHOWN: Final = 20


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
    projected
        The fields of a named template; None for an inline one.
    """

    part: Part
    number: int
    where: str
    values: dict[str, Any]
    projected: Projected | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a dataset.

    Attributes
    ----------
    records
        The rows that could be read, file after file.
    columns
        Every column that some row has, in the order of their coming.
    rows
        How many rows there are, bad ones included.
    """

    records: list[Record]
    columns: tuple[str, ...]
    rows: int


def read_table(files: Mapping[str, Path], dataset: Dataset, bad: BadRowLog) -> Table:
    """Read all files.

    Parameters
    ----------
    files
        Local paths by ``all``, or by part.
    dataset
        Format, and the columns of the split, which must exist.
    bad
        Takes the rows that can't be read.

    Raises
    ------
    StageError
        DatasetInvalid: a file that is no dataset, or too many bad rows; InvalidSpec: a column of ``split`` that no row
        has.
    """
    records: list[Record] = []
    columns: dict[str, None] = {}
    rows = 0
    given: list[tuple[Part, str, Path]] = (
        [("train", "", files["all"])] if "all" in files else [(p, f"{p} ", files[p]) for p in PARTS if p in files]
    )
    for part, prefix, path in given:
        for row in read_rows(path, dataset.format):
            rows += 1
            where = f"{prefix}line {row.number}"
            if isinstance(row, BadRow):
                bad.add(where, row.why)
                continue
            columns.update(dict.fromkeys(row.values))
            records.append(_record(part, where, row))
    bad.check(rows)
    table = Table(records, tuple(columns), rows)
    for field, column in (("stratifyBy", dataset.split.stratify_by), ("groupBy", dataset.split.group_by)):
        if column is not None and column not in columns:
            raise StageError(
                Reason.INVALID_SPEC,
                f"dataset.split.{field} names column {column!r}, which no row has; {shown_columns(table.columns)}",
            )
    return table


def _record(part: Part, where: str, row: Row) -> Record:
    return Record(part, row.number, where, row.values)


def project_records(table: Table, template: PromptTemplate, bad: BadRowLog) -> list[Record]:
    """Take a named template's fields from every row; an inline template's records stay as they are.

    Raises
    ------
    StageError
        TemplateInvalid: a field's column is in no row; DatasetInvalid: too many rows lack what the template needs.
    """
    if not template.fields:
        return table.records
    for field in template.fields:
        if field.column not in table.columns and not (field.optional and field.column == field.name):
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"dataset.template {template.name} needs column {field.column!r}, which no row has; "
                f"map it with template.columns: {{{field.name}: YOUR_COLUMN}}; {shown_columns(table.columns)}",
            )
    good = []
    for record in table.records:
        try:
            fields = project(template, record.values)
        except ValueError as e:
            bad.add(record.where, str(e))
        else:
            good.append(Record(record.part, record.number, record.where, record.values, fields))
    bad.check(table.rows)
    return good


def key_records(
    records: Sequence[Record], dataset: Dataset, uses: tuple[Uses, Uses] | None, columns: Sequence[str]
) -> list[Keyed]:
    """Make the split's keys.

    Parameters
    ----------
    records
        From :func:`project_records`.
    dataset
        Names the columns of the split.
    uses
        What an inline template's prompt and completion read; None for a named one, whose fields say it.
    columns
        All columns.

    Raises
    ------
    StageError
        TemplateInvalid: an inline prompt or completion reads no column, so that it would be the same for every row.
    """
    read: list[list[str]] = []
    if uses is not None:
        for part, use in zip(("prompt", "completion"), uses, strict=True):
            read.append([c for c in columns if use.whole_row or c in use.names])
            if not read[-1]:
                unknown = sorted(use.names - {"choices", "row"})
                raise StageError(
                    Reason.TEMPLATE_INVALID,
                    f"dataset.template.inline.{part} "
                    + (f"uses {unknown[0]!r}, which no row has" if unknown else "uses no column of the data")
                    + f"; {shown_columns(columns)}",
                )
    split = dataset.split
    keyed = []
    for record in records:
        if record.projected is not None:
            key, output = input_key(record.projected.inputs), exact_key({"answer": record.projected.answer})
        else:
            inputs, outputs = ({c: record.values.get(c) for c in names} for names in read)
            key, output = input_key(inputs), exact_key(outputs)
        keyed.append(Keyed(key, output, _as_text(record, split.group_by), _as_text(record, split.stratify_by)))
    return keyed


def _as_text(record: Record, column: str | None) -> str | None:
    value = None if column is None else record.values.get(column)
    if value is None or isinstance(value, str):
        return value.strip() or None if value else None
    return json.dumps(value, sort_keys=True)


def shown_columns(columns: Sequence[str]) -> str:
    """The columns of the data in words, for messages."""
    names = ", ".join(columns[:_SHOWN])
    return f"columns: {names}" + (f" and {len(columns) - _SHOWN} more" if len(columns) > _SHOWN else "")
