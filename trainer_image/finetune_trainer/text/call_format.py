"""How a chat template writes calls of tools, tried out once, and calls read back out of a text.

Two texts may be the same calls: keys in another order, other white space. So calls are compared as JSON, and only where
a text is wholly what the template writes: what it puts around calls, a JSON object for each, and nothing else. What it
writes otherwise (an element for each argument, Python) is no such format, and stays a text. Beside ``tool_format.py``.
Pure but for what writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from typing import Any, Final, NoReturn

from finetune_trainer.text.template.conversation import Message

__all__ = ["CallFormat", "Calls"]

Write = Callable[[Message], str]
"""Writes an answer as the chat template does; ValueError where it refuses."""

_NAMES: Final = ("lookupprobe", "searchprobe")
_VALUES: Final = ("valueprobe", "othervalue")
_IDS: Final = ("callprobe", "callother")
_KEY: Final = "keyprobe"
_NAME, _ID, _ARGUMENTS = _NAMES[0], _IDS[0], {_KEY: _VALUES[0]}
_START: Final = re.compile(r"[{\[]")


@dataclass(frozen=True, slots=True)
class Calls:
    """What a turn says and calls: text before its calls, and each call's name and arguments, in order."""

    beside: str
    calls: tuple[tuple[str, Hashable], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFormat:
    """How calls are written; where its texts have white space, any will do.

    Attributes
    ----------
    head, between, tail
        Text before the first call, between two (None where one is all there can be), and after the last.
    shape
        A call's JSON value as JSON, with words that were tried for its name, arguments and id.
    middle
        Text between a name that stands before the JSON value and that value; None where the name stands in it.
    listed
        Whether the calls are the entries of one list.
    """

    head: str
    between: str | None
    tail: str
    shape: str
    middle: str | None
    listed: bool

    @classmethod
    def find(cls, write: Write) -> CallFormat | None:
        """Try a template out; None where it writes no JSON, or ids of calls outside of it."""
        one = _tried(write, 1)
        found = _with(one, _VALUES[0])
        if found is None:
            return None
        start, value, end = found
        listed = isinstance(value, list)
        shape = value[0] if listed and len(value) == 1 else value
        head, middle = one[:start], None
        if shape == _ARGUMENTS and not listed:
            head, named, middle = head.rpartition(_NAME)
            if not named:
                return None
        elif not isinstance(shape, dict):
            return None
        if any(word in text for word in (_NAME, _ID) for text in (head, middle or "", one[end:])):
            return None
        written = cls(
            head=head,
            between=None if listed else _between(_tried(write, 2), end, middle),
            tail=one[end:],
            shape=json.dumps(shape),
            middle=middle,
            listed=listed,
        )
        return written if written.holds(one, _turn(1)) else None

    def read(self, text: str) -> Calls | None:
        """Return the calls in a text; None where it is not just what the format makes of calls."""
        starts: Iterator[re.Match[str]] = _pattern(self.head, before_name=self.middle is not None).finditer(text)
        for found in starts:
            beside = text[: found.start()].strip()
            if beside and not self.head.strip():
                return None
            try:
                calls = self._calls(text, found.end())
            except (ValueError, RecursionError, ArithmeticError):
                continue
            if calls is not None:
                return Calls(beside, calls)
        return None

    def holds(self, text: str, turn: Message) -> bool:
        """Tell whether the calls of a turn, and the text beside them, can be read back out of its text."""
        try:
            return self.read(text) == _calls_in(turn)
        except (ValueError, RecursionError, ArithmeticError):  # numbers that are none in JSON
            return False

    def _calls(self, text: str, at: int) -> tuple[tuple[str, Hashable], ...] | None:
        calls: list[tuple[str, Hashable]] = []
        between = None if self.between is None else _pattern(self.between, before_name=self.middle is not None)
        while True:
            name = None
            if self.middle is not None:
                if (named := _named(self.middle).match(text, at)) is None:
                    return None
                name, at = named["name"], named.end()
            value, at = _decoder().raw_decode(text, at)
            if self.listed != isinstance(value, list):
                return None
            for entry in value if self.listed else [value]:
                if (call := self._call(entry, name)) is None:
                    return None
                calls.append(call)
            if calls and _pattern(self.tail).fullmatch(text, at):
                return tuple(calls)
            goes_on = between.match(text, at) if between is not None else None
            if goes_on is None:
                return None
            at = goes_on.end()

    def _call(self, value: Any, name: str | None) -> tuple[str, Hashable] | None:
        found: dict[str, Any] = {} if name is None else {"name": name}
        if not _fills(value, _parsed_shape(self.shape), found) or found.keys() != {"name", "arguments"}:
            return None
        return found["name"], _plain(found["arguments"])


def _calls_in(turn: Message) -> Calls:
    """Return what a turn says and calls, comparable with what is read."""
    functions = [call["function"] for call in turn.calls]
    arguments = [_decoder().decode(json.dumps(function["arguments"])) for function in functions]
    calls = tuple((function["name"], _plain(value)) for function, value in zip(functions, arguments, strict=True))
    return Calls(turn.content.strip(), calls)


def _turn(count: int) -> Message:
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": {_KEY: value}}}
        for name, value, number in zip(_NAMES[:count], _VALUES, _IDS, strict=False)
    ]
    return Message("assistant", "", more=json.dumps({"tool_calls": calls}))


