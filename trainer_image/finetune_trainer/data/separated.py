"""Reads CSV and TSV, and tells a quote that swallows rows.

Called by ``readers.py``. By the rules of CSV an unclosed quote is no error until the file ends or another quote comes:
everything between is one cell. So what stands over several lines is looked at twice here, since rows that are lost this
way would be missing without a word, or stand in the text of another.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from finetune_api.reasons import Reason
from finetune_trainer.data import opened as files
from finetune_trainer.data.delimiters import DELIMITERS, is_excel_mark
from finetune_trainer.data.opened import text_lines
from finetune_trainer.data.source import BadRow, Row, Source, has_surrogate, too_long
from finetune_trainer.data.tsv_quotes import QuoteMarks
from finetune_trainer.errors import StageError

if TYPE_CHECKING:
    from _csv import Reader as _Reader

__all__ = ["lacks_first_name", "read_separated"]

_CLOSE_IT: Final = "close it, or write a quote inside a quoted cell twice"


def read_separated(source: Source) -> Iterator[Row | BadRow]:
    """Yield the rows of a CSV or TSV file.

    Raises
    ------
    StageError
        DatasetInvalid: no usable header, JSON Lines, or a quote that swallows rows.
    """
    csv.field_size_limit(files.MAX_RECORD_BYTES)
    _check_not_json(source)
    with source.text() as file:
        yield from _table_rows(source, _Lines(text_lines(file)))


def _table_rows(source: Source, lines: _Lines) -> Iterator[Row | BadRow]:
    reader = _reader(source, lines)
    table: _Table | None = None
    while True:
        number = reader.line_num + 1
        lines.taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as e:
            if table is None:
                raise _bad_header(source, lines.taken, e) from e
            yield table.not_a_row(number, lines.taken, e)
            continue
        if fields in ([], [""]) or (table is None and is_excel_mark(lines.taken[0])):
            continue
        if table is None:
            table = _Table(source, _checked_header(fields, source, lines.taken))
        else:
            yield table.row(number, fields, lines.taken)
    if table is not None:
        table.check_quotes()


def lacks_first_name(source: Source) -> bool:
    """Whether the first column of a CSV or TSV file has no name, so that it is left out."""
    with source.text() as file:
        lines = (line for line in text_lines(file) if not is_excel_mark(line))
        try:
            fields = next((f for f in _reader(source, lines) if f not in ([], [""])), [])
        except csv.Error:  # the reading says what is wrong
            return False
    return len(fields) > 1 and not fields[0].strip()


def _reader(source: Source, lines: Iterable[str]) -> _Reader:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if source.marks is QuoteMarks.QUOTING else csv.QUOTE_NONE
    return csv.reader(lines, delimiter=source.delimiter, strict=True, quoting=quoting)


class _Lines:
    """Lines on their way into a reader; those of the row at hand are kept."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.taken: list[str] = []
        self._rest = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken.append(next(self._rest))
        return self.taken[-1]


class _Table:
    """What is known of a file while its rows go by."""

    _SURE: Final = 8
    """So many rows in a row inside one cell are no text that happens to look like them."""

    def __init__(self, source: Source, header: list[str]) -> None:
        self._source, self._delimiter, self._header = source, source.delimiter, header
        self._over_lines = self._swallowing = 0
        self._first: StageError | None = None

    def row(self, number: int, fields: Sequence[str], lines: Sequence[str]) -> Row | BadRow:
        """Make a row of its fields."""
        if len(lines) > 1:
            self._look_inside(number, lines)
        if any(has_surrogate(f) for f in fields):
            return BadRow(number, f"{self._source.not_text()}, or {too_long()}")
        if len(fields) != len(self._header):
            why = f"{len(fields)} fields where the header has {len(self._header)}"
            return BadRow(number, why + self._about_marks(lines))
        values: dict[str, Any] = {name: value for name, value in zip(self._header, fields, strict=True) if name}
        return Row(number, values, sum(map(len, fields)))

    def not_a_row(self, number: int, lines: Sequence[str], error: csv.Error) -> BadRow:
        """Say why the reader gave up; where it took more than a line with it, that is the end.

        Raises
        ------
        StageError
            DatasetInvalid: a quote is not closed, and how many rows that costs can't be told.
        """
        offset, column = self._opened(lines)
        if len(lines) > 1:
            closed = (
                "up to the end of the file" if "end of data" in str(error) else f"before line {number + len(lines) - 1}"
            )
            raise self._unclosed(
                number + offset, column, f"is not closed {closed}, so that {len(lines) - offset} lines are one cell"
            )
        if "end of data" in str(error):
            return BadRow(number, f"a quote opens in column {self._column(column)} that nothing closes; {_CLOSE_IT}")
        if "expected after" in str(error):
            return BadRow(
                number, f"not a row: text after the closing quote in column {self._column(column)}; {_CLOSE_IT}"
            )
        return BadRow(number, f"not a row: {error}")

    def check_quotes(self) -> None:
        """Decide at the end of the file whether cells over several lines are text or swallowed rows.

        Raises
        ------
        StageError
            DatasetInvalid: names the line of the first such quote.
        """
        if self._first is not None and 2 * self._swallowing >= self._over_lines:
            raise self._first

    def _look_inside(self, number: int, lines: Sequence[str]) -> None:
        """Note a row whose lines are rows themselves, all but a few."""
        self._over_lines += 1
        inside = lines[1:-1]
        whole = sum(self._is_row(line) for line in inside)
        if len(self._header) < 2 or whole < 2 or 10 * whole < 8 * len(inside) or not self._is_row(lines[0]):
            return
        self._swallowing += 1
        offset, column = self._opened(lines)
        error = self._unclosed(
            number + offset,
            column,
            f"is closed in line {number + len(lines) - 1} only, and {whole} lines between look like rows of their own",
        )
        if whole >= self._SURE:
            raise error
        self._first = self._first or error

    def _is_row(self, line: str) -> bool:
        return line.count(self._delimiter) + 1 == len(self._header)

    def _unclosed(self, line: int, column: int, what: str) -> StageError:
        return StageError(
            Reason.DATASET_INVALID,
            f"{self._source.name} line {line}: the quote that opens column {self._column(column)} {what}; {_CLOSE_IT}",
            tells_mend=True,
        )

    def _opened(self, lines: Sequence[str]) -> tuple[int, int]:
        return last_opened(lines, self._delimiter)

    def _column(self, index: int) -> str:
        return repr(self._header[index]) if index < len(self._header) and self._header[index] else str(index + 1)

    def _about_marks(self, lines: Sequence[str]) -> str:
        if self._source.marks is QuoteMarks.TEXT and any('"' in line for line in lines):
            return " (quotation marks are text here, since not the whole file is quoted)"
        return ""


