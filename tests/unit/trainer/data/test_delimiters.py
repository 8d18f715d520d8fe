"""What parts the cells: the format's own delimiter wherever it makes any, else the one that fits every row."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.data.delimiters import find_delimiter
from finetune_trainer.data.readers import Row, look_at, read_rows


@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", ","), ("a.tsv", ";"), ("a.tsv", "\t")],
)
def test_cells_are_parted_by_what_fits(tmp_path: Path, name: str, delimiter: str) -> None:
    path = tmp_path / name
    rows = [{"text": "good, or; so" if delimiter not in ",;" else "good or so", "label": str(i)} for i in range(9)]
    path.write_text(f"text{delimiter}label\n" + "".join(f"{r['text']}{delimiter}{r['label']}\n" for r in rows))
    assert [row.values for row in read_rows(look_at(path)) if isinstance(row, Row)] == rows


def test_decimal_commas_are_no_delimiter_where_semicolons_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text;price;label\n"a; b, c";1,5;x\nd;2,25;y\n')
    assert [row.values for row in read_rows(look_at(path)) if isinstance(row, Row)] == [
        {"text": "a; b, c", "price": "1,5", "label": "x"},
        {"text": "d", "price": "2,25", "label": "y"},
    ]


@pytest.mark.parametrize("mark", ["sep=;", "SEP=;"])
def test_the_line_that_excel_writes_above_the_header_is_no_header(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{mark}\r\ntext;label\r\na;x\r\n")
    assert list(read_rows(look_at(path))) == [Row(3, {"text": "a", "label": "x"})]


@pytest.mark.parametrize(
    "lines",
    [
        ["text,label\n", "a;b,c\n", "d;e,f\n"],  # the own one makes cells
        ["text\n", "a; b\n", "c; d\n"],  # a header of one column
        ["a;b\n", "one\n", "two\n", "three;\n"],  # rows that do not fit
        [],
    ],
)
def test_the_own_delimiter_stays_where_no_other_fits_every_row(lines: list[str]) -> None:
    assert find_delimiter(lines, ",") == ","


def test_a_row_in_twenty_may_be_broken() -> None:
    lines = ["a;b\n", *["1;2\n"] * 19]
    assert find_delimiter([*lines, "3\n"], ",") == ";"
    assert find_delimiter([*lines, *["3\n"] * 3], ",") == ","


def test_of_two_that_fit_the_one_with_more_columns_is_taken() -> None:
    assert find_delimiter(["a|b;c|d\n", *["1|2;3|4\n"] * 5], ",") == "|"
