"""A conversation in a data file becomes turns, or a reason that names the message and the mend.

Chat files come in several dialects. What can be learned is taken: plain turns, those of ShareGPT (``from`` and
``value``), the roles' other names, content as parts of text, answers that are marked as not to be learned (weight 0), a
greeting of the assistant before the first question, calls of tools with their results (``tools.py``), the thought
before an answer (``thoughts.py``). What can't be learned (images, sound) makes a bad row: a turn left out or read as
another would be learned in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from finetune_trainer.data.strict_json import parsed, why_not
from finetune_trainer.text.template.thoughts import thought_of, thought_parts
from finetune_trainer.text.template.tools import (
    CALL_ROLES,
    RESULT_ROLES,
    called_in_text,
    calls_of,
    check_parallel,
    offered_tools,
    shown,
    without_padding,
)

__all__ = [
    "THOUGHT",
    "TOOLS",
    "Message",
    "as_dicts",
    "as_text_of_turn",
    "plain_turn",
    "shown",
    "to_messages",
    "turn_of",
]

TOOLS: Final = "tools"
"""Role of what stands before the first turn where a row offers tools; its content is their list as JSON."""
THOUGHT: Final = "reasoning_content"
"""Key of a turn that holds what is thought before the answer, as most chat templates and servers call it."""

_ROLES: Final = ("system", "user", "assistant")
_KNOWN_AS: Final = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
}
"""What other files call the roles; case does not matter."""
_MARKS: Final = ("weight", "train", "training", "trainable")
"""Keys by which files mark an answer as not to be learned."""
_TEXT_PARTS: Final = ("text", "input_text", "output_text")
_SYSTEM: Final = ("system", "system_prompt")
"""Columns beside the turns in which files have the system turn of a conversation."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``content`` has no outer white space.

    Attributes
    ----------
    learned
        False of an answer that is marked as not to be learned; of other turns it says nothing.
    more
        The turn's other keys as a JSON object: the calls of tools, or of which call this is the result; what is
        thought before an answer. Empty without.
    """

    role: str
    content: str
    learned: bool = True
    more: str = ""

    @property
    def keys(self) -> dict[str, Any]:
        """The turn as chat templates take it."""
        return {"role": self.role, "content": self.content, **(json.loads(self.more) if self.more else {})}

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Its calls of tools."""
        found: list[dict[str, Any]] = self.keys.get("tool_calls", [])
        return found

    @property
    def thought(self) -> str:
        """What is thought before the answer; empty without."""
        return str(json.loads(self.more).get(THOUGHT, "")) if self.more else ""

    def thinking(self, thought: str) -> Message:
        """Return the turn with another thought before it; with none for an empty one."""
        if not self.more and not thought:
            return self
        rest = {key: value for key, value in json.loads(self.more or "{}").items() if key != THOUGHT}
        return replace(self, more=_keys({**rest, **({THOUGHT: thought} if thought else {})}))


def as_dicts(
    messages: Sequence[Message], *, arguments_as_text: bool = False, thought: str = THOUGHT
) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return turns as chat templates take them, and the tools that are offered; None without any.

    Parameters
    ----------
    arguments_as_text
        Write the arguments of calls as JSON text.
    thought
        Key under which the template takes what is thought before an answer.
    """
    tools = [m.content for m in messages if m.role == TOOLS]
    turns = [m.keys for m in messages if m.role != TOOLS]
    if thought != THOUGHT:
        turns = [{thought if key == THOUGHT else key: value for key, value in turn.items()} for turn in turns]
    for call in (call for turn in turns if arguments_as_text for call in turn.get("tool_calls", ())):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    return turns, json.loads(tools[0]) if tools else None


def plain_turn(message: Message) -> tuple[str, ...]:
    """Return a turn as it is stored: role, content, and its other keys where it has some."""
    return (message.role, message.content, *([message.more] if message.more else []))


def turn_of(plain: Sequence[str]) -> Message:
    """Read a turn as :func:`plain_turn` stores it."""
    role, content, *more = plain
    return Message(role, content, more="".join(more))


def as_text_of_turn(message: Message) -> str:
    """Return a turn as readable text: what it says, and the calls that it makes, a line each."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.calls]
    return "\n".join([*([message.content] if message.content else []), *calls])


