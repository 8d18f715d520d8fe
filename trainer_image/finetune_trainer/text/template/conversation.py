"""A conversation in a data file becomes turns, or a reason that names the message and the mend.

Chat files come in several dialects. What can be learned is taken: plain turns, those of ShareGPT (``from`` and
``value``), the roles' other names, content as parts of text, answers that are marked as not to be learned (weight 0), a
greeting of the assistant before the first question. What can't be learned yet (tools, images, reasoning beside the
answer) makes a bad row: a turn left out or read as another would be learned in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

__all__ = ["Message", "check_beside", "shown", "to_messages"]

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
_TOOL_ROLES: Final = ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
_CALLS: Final = ("tool_calls", "function_call")
_TOOLS: Final = ("tools", "functions")
_REASONING: Final = ("reasoning_content", "reasoning", "thinking")
_MARKS: Final = ("weight", "train", "training", "trainable")
"""Keys by which files mark an answer as not to be learned."""
_TEXT_PARTS: Final = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; ``content`` has no outer white space.

    ``learned`` is False of an answer that is marked as not to be learned; of other turns it says nothing.
    """

    role: str
    content: str
    learned: bool = True


def to_messages(value: Any, column: str) -> tuple[Message, ...]:
    """Check a conversation: an optional system turn, then user and assistant in turn, ended by the turn to learn.

    The assistant may speak first, as a greeting does; whether it can be rendered is the chat template's matter.

    That turn is the last of the assistant which has no weight 0; what follows it is left out.

    Parameters
    ----------
    value
        A list of objects with ``role`` and ``content``, or that as JSON text.
    column
        For messages.

    Raises
    ------
    ValueError
        It is none; the message says which turn is wrong.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as e:
            raise ValueError(f"column {column!r} is no JSON list of messages") from e
    if not isinstance(value, list) or not all(isinstance(m, Mapping) for m in value):
        raise ValueError(f"column {column!r} is no list of objects with role and content")
    value = [_one_dialect(n, m) for n, m in enumerate(value, start=1)]
    messages = [_message(n, message) for n, message in enumerate(value, start=1)]
    _check_order(messages)
    learned = [not _is_marked(n, m) for n, m in enumerate(value, start=1)]
    last = _last(messages, learned)
    _check_no_reasoning(last + 1, value[last])
    # An earlier answer with its reasoning beside it is read, as it is when the model is served, and not learned.
    return tuple(
        replace(message, learned=mark and not _reasons(turn))
        for message, mark, turn in zip(messages[: last + 1], learned, value, strict=False)
    )


def check_beside(values: Mapping[str, Any], column: str) -> None:
    """Refuse a row that offers tools beside its conversation: the model would learn to answer without seeing them.

    Raises
    ------
    ValueError
        It does; names the column.
    """
    for name in _TOOLS:
        value = values.get(name)
        if name != column and value and str(value).strip() not in ("", "[]", "{}", "null"):
            raise ValueError(
                f"column {name!r} offers tools, which can't be learned yet; leave the row out, or the column if the "
                "answers need none"
            )


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
    role = _role(n, message)
    for key in _CALLS:
        if message.get(key):
            raise ValueError(f"message {n} calls a tool ({key}), which can't be learned yet; leave such rows out")
    content = _content(n, message.get("content"))
    if not content:
        raise ValueError(f"message {n} has no text as its content")
    return Message(role, content)


def _role(n: int, message: Mapping[str, Any]) -> str:
    if "role" not in message:
        raise ValueError(f"message {n} has no role; a message has role and content")
    role = message["role"]
    if role in _ROLES:
        return str(role)
    plain = str(role).strip().lower()
    if plain in _TOOL_ROLES:
        raise ValueError(f"message {n} has role {shown(str(role))}; tools can't be learned yet, leave such rows out")
    known = _KNOWN_AS.get(plain) or (plain if plain in _ROLES else None)
    if known is None:
        raise ValueError(f"message {n} has role {shown(str(role))}; use system, user or assistant")
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
    if any(one == next_ for one, next_ in pairwise(turns)):
        raise ValueError("messages must alternate between user and assistant")
    if "user" not in turns:
        raise ValueError("no message has role user, so nothing is asked")


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


def _check_no_reasoning(n: int, message: Mapping[str, Any]) -> None:
    if key := _reasons(message):
        raise ValueError(
            f"message {n} has {key}, which can't be learned yet; leave the key out to learn the answer without it"
        )


def _reasons(message: Mapping[str, Any]) -> str:
    """Name of the key that holds the reasoning beside an answer; empty without any."""
    return next((key for key in _REASONING if message.get(key)), "")


def shown(text: str) -> str:
    """A text for a message: quoted and not too long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
