"""What is thought before an answer, out of the dialects of chat files: a key beside it, a tag or a part before it.

Beside ``conversation.py``, which reads the turns. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["CLOSE", "OPEN", "thought_of", "thought_parts"]

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
"""The tags of nearly all files, whatever tags the model's chat template has."""

_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
_OWN_LINE: Final = re.compile(rf"{CLOSE}[ \t]*(?:\r?\n|\Z)")
"""Files of models whose prompt opens the thought lack the first tag. Within a sentence the second is text."""
_PARTS: Final = ("thinking", "reasoning")
"""Types of the parts of a content that are thought."""


def thought_parts(n: int, content: Any) -> tuple[str, Any]:
    """Return the thought that stands as parts in the content of message ``n``, and the content without them.

    Raises
    ------
    ValueError
        Such a part has no text, or stands behind one that isn't; the message says what to change.
    """
    if not isinstance(content, list):
        return "", content
    thoughts, rest = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            rest.append(part)
            continue
        text = part["text"] if part.get(kind) is None and "text" in part else part.get(kind)
        if not isinstance(text, str):
            raise ValueError(  # noqa: TRY004  # a bad row
                f"message {n} has a part of type {kind} without text under {kind} or text in its content"
            )
        if rest:
            raise ValueError(
                f"message {n} has a part of type {kind} behind its answer; put all of its thought before the answer"
            )
        thoughts.append(text.strip())
    return "\n".join(thoughts).strip(), rest


def thought_of(n: int, message: Mapping[str, Any], text: str, *, in_parts: str = "") -> tuple[str, str]:
    """Return the thought of message ``n`` and its answer, both without outer white space.

    Parameters
    ----------
    text
        The message's content as text.
    in_parts
        The thought that stood in it as parts (:func:`thought_parts`).

    Raises
    ------
    ValueError
        The thought is no text, never ends, or stands there twice; the message says what to change.
    """
    beside = [key for key in _KEYS if message.get(key)]
    for key in beside:
        if not isinstance(message[key], str):
            raise ValueError(f"message {n} has {key} that is no text")  # noqa: TRY004  # a bad row
    before, answer = _parted(n, text)
    found = {before.strip(), in_parts, *(message[key].strip() for key in beside)} - {""}
    if len(found) > 1:
        inside = [f"{OPEN} in its content"] * bool(before.strip()) + ["parts of its content"] * bool(in_parts)
        places = " and ".join([*beside, *inside])
        raise ValueError(f"message {n} has different thoughts in {places}; keep one of them")
    return "".join(found), answer


def _parted(n: int, text: str) -> tuple[str, str]:
    if text.startswith(OPEN):
        thought, closed, answer = text.removeprefix(OPEN).partition(CLOSE)
        if not closed:
            raise ValueError(f"message {n} begins with {OPEN} and has no {CLOSE}: its thought never ends")
        return thought, answer.strip()
    found = _OWN_LINE.search(text)
    if found is None or OPEN in text[: found.start()]:
        return "", text
    return text[: found.start()], text[found.end() :].strip()
