"""A dataset file before its rows are read: what the user calls it, its format, packing, encoding and delimiter.

Below ``readers.py``. What holds no rows at all (an archive, a workbook, a web page) is told here by its first bytes,
since further on it would only be thousands of bad rows.
"""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, get_args

from finetune_api.dataset import Dataset, Encoding
from finetune_api.reasons import Reason
from finetune_trainer.data import opened as files
from finetune_trainer.data.delimiters import find_delimiter
from finetune_trainer.data.encodings import guess, is_utf8, marked
from finetune_trainer.data.json_text import Shape, shape_of
from finetune_trainer.data.opened import Packing, opened, packing_of, text_lines, unpacked
from finetune_trainer.data.tsv_quotes import QuoteMarks, judge_quotes
from finetune_trainer.errors import StageError
from finetune_trainer.storage.hubclasses import Classes
from finetune_trainer.storage.rowfiles import Format, format_of_name

__all__ = [
    "OWN_DELIMITER",
    "BadRow",
    "Format",
    "Row",
    "Source",
    "file_name",
    "has_surrogate",
    "look_at",
    "resolve_format",
    "too_long",
]

OWN_DELIMITER: Final[dict[str, str]] = {"Csv": ",", "Tsv": "\t"}
"""What a format's name says; :func:`~finetune_trainer.data.delimiters.find_delimiter` may find another."""

_HEAD: Final = 512
_COPIED: Final = 2**20
_NAME_CHARS: Final = 80
_ROWS_PLEASE: Final = "store its rows as JSON Lines, CSV, TSV or Parquet"
_NO_ROWS: Final = (
    (b"BZh", "compressed with bzip2", "compress it with gzip or zstd, or not at all"),
    (b"\xfd7zXZ\x00", "compressed with xz", "compress it with gzip or zstd, or not at all"),
    (b"PK\x03\x04", "a zip archive or a workbook of Excel", _ROWS_PLEASE),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook of Excel", _ROWS_PLEASE),
    (b"FEA1", "a Feather file of the first version", "write it with the second version (Arrow IPC), or as Parquet"),
    (b"ORC", "an ORC file", _ROWS_PLEASE),
    (b"Obj\x01", "an Avro file", _ROWS_PLEASE),
    (b"SQLite format 3", "an SQLite database", _ROWS_PLEASE),
    (b"%PDF-", "a PDF file", _ROWS_PLEASE),
)
_COLUMNAR: Final[tuple[tuple[bytes, Format], ...]] = ((b"PAR1", "Parquet"), (b"ARROW1", "Arrow"))
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_WEB_PAGE: Final = (b"<!doctype html", b"<html")


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes
    ----------
    number
        The line of the file on which the row begins, from 1; of an array and of a columnar file, which row it is.
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
    """A row that can't be used, with its number (:class:`Row`) and the reason in words."""

    number: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
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
        What the quotation marks in a file of tabs are; CSV is always ``Quoting``.
    packing
        What it is packed in; unpacked already for Parquet and Arrow, which are not read from front to end.
    encoding
        That of its text.
    seems
        What the text seems to be where it is not UTF-8, and nobody has said so.
    delimiter
        Between the cells of CSV and TSV.
    shape
        How the objects of JSON are put together; None for the other formats.
    choices
        Those that the job lists.
    classes
        (column, names of its classes in the order of their numbers), where its dataset's card on the hub has them.
    folder
        What the user calls the folder of which it is a file; such a file may have no rows, since a job that writes in
        parallel leaves such. Empty for a file that was named itself.
    entry
        Number of its entry in ``dataset.sources``, from 0.
    columns
        (new name, own name) of the columns that are renamed.
    """

    path: Path
    name: str
    format: Format
    marks: QuoteMarks = QuoteMarks.NONE
    packing: Packing | None = None
    encoding: Encoding = "UTF-8"
    seems: Encoding | None = None
    delimiter: str = ","
    shape: Shape | None = None
    choices: tuple[str, ...] | None = None
    classes: Classes = ()
    folder: str = ""
    entry: int = 0
    columns: tuple[tuple[str, str], ...] = ()

    @property
    def is_columnar(self) -> bool:
        """Whether it is read by column, and so has rows but no lines."""
        return self.format in ("Parquet", "Arrow")

    @property
    def unit(self) -> str:
        """What the number of a row counts."""
        return "line" if self.shape in (None, Shape.LINES) and not self.is_columnar else "row"

    def text(self) -> AbstractContextManager[BinaryIO]:
        """Open its text as UTF-8, from the beginning."""
        return opened(self.path, self.packing, self.encoding, self.name)

    def not_text(self) -> str:
        """Say what bytes are that can't be decoded."""
        hint = f" (it seems to be {self.seems}; if so, set dataset.encoding to that)" if self.seems else ""
        return f"not {self.encoding}{hint}"


def file_name(name: str) -> str:
    """A file's name as messages show it: its end, where it is long."""
    return name if len(name) <= _NAME_CHARS else "..." + name[3 - _NAME_CHARS :]