def to_messages(
    value: Any,
    column: str,
    *,
    beside: Mapping[str, Any] | None = None,
    tools: str | None = None,
    thoughts: bool = True,
) -> tuple[Message, ...]:
    """Check a conversation: an optional system turn, then user and assistant in turn, ended by the turn to learn.

    The assistant may speak first, as a greeting does; whether it can be rendered is the chat template's matter. A turn
    that calls tools is followed by a result of each. The turn to learn is the last of the assistant which has no
    weight 0; what follows it is left out.

    Parameters
    ----------
    value
        A list of objects with ``role`` and ``content``, or that as JSON text.
    column
        For messages.
    beside
        The row's other columns, where tools and a system turn may be.
    tools
        The column that holds the tools; None for the usual ones.
    thoughts
        Whether what is thought before answers is kept; else it is taken out of every turn.

    Returns
    -------
    tuple of Message
        The turns; before them one of role :data:`TOOLS` where tools are offered.

    Raises
    ------
    ValueError
        It is none; the message says which turn is wrong.
    """
    if isinstance(value, str):
        try:
            value = parsed(value)
        except (ValueError, RecursionError) as e:
            raise ValueError(f"column {column!r} is no JSON list of messages{why_not(e)}") from e
    if not isinstance(value, list) or not all(isinstance(m, Mapping) for m in value):
        raise ValueError(f"column {column!r} is no list of objects with role and content")
    value = [_one_dialect(n, m) for n, m in enumerate(value, start=1)]
    messages = [_message(n, message) for n, message in enumerate(value, start=1)]
    _check_order(messages)
    values = {name: v for name, v in (beside or {}).items() if name != column}
    check_parallel(values, [len(m.calls) for m in messages])
    offered = offered_tools(values, tools)
    messages = [_bare(m, offered) if m.calls else m for m in messages]
    learned = [not _is_marked(n, m) for n, m in enumerate(value, start=1)]
    last = _last(messages, learned)
    system = _system_beside(values, messages[0])
    turns = (
        replace(message if thoughts else message.thinking(""), learned=mark)
        for message, mark in zip(messages[: last + 1], learned, strict=False)
    )
    return (*([Message(TOOLS, json.dumps(offered, ensure_ascii=False))] if offered else []), *system, *turns)


def _system_beside(values: Mapping[str, Any], first: Message) -> tuple[Message, ...]:
    """Return the system turn that stands in a column of its own; nothing where there is none, or the turns have it.

    Raises
    ------
    ValueError
        It is no text, or another one than the conversation's own.
    """
    found = {name: values[name] for name in _SYSTEM if values.get(name) not in (None, "")}
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"column {name!r}, the system turn beside the messages, is no text")  # noqa: TRY004  # bad row
    texts = {name: text for name, value in found.items() if (text := value.strip())}
    own = first.content if first.role == "system" else None
    for name, text in texts.items():
        if own is not None and text != own:
            raise ValueError(f"column {name!r} has another text than the first message, of role system; keep one")
    if len(set(texts.values())) > 1:
        raise ValueError(f"columns {' and '.join(map(repr, texts))} have different texts; keep one of them")
    return tuple(Message("system", text) for text in [*texts.values()][:1] if own is None)


