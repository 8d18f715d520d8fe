"""JSON as rows may hold it, by one rule for a file's lines and for a cell's text.

Python's own reader takes more than can be meant or used: numbers that are none or too large, a key twice in an object,
half of a surrogate pair. ``readers.py`` reads rows with it, the templates what stands as JSON text in a column.
"""

from __future__ import annotations

import json
import math
from typing import Any

from finetune_trainer.data.source import has_surrogate

__all__ = ["parsed", "why_not"]


def parsed(text: str) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        It is no JSON, a ``JSONDecodeError``; or it says what can't be used.
    RecursionError
        It is nested too deeply.
    """
    value = json.loads(
        text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeated_keys
    )
    # A lone surrogate such as "\ud800" is valid JSON but no text: it can be neither tokenised nor stored.
    if "\\ud" in text.lower() and has_surrogate(json.dumps(value, ensure_ascii=False)):
        raise ValueError("holds half of a surrogate pair, which is not text")
    return value


def why_not(error: Exception) -> str:
    """Say, to go behind "no JSON", what can't be used; empty where it is simply none."""
    if isinstance(error, RecursionError):
        return ": it is nested too deeply"
    return "" if isinstance(error, json.JSONDecodeError) else f": {error}"


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text if len(text) <= 30 else text[:27] + '...'} is too large; write it as text")
    return value


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object, and only one of its values can be meant")
    return values
