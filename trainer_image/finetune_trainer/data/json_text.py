"""Reads JSON that is not one object a line: an array, objects over several lines, or an object around one array.

Beside ``readers.py``, which reads JSON Lines and calls this for the rest. Values are taken off a stream one by one with
the standard library's decoder, so that the same things make a row a bad one as in JSON Lines, and its line is known.
Where the structure itself is broken, nothing tells where the next row begins: that ends the reading.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, BinaryIO, Final

from finetune_api.reasons import Reason
from finetune_trainer.data import opened as files
from finetune_trainer.data.opened import UTF8_BOM
from finetune_trainer.errors import StageError

__all__ = ["Shape", "objects_of", "shape_of"]

_CHUNK: Final = 2**16
_HEAD: Final = 4096
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRICT: Final = json.JSONDecoder()
_BRACKET: Final = re.compile(r"\[[ \t\r\n]*([^ \t\r\n])")
_ARRAY: Final = re.compile(rb"\[\s*(\{|\]|$)")


class Shape(Enum):
    """How the objects of a JSON file are put together."""

    LINES = "one object a line"
    ARRAY = "a JSON array"
    OBJECTS = "objects over several lines"
    WRAPPED = "an object around an array"


def shape_of(text: Callable[[], AbstractContextManager[BinaryIO]], *, one_a_line: bool, name: str) -> Shape:
    """Find out how a file is put together, by its beginning.

    Parameters
    ----------
    text
        Opens it from the beginning; what is packed or decoded can't be wound back.
    one_a_line
        The format is JSON Lines: an object that is alone in its file is a row, whatever it holds.

    Raises
    ------
    StageError
        DatasetInvalid: it begins with something that is no JSON.
    """
    with text() as file:
        if _ARRAY.match(file.read(_HEAD).removeprefix(UTF8_BOM).lstrip()):
            return Shape.ARRAY
    with text() as file:
        first, second = _two_lines(file)
    # A first line that is broken is a bad row where the second one is whole.
    if not first.startswith(b"{") or (second and (_is_object(first) or _is_object(second))):
        return Shape.LINES
    with text() as file:
        return _of_first_object(file, one_a_line=one_a_line, name=name)


def _of_first_object(file: BinaryIO, *, one_a_line: bool, name: str) -> Shape:
    """Find out by an object that is not alone on its line, or alone in its file."""
    values = Values(file, name)
    values.next_char()
    first = values.line
    try:
        only = values.skip_value()
    except StageError:
        if one_a_line:  # each line is told with what is wrong in it
            return Shape.LINES
        if values.over_the_bound:
            return Shape.WRAPPED
        raise
    ends, alone = values.line, not values.next_char()
    if one_a_line and alone and ends == first:
        return Shape.LINES
    return Shape.WRAPPED if alone and not one_a_line and any(map(_is_rows, only.values())) else Shape.OBJECTS


def _two_lines(file: BinaryIO) -> tuple[bytes, bytes]:
    found: list[bytes] = []
    for _, line in files.numbered_lines(file):
        if line is None or line.strip():
            found.append((line or b"{").strip())
        if len(found) == 2:
            break
    first, second, *_ = (*found, b"", b"")
    return first, second


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.removesuffix(b",")), dict)
    except (ValueError, RecursionError):
        return False


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


class Values:
    """JSON values on a stream, taken one by one.

    Attributes
    ----------
    line
        The line on which the next character stands, from 1.
    over_the_bound
        A value was longer than :data:`~finetune_trainer.data.opened.MAX_RECORD_BYTES`.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.line = 1
        self.over_the_bound = False
        self._file, self._name = file, name
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text, self._at, self._at_end, self._begun = "", 0, False, False

    def next_char(self) -> str:
        """Pass over white space and return the next character without taking it; empty at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._move(match.end() if match else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def take(self, char: str) -> bool:
        """Take a character if it is the next."""
        if self.next_char() != char:
            return False
        self._move(self._at + 1)
        return True

    def begins_rows(self) -> bool:
        """Whether an array comes next whose first element is an object."""
        if self.next_char() != "[":
            return False
        while not (match := _BRACKET.match(self._text, self._at)):
            if not self._read():
                return False
        return match[1] == "{"

    def skip_value(self) -> Any:
        """Take the next value, whatever it is, and return it.

        Raises
        ------
        StageError
            DatasetInvalid: there is none, or it is too long.
        """
        value, _ = self._value()
        return value

    def value_text(self) -> str:
        """Take the next value and return its text.

        Raises
        ------
        StageError
            As for :meth:`skip_value`.
        """
        _, text = self._value()
        return text

    def broken(self, what: str) -> StageError:
        """Return the error for a structure that ends the reading."""
        return StageError(
            Reason.DATASET_INVALID,
            f"{self._name} line {self.line}: {what}; mend the JSON there, or write one object a line (JSON Lines), "
            "where a broken line costs only itself",
            tells_mend=True,
        )

    def _value(self) -> tuple[Any, str]:
        if not self.next_char():
            raise self.broken("the file ends where a value is missing")
        while True:
            try:
                value, end = _STRICT.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._more():
                    continue
                message = f"not JSON: {error.msg}"
                self._move(min(error.pos, len(self._text)))
                raise self.broken(message) from error
            except RecursionError:
                raise self.broken("JSON that is nested too deeply") from None
            # A number at the end of what was read may go on.
            if end < len(self._text) or not self._more():
                text = self._text[self._at : end]
                self._move(end)
                return value, text

    def _more(self) -> bool:
        if len(self._text) - self._at > files.MAX_RECORD_BYTES:
            self.over_the_bound = True
            raise self.broken(f"a value of more than {files.MAX_RECORD_BYTES} bytes")
        return self._read()

    def _read(self) -> bool:
        """Read on, as much as is there already, so that a long value costs twice its length."""
        if self._at_end:
            return False
        chunk = self._file.read(max(_CHUNK, len(self._text) - self._at))
        if not self._begun and chunk:
            self._begun, chunk = True, chunk.removeprefix(UTF8_BOM)
        self._at_end = not chunk
        self._text = self._text[self._at :] + self._decoder.decode(chunk, self._at_end)
        self._at = 0
        return not self._at_end

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to


def objects_of(file: BinaryIO, shape: Shape, name: str) -> Iterator[str]:
    """Yield the text of each value that should be a row.

    Raises
    ------
    StageError
        DatasetInvalid: the structure around the rows is broken.
    """
    values = Values(file, name)
    if shape is Shape.OBJECTS:
        yield from _objects(values)
        return
    yield from _elements(values) if shape is Shape.ARRAY else _only_array(values)
    if values.next_char():
        raise values.broken(f"more after the end of {shape.value}")


def _elements(values: Values) -> Iterator[str]:
    """Yield the text of each element of the array that comes next.

    Raises
    ------
    StageError
        DatasetInvalid: the array is broken.
    """
    values.take("[")
    if values.take("]"):
        return
    while True:
        if values.next_char() == "]":
            raise values.broken("a comma before the closing bracket")
        yield values.value_text()
        if values.take("]"):
            return
        if not values.take(","):
            raise values.broken("neither a comma nor the closing bracket after an element")


def _objects(values: Values) -> Iterator[str]:
    """Yield the text of each value up to the end; commas between them are passed over.

    Raises
    ------
    StageError
        DatasetInvalid: something that is no value.
    """
    while values.next_char():
        yield values.value_text()
        values.take(",")


def _only_array(values: Values) -> Iterator[str]:
    """Yield the text of each element of the one array of objects in the object that comes next.

    Raises
    ------
    StageError
        DatasetInvalid: the object is broken, or holds several such arrays, of which only one can be meant.
    """
    values.take("{")
    found: str | None = None
    while not values.take("}"):
        key = values.skip_value()
        if not isinstance(key, str) or not values.take(":"):
            raise values.broken("not the key of an object")
        if values.begins_rows():
            if found is not None:
                raise values.broken(
                    f"a second array of objects, {key!r} beside {found!r}, and only one can be the rows"
                )
            found = key
            yield from _elements(values)
        else:
            values.skip_value()
        if not values.take(",") and values.next_char() != "}":
            raise values.broken("neither a comma nor the closing brace after a value")
