"""What a template gets of a row, and what is said of a row that it can't render; the same for the keys and the tokens.

Between ``data/table.py``, which knows files and columns, and the passes that render: ``keys.py``, ``encode_rows.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.reasons import Reason
from finetune_trainer.data.table import Record, shown_columns
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.catalog import PromptTemplate
from finetune_trainer.text.template.fields import Projected
from finetune_trainer.text.template.render import Unrendered

__all__ = ["TemplateRow", "context_of", "why_unrendered"]


@dataclass(frozen=True, slots=True)
class TemplateRow:
    """A usable row, with the fields of a named template; None for an inline one."""

    record: Record
    projected: Projected | None


def context_of(template: PromptTemplate, row: TemplateRow, choices: Sequence[str]) -> dict[str, Any]:
    """Return the variables of the template's texts.

    Parameters
    ----------
    template, row
        The row is projected if the template is a named one.
    choices
        What the row may be answered with, in the order in which the prompt lists it.
    """
    if template.promptsource is not None:
        return dict(row.record.values)
    if row.projected is None:
        # A column wins over the two names that templates get besides the columns.
        return {"choices": list(choices), "row": row.record.values, **row.record.values}
    return {**row.projected.inputs, "choices": list(choices), str(template.answer): row.projected.answer}


def why_unrendered(template: PromptTemplate, record: Record, result: Unrendered, columns: Sequence[str]) -> str:
    """Say why a row can't be rendered, as the reason of a bad row.

    Raises
    ------
    StageError
        TemplateInvalid: the template reads a variable that is a column of no row.
    """
    if result.unknown is not None:
        if result.unknown in columns:
            return result.why
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"{template.field_of_text} uses {result.unknown!r}, which is no column; {shown_columns(columns)}",
        )
    nulls = [column for column, value in record.values.items() if value is None]
    return result.why + (f" (null columns: {', '.join(nulls)})" if nulls else "")
