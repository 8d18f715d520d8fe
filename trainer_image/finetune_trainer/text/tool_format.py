"""Whether a chat template shows tools, calls of them and their results: tried out once, and checked again for each row.

A template that knows no tools renders a conversation with them all the same, and leaves them out: the model would learn
to answer from what it never saw. So everything has to leave its trace in the text, and so has a system turn, or what
stands beside a call. Pure but for what renders.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from finetune_trainer.text.template.conversation import TOOLS, Message

__all__ = ["ToolFormat", "unseen"]

Render = Callable[[Sequence[Message], bool], str]
"""Renders turns, with the arguments of calls as JSON text or as they are; ValueError where the template refuses."""

_NAME, _KEY, _VALUE, _RESULT = "lookup_probe", "keyprobe", "valueprobe", "resultprobe"
_OTHER: Final = "otherprobe"
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
    """Say what of a conversation leaves no trace in its text; empty where all of it does.

    That a word of it stands in the text says nothing: it may be one of the question's too. So all is rendered once more
    with words that stand nowhere else, and what is missing then is tried by itself.

    Parameters
    ----------
    messages, text
        The turns, and what they are rendered to.
    render
        Renders other turns in the same way.
    """
    if not any(m.more or m.role == TOOLS for m in messages) and all(m.content in text for m in messages):
        return ""
    number = len(messages) - sum(m.role != TOOLS for m in messages)
    marked = [_marked(place, turn) for place, turn in enumerate(messages)]
    try:
        shown = render([turn for turn, _ in marked])
    except ValueError:
        shown = ""
    if shown and all(word in shown for _, words in marked for word in words):
        return ""
    for place, turn in enumerate(messages):
        for what, other in _changed(turn):
            if render([*messages[:place], other, *messages[place + 1 :]]) == text:
                told = what.format(f"message {place + 1 - number}")
                return f"it shows nothing of {told}, so the model would not see it; leave it or the row out"
    return ""


def _marked(place: int, turn: Message) -> tuple[Message, list[str]]:
    """Return a turn with words of its own at the end of all that it says, and the words.

    What it says stays, since templates look into it (for the end of a thought, say).
    """
    words: list[str] = []

    def word() -> str:
        words.append(f"w{place}x{len(words)}q")
        return words[-1]

    if turn.role == TOOLS:
        tools = json.loads(turn.content)
        marked = [{**tool, "function": {**(f := tool["function"]), "name": f["name"] + word()}} for tool in tools]
        return replace(turn, content=json.dumps(marked)), words
    content = f"{turn.content} {word()}" if turn.content else ""
    calls = [
        {**call, "function": {"name": f["name"] + word(), "arguments": {key: word() for key in f["arguments"]}}}
        for call in turn.calls
        for f in [call["function"]]
    ]
    return _with_calls(replace(turn, content=content), calls), words


def _changed(turn: Message) -> Iterator[tuple[str, Message]]:
    """The turn with one of its things changed, each with its name, which has a place for that of the message."""
    if turn.role == TOOLS:
        tools = json.loads(turn.content)
        for at, tool in enumerate(tools):
            other = {**tool, "function": {**tool["function"], "name": _OTHER}}
            what = "the tools" if len(tools) == 1 else f"tool {at + 1} of those"
            content = json.dumps([*tools[:at], other, *tools[at + 1 :]], ensure_ascii=False)
            yield f"{what} that the row offers", replace(turn, content=content)
        return
    calls = turn.calls
    if turn.content:
        beside = {"tool": ", a tool's result", "system": ", which has role system"}.get(turn.role, "")
        yield "{}" + (", the text beside its calls" if calls else beside), replace(turn, content=_OTHER)
    for at, call in enumerate(calls):
        other = {**call, "function": {"name": _OTHER, "arguments": {}}}
        yield "a call in {}", _with_calls(turn, [*calls[:at], other, *calls[at + 1 :]])


def _with_calls(turn: Message, calls: Sequence[Mapping[str, Any]]) -> Message:
    if not calls:
        return turn
    return replace(turn, more=json.dumps({**json.loads(turn.more), "tool_calls": calls}, ensure_ascii=False))
