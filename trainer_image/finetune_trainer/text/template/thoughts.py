"""What is thought before an answer, out of the dialects of chat files: a key beside the answer, or a tag before it.

Beside ``conversation.py``, which reads the turns. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["CLOSE", "OPEN", "thought_of"]

OPEN: Final = "<think>"
CLOSE: Final = "</think>"
"""The tags of nearly all files, whatever tags the model's chat template has."""

_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
_OWN_LINE: Final = re.compile(rf"{CLOSE}[ \t]*(?:\r?\n|\Z)")
"""Files of models whose prompt opens the thought lack the first tag. Within a sentence the second is text."""


def thought_of(n: int, message: Mapping[str, Any], text: str) -> tuple[str, str]:
    """Return the thought of message ``n`` and its answer, both without outer white space.

    Parameters
    ----------
    text
        The message's content as text.

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
    found = {before.strip(), *(message[key].strip() for key in beside)} - {""}
    if len(found) > 1:
        places = " and ".join([*beside, *([f"{OPEN} in its content"] if before.strip() else [])])
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
