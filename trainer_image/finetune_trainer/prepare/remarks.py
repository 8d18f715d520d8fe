"""What the log says of rows that were prepared; ``prepare.py`` asks."""

from __future__ import annotations

import logging
from typing import Final

from finetune_trainer.counted import counted
from finetune_trainer.prepare.folder_writer import PreparedWriter
from finetune_trainer.text.template.catalog import PromptTemplate
from finetune_trainer.text.thought_format import ThoughtFormat

__all__ = ["tell_of_promptsource", "tell_of_thoughts", "warn_of_text"]

_log: Final = logging.getLogger(__name__)


def warn_of_text(writer: PreparedWriter, template: PromptTemplate) -> None:
    """Warn of answers that are longer than the task's, of shortened rows, and of control tokens in a text."""
    if template.answer_tokens is not None and writer.longest > template.answer_tokens:
        _log.warning(
            "the longest answer has %s, and template %s is for answers of at most %d; make sure that column %r "
            "is the one that holds them",
            counted(writer.longest, "token"),
            template.name,
            template.answer_tokens,
            next(field.column for field in template.fields if field.name == template.answer),
        )
    if writer.truncated:
        fields = ", ".join(f"{name} in {rows}" for name, rows in writer.shortened.most_common())
        shortened = counted(writer.truncated, "row is", "rows are")
        _log.warning("%s shortened to fit training.maxLength: %s", shortened, fields)
    if writer.control_tokens:
        _log.warning(
            "the text of %s spells control tokens of the model; they are encoded as plain characters",
            counted(writer.control_tokens, "row"),
        )


def tell_of_thoughts(thoughts: ThoughtFormat | None, rows: int) -> None:
    """Tell that thoughts are learned, and how the model writes them."""
    if thoughts is not None:
        _log.info(
            "%s a thought before an answer, which is learned with it and ends with %r; scored is the answer",
            counted(rows, "row has", "rows have"),
            thoughts.marks.closing,
        )


def tell_of_promptsource(template: PromptTemplate, skipped: int) -> None:
    """Tell what a prompt of PromptSource does to the rows and says of itself."""
    prompt = template.promptsource
    if prompt is None:
        return
    if skipped:
        left = counted(skipped, "row, which is", "rows, which are")
        _log.info("prompt %r renders nothing for %s left out", prompt.name, left)
    if prompt.choices_in_prompt is False and prompt.answer_choices is not None:
        _log.info("prompt %r does not show its choices; the model has to know them", prompt.name)
    if prompt.original_task is False:
        _log.warning(
            "prompt %r says of itself that it asks for something else than the data set's own task; its score is not "
            "one of that task",
            prompt.name,
        )