def last_opened(lines: Sequence[str], delimiter: str) -> tuple[int, int]:
    """Where the last quoted cell of a row opens: (line, cell), both from 0."""
    opened, cell = (0, 0), 0
    begins, inside = True, False
    for number, line in enumerate(lines):
        skip = False
        for at, char in enumerate(line):
            if skip:
                skip = False
            elif inside:
                if char == '"':
                    skip = line[at + 1 : at + 2] == '"'
                    inside = skip
            elif char == '"' and begins:
                inside, opened = True, (number, cell)
            if not inside:
                begins = char == delimiter
                cell += begins
    return opened


def _bad_header(source: Source, lines: Sequence[str], error: csv.Error) -> StageError:
    if len(lines) > 1 or "end of data" in str(error):
        return _refused(f"the header of {source.name} opens a quote in line 1 that is not closed there; {_CLOSE_IT}")
    if "new-line" in str(error):
        return _refused(
            f"the lines of {source.name} end in a bare carriage return; store it with line feeds (\\n or \\r\\n)"
        )
    return _refused(f"the header of {source.name} can't be read: {error}; mend its first line")


def _refused(message: str) -> StageError:
    return StageError(Reason.DATASET_INVALID, message, tells_mend=True)


def _checked_header(fields: list[str], source: Source, lines: Sequence[str]) -> list[str]:
    """Names of the columns; a first one without a name, as data frames write their index, keeps none."""
    names = [f.strip() for f in fields]
    if len(lines) > 1:
        raise _bad_header(source, lines, csv.Error())
    if any(has_surrogate(n) for n in names):
        raise _refused(f"the header of {source.name} is {source.not_text()}; store the file as UTF-8")
    if len(names) == 1:
        _check_delimiter(names[0], source)
    unnamed = [n for n, name in enumerate(names, start=1) if not name and (n > 1 or len(names) == 1)]
    if unnamed:
        raise _refused(
            f"column {unnamed[0]} of {source.name} has no name; name it in the header, or take the column out"
        )
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise _refused(f"the header of {source.name} names {twice[0]!r} twice; give each column a name of its own")
    return names


def _check_delimiter(header: str, source: Source) -> None:
    """Refuse a header of one column that holds what parts columns elsewhere, and did not fit the rows here."""
    inside = next((words for delimiter, words in DELIMITERS.items() if delimiter in header), None)
    if inside is not None:
        shown = header if len(header) <= 60 else header[:57] + "..."
        raise _refused(
            f"the header of {source.name}, {shown!r}, is one column, though it holds {inside}: the rows below are not "
            f"parted by {inside} in the same way; mend the rows, or take the {inside} out of the header"
        )


def _check_not_json(source: Source) -> None:
    """Refuse JSON Lines under another ending: as a header, an object's pieces would be columns."""
    with source.text() as file:
        first = next((line for line in text_lines(file) if line.strip()), "")
    if not first.lstrip().startswith("{"):
        return
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return
    raise _refused(
        f"{source.name} looks like JSON Lines, not {source.format}: its first line is a JSON object; set "
        "dataset.format to Jsonl"
    )
