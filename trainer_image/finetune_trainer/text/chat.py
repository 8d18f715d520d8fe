"""How a model's chat template frames a prompt and an answer, found out by rendering, not by knowing templates.

A conversation of one user turn and one answer is rendered with and without the answer. What stands between prompt and
answer and after the answer is then the same for every row, which is checked again for rows of several turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from jinja2 import TemplateError

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.template.fields import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatFormat", "ChatRefusedError"]

_QUESTION: Final = "Question0"
_ANSWER: Final = "Answer0"
_DATE: Final = datetime(2025, 1, 1, tzinfo=UTC)
_DATE_CODES: Final = ("%d", "%-d", "%e", "%b", "%B", "%m", "%y", "%Y", "%a", "%A", "%j", "%H", "%I", "%M", "%S", "%p")


class ChatRefusedError(ValueError):
    """The chat template raised an error of its own about a conversation."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A tokenizer's chat template.

    Attributes
    ----------
    tokenizer
        Renders.
    before
        Text between the generation prompt and the answer; nearly always empty.
    after
        Text after the answer: the end of the turn, and what the template puts after it.
    """

    tokenizer: PreTrainedTokenizerBase
    before: str
    after: str

    @classmethod
    def find(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFormat | None:
        """Return the format of a tokenizer, None if it has no chat template.

        Raises
        ------
        StageError
            ModelInvalid: the template can't render one question with its answer, or renders something before the answer
            that its generation prompt doesn't have; what is trained would then not be what is asked for later.
        """
        if not tokenizer.chat_template:
            return None
        try:
            prompt = _render(tokenizer, [_user(_QUESTION)], ask=True)
            whole = _render(tokenizer, [_user(_QUESTION), Message("assistant", _ANSWER)], ask=False)
        except ChatRefusedError as e:
            raise StageError(Reason.MODEL_INVALID, f"the model's chat template can't render a question: {e}") from e
        before, found, after = whole.removeprefix(prompt).partition(_ANSWER)
        if not whole.startswith(prompt) or not found or _QUESTION not in prompt:
            raise StageError(
                Reason.MODEL_INVALID,
                "the model's chat template does not render an answered question as its generation prompt followed by "
                "the answer, so no training row can be built with it; use a model with another chat template",
            )
        return cls(tokenizer, before, after)

    def prompt(self, messages: Sequence[Message]) -> str:
        """Render turns as a prompt: the text that asks the model for its answer.

        Raises
        ------
        ChatRefusedError
            The template refuses these turns.
        """
        return _render(self.tokenizer, messages, ask=True)

    def check(self, messages: Sequence[Message], prompt: str, answer: str, *, where: str) -> None:
        """Make sure that the whole conversation renders as prompt, answer, end.

        Raises
        ------
        StageError
            ModelInvalid: it doesn't; ``where`` names the row.
        """
        whole = _render(self.tokenizer, [*messages, Message("assistant", answer)], ask=False)
        if whole != prompt + self.before + answer + self.after:
            raise StageError(
                Reason.MODEL_INVALID,
                f"the model's chat template renders the conversation of {where} in another way once it is answered, so "
                "what would be trained is not what is asked for later; use a model with another chat template",
            )


def _user(content: str) -> Message:
    return Message("user", content)


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool) -> str:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    # Answers hold no reasoning, so templates that can leave room for it are told not to; others ignore the word.
    more: dict[str, Any] = {"enable_thinking": False}
    try:
        text = tokenizer.apply_chat_template(
            turns, chat_template=_dateless(tokenizer), tokenize=False, add_generation_prompt=ask, **more
        )
    except (TemplateError, TypeError, ValueError) as e:
        raise ChatRefusedError(str(e)) from e
    return str(text)


def _dateless(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template with the date fixed: one that prints today's would give the same rows other tokens tomorrow."""
    template = str(tokenizer.get_chat_template())
    if "strftime_now" not in template:
        return template
    replaced = "".join(f" | replace('{code}', '{_DATE.strftime(code)}')" for code in _DATE_CODES)
    # The empty output keeps the block's end from swallowing a line end at the template's beginning.
    return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{{{{ '' }}}}{template}"
