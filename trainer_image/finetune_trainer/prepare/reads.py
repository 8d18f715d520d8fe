"""Whether a template reads what rows have: columns for its fields, texts that show their row. ``keys.py`` asks."""

from __future__ import annotations

from collections.abc import Sequence

from finetune_api.reasons import Reason
from finetune_trainer.data.table import shown_columns
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.catalog import PromptTemplate
from finetune_trainer.text.template.render import Renderer

__all__ = ["check_fields", "check_reads", "check_texts"]


def check_fields(template: PromptTemplate, columns: Sequence[str]) -> None:
    """Make sure that some row has the column of each field that is needed.

    Raises
    ------
    StageError
        TemplateInvalid: names the columns and how to map them.
    """
    if template.tools_column is not None and template.tools_column not in columns:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"dataset.template.messages.tools names column {template.tools_column!r}, which no row has; "
            f"{shown_columns(columns)}",
        )
    missing = [
        field for field in template.fields if field.column not in columns and not (field.optional and not field.mapped)
    ]
    if not missing:
        return
    names = ", ".join(repr(field.column) for field in missing)
    mapped = ", ".join(f"{field.name}: YOUR_COLUMN" for field in missing)
    needs, it, rest = f"needs column {names}", "it", ""
    if len(missing) > 1:
        fields = ", ".join(field.name for field in template.fields)
        needs, it, rest = f"needs columns {names}", "them", f"; the fields of {template.name}: {fields}"
    raise StageError(
        Reason.TEMPLATE_INVALID,
        f"dataset.template {template.name} {needs}, which no row has; map {it} with template.columns: {{{mapped}}}"
        f"{rest}; {shown_columns(columns)}",
    )


def check_texts(template: PromptTemplate, renderer: Renderer, _columns: Sequence[str]) -> None:
    """Make sure that the texts of a template with fields read these alone, and the answer only where it belongs.

    Raises
    ------
    StageError
        TemplateInvalid.
    """
    fields, answer = {field.name for field in template.fields}, str(template.answer)
    for use in (renderer.prompt_uses, *renderer.wording_uses):
        if answer in use.names:
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"{template.field_of_text} shows its answer, the field {answer}, in the prompt; take it out there",
            )
    for use in (renderer.prompt_uses, *renderer.wording_uses, renderer.completion_uses):
        if unknown := sorted(use.names - fields - {"choices"}):
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"{template.field_of_text} uses {unknown[0]!r}, which is none of its fields: "
                + ", ".join(field.name for field in template.fields),
            )
    if answer not in renderer.completion_uses.names:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            f"the completion of {template.field_of_text} does not read its answer, the field {answer}",
        )


def check_reads(template: PromptTemplate, renderer: Renderer, columns: Sequence[str]) -> None:
    """Make sure that both texts of an inline template read a column, or the one of a prompt of PromptSource.

    Raises
    ------
    StageError
        TemplateInvalid.
    """
    if template.promptsource is not None and "answer_choices" in columns:
        raise StageError(
            Reason.TEMPLATE_INVALID,
            "dataset.template.promptsource: the data has a column 'answer_choices', which is the name of the prompt's "
            "choices; rename the column",
        )
    parts = {f"{template.field_of_text}.prompt": renderer.prompt_uses}
    parts[f"{template.field_of_text}.completion"] = renderer.completion_uses
    if template.promptsource is not None:
        parts = {template.field_of_text: renderer.prompt_uses}
    for part, use in parts.items():
        if not use.whole_row and use.names.isdisjoint(columns):
            unknown = sorted(use.names - {"choices", "row"})
            raise StageError(
                Reason.TEMPLATE_INVALID,
                f"{part} "
                + (f"uses {unknown[0]!r}, which no row has" if unknown else "uses no column of the data")
                + f"; {shown_columns(columns)}",
            )
