"""Finds what parts the cells of a CSV or TSV file; pure.

Spreadsheets write what the country's decimal comma leaves over, and call it CSV. The format's own delimiter stands
wherever it makes cells at all, since what stands in a text often enough to look like another one is no reason to leave
it; another is taken only where the format's own makes none, and makes the same number of cells in nearly every row.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

__all__ = ["DELIMITERS", "find_delimiter", "is_excel_mark"]

DELIMITERS: Final = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LINES: Final = 400
_SHARE: Final = 0.9


def find_delimiter(lines: Iterable[str], own: str) -> str:
    """Return the delimiter of a file.

    Parameters
    ----------
    lines
        Its lines, from the first; only some hundreds are taken.
    own
        That of its format, which is also the answer where none fits.
    """
    taken = [line for line in islice(lines, _LINES) if line.strip()]
    if taken and is_excel_mark(taken[0]):
        taken = taken[1:]
    found = {delimiter: _cells(taken, delimiter) for delimiter in (own, *(d for d in DELIMITERS if d != own))}
    if found[own] != 1:
        return own
    others = {delimiter: cells for delimiter, cells in found.items() if cells > 1}
    return max(others, key=lambda d: others[d]) if others else own


def is_excel_mark(line: str) -> bool:
    """Whether a line is ``sep=;`` or the like, which Excel writes above the header; the rows tell the same."""
    return len(line.strip("\r\n")) == len("sep=;") and line.lower().startswith("sep=")


def _cells(lines: Sequence[str], delimiter: str) -> int:
    """How many cells the header has by a delimiter; 1 where the rows below do not have as many."""
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
    try:
        counts = [len(row) for row in reader if row]
    except csv.Error:
        return 1
    if not counts or counts[0] == 1:
        return 1
    same = sum(count == counts[0] for count in counts[1:])
    return counts[0] if same >= _SHARE * len(counts[1:]) else 1