def _tried(write: Write, count: int) -> str:
    try:
        return write(_turn(count))
    except ValueError:
        return ""


def _with(text: str, word: str) -> tuple[int, Any, int] | None:
    """Find the first JSON value that holds a word: its start, itself, its end."""
    for found in _START.finditer(text):
        try:
            value, end = _decoder().raw_decode(text, found.start())
        except (ValueError, RecursionError, ArithmeticError):
            continue
        if word in text[found.start() : end]:
            return found.start(), value, end
    return None


def _between(two: str, end: int, middle: str | None) -> str | None:
    """Find what stands between two calls; the first one ends where a single one does."""
    found = _with(two[end:], _VALUES[1])
    if found is None:
        return None
    text = two[end:][: found[0]]
    if middle is None:
        return text
    text, named, after = text.rpartition(_NAMES[1])
    return text if named and after == middle else None


def _fills(value: Any, shape: Any, found: dict[str, Any]) -> bool:
    """Tell whether a value is a shape with other words for those that were tried, which are put down."""
    if shape == _ARGUMENTS:
        return isinstance(value, dict) and found.setdefault("arguments", value) is value
    if shape == _NAME:
        return isinstance(value, str) and found.setdefault("name", value) == value
    if shape == _ID:
        return isinstance(value, str)
    if isinstance(shape, Mapping):
        return (
            isinstance(value, dict)
            and value.keys() == shape.keys()
            and all(_fills(value[key], inner, found) for key, inner in shape.items())
        )
    return _plain(value) == _plain(shape)


def _plain(value: Any) -> Hashable:
    """A JSON value as it is compared: with its type, so that 1 is neither "1" nor true nor 1.0; keys in no order."""
    if isinstance(value, dict):
        return ("object", frozenset((key, _plain(inner)) for key, inner in value.items()))
    if isinstance(value, list):
        return ("array", tuple(_plain(inner) for inner in value))
    return (type(value).__name__, value)


@cache
def _pattern(text: str, *, before_name: bool = False) -> re.Pattern[str]:
    """Match a text of the frame, whatever its white space; where a bare word follows it, some is needed."""
    end = r"\s+" if before_name and text[-1:].isspace() else r"\s*"
    return re.compile(r"\s*" + r"\s+".join(map(re.escape, text.split())) + end)


@cache
def _named(middle: str) -> re.Pattern[str]:
    start = r"\s+" if middle[:1].isspace() else ""
    return re.compile(rf"(?P<name>\S+?){start}{_pattern(middle).pattern.removeprefix(chr(92) + 's*')}(?=\{{)")


@cache
def _parsed_shape(shape: str) -> Any:
    return _decoder().decode(shape)


@cache
def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(parse_float=Decimal, parse_constant=_refuse, object_pairs_hook=_object)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return values
