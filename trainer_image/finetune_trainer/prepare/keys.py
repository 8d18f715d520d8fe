"""What the split knows of each row, and the rows as the template takes them.

Between ``data/table.py``, which knows files and columns, and ``prepare.py``, which knows the order of the passes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.job import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.moments import NO_MOMENT, Moment, MomentColumn
from finetune_trainer.data.near import NearRows, text_of
from finetune_trainer.data.split import Keyed, RowKeys, exact_key, folded, input_key, output_key
from finetune_trainer.data.table import Record, Table
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.reads import check_fields, check_reads, check_texts
from finetune_trainer.prepare.rendering import TemplateRow, context_of, why_unrendered
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.text.template.catalog import MESSAGES, PromptTemplate
from finetune_trainer.text.template.conversation import TOOLS, Message, as_text_of_turn
from finetune_trainer.text.template.fields import project
from finetune_trainer.text.template.labels import Answers, find, unique_folds, whole_number
from finetune_trainer.text.template.render import Rendered, Renderer, Skipped, Unrendered
from finetune_trainer.text.template.survey import AnswerSurvey

__all__ = ["KeyedTable", "hash_of_answer", "key_rows", "opening_of"]

_GREETING_CHARS: Final = 16
"""Shorter first turns without a number may be a greeting."""

# What is rendered at a time: few enough to hold, enough for the child process to be worth its call.
_BATCH_ROWS: Final = 256
_BATCH_BYTES: Final = 2**19

_log = logging.getLogger(__name__)


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
    skipped
        Rows that the template itself leaves out.
    sources
        Number of the entry of ``dataset.sources`` of each usable row.
    thoughts
        Usable rows in which something is thought before an answer.
    """

    table: Table
    template: PromptTemplate
    keys: RowKeys
    answers: NDArray[np.uint64]
    reading: Answers
    folded: int
    skipped: int = 0
    sources: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    thoughts: int = 0

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
    renderer: Renderer | None,
    bad: BadRowLog,
    *,
    survey: AnswerSurvey,
    near: NearRows | None = None,
    progress: Progress = no_progress,
) -> KeyedTable:
    """Read all rows once more and make the split's keys, each of the prompt that the model will see.

    Columns that look different may render to one prompt (null and "", an id that no prompt shows), and fields to one
    text (an instruction with its input in it); only the prompt itself tells.

    Parameters
    ----------
    table
        From :func:`read_table`; rows that lack what the template needs are marked as not usable.
    template
        Named or inline.
    dataset
        Names the columns of the split.
    renderer
        Of the template; None for ``messages``, whose turns are its prompt.
    bad
        Takes the rows that lack what the template needs, or that it can't render; they are not usable from here on.
    survey
        Has seen every row of the table.
    near
        Gets what the template shows of each row, in the order of the keys.
    progress
        Called with rows read and rows in all.

    Raises
    ------
    StageError
        TemplateInvalid: a field's column is in no row, or an inline prompt or completion reads no column, so that it
        would be the same for every row, or the template can't be rendered; DatasetInvalid: too many bad rows, or
        answers that can't be read in one way.
    """
    check_fields(template, table.columns)
    if renderer is not None:
        check = check_texts if template.fields else check_reads
        check(template, renderer, table.columns)
    reading, remark = survey.judge()
    if remark is not None:
        _log.log(logging.WARNING if remark.warns else logging.INFO, "%s", remark.text)
    spelt_otherwise = skipped = kept = thoughts = 0
    keys, answers, sources = RowKeys(), array("Q"), bytearray()
    order = MomentColumn(dataset.split.order_by) if dataset.split.order_by else None
    make = _KeyMaker(template, reading, None if _shows_one_text(template) else renderer, table.columns)
    for batch in _batches(table.records(progress)):
        for (place, record), made in zip(batch, make.keys([record for _, record in batch]), strict=True):
            if made is None:
                skipped += 1
                table.usable[place] = 0
                continue
            if isinstance(made, str):
                bad.add_unsplit(record.where, made, record.part)
                table.usable[place] = 0
                continue
            row, (key, output, exact) = made
            moment = _moment_of(record, order)
            if isinstance(moment, str):
                bad.add_unsplit(record.where, moment, record.part)
                table.usable[place] = 0
                continue
            kept += 1
            opening = None
            if row.projected is not None:
                spelt_otherwise += row.projected.folded
                thoughts += bool(row.projected.thoughts)
                if template.name == MESSAGES:
                    opening = opening_of(row.projected.messages, row.projected.answer)
                if template.choice_source == "labels":
                    answers.append(hash_of_answer(row.projected.answer))
            group, stratum = (_as_text(record, c) for c in (dataset.split.group_by, dataset.split.stratify_by))
            keys.add(Keyed(key, output, exact, group, stratum, opening, moment), record.part)
            sources.append(record.source)
            if near is not None:
                near.add(" ".join(text_of(_shown(row, renderer))))
    bad.check(table.rows)
    if skipped and not kept:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"{template.field_of_text} renders nothing for all {skipped} rows; take another prompt of the file",
        )
    return KeyedTable(
        table,
        template,
        keys,
        np.array(answers, dtype=np.uint64),
        reading,
        spelt_otherwise,
        skipped,
        np.frombuffer(sources, np.uint8),
        thoughts,
    )


