"""Metrics over answers that are JSON: whether they are, and which fields are right. Pure."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from finetune_trainer.evaluation.metrics.metric import TextMetric, mean

__all__ = ["JSON_FIELD_ACCURACY", "JSON_VALIDITY"]

_NOTHING: Final = object()
"""What text that is no JSON object or array is read as."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _read(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING
    return value if isinstance(value, dict | list) else _NOTHING


def _why_not(expected: str) -> str:
    return "is no JSON object or array" if _read(expected) is _NOTHING else ""


def _fields(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, value) of every leaf; of a list, values stand in any order, and objects in theirs."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _fields(child, f"{path}.{json.dumps(unicodedata.normalize('NFC', key))}")
    elif isinstance(value, list) and value:
        for i, child in enumerate(value):
            yield from _fields(child, f"{path}[{i if isinstance(child, dict | list) else ''}]")
    else:
        yield path, _leaf(value)


def _leaf(value: Any) -> str:
    """A value as it is compared: 1 is 1.0 and neither is true; text without outer white space."""
    if isinstance(value, str):
        return json.dumps(unicodedata.normalize("NFC", value.strip()))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value)


def _field_accuracy(said: str, expected: str) -> tuple[float, ...]:
    one, other = _read(said), _read(expected)
    if one is _NOTHING or other is _NOTHING:
        return (0.0,)
    try:
        a, b = Counter(_fields(one)), Counter(_fields(other))
    except (RecursionError, ValueError):  # deeper than Python goes, or a number with thousands of digits
        return (0.0,)
    return ((a & b).total() / (a | b).total(),)


def _validity(said: str, expected: str) -> tuple[float, ...]:
    one, other = _read(said), _read(expected)
    return (float(one is not _NOTHING and type(one) is type(other)),)


JSON_FIELD_ACCURACY: Final = TextMetric(
    name="JSONFieldAccuracy",
    meaning="the mean over rows of the share of JSON fields that are right; missing and additional ones are wrong",
    compare=_field_accuracy,
    scorable=_why_not,
    value=mean,
    beside=("JSONValidity", "ExactMatch", "TokenF1"),
)
"""Mean over rows of |right| / |expected or given|, over the leaves of both documents with their paths (a Jaccard
index): missing and additional fields count against it, and text that is no JSON object or array has no right one. Order
of keys and white space don't count, nor the order of plain values in a list."""

JSON_VALIDITY: Final = TextMetric(
    name="JSONValidity",
    meaning="the generated text is a JSON document of the expected kind, object or array",
    compare=_validity,
    scorable=_why_not,
    value=mean,
    counted=True,
    verdict="measure",
    beside=("JSONFieldAccuracy", "ExactMatch"),
)
"""Share of rows whose whole generated text parses (RFC 8259; NaN and Infinity don't), and is an object where one was
expected, an array where one was. Says nothing about what stands in it."""
