"""A dataset file before its rows are read: what the user calls it, which format it is in, whether its cells are quoted.

Below ``readers.py``. What is no text at all (an archive, a workbook, a web page) is told here by its first bytes, since
further on it would only be thousands of bad rows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Final, Literal
from urllib.parse import urlsplit

from finetune_api.reasons import Reason
from finetune_trainer.data.tsv_quotes import QuoteMarks, judge_quotes
from finetune_trainer.errors import StageError

__all__ = [
    "DELIMITERS",
    "MAX_RECORD_BYTES",
    "BadRow",
    "Format",
    "Row",
    "Source",
    "file_name",
    "has_surrogate",
    "look_at",
    "numbered_lines",
    "resolve_format",
    "text_lines",
    "too_long",
]

Format = Literal["Jsonl", "Csv", "Tsv"]

MAX_RECORD_BYTES: Final = 16 * 2**20
"""A longer line is a bad row; without a bound a file without line ends would fill the memory."""
DELIMITERS: Final[dict[str, str]] = {"Csv": ",", "Tsv": "\t"}

_ENDINGS: Final[dict[str, Format]] = {".jsonl": "Jsonl", ".ndjson": "Jsonl", ".csv": "Csv", ".tsv": "Tsv"}
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_HEAD: Final = 512
_NAME_CHARS: Final = 80
_UNCOMPRESSED: Final = "store it uncompressed, as JSON Lines, CSV or TSV"
_TEXT_PLEASE: Final = "store its rows as JSON Lines, CSV or TSV"
_NO_TEXT: Final = (
    (b"\x1f\x8b", "compressed with gzip", _UNCOMPRESSED),
    (b"BZh", "compressed with bzip2", _UNCOMPRESSED),
    (b"\xfd7zXZ\x00", "compressed with xz", _UNCOMPRESSED),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNCOMPRESSED),
    (b"PK\x03\x04", "a zip archive or a workbook of Excel", _TEXT_PLEASE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook of Excel", _TEXT_PLEASE),
    (b"PAR1", "a Parquet file", _TEXT_PLEASE),
    (b"ARROW1", "an Arrow file", _TEXT_PLEASE),
    (b"SQLite format 3", "an SQLite database", _TEXT_PLEASE),
    (b"%PDF-", "a PDF file", _TEXT_PLEASE),
    (b"\xff\xfe", "UTF-16", "store it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "store it as UTF-8"),
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WEB_PAGE: Final = (b"<!doctype html", b"<html")


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


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows.

    Attributes
    ----------
    path
        Where it lies here.
    name
        What the user calls it; in every message.
    format
        As declared, or by the ending.
    marks
        What the quotation marks in it are; CSV is always ``Quoting``.
    """

    path: Path
    name: str
    format: Format
    marks: QuoteMarks


def file_name(uri: str) -> str:
    """The file's name at the end of a URI."""
    name = PurePosixPath(urlsplit(uri).path).name or uri
    return name if len(name) <= _NAME_CHARS else "..." + name[3 - _NAME_CHARS :]


def look_at(path: Path, declared: str = "Auto", name: str | None = None) -> Source:
    """Find out what a file is.

    Parameters
    ----------
    path
        A local file in UTF-8; a byte order mark is tolerated.
    declared
        ``dataset.format``.
    name
        What the user calls it; that of the path if None.

    Raises
    ------
    StageError
        DatasetInvalid: the format can't be told, or it is no text.
    """
    name = name or path.name
    with path.open("rb") as file:
        _check_text(file.read(_HEAD), name)
    kind = resolve_format(path, declared, name)
    if kind == "Jsonl":
        return Source(path, name, kind, QuoteMarks.NONE)
    if kind == "Csv":
        return Source(path, name, kind, QuoteMarks.QUOTING)
    # The bound of the csv module is one for the process; ours is far above its 128 KiB, which texts do reach.
    csv.field_size_limit(MAX_RECORD_BYTES)
    return Source(path, name, kind, judge_quotes(lambda: text_lines(path)))


def resolve_format(path: Path, declared: str, name: str | None = None) -> Format:
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
            f"the ending of {name or path.name!r} does not tell its format; set dataset.format to Jsonl (one JSON "
            "object a line), Csv or Tsv",
            tells_mend=True,
        )
    return known


def _check_text(head: bytes, name: str) -> None:
    for magic, what, mend in _NO_TEXT:
        if head.startswith(magic):
            raise StageError(Reason.DATASET_INVALID, f"{name} is {what}; {mend}", tells_mend=True)
    if head.removeprefix(_UTF8_BOM).lstrip().lower().startswith(_WEB_PAGE):
        raise StageError(
            Reason.DATASET_INVALID,
            f"{name} is a web page, not rows; give the address of the file itself",
            tells_mend=True,
        )
    # Text without a mark in front: in UTF-16 every second byte of plain letters is zero.
    if len(head) >= 4 and b"\0" in head[:4]:
        raise StageError(
            Reason.DATASET_INVALID, f"{name} is no UTF-8 text (UTF-16?); store it as UTF-8", tells_mend=True
        )


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield (number, line), without a byte order mark; None stands for a line over the bound, which is passed over."""
    number = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        number += 1
        if len(line) <= MAX_RECORD_BYTES:
            yield number, line.removeprefix(_UTF8_BOM) if number == 1 else line
            continue
        while not line.endswith(b"\n") and (line := file.readline(MAX_RECORD_BYTES)):
            pass
        yield number, None


def text_lines(path: Path) -> Iterator[str]:
    """Yield lines as text; a line that is too long becomes one lone surrogate, which makes its row a bad one."""
    with path.open("rb") as file:
        for _, line in numbered_lines(file):
            # surrogateescape keeps reading after a bad byte, so that only its own row is lost.
            yield "\udcff\n" if line is None else line.decode(errors="surrogateescape")


def too_long() -> str:
    """Why a line over the bound is a bad row."""
    return f"longer than {MAX_RECORD_BYTES} bytes"


def has_surrogate(text: str) -> bool:
    """Whether there is half of a surrogate pair, which is no text."""
    return _SURROGATE.search(text) is not None