def _moment_of(record: Record, order: MomentColumn | None) -> Moment | str | None:
    """When a row was, or why it is a bad one; a row whose part is given has its place whatever its time."""
    if order is None:
        return None
    return order.of(record.where, record.values) if record.part == "train" else NO_MOMENT


def _shown(row: TemplateRow, renderer: Renderer | None) -> Mapping[str, Any]:
    """What the prompt shows of a row, without the template's own words, which all rows share."""
    if row.projected is not None:
        return row.projected.inputs
    values = row.record.values
    if renderer is None or renderer.prompt_uses.whole_row:
        return values
    return {column: value for column, value in values.items() if column in renderer.prompt_uses.names}


def _shows_one_text(template: PromptTemplate) -> bool:
    """Tell whether a prompt says nothing of its row but one text: then the text tells all that the prompt would.

    Rendering costs more than all else that is done for a row here.
    """
    shown = [field for field in template.fields if field.name != template.answer]
    return len(shown) == 1 and template.choice_source != "row" and template.name != MESSAGES


_Keys = tuple[bytes, bytes, bytes]
"""Of the input, of the output, and of both as they are."""


class _KeyMaker:
    """Makes the keys of rows, by what the model sees of them."""

    def __init__(
        self, template: PromptTemplate, reading: Answers, renderer: Renderer | None, columns: Sequence[str]
    ) -> None:
        self._template, self._reading, self._renderer, self._columns = template, reading, renderer, columns
        self._folds = unique_folds(template.choices or ())

    def keys(self, records: Sequence[Record]) -> Iterator[tuple[TemplateRow, _Keys] | str | None]:
        """Yield for each row its fields and keys, or why it is a bad one; None where the template leaves it out."""
        rows = [self._row(record) for record in records]
        good = [row for row in rows if isinstance(row, TemplateRow)]
        renderer = self._renderer
        contexts = ((row.record.where, context_of(self._template, row, self._choices(row))) for row in good)
        rendered = None if renderer is None else renderer.render(contexts)
        for row in rows:
            if isinstance(row, str):
                yield row
                continue
            result = None if rendered is None else next(rendered)
            if isinstance(result, Unrendered):
                yield why_unrendered(self._template, row.record, result, self._columns)
            elif isinstance(result, Skipped):
                yield None
            else:
                yield row, self._keys(row, result)

    def _row(self, record: Record) -> TemplateRow | str:
        if not self._template.fields:
            return TemplateRow(record, None)
        try:
            return TemplateRow(record, project(self._template, record.values, self._reading))
        except ValueError as e:
            return str(e)

    def _choices(self, row: TemplateRow) -> Sequence[str]:
        """Choices in an order that doesn't depend on the row's: shuffled ones are no other question.

        The labels of the train rows are not known yet; in the prompt they stand before all fields, in every row alike.
        """
        own = row.projected.choices if row.projected is not None else None
        return sorted(own, key=lambda choice: (folded(choice), choice)) if own else self._template.choices or ()

    def _keys(self, row: TemplateRow, rendered: Rendered | None) -> _Keys:
        projected = row.projected
        prompt = rendered.prompt if rendered is not None else projected.inputs if projected is not None else None
        if projected is not None:
            answer = projected.answer
        else:
            assert rendered is not None  # noqa: S101  # only messages is not rendered, and it is a named template
            answer = rendered.completion
        choice = find(answer, self._template.choices or (), self._folds)
        # The order of a row's own choices is a part of what the model sees.
        own = projected.choices if projected is not None else None
        thoughts = projected.thoughts if projected is not None else ()
        whole = exact_key([prompt, own, answer, *thoughts])
        return input_key(prompt), output_key(answer if choice is None else choice), whole


def _batches(records: Iterable[tuple[int, Record]]) -> Iterator[list[tuple[int, Record]]]:
    batch: list[tuple[int, Record]] = []
    size = 0
    for record in records:
        batch.append(record)
        size += record[1].size
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def opening_of(before: Sequence[Message], answer: str) -> bytes | None:
    """Key by which the rows that were cut from one conversation are known; the system turn has no part in it.

    That is the first thing that a user says. Where it is hardly more than a greeting, which strangers share, the reply
    belongs to it. One row's turns can then never begin another's in another part, nor can both begin alike.
    """
    first = next((i for i, turn in enumerate(before) if turn.role not in ("system", TOOLS)), None)
    if first is None:
        return None
    said = before[first].content
    if len(" ".join(said.split())) >= _GREETING_CHARS or any(c.isdigit() for c in said):
        return input_key({"said": said})
    return input_key({"said": said, "reply": as_text_of_turn(before[first + 1]) if len(before) > first + 1 else answer})


def hash_of_answer(text: str) -> int:
    """What ``KeyedTable.answers`` holds of an answer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _as_text(record: Record, column: str | None) -> str | None:
    value = None if column is None else record.values.get(column)
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True)
    # A column of numbers with a gap becomes one of 7.0 in many a tool: the same customer as 7.
    number = whole_number(text)
    return (text or None) if number is None else str(number)
