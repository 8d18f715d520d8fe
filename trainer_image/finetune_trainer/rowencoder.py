"""Rows of one part after the other through renderer and encoder, into arrays; the loop of ``prepare.py``."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from finetune_api.reasons import Reason
from finetune_trainer.badrows import BadRowLog
from finetune_trainer.encode import Encoded, Encoder, Example
from finetune_trainer.errors import StageError
from finetune_trainer.prepared import PARTS, ChoiceSet, EncodedPart, Part, TextRow
from finetune_trainer.records import Record, shown_columns
from finetune_trainer.template.catalog import PromptTemplate
from finetune_trainer.template.render import Renderer, Unrendered

__all__ = ["PartBuilder", "RowEncoder"]

_PREVIEW_ROWS: Final = 3


@dataclass(slots=True)
class PartBuilder:
    """Grows one part's arrays; compact while it grows.

    ``texts`` holds all rows of validation and test, and the first train rows as a preview.
    """

    tokens: array[int] = field(default_factory=lambda: array("i"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    prompt_lengths: array[int] = field(default_factory=lambda: array("i"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    choice_set: array[int] = field(default_factory=lambda: array("i"))
    answer: array[int] = field(default_factory=lambda: array("i"))
    texts: list[TextRow] = field(default_factory=list)
    truncated: int = 0
    longest: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Encoded, number: int, choice_set: int, answer: int) -> None:
        """Append a row; ``choice_set`` and ``answer`` are -1 without choices."""
        self.tokens.extend(row.prompt)
        self.tokens.extend(row.completion)
        self.ends.append(len(self.tokens))
        self.prompt_lengths.append(len(row.prompt))
        self.rows.append(number)
        self.choice_set.append(choice_set)
        self.answer.append(answer)
        self.truncated += row.truncated
        self.longest = max(self.longest, len(row.completion))

    def build(self) -> EncodedPart:
        """Return what was added."""
        return EncodedPart(
            tokens=np.array(self.tokens, dtype=np.int32),
            offsets=np.array([0, *self.ends], dtype=np.int64),
            prompt_lengths=np.array(self.prompt_lengths, dtype=np.int32),
            rows=np.array(self.rows, dtype=np.int64),
            choice_set=np.array(self.choice_set, dtype=np.int32),
            answer=np.array(self.answer, dtype=np.int32),
        )


class RowEncoder:
    """Renders and encodes rows chunk by chunk.

    Parameters
    ----------
    template, renderer, encoder
        What makes tokens of a row; no renderer for ``messages``.
    bad
        Takes the rows that fail.
    columns
        Of the data, to tell a column that this row lacks from one that no row has.
    choices
        The possible answers of every row; None where they are open or each row has its own.

    Attributes
    ----------
    parts
        What came of the rows of each part.
    choice_sets
        Distinct choice sets, in the order of their coming.

    Raises
    ------
    StageError
        TemplateInvalid: ``choices`` has two that are the same tokens to this model.
    """

    def __init__(
        self,
        *,
        template: PromptTemplate,
        renderer: Renderer | None,
        encoder: Encoder,
        bad: BadRowLog,
        columns: Sequence[str],
        choices: tuple[str, ...] | None,
    ) -> None:
        self.template, self.renderer, self.encoder, self.bad, self.columns = template, renderer, encoder, bad, columns
        self.choices = choices
        self.parts: dict[Part, PartBuilder] = {p: PartBuilder() for p in PARTS}
        self.choice_sets: list[ChoiceSet] = []
        self._set_index: dict[tuple[str, ...], int] = {}
        if choices is not None:
            try:
                self._choice_set(choices)
            except ValueError as e:
                raise StageError(Reason.TEMPLATE_INVALID, f"dataset.template: {e}") from e

    def encode(self, part: Part, records: Sequence[Record]) -> None:
        """Render and encode rows of one part; rows that fail go to the bad ones.

        Raises
        ------
        StageError
            TemplateInvalid or ModelInvalid: no row could be encoded; DatasetInvalid: a bad row where none may be.
        """
        rendered = list(self._render(records))
        results = self.encoder.encode([example for _, example in rendered])
        builder = self.parts[part]
        for (record, example), result in zip(rendered, results, strict=True):
            if isinstance(result, str):
                self.bad.add(record.where, result)
                continue
            choice_set = answer = -1
            if example.choices:
                try:
                    choice_set = self._choice_set(example.choices)
                except ValueError as e:
                    self.bad.add(record.where, str(e))
                    continue
                answer = example.choices.index(example.completion)
            builder.add(result, record.number, choice_set, answer)
            if part != "train" or len(builder.texts) < _PREVIEW_ROWS:
                builder.texts.append(TextRow(record.number, _prompt_text(example), example.completion))

    def _render(self, records: Sequence[Record]) -> Iterator[tuple[Record, Example]]:
        if self.renderer is None:
            for record in records:
                assert record.projected is not None  # noqa: S101  # messages is a named template
                example = Example(
                    record.where, record.projected.messages, record.projected.answer, self._choices_of(record)
                )
                if self._answer_is_known(record, example):
                    yield record, example
            return
        results = self.renderer.render((r.where, self._context(r)) for r in records)
        for record, result in zip(records, results, strict=True):
            if isinstance(result, Unrendered):
                self._unrendered(record, result)
                continue
            example = Example(record.where, result.prompt, result.completion, self._choices_of(record))
            if self._answer_is_known(record, example):
                yield record, example

    def _context(self, record: Record) -> dict[str, Any]:
        choices = list(self._choices_of(record))
        if record.projected is None:
            # A column wins over the two names that templates get besides the columns.
            return {"choices": choices, "row": record.values, **record.values}
        return {"choices": choices, **record.projected.inputs, str(self.template.answer): record.projected.answer}

    def _choices_of(self, record: Record) -> tuple[str, ...]:
        if self.choices is not None:
            return self.choices
        own = record.projected.choices if record.projected is not None else None
        return own or ()

    def _answer_is_known(self, record: Record, example: Example) -> bool:
        if not example.choices or example.completion in example.choices:
            return True
        shown = repr(example.completion if len(example.completion) <= 60 else example.completion[:57] + "...")
        if self.template.choices is None:
            self.bad.add(record.where, f"the answer {shown} is no label of the train rows; list it in template.choices")
        else:
            self.bad.add(record.where, f"the answer {shown} is none of dataset.template.choices")
        return False

    def _unrendered(self, record: Record, result: Unrendered) -> None:
        if result.unknown is not None and result.unknown not in self.columns:
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"dataset.template.inline uses {result.unknown!r}, which is no column; {shown_columns(self.columns)}",
            )
        nulls = [c for c, v in record.values.items() if v is None] if result.unknown is None else []
        self.bad.add(record.where, result.why + (f" (null columns: {', '.join(nulls)})" if nulls else ""))

    def _choice_set(self, choices: tuple[str, ...]) -> int:
        if choices not in self._set_index:
            self.choice_sets.append(self.encoder.choices(choices))
            self._set_index[choices] = len(self.choice_sets) - 1
        return self._set_index[choices]


def _prompt_text(example: Example) -> str:
    if isinstance(example.prompt, str):
        return example.prompt
    return "\n\n".join(f"{m.role}: {m.content}" for m in example.prompt)