def _one_dialect(n: int, message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a turn with the keys role and content.

    Raises
    ------
    ValueError
        It has those of both dialects, and they differ: which one is meant can't be told.
    """
    if "from" not in message:
        return message
    named = {"role": message["from"], "content": message.get("value")}
    if any(key in message and message[key] != value for key, value in named.items()):
        raise ValueError(f"message {n} has from and value beside another role or content; keep one of them")
    return {**message, **named}


def _message(n: int, message: Mapping[str, Any]) -> Message:
    role, content = _role(n, message), message.get("content")
    if role == "tool":
        text = json.dumps(content, ensure_ascii=False) if _is_value(content) else _content(n, content)
        return Message(role, text, more=_keys({k: message[k] for k in ("tool_call_id", "name") if message.get(k)}))
    if role in CALL_ROLES:
        return Message("assistant", "", more=_keys({"tool_calls": called_in_text(n, _content(n, content))}))
    in_parts, content = thought_parts(n, content) if role == "assistant" else ("", content)
    calls, text = calls_of(n, message), _content(n, content)
    thought = ""
    if role == "assistant":
        thought, text = thought_of(n, message, text, in_parts=in_parts)
    if calls and role != "assistant":
        raise ValueError(f"message {n} calls a tool and has role {role}; only role assistant can call tools")
    if message.get("audio"):
        raise ValueError(f"message {n} has audio; only text can be learned")
    if not text and not calls:
        raise ValueError(f"message {n} has no text as its content")
    return Message(role, text, more=_keys({"tool_calls": calls} if calls else {})).thinking(thought)


def _is_value(content: Any) -> bool:
    """Whether a tool's result is a value that files have as it is: a number, an object, a list of such."""
    if isinstance(content, list):
        return not all(isinstance(part, str) or (isinstance(part, Mapping) and "type" in part) for part in content)
    return content is not None and not isinstance(content, str)


def _bare(message: Message, tools: Sequence[Mapping[str, Any]]) -> Message:
    calls = without_padding(message.calls, tools)
    return replace(message, more=_keys({**json.loads(message.more), "tool_calls": calls}))


def _keys(more: Mapping[str, Any]) -> str:
    return json.dumps(more, ensure_ascii=False) if more else ""


def _role(n: int, message: Mapping[str, Any]) -> str:
    if "role" not in message:
        raise ValueError(f"message {n} has no role; a message has role and content")
    role = message["role"]
    if role in _ROLES:
        return str(role)
    plain = str(role).strip().lower()
    if plain in RESULT_ROLES:
        return "tool"
    known = _KNOWN_AS.get(plain) or (plain if plain in (*_ROLES, *CALL_ROLES) else None)
    if known is None:
        raise ValueError(f"message {n} has role {shown(str(role))}; use system, user, assistant or tool")
    return known


def _content(n: int, content: Any) -> str:
    """The text of a turn; several parts are lines, as servers join them."""
    if isinstance(content, str):
        return content.strip()
    if not isinstance(content, list):
        return ""
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        text = part.get("text") if isinstance(part, Mapping) else part
        if kind not in _TEXT_PARTS or not isinstance(text, str):
            raise ValueError(
                f"message {n} has a part of type {shown(str(kind))}; only parts of type text can be learned"
            )
        texts.append(text)
    return "\n".join(texts).strip()


def _check_order(messages: Sequence[Message]) -> None:
    turns = [m.role for m in messages if m.role != "system"]
    if any(m.role == "system" for m in messages[1:]):
        raise ValueError("only the first message may have role system")
    if not turns or turns[-1] != "assistant":
        raise ValueError("the last message must have role assistant; it is the expected answer")
    _check_results(messages)
    # A call with its results is a part of the answer that follows them.
    spoken = [m.role for m in messages if m.role not in ("system", "tool")]
    calling = [bool(m.calls) for m in messages if m.role not in ("system", "tool")]
    if any(one == next_ and not calls for (one, next_), calls in zip(pairwise(spoken), calling, strict=False)):
        raise ValueError("messages must alternate between user and assistant")
    if "user" not in turns:
        raise ValueError("no message has role user, so nothing is asked")


def _check_results(messages: Sequence[Message]) -> None:
    """Make sure that results follow their calls, one for each."""
    at = 0
    open_: list[str | None] = []
    for n, message in enumerate(messages, start=1):
        if message.role == "tool":
            if not open_:
                raise ValueError(f"message {n} is a tool's result, and no call before it is left without one")
            asked = message.keys.get("tool_call_id")
            known = [number for number in open_ if number]
            if asked and known and asked not in known:
                raise ValueError(
                    f"message {n} has tool_call_id {shown(str(asked))}, which is no call of message {at}: "
                    + ", ".join(map(repr, known[:3]))
                )
            open_.remove(asked if asked in open_ else open_[0])
            continue
        if open_:
            left = f"{len(open_)} of its calls" if len(open_) > 1 else "a call"
            raise ValueError(
                f"message {at} calls a tool, and message {n} comes before the result of {left} (role tool)"
            )
        at, open_ = n, [call.get("id") for call in message.calls]


def _last(messages: Sequence[Message], learned: Sequence[bool]) -> int:
    """Place of the last answer that is not marked as one to leave."""
    for place in reversed(range(len(messages))):
        if messages[place].role == "assistant" and learned[place]:
            return place
    raise ValueError("its answers are all marked as not to be learned (weight 0), so there is nothing to learn")


def _is_marked(n: int, message: Mapping[str, Any]) -> bool:
    for key in _MARKS:
        value = message.get(key)
        if value is None:
            continue
        if value not in (0, 1, "0", "1"):  # true and false equal 1 and 0
            raise ValueError(f"message {n} has {key} {shown(str(value))}; only 0 (not to be learned) and 1 are known")
        if int(value) == 0:
            return True
    return False
