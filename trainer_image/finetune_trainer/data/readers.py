"""Reads a dataset file row by row, from a local path, as a stream: JSON, CSV, TSV, Parquet or Arrow.

The first half of prepare; ``table.py`` and the templates take it from here. JSON Lines are read here rather than by a
library because a bad row must be named by its line, and must not end the reading; the other formats have modules of
their own. ``source.py`` below says what a file is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from finetune_api.reasons import Reason
from finetune_trainer.data.classes import named, usable
from finetune_trainer.data.json_text import Shape, objects_of
from finetune_trainer.data.opened import numbered_lines
from finetune_trainer.data.separated import read_separated
from finetune_trainer.data.source import BadRow, Row, Source, look_at, too_long
from finetune_trainer.data.strict_json import parsed
from finetune_trainer.errors import StageError

__all__ = ["BadRow", "Row", "Source", "look_at", "read_rows"]

_ONE_A_LINE: Final = "write one object a line"
_HOLDS: Final = {
    "Jsonl": "one JSON object a line",
    "Json": "an array of objects",
    "Csv": "a header and the rows below it",
}


def read_rows(source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a file in their order; blank lines are passed over.

    Parameters
    ----------
    source
        From :func:`look_at`. One of a ``folder`` may have no rows.

    Raises
    ------
    StageError
        DatasetInvalid: nothing in the file, no usable header, a quote that swallows rows, a damaged file, or not a file
        of this format at all.
    """
    empty = True
    for row in _rows(source):
        empty = False
        yield row
    if empty and not source.folder:
        needs = _HOLDS.get(source.format, "a row at least" if source.is_columnar else _HOLDS["Csv"])
        raise StageError(
            Reason.DATASET_INVALID, f"{source.name} has no rows; a {source.format} file holds {needs}", tells_mend=True
        )


def _rows(source: Source) -> Iterator[Row | BadRow]:
    if source.is_columnar:
        from finetune_trainer.data.columnar import read_columnar  # noqa: PLC0415 - loads pyarrow

        return read_columnar(source)
    if source.shape is None:
        rows = read_separated(source)
    else:
        rows = _json_lines(source) if source.shape is Shape.LINES else _json_values(source, source.shape)
    return _with_classes(rows, usable(dict(source.classes), source.choices)) if source.classes else rows


def _with_classes(rows: Iterator[Row | BadRow], classes: Mapping[str, Sequence[str]]) -> Iterator[Row | BadRow]:
    for row in rows:
        yield replace(row, values=named(row.values, classes)) if isinstance(row, Row) else row


def _json_lines(source: Source) -> Iterator[Row | BadRow]:
    with source.text() as file:
        for number, line in numbered_lines(file):
            if line is None:
                yield BadRow(number, too_long())
                continue
            line = line.strip()
            if line:
                yield _json_row(number, line, source)


def _json_values(source: Source, shape: Shape) -> Iterator[Row | BadRow]:
    with source.text() as file:
        # Many of them may stand in one line, so that no line would name a row.
        for number, text in enumerate(objects_of(file, shape, source.name), start=1):
            yield _json_row(number, text.encode(errors="surrogateescape"), source)


def _json_row(number: int, line: bytes, source: Source) -> Row | BadRow:
    text = ""
    try:
        # Whoever writes an array by hand ends lines in commas.
        text = line.decode().removesuffix(",")
        return Row(number, _json_object(text), len(line))
    except UnicodeDecodeError as e:
        return BadRow(number, f"{source.not_text()} at byte {e.start + 1} of the line")
    except json.JSONDecodeError as e:
        return BadRow(number, _not_json(text, e))
    except RecursionError:
        return BadRow(number, "JSON that is nested too deeply")
    except ValueError as e:
        return BadRow(number, str(e))


def _not_json(text: str, error: json.JSONDecodeError) -> str:
    rest = text[error.pos :].lstrip()
    if error.msg == "Extra data" and rest.startswith(("{", ",")):
        return f"more after the object at column {error.colno}; {_ONE_A_LINE} with nothing between them"
    if not rest and text.startswith("{"):
        return f"not JSON: the line ends inside the object ({error.msg} at column {error.colno}); {_ONE_A_LINE}"
    return f"not JSON: {error.msg} at column {error.colno}"


def _json_object(text: str) -> dict[str, Any]:
    values = parsed(text)
    if not isinstance(values, dict):
        raise ValueError(f"a JSON {_json_type(values)}, not an object")  # noqa: TRY004  # the caller tells by ValueError
    return values


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