def look_at(
    path: Path, dataset: Dataset | None = None, name: str | None = None, *, scratch: Path | None = None
) -> Source:
    """Find out what a file is.

    Parameters
    ----------
    path
        A local file.
    dataset
        Its declared format, encoding and choices; everything is found out without.
    name
        What the user calls it; that of the path if None.
    scratch
        Where a packed file of columns is unpacked; beside it if None.

    Raises
    ------
    StageError
        DatasetInvalid: the format can't be told, or it holds no rows.
    """
    name = name or path.name
    packing = packing_of(path)
    with unpacked(path, packing, name) as file:
        head = file.read(_HEAD)
    _check_rows(head, name)
    kind = _format_of(path, head, dataset.format if dataset else "Auto", name)
    choices = tuple(dataset.template.choices) if dataset and dataset.template.choices else None
    if kind in ("Parquet", "Arrow"):
        return Source(
            path=_plain_file(path, packing, name, scratch or path.parent), name=name, format=kind, choices=choices
        )
    declared = dataset.encoding if dataset else None
    encoding = _encoding_of(head, declared, name)
    source = Source(path=path, name=name, format=kind, packing=packing, encoding=encoding, choices=choices)
    source = replace(source, seems=_checked_encoding(source, declared=declared is not None))
    if kind in ("Jsonl", "Json"):
        return replace(source, shape=shape_of(source.text, one_a_line=kind == "Jsonl", name=name))
    return _separated(source)


def _separated(source: Source) -> Source:
    """Find what parts the cells, and what the quotation marks are."""
    # The bound of the csv module is one for the process; ours is far above its 128 KiB, which texts do reach.
    csv.field_size_limit(files.MAX_RECORD_BYTES)
    with source.text() as text:
        delimiter = find_delimiter(text_lines(text), OWN_DELIMITER[source.format])
    if delimiter != "\t":
        return replace(source, delimiter=delimiter, marks=QuoteMarks.QUOTING)

    def lines() -> Iterator[str]:
        with source.text() as text:
            yield from text_lines(text)

    return replace(source, delimiter=delimiter, marks=judge_quotes(lines))


def _plain_file(path: Path, packing: Packing | None, name: str, scratch: Path) -> Path:
    """Return the file itself, or what is packed in it, unpacked."""
    if packing is None:
        return path
    plain = scratch / (path.name + ".unpacked")
    with unpacked(path, packing, name) as packed, plain.open("wb") as file:
        shutil.copyfileobj(packed, file, _COPIED)
    return plain


def resolve_format(path: Path, declared: str, name: str | None = None) -> Format:
    """Return the format: ``declared`` (``dataset.format``), or by the ending if that is ``Auto``.

    Raises
    ------
    StageError
        DatasetInvalid: the ending says nothing.
    """
    if declared in get_args(Format):
        return declared  # type: ignore[return-value]  # membership was just checked
    known = format_of_name(path.name)
    if known is None:
        raise StageError(
            Reason.DATASET_INVALID,
            f"the ending of {name or path.name!r} does not tell its format; set dataset.format to one of "
            f"{', '.join(get_args(Format))}",
            tells_mend=True,
        )
    return known


def _format_of(path: Path, head: bytes, declared: str, name: str) -> Format:
    """Return the format; one that its first bytes tell is told apart from what is declared."""
    told = next((kind for magic, kind in _COLUMNAR if head.startswith(magic)), None)
    if told is None:
        return resolve_format(path, declared, name)
    if declared not in ("Auto", told):
        raise StageError(
            Reason.DATASET_INVALID,
            f"{name} is {told}, not {declared}; set dataset.format to {told}, or leave it out",
            tells_mend=True,
        )
    return told


def _encoding_of(head: bytes, declared: Encoding | None, name: str) -> Encoding:
    """Return the encoding of a file's text, as declared or found.

    Raises
    ------
    StageError
        DatasetInvalid: its first bytes say another one, or are no text of UTF-8.
    """
    found = marked(head)
    if declared is not None and found is not None and not declared.startswith(found[: len("UTF-16")]):
        raise StageError(
            Reason.DATASET_INVALID, f"{name} is {found}, not {declared}; take dataset.encoding out", tells_mend=True
        )
    if declared is None and found is None and b"\0" in head[:4]:
        raise StageError(
            Reason.DATASET_INVALID,
            f"{name} is no UTF-8 text (it begins with zeros); set dataset.encoding, or store it as UTF-8",
            tells_mend=True,
        )
    return declared or found or "UTF-8"


def _checked_encoding(source: Source, *, declared: bool) -> Encoding | None:
    """Return what the text seems to be where it should be UTF-8 and is not.

    Raises
    ------
    StageError
        DatasetInvalid: it is UTF-8, and declared as something else: every letter beyond ASCII would be garbled.
    """
    if source.encoding == "UTF-8":
        with source.text() as text:
            return guess(text)
    if declared:
        with unpacked(source.path, source.packing, source.name) as plain:
            if is_utf8(plain):
                raise StageError(
                    Reason.DATASET_INVALID,
                    f"{source.name} is UTF-8, not {source.encoding}; take dataset.encoding out",
                    tells_mend=True,
                )
    return None


def _check_rows(head: bytes, name: str) -> None:
    for magic, what, mend in _NO_ROWS:
        if head.startswith(magic):
            raise StageError(Reason.DATASET_INVALID, f"{name} is {what}; {mend}", tells_mend=True)
    if head.removeprefix(files.UTF8_BOM).lstrip().lower().startswith(_WEB_PAGE):
        raise StageError(
            Reason.DATASET_INVALID,
            f"{name} is a web page, not rows; give the address of the file itself",
            tells_mend=True,
        )


def too_long() -> str:
    """Why a line over the bound is a bad row."""
    return f"longer than {files.MAX_RECORD_BYTES} bytes"


def has_surrogate(text: str) -> bool:
    """Whether there is half of a surrogate pair, which is no text."""
    return _SURROGATE.search(text) is not None
