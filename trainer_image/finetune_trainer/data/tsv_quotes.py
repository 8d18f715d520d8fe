"""What the quotation marks in a TSV file are: text, or the quoting of its cells; pure.

The field knows both: files of plain lines, where a mark is a character like any other, and files that a spreadsheet or
a data frame has written with the rules of CSV. Read with the wrong rules, a mark either glues lines into one cell or
stays around every quoted one. Nothing in the file says which it is, so the whole file is looked at: it counts as quoted
only where quoting explains every mark in it, and something speaks for it besides.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Final

__all__ = ["QuoteMarks", "judge_quotes"]

_CELL: Final = re.compile(r'(?:(?<=\t)|^)(?:"((?:[^"]|"")*)"|([^\t]*))(?=\t|\Z)')
_COMMA_CELLS: Final = 2


class QuoteMarks(Enum):
    """What a quotation mark in a file is."""

    NONE = "there are none"
    TEXT = "text"
    QUOTING = "quoting"


class _Pulled:
    """Lines on their way into a reader, kept until the next row is asked for."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines: list[str] = []
        self._rest = iter(lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.lines.append(next(self._rest))
        return self.lines[-1]


class _Evidence:
    """What speaks for quoting, gathered row by row; a row that quoting does not explain ends it."""

    def __init__(self) -> None:
        self.columns = 0
        self.doubled = self.header = self.bare_comma = self.over_lines = False
        self.quoted = self.with_comma = self.bad_lines = self.bad_rows = 0
        self.always: set[int] | None = None

    def add(self, lines: list[str]) -> bool:
        """Take the lines of one row; False where they are no quoted row."""
        text = "".join(lines).rstrip("\r\n")
        if not text:
            return True
        cells = [(m[1], m[2]) for m in _CELL.finditer(text)]
        marked = {n for n, (inner, _) in enumerate(cells) if inner is not None}
        if not self.columns:
            self.columns, self.header = len(cells), bool(marked)
            return len(lines) == 1
        # Who quotes at all quotes a cell that holds a mark.
        if any('"' in (bare or "") for _, bare in cells):
            return False
        if any(self._whole(line) for line in lines[1:-1]):
            return False
        inside = [cells[n][0] for n in marked]
        self.doubled |= any('""' in cell for cell in inside)
        self.quoted += len(marked)
        self.with_comma += sum("," in cell for cell in inside)
        self.bare_comma |= any("," in (bare or "") for _, bare in cells)
        self.over_lines |= len(lines) > 1
        self.bad_lines += sum(not self._whole(line) for line in lines)
        self.bad_rows += len(cells) != self.columns
        self.always = marked if self.always is None else self.always & marked
        return True

    def _whole(self, line: str) -> bool:
        return line.count("\t") + 1 == self.columns

    def speaks(self) -> bool:
        """Whether anything speaks for quoting that plain lines do not explain as well."""
        commas = self.with_comma == self.quoted >= _COMMA_CELLS and not self.bare_comma and not self.over_lines
        return self.doubled or self.header or bool(self.always) or commas or self.bad_rows < self.bad_lines


def judge_quotes(lines: Callable[[], Iterable[str]]) -> QuoteMarks:
    """Say what the marks of a file are; ``lines`` opens it anew."""
    if not any('"' in line for line in lines()):
        return QuoteMarks.NONE
    pulled, evidence = _Pulled(lines()), _Evidence()
    reader = csv.reader(pulled, delimiter="\t", strict=True)
    try:
        for _ in reader:
            if not evidence.add(pulled.lines):
                return QuoteMarks.TEXT
            pulled.lines.clear()
    except csv.Error:  # a mark that opens is not closed where a cell ends
        return QuoteMarks.TEXT
    return QuoteMarks.QUOTING if evidence.speaks() else QuoteMarks.TEXT
