"""TSV: quotation marks are text, unless the whole file is quoted."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.data.readers import BadRow, Row, look_at, read_rows
from finetune_trainer.data.tsv_quotes import QuoteMarks

HEADER = "text\tlabel\n"
PLAIN = "".join(f"words {i}\tarts\n" for i in range(20))


def read(folder: Path, content: str) -> list[Row | BadRow]:
    path = folder / "a.tsv"
    path.write_text(content, encoding="utf-8", newline="")
    return list(read_rows(look_at(path)))


def marks(folder: Path, content: str) -> QuoteMarks:
    path = folder / "a.tsv"
    path.write_text(content, encoding="utf-8", newline="")
    return look_at(path).marks


@pytest.mark.parametrize(
    "lines",
    [
        '"open\tx\n',
        'goal "film\tx\n',
        'the end"\tx\n',
        '"\tx\n',
        '"open\tx\nplain\ty\nclosed"\tz\n',
        '"open\tx\nclosed"\tz\n',
        'a "quoted" word\tx\n',
        '"quoted" first\tx\n',
        '"a whole sentence"\tx\n',
        "5'10\" tall\tx\n",
        '"open\tx\n' + PLAIN + 'closed"\tz\n',
    ],
)
def test_a_mark_is_part_of_the_text_and_glues_no_lines(tmp_path: Path, lines: str) -> None:
    rows = read(tmp_path, HEADER + PLAIN + lines + PLAIN)
    expected = (PLAIN + lines + PLAIN).splitlines()
    assert rows == [
        Row(n, dict(zip(("text", "label"), line.split("\t"), strict=True))) for n, line in enumerate(expected, start=2)
    ]


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ('"say ""hi"" now"\tx\n', 'say "hi" now'),
        ('"over\ntwo lines"\tx\n', "over\ntwo lines"),
        ('"with\ta tab"\tx\n', "with\ta tab"),
        ('"a, b"\tx\n"c, d"\ty\n', "a, b"),
        ('"a\tb\nc ""d"""\tx\n', 'a\tb\nc "d"'),
    ],
)
def test_a_file_that_quoting_alone_explains_is_read_with_it(tmp_path: Path, lines: str, text: str) -> None:
    rows = read(tmp_path, HEADER + PLAIN + lines + PLAIN)
    assert rows[20] == Row(22, {"text": text, "label": "x"})
    assert all(isinstance(row, Row) for row in rows)
    assert len(rows) == 40 + lines.count("\tx\n") + lines.count("\ty\n")


@pytest.mark.parametrize(
    "content",
    [
        '"text"\t"label"\n"a"\t"b"\nc\td\n',
        'text\tlabel\n"a"\t1\n"b"\t2\n',
    ],
)
def test_a_quoted_header_or_a_column_that_is_always_quoted_speaks_for_quoting(tmp_path: Path, content: str) -> None:
    assert marks(tmp_path, content) is QuoteMarks.QUOTING


def test_one_line_that_quoting_does_not_explain_speaks_against_it(tmp_path: Path) -> None:
    assert marks(tmp_path, HEADER + '"say ""hi"""\tx\na "b" c\tx\n') is QuoteMarks.TEXT


def test_a_whole_line_inside_a_cell_speaks_against_quoting_whatever_speaks_for_it(tmp_path: Path) -> None:
    glued = '"open\tx\nplain\ty\nclosed"\tz\n'
    assert marks(tmp_path, HEADER + PLAIN + glued + '"say ""hi"""\tx\n') is QuoteMarks.TEXT


@pytest.mark.parametrize(
    "lines",
    [
        '"a, b"\tx\n',
        '"a, b"\tx\n"c, d"\ty\nbare, one\tz\n',
        '"a, b"\tx\n"c, d"\ty\n"none"\tz\n',
        '"a, b\tx\nc, d"\ty\n"e, f"\tz\n',
    ],
)
def test_commas_speak_for_quoting_only_where_every_quoted_cell_and_no_other_has_one(tmp_path: Path, lines: str) -> None:
    assert marks(tmp_path, HEADER + PLAIN + lines) is QuoteMarks.TEXT


def test_a_line_of_the_wrong_width_says_that_marks_are_text(tmp_path: Path) -> None:
    rows = read(tmp_path, HEADER + 'a "b" c\tx\n"only\n')
    assert rows[1] == BadRow(
        3, "1 fields where the header has 2 (quotation marks are text here, since not the whole file is quoted)"
    )


def test_a_quoted_text_may_be_long(tmp_path: Path) -> None:
    (row,) = read(tmp_path, HEADER + '"' + "x, " * 100_000 + '""y"""\tz\n')
    assert isinstance(row, Row)
    assert len(row.values["text"]) == 300_003
