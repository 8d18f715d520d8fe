"""What the log says of rows that were prepared; ``prepare.py`` asks."""

from __future__ import annotations

import logging
from typing import Final

from finetune_trainer.prepare.folder_writer import PreparedWriter
from finetune_trainer.text.template.catalog import PromptTemplate
from finetune_trainer.text.thought_format import ThoughtFormat

__all__ = ["tell_of_promptsource", "tell_of_thoughts", "warn_of_text"]

_log: Final = logging.getLogger(__name__)


def warn_of_text(writer: PreparedWriter, template: PromptTemplate) -> None:
    """Warn of answers that are longer than the task's, of shortened rows, and of control tokens in a text."""
    if template.answer_tokens is not None and writer.longest > template.answer_tokens:
        _log.warning(
            "the longest answer has %d tokens, and template %s is for answers of at most %d; make sure that column %r "
            "is the one that holds them",
            writer.longest,
            template.name,
            template.answer_tokens,
            next(field.column for field in template.fields if field.name == template.answer),
        )
    if writer.truncated:
        fields = ", ".join(f"{name} in {rows}" for name, rows in writer.shortened.most_common())
        _log.warning("%d rows are shortened to fit training.maxLength: %s", writer.truncated, fields)
    if writer.control_tokens:
        _log.warning(
            "the text of %d rows spells control tokens of the model; they are encoded as plain characters",
            writer.control_tokens,
        )


def tell_of_thoughts(thoughts: ThoughtFormat | None, rows: int) -> None:
    """Tell that thoughts are learned, and how the model writes them."""
    if thoughts is not None:
        _log.info(
            "%d rows have a thought before an answer, which is learned with it and ends with %r; scored is the answer",
            rows,
            thoughts.marks.closing,
        )


def tell_of_promptsource(template: PromptTemplate, skipped: int) -> None:
    """Tell what a prompt of PromptSource does to the rows and says of itself."""
    prompt = template.promptsource
    if prompt is None:
        return
    if skipped:
        _log.info("prompt %r renders nothing for %d rows, which are left out", prompt.name, skipped)
    if prompt.choices_in_prompt is False and prompt.answer_choices is not None:
        _log.info("prompt %r does not show its choices; the model has to know them", prompt.name)
    if prompt.original_task is False:
        _log.warning(
            "prompt %r says of itself that it asks for something else than the data set's own task; its score is not "
            "one of that task",
            prompt.name,
        )
