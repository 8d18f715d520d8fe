"""Whether a chat template shows tools, calls of them and their results: tried out once, and checked again for each row.

A template that knows no tools renders a conversation with them all the same, and leaves them out: the model would learn
to answer from what it never saw. So everything has to leave its trace in the text. Pure but for what renders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from finetune_trainer.text.template.conversation import TOOLS, Message

__all__ = ["ToolFormat", "unseen"]

Render = Callable[[Sequence[Message], bool], str]
"""Renders turns, with the arguments of calls as JSON text or as they are; ValueError where the template refuses."""

_NAME, _KEY, _VALUE, _RESULT = "lookup_probe", "keyprobe", "valueprobe", "resultprobe"
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Looks up.",
        "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "What."}}},
    },
}
_CALL: Final = {"id": "callprobe", "type": "function", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}
_OFFER: Final = Message(TOOLS, json.dumps([_TOOL]))
_QUESTION: Final = Message("user", "Question0")
_CALLED: Final = (
    _QUESTION,
    Message("assistant", "", more=json.dumps({"tool_calls": [_CALL]})),
    Message("tool", _RESULT, more=json.dumps({"tool_call_id": "callprobe", "name": _NAME})),
)


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """What a chat template makes of tools.

    Attributes
    ----------
    tools, calls
        Whether tools that are offered are shown, and calls with their results.
    arguments_as_text
        Whether it takes the arguments of a call as JSON text, and not as an object.
    """

    tools: bool = False
    calls: bool = False
    arguments_as_text: bool = False

    @classmethod
    def find(cls, render: Render) -> ToolFormat:
        """Try a template out."""
        tools = _NAME in _tried(render, (_OFFER, _QUESTION), as_text=False)
        turns = (_OFFER, *_CALLED) if tools else _CALLED
        for as_text in (False, True):
            text = _tried(render, turns, as_text=as_text)
            # An object that is written as Python has it is no JSON.
            if text.count(_NAME) > tools and f"{{'{_KEY}" not in text and all(p in text for p in (_VALUE, _RESULT)):
                return cls(tools, True, as_text)
        return cls(tools)

    def refused(self, messages: Sequence[Message]) -> str:
        """Say what of a conversation the template never shows; empty where it knows all kinds of turns."""
        turns = [m for m in messages if m.role != TOOLS]
        if len(turns) < len(messages) and not self.tools:
            return (
                "it shows no tools, so the model would not see those that the row offers; use a model whose chat "
                "template knows tools, or leave such rows out"
            )
        for n, turn in enumerate(turns, start=1):
            if not self.calls and (turn.calls or turn.role == "tool"):
                what = "calls a tool" if turn.calls else "is a tool's result"
                return (
                    f"message {n} {what}, and it leaves calls of tools or their results out, or can't render them; use "
                    "a model whose chat template knows tools, or leave such rows out"
                )
        return ""


def _tried(render: Render, turns: Sequence[Message], *, as_text: bool) -> str:
    try:
        return render(turns, as_text)
    except ValueError:
        return ""


def unseen(messages: Sequence[Message], text: str, render: Callable[[Sequence[Message]], str]) -> str:
    """Say which tool, call or result of a conversation leaves no trace in its text; empty where all do.

    Parameters
    ----------
    messages, text
        The turns, and what they are rendered to.
    render
        Renders other turns in the same way.
    """
    for what, other in _without(messages, text):
        if render(other) == text:
            return f"it shows nothing of {what}, so the model would not see it; leave such rows out"
    return ""


def _without(messages: Sequence[Message], text: str) -> Iterator[tuple[str, list[Message]]]:
    """Conversations that lack one thing each, but for what stands in the text as it is."""
    number = 0
    for place, turn in enumerate(messages):
        before, after = list(messages[:place]), list(messages[place + 1 :])
        if turn.role == TOOLS:
            yield "the tools that the row offers", before + after
            continue
        number += 1
        if turn.role == "tool" and turn.content and turn.content not in text:
            yield f"message {number}, a tool's result", [*before, replace(turn, content="other"), *after]
        for at, call in enumerate(turn.calls):
            function = call["function"]
            shown = function["name"] in text and all(_in_text(value, text) for value in function["arguments"].values())
            if not shown:
                others = turn.calls
                others[at] = {**call, "function": {"name": "other", "arguments": {}}}
                keys = {**json.loads(turn.more), "tool_calls": others}
                yield f"a call in message {number}", [*before, replace(turn, more=json.dumps(keys)), *after]


def _in_text(value: object, text: str) -> bool:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) in text
