"""How a model's chat template frames a prompt and an answer, found out by rendering, not by knowing templates.

A template may say different things to the same turns: by switches that its caller sets, by today's date. All of that
is fixed in its text (:mod:`~finetune_trainer.text.fixed_template`), and the fixed text alone renders, here and in what
is exported. A conversation of one user turn and one answer is then rendered with and without the answer: what stands
between prompt and answer and after the answer is the same for every row, which is checked again for rows of several
turns. Whether thoughts are learned decides which of its forms a template is fixed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.call_format import CallFormat
from finetune_trainer.text.fixed_template import fix_template, with_generation_text
from finetune_trainer.text.template.conversation import THOUGHT, Message, as_dicts
from finetune_trainer.text.thought_format import ThoughtFormat, opened_by
from finetune_trainer.text.tool_format import ToolFormat, unseen

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChatFormat", "ChatRefusedError"]

_QUESTION: Final = "Question0"
_ANSWER: Final = "Answer0"


class ChatRefusedError(ValueError):
    """The chat template can't render a conversation, or not as prompt, answer, end; the reason is the message."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """A tokenizer's chat template.

    Attributes
    ----------
    tokenizer
        Renders.
    template
        The fixed text: says the same whenever and by whomever it is rendered.
    before
        Blanks between the generation prompt and the answer, which are the answer's; nearly always empty.
    after
        Text after the answer: the end of the turn, and what the template puts after it.
    tools
        What the template makes of tools.
    only_asked
        Text at the end of the generation prompt that answered turns don't have: a thought that is opened there.
    instead
        What answered turns have in its place.
    thoughts
        How the model writes what it thinks; None where it answers at once.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str
    before: str
    after: str
    tools: ToolFormat
    only_asked: str = ""
    instead: str = ""
    thoughts: ThoughtFormat | None = None

    @classmethod
    def find(cls, tokenizer: PreTrainedTokenizerBase, *, thinking: bool = False) -> ChatFormat | None:
        """Return the format of a tokenizer, None if it has no chat template.

        Parameters
        ----------
        thinking
            Whether the model is asked to think before it answers.

        Raises
        ------
        StageError
            ModelInvalid: the template can't render one question with its answer, or renders something before the answer
            that its generation prompt doesn't have; what is trained would then not be what is asked for later.
        """
        source = _source(tokenizer)
        if source is None:
            return None
        try:
            return _probe(tokenizer, fix_template(source, switches=thinking), thinking=thinking)
        except StageError as error:
            try:
                return _probe(tokenizer, fix_template(source, switches=None), thinking=thinking)
            except StageError:
                raise error from None

    def prompt(self, messages: Sequence[Message]) -> str:
        """Render turns as a prompt: the text that asks the model for its answer.

        Raises
        ------
        ChatRefusedError
            The template refuses these turns.
        """
        return self._seen(messages, ask=True)

    def check(self, messages: Sequence[Message], prompt: str, answer: str) -> None:
        """Make sure that the whole conversation renders as prompt, answer, end.

        Raises
        ------
        ChatRefusedError
            It doesn't.
        """
        whole = self._rendered([*messages, Message("assistant", answer)], ask=False)
        between = self.instead if self.only_asked else self.before
        if whole != prompt.removesuffix(self.only_asked) + between + answer + self.after:
            raise ChatRefusedError(
                "it renders the conversation in another way once it is answered, as templates do with thinking tags or "
                "marks of their own in an answer; leave these out of the row"
            )

    def answer(self, messages: Sequence[Message], prompt: str, turn: Message) -> str:
        """Return an answer as the template writes it, between the prompt and the end of the turn.

        With the thought before it where thoughts are learned and the turn has one.

        Raises
        ------
        ChatRefusedError
            The answered conversation doesn't begin with the prompt, or doesn't end as every answer does.
        """
        if self.thoughts is None:
            return self._answered(messages, prompt, turn)
        if self.thoughts.marks.closing in turn.thought:
            raise ChatRefusedError(f"the thought holds {self.thoughts.marks.closing}, which ends a thought")
        if self.thoughts.key:
            written = self._answered(messages, prompt, turn)
        else:
            written = self.thoughts.written(turn.thought, self._answered(messages, prompt, turn.thinking("")))
        if turn.thought not in written or not (turn.calls or written.endswith(turn.content)):
            raise ChatRefusedError("it writes the thought or the answer in another way than the row; leave it out")
        return written

    def calls(self) -> CallFormat | None:
        """Return how the template writes calls of tools, without the thought before them."""
        if not self.tools.calls:
            return None
        asked = [Message("user", _QUESTION)]
        prompt = self.prompt(asked)

        def write(turn: Message) -> str:
            text = self.answer(asked, prompt, turn)
            return text if self.thoughts is None else self.thoughts.answer_in(text)

        return CallFormat.find(write)

    def _answered(self, messages: Sequence[Message], prompt: str, turn: Message) -> str:
        head = prompt.removesuffix(self.only_asked) + self.instead
        whole = self._seen([*messages, turn], ask=False)
        end = len(whole) - len(self.after)
        if not whole.startswith(head) or whole[end:] != self.after or end <= len(head):
            raise ChatRefusedError(
                "it writes the answer in another way than it asks for it, or ends it otherwise than a text; leave such "
                "rows out"
            )
        return whole[len(head) : end]

    def _seen(self, messages: Sequence[Message], *, ask: bool) -> str:
        """Render turns, of which none may be left out."""
        if why := self.tools.refused(messages):
            raise ChatRefusedError(why)
        text = self._rendered(messages, ask=ask)
        if why := unseen(messages, text, partial(self._rendered, ask=ask)):
            raise ChatRefusedError(why)
        return text

    def _rendered(self, messages: Sequence[Message], *, ask: bool) -> str:
        as_text = self.tools.arguments_as_text
        key = self.thoughts.key if self.thoughts is not None else THOUGHT
        if not key:
            messages, key = [m.thinking("") for m in messages], THOUGHT
        return _render(self.tokenizer, self.template, messages, ask=ask, arguments_as_text=as_text, thought=key)


