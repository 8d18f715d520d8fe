"""Reads a dataset file row by row: JSON Lines, CSV or TSV, from a local path, as a stream.

The first half of prepare; ``table.py`` and the templates take it from here. Written here rather than left to a library
because a bad row must be named by its line, and must not end the reading. ``source.py`` below says what a file is;
CSV and TSV have their own module, ``separated.py``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Final

from finetune_api.reasons import Reason
from finetune_trainer.data.separated import read_separated
from finetune_trainer.data.source import BadRow, Row, Source, has_surrogate, look_at, numbered_lines, too_long
from finetune_trainer.errors import StageError

__all__ = ["BadRow", "Row", "Source", "look_at", "read_rows"]

_ONE_A_LINE: Final = "write one object a line (JSON Lines)"
_ARRAY: Final = re.compile(rb"\[\s*(\{|$)")


def read_rows(source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a file in their order; blank lines are passed over.

    Parameters
    ----------
    source
        From :func:`look_at`.

    Raises
    ------
    StageError
        DatasetInvalid: nothing in the file, no usable header, a quote that swallows rows, or not a file of this format
        at all.
    """
    empty = True
    for row in _json_lines(source) if source.format == "Jsonl" else read_separated(source):
        empty = False
        yield row
    if empty:
        needs = "one JSON object a line" if source.format == "Jsonl" else "a header and the rows below it"
        raise StageError(
            Reason.DATASET_INVALID, f"{source.name} has no rows; a {source.format} file holds {needs}", tells_mend=True
        )


def _json_lines(source: Source) -> Iterator[Row | BadRow]:
    first = True
    with source.path.open("rb") as file:
        for number, line in numbered_lines(file):
            if line is None:
                yield BadRow(number, too_long())
                continue
            line = line.strip()
            if not line:
                continue
            if first:
                _check_first(line, source.name)
            first = False
            yield _json_row(number, line)


def _check_first(line: bytes, name: str) -> None:
    """Refuse what is JSON but not JSON Lines by the line that it begins with."""
    if _ARRAY.match(line):
        raise StageError(
            Reason.DATASET_INVALID,
            f"{name} is a JSON array; {_ONE_A_LINE}, without brackets around and commas between them",
            tells_mend=True,
        )
    if line == b"{":
        raise StageError(
            Reason.DATASET_INVALID, f"the objects of {name} stand over several lines; {_ONE_A_LINE}", tells_mend=True
        )


def _json_row(number: int, line: bytes) -> Row | BadRow:
    try:
        text = line.decode()
        return Row(number, _json_object(text), len(line))
    except UnicodeDecodeError as e:
        return BadRow(number, f"not UTF-8 at byte {e.start + 1} of the line")
    except json.JSONDecodeError as e:
        return BadRow(number, _not_json(text, e))
    except RecursionError:
        return BadRow(number, "JSON that is nested too deeply")
    except ValueError as e:
        return BadRow(number, str(e))


def _not_json(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].lstrip()
    if error.msg == "Extra data" and rest.startswith(("{", ",")):
        what = "a comma" if rest == "," else "more"
        return f"{what} after the object at column {error.colno}; {_ONE_A_LINE} with nothing between them"
    if not rest and text.startswith("{"):
        return f"not JSON: the line ends inside the object ({error.msg} at column {error.colno}); {_ONE_A_LINE}"
    return f"not JSON: {error.msg} at column {error.colno}"


def _json_object(text: str) -> dict[str, Any]:
    values = json.loads(
        text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeated_keys
    )
    if not isinstance(values, dict):
        raise ValueError(f"a JSON {_json_type(values)}, not an object")  # noqa: TRY004  # the caller tells by ValueError
    # A lone surrogate such as "\ud800" is valid JSON but no text: it can be neither tokenised nor stored.
    if "\\ud" in text.lower() and has_surrogate(json.dumps(values, ensure_ascii=False)):
        raise ValueError("holds half of a surrogate pair, which is not text")
    return values


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


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
