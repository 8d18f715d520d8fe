"""What the split knows of each row, and the rows as the template takes them.

Between ``data/table.py``, which knows files and columns, and ``prepare.py``, which knows the order of the passes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.split import Keyed, RowKeys, exact_key, input_key
from finetune_trainer.data.table import Record, Table, shown_columns
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.text.template.catalog import MESSAGES, PromptTemplate
from finetune_trainer.text.template.conversation import Message
from finetune_trainer.text.template.fields import Projected, project
from finetune_trainer.text.template.labels import Answers
from finetune_trainer.text.template.render import Uses
from finetune_trainer.text.template.survey import AnswerSurvey

__all__ = ["KeyedTable", "TemplateRow", "hash_of_answer", "key_rows", "opening_of"]

_GREETING_CHARS: Final = 16
"""Shorter first turns without a number may be a greeting."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A usable row, with the fields of a named template; None for an inline one."""

    record: Record
    projected: Projected | None


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
    reading
        How the answer column is read.
    folded
        Usable rows whose answer is spelt in another way than its choice.
    """

    table: Table
    template: PromptTemplate
    keys: RowKeys
    answers: NDArray[np.uint64]
    reading: Answers
    folded: int

    def rows(self) -> Iterator[TemplateRow]:
        """Read the usable rows once more, in the order of the keys, with the fields of a named template."""
        for _, record in self.table.records():
            named = bool(self.template.fields)
            yield TemplateRow(record, project(self.template, record.values, self.reading) if named else None)

    def answers_of(self, rows: Sequence[int]) -> list[str]:
        """Answers of some usable rows; reads no further than it must."""
        wanted, last = set(rows), max(rows)
        found: dict[int, str] = {}
        for number, row in enumerate(self.rows()):
            if number in wanted and row.projected is not None:
                found[number] = row.projected.answer
            if number == last:
                break
        return [found[row] for row in rows]


def key_rows(
    table: Table,
    template: PromptTemplate,
    dataset: Dataset,
    uses: tuple[Uses, Uses] | None,
    bad: BadRowLog,
    *,
    survey: AnswerSurvey,
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
    survey
        Has seen every row of the table.
    progress
        Called with rows read and rows in all.

    Raises
    ------
    StageError
        TemplateInvalid: a field's column is in no row, or an inline prompt or completion reads no column, so that it
        would be the same for every row; DatasetInvalid: too many bad rows, or answers that can't be read in one way.
    """
    _check_fields(template, table.columns)
    read = _columns_read(uses, table.columns)
    reading, remark = survey.judge()
    if remark is not None:
        _log.log(logging.WARNING if remark.warns else logging.INFO, "%s", remark.text)
    folded = 0
    keys, answers = RowKeys(), array("Q")
    for place, record in table.records(progress):
        opening = None
        if template.fields:
            try:
                projected = project(template, record.values, reading)
            except ValueError as e:
                bad.add_unsplit(record.where, str(e), record.part)
                table.usable[place] = 0
                continue
            folded += projected.folded
            key, output = input_key(projected.inputs), exact_key({"answer": projected.answer})
            if template.name == MESSAGES:
                opening = opening_of(projected.messages, projected.answer)
            if template.choice_source == "labels":
                answers.append(hash_of_answer(projected.answer))
        else:
            inputs, outputs = ({c: record.values.get(c) for c in names} for names in read)
            key, output = input_key(inputs), exact_key(outputs)
        group, stratum = (_as_text(record, c) for c in (dataset.split.group_by, dataset.split.stratify_by))
        keys.add(Keyed(key, output, group, stratum, opening), record.part)
    bad.check(table.rows)
    return KeyedTable(table, template, keys, np.array(answers, dtype=np.uint64), reading, folded)


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


def opening_of(before: Sequence[Message], answer: str) -> bytes | None:
    """Key by which the rows that were cut from one conversation are known; the system turn has no part in it.

    That is the first thing that a user says. Where it is hardly more than a greeting, which strangers share, the reply
    belongs to it. One row's turns can then never begin another's in another part, nor can both begin alike.
    """
    first = next((i for i, turn in enumerate(before) if turn.role != "system"), None)
    if first is None:
        return None
    said = before[first].content
    if len(" ".join(said.split())) >= _GREETING_CHARS or any(c.isdigit() for c in said):
        return input_key({"said": said})
    return input_key({"said": said, "reply": before[first + 1].content if len(before) > first + 1 else answer})


def hash_of_answer(text: str) -> int:
    """What ``KeyedTable.answers`` holds of an answer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _as_text(record: Record, column: str | None) -> str | None:
    value = None if column is None else record.values.get(column)
    if value is None or isinstance(value, str):
        return value.strip() or None if value else None
    return json.dumps(value, sort_keys=True)
