"""Reads a dataset file row by row: JSON Lines, CSV or TSV, from a local path, as a stream.

The first half of prepare; ``split.py`` and the templates take it from here. Written here rather than left to a
library because a bad row must be named by its line, and must not end the reading.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["MAX_RECORD_BYTES", "BadRow", "Format", "Row", "read_rows", "resolve_format"]

Format = Literal["Jsonl", "Csv", "Tsv"]

MAX_RECORD_BYTES: Final = 16 * 2**20
"""A longer line is a bad row; without a bound a file without line ends would fill the memory."""

_ENDINGS: Final[dict[str, Format]] = {".jsonl": "Jsonl", ".ndjson": "Jsonl", ".csv": "Csv", ".tsv": "Tsv"}
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS: Final = {"Csv": ",", "Tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes
    ----------
    number
        The line of the file on which the row begins, from 1.
    values
        Column to value; all strings in CSV and TSV, any JSON value in JSON Lines.
    size
        Bytes of its line, or characters of its fields: enough to bound how many rows are held at once.
    """

    number: int
    values: dict[str, Any]
    size: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be used, with the line on which it begins and the reason in words."""

    number: int
    why: str


def resolve_format(path: Path, declared: str) -> Format:
    """Return the format: ``declared`` (``dataset.format``), or by the ending if that is ``Auto``.

    Raises
    ------
    StageError
        DatasetInvalid: the ending says nothing.
    """
    if declared in ("Jsonl", "Csv", "Tsv"):
        return declared  # type: ignore[return-value]  # membership was just checked
    known = _ENDINGS.get(path.suffix.lower())
    if known is None:
        raise StageError(
            Reason.DATASET_INVALID,
            f"the ending of {path.name!r} does not tell its format; set dataset.format to Jsonl, Csv or Tsv",
        )
    return known


def read_rows(path: Path, declared: str = "Auto") -> Iterator[Row | BadRow]:
    """Yield the rows of a file in their order; blank lines are passed over.

    Parameters
    ----------
    path
        A local file in UTF-8; a byte order mark is tolerated.
    declared
        ``dataset.format``.

    Raises
    ------
    StageError
        DatasetInvalid: nothing in the file, no usable header, or not a file of this format at all.
    """
    kind = resolve_format(path, declared)
    with path.open("rb") as file:
        if file.read(2) in _UTF16_BOMS:
            raise StageError(Reason.DATASET_INVALID, f"{path.name} is UTF-16; store it as UTF-8")
    empty = True
    for row in _json_lines(path) if kind == "Jsonl" else _separated(path, _DELIMITERS[kind]):
        empty = False
        yield row
    if empty:
        raise StageError(Reason.DATASET_INVALID, f"{path.name} has no rows")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, line); None stands for a line over the bound, the rest of which is passed over."""
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) <= MAX_RECORD_BYTES:
            yield number, line
            continue
        while not line.endswith(b"\n") and (line := file.readline(MAX_RECORD_BYTES)):
            pass
        yield number, None


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    first = True
    with path.open("rb") as file:
        for number, line in _lines(file):
            if line is None:
                yield BadRow(number, f"longer than {MAX_RECORD_BYTES} bytes")
                continue
            line = (line.removeprefix(_UTF8_BOM) if number == 1 else line).strip()
            if not line:
                continue
            if first and line == b"[":
                raise StageError(
                    Reason.DATASET_INVALID, f"{path.name} is a JSON array; write one object a line (JSON Lines)"
                )
            first = False
            yield _json_row(number, line)


def _json_row(number: int, line: bytes) -> Row | BadRow:
    try:
        return Row(number, _json_object(line), len(line))
    except UnicodeDecodeError as e:
        return BadRow(number, f"not UTF-8 at byte {e.start + 1} of the line")
    except json.JSONDecodeError as e:
        return BadRow(number, f"not JSON: {e.msg} at column {e.colno}")
    except RecursionError:
        return BadRow(number, "JSON that is nested too deeply")
    except ValueError as e:
        return BadRow(number, str(e))


def _json_object(line: bytes) -> dict[str, Any]:
    values = json.loads(line.decode(), parse_constant=_refuse_constant)
    if not isinstance(values, dict):
        raise ValueError(f"a JSON {_json_type(values)}, not an object")  # noqa: TRY004  # the caller tells by ValueError
    # A lone surrogate such as "\ud800" is valid JSON but no text: it can be neither tokenised nor stored.
    if b"\\ud" in line.lower() and _has_surrogate(json.dumps(values, ensure_ascii=False)):
        raise ValueError("holds half of a surrogate pair, which is not text")
    return values


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _text_lines(file: BinaryIO) -> Iterator[str]:
    """Yield lines as text; a line that is too long becomes one lone surrogate, which makes its row a bad one."""
    for number, line in _lines(file):
        if line is None:
            yield "\udcff\n"
        else:
            # surrogateescape keeps reading after a bad byte, so that only its own row is lost.
            yield (line.removeprefix(_UTF8_BOM) if number == 1 else line).decode(errors="surrogateescape")


def _separated(path: Path, delimiter: str) -> Iterator[Row | BadRow]:
    # The bound of the csv module is one for the process; ours is far above its 128 KiB, which texts do reach.
    csv.field_size_limit(MAX_RECORD_BYTES)
    header: list[str] | None = None
    with path.open("rb") as file:
        reader = csv.reader(_text_lines(file), delimiter=delimiter, strict=True)
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as e:
                if header is None:
                    raise StageError(Reason.DATASET_INVALID, f"the header of {path.name} can't be read: {e}") from e
                yield BadRow(number, f"not a row: {e}")
                continue
            if fields in ([], [""]):
                continue
            if header is None:
                header = _checked_header(fields, path)
            elif any(_has_surrogate(f) for f in fields):
                yield BadRow(number, f"not UTF-8, or longer than {MAX_RECORD_BYTES} bytes")
            elif len(fields) != len(header):
                yield BadRow(number, f"{len(fields)} fields where the header has {len(header)}")
            else:
                yield Row(number, dict(zip(header, fields, strict=True)), sum(map(len, fields)))


def _checked_header(fields: list[str], path: Path) -> list[str]:
    names = [f.strip() for f in fields]
    if any(_has_surrogate(n) for n in names):
        raise StageError(Reason.DATASET_INVALID, f"the header of {path.name} is not UTF-8")
    if "" in names:
        raise StageError(Reason.DATASET_INVALID, f"column {names.index('') + 1} of {path.name} has no name")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise StageError(Reason.DATASET_INVALID, f"the header of {path.name} names {twice[0]!r} twice")
    return names