def _source(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The template that plain loading and rendering picks."""
    templates = tokenizer.chat_template
    if isinstance(templates, dict) and "default" not in templates:
        raise StageError(
            Reason.MODEL_INVALID,
            f"the model has several chat templates ({', '.join(sorted(templates))}) and none of them is named default, "
            "so it isn't known which one is meant; give the model's folder a chat_template.jinja",
        )
    return str(templates["default"] if isinstance(templates, dict) else templates) if templates else None


def _probe(tokenizer: PreTrainedTokenizerBase, template: str, *, thinking: bool) -> ChatFormat:
    """Find the format; text that stands between every generation prompt and its answer goes into the template.

    Not so where the model thinks first: there the answer is what it writes itself.
    """
    question = Message("user", _QUESTION)
    try:
        prompt = _render(tokenizer, template, [question], ask=True)
        whole = _render(tokenizer, template, [question, Message("assistant", _ANSWER)], ask=False)
    except ChatRefusedError as e:
        raise StageError(Reason.MODEL_INVALID, f"the model's chat template can't render a question: {e}") from e
    opened, closed = "", ""
    if not whole.startswith(prompt):
        opened, closed = opened_by(prompt)
    head = prompt.removesuffix(opened)
    before, found, after = whole.removeprefix(head).partition(_ANSWER)
    if not whole.startswith(head) or not found or _QUESTION not in head:
        raise StageError(
            Reason.MODEL_INVALID,
            "the model's chat template does not render an answered question as its generation prompt followed by "
            "the answer, so no training row can be built with it; use a model with another chat template",
        )
    thoughts = None
    if thinking:

        def answered(turns: Sequence[Message], key: str) -> str:
            return _render(tokenizer, template, turns, ask=False, thought=key)

        thoughts, frame = ThoughtFormat.find(answered, prompt, whole, question, _ANSWER), ""
    else:
        # An empty thinking block, the name of a channel: who asks later must send it too, or the model would have to
        # write it. Blanks stay with the answer, whose first token they may be part of.
        frame = closed if opened else before.rstrip(" ")
    if frame:
        template = with_generation_text(template, frame)

    def render_with(turns: Sequence[Message], as_text: bool) -> str:
        return _render(tokenizer, template, turns, ask=True, arguments_as_text=as_text)

    return ChatFormat(
        tokenizer,
        template,
        "" if opened or thinking else before[len(frame) :],
        after,
        ToolFormat.find(render_with),
        only_asked=opened + frame if opened else "",
        instead=_instead(before, thoughts, opened=bool(opened)),
        thoughts=thoughts,
    )


def _instead(before: str, thoughts: ThoughtFormat | None, *, opened: bool) -> str:
    """What answered turns have before the answer and an answer that is asked for doesn't."""
    if opened:
        return before
    return before.rstrip(" ") if thoughts is not None and not thoughts.key else ""


def _render(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    messages: Sequence[Message],
    *,
    ask: bool,
    arguments_as_text: bool = False,
    thought: str = THOUGHT,
) -> str:
    turns, tools = as_dicts(messages, arguments_as_text=arguments_as_text, thought=thought)
    try:
        text = tokenizer.apply_chat_template(
            turns, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=ask
        )
    except Exception as e:  # a template is a program of its maker, and any row may be the one it can't take
        raise ChatRefusedError(str(e) or type(e).__name__) from e
    return str(text)
