"""Reading dataset files: every bad row is named by its line and ends nothing."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data import opened
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.readers import BadRow, Row, look_at, read_rows
from finetune_trainer.data.separated import lacks_first_name
from finetune_trainer.data.source import file_name, resolve_format
from finetune_trainer.data.table import read_table
from finetune_trainer.errors import StageError


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, name: str, content: bytes | str) -> list[Row | BadRow]:
    return list(read_rows(look_at(write(folder, name, content))))


def test_json_lines_are_read_with_their_line_numbers_past_blank_lines(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.jsonl", '{"a": 1}\n\n  \r\n{"a": "ü", "b": [null, {"c": 1.5}]}')
    assert rows == [Row(1, {"a": 1}), Row(4, {"a": "ü", "b": [None, {"c": 1.5}]})]


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n') == [Row(1, {"a": 1})]
    assert read(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\n1,2\n") == [Row(2, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": ', "the line ends inside the object (Expecting value at column 6); write one object a line"),
        (b'{"a": 1}{"a": 2}', "more after the object at column 9; write one object a line"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": [1, {"b": -1e400}]}', "the number -1e400 is too large"),
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' stands twice"),
        (b'{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        (b"plain text", "not JSON: Expecting value at column 1"),
        (b"[1, 2]", "a JSON array, not an object"),
        (b'"a"', "a JSON string, not an object"),
        (b"7", "a JSON number, not an object"),
        (b"true", "a JSON boolean, not an object"),
        (b"null", "a JSON null, not an object"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 8 of the line"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": "\\uDC00 b"}', "half of a surrogate pair"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_line_is_named_and_reading_goes_on(tmp_path: Path, line: bytes, why: str) -> None:
    bad, good = read(tmp_path, "a.jsonl", line + b'\n{"a": 1}\n')
    assert isinstance(bad, BadRow)
    assert bad.number == 1
    assert why in bad.why
    assert good == Row(2, {"a": 1})


def test_an_escaped_surrogate_pair_is_text(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", b'{"a": "\\ud83d\\ude00"}') == [Row(1, {"a": "\U0001f600"})]


def test_an_overlong_line_is_a_bad_row_and_the_next_keeps_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opened, "MAX_RECORD_BYTES", 20)
    rows = read(tmp_path, "a.jsonl", '{"a": "' + "x" * 100 + '"}\n{"a": 1}\n')
    assert rows == [BadRow(1, "longer than 20 bytes"), Row(2, {"a": 1})]
    rows = read(tmp_path, "a.csv", "a,b\n" + "x," * 30 + "\n1,2\n")
    assert [r.number for r in rows] == [2, 3]
    assert rows[0] == BadRow(2, "not UTF-8, or longer than 20 bytes")


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("A.CSV", ",")])
def test_separated_values_keep_quoted_separators_and_line_ends(tmp_path: Path, name: str, separator: str) -> None:
    rows = read(tmp_path, name, f'text{separator} label \n"a{separator}b\nc ""d"""{separator}x\ne{separator}\n')
    assert rows == [
        Row(2, {"text": f'a{separator}b\nc "d"', "label": "x"}),
        Row(4, {"text": "e", "label": ""}),
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"1", "1 fields where the header has 2"),
        (b"1,2,3", "3 fields where the header has 2"),
        (b"\xff,2", "not UTF-8"),
        (b'"a"b,2', "not a row: text after the closing quote in column 'a'"),
        (b'1,"say \\"a\\""', "not a row: text after the closing quote in column 'b'"),
    ],
)
def test_a_bad_csv_row_is_named_and_reading_goes_on(tmp_path: Path, line: bytes, why: str) -> None:
    good, bad, after = read(tmp_path, "a.csv", b"a,b\n1,2\n" + line + b"\n\n3,4\n")
    assert good == Row(2, {"a": "1", "b": "2"})
    assert isinstance(bad, BadRow)
    assert (bad.number, why in bad.why) == (3, True)
    assert after == Row(5, {"a": "3", "b": "4"})


def refused(folder: Path, name: str, content: bytes | str) -> str:
    with pytest.raises(StageError) as caught:
        read(folder, name, content)
    assert caught.value.reason is Reason.DATASET_INVALID
    return caught.value.message


def csv_rows(first: int, last: int) -> str:
    return "".join(f"text {i},label {i % 3}\n" for i in range(first, last))


def test_a_quote_that_no_line_closes_ends_the_stage_however_few_rows_it_takes(tmp_path: Path) -> None:
    message = refused(tmp_path, "a.csv", "text,label\n" + csv_rows(2, 100) + '"open,x\n' + csv_rows(101, 104))
    assert message == (
        "a.csv line 100: the quote that opens column 'text' is not closed up to the end of the file, so that 4 lines "
        "are one cell; close it, or write a quote inside a quoted cell twice"
    )


def test_the_line_of_an_open_quote_is_where_it_opens_not_where_its_row_begins(tmp_path: Path) -> None:
    content = 'text,label\n"a\nb","open\n' + csv_rows(4, 9)
    assert "a.csv line 3: the quote that opens column 'label' is not closed" in refused(tmp_path, "a.csv", content)


def test_a_quote_that_opens_in_the_last_line_costs_that_row_alone(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", 'a,b\n1,2\n3,"4\n')
    assert rows[0] == Row(2, {"a": "1", "b": "2"})
    assert rows[1:] == [
        BadRow(
            3,
            "a quote opens in column 'b' that nothing closes; close it, or write a quote inside a quoted cell twice",
        )
    ]


def test_a_quote_that_a_later_quoted_cell_ends_badly_is_told(tmp_path: Path) -> None:
    content = "text,label\n" + csv_rows(2, 50) + '"open,x\n' + csv_rows(51, 80) + '"good, cell",x\n' + csv_rows(81, 99)
    message = refused(tmp_path, "a.csv", content)
    assert "a.csv line 50: the quote that opens column 'text' is not closed before line 80" in message


@pytest.mark.parametrize("between", [2, 5, 40])
def test_a_quote_that_a_later_stray_one_closes_is_told_by_the_rows_between(tmp_path: Path, between: int) -> None:
    content = "text,label\n" + csv_rows(2, 50) + '"open,x\n' + csv_rows(51, 51 + between) + 'closed",x\n'
    message = refused(tmp_path, "a.csv", content + csv_rows(0, 40))
    assert f"a.csv line 50: the quote that opens column 'text' is closed in line {51 + between} only" in message
    assert f"and {between} lines between look like rows of their own" in message


def test_texts_of_many_lines_with_commas_stay_texts(tmp_path: Path) -> None:
    letters = "".join(
        f'"Dear {i},\nyes, no\nor, so\nbye",x\n"one\ntwo {i}\nthree",y\n"a, b, c\nd",z\n' for i in range(9)
    )
    rows = read(tmp_path, "a.csv", "text,label\n" + letters)
    assert len(rows) == 27
    assert rows[0] == Row(2, {"text": "Dear 0,\nyes, no\nor, so\nbye", "label": "x"})


def test_many_rows_inside_one_cell_are_swallowed_however_many_texts_have_lines(tmp_path: Path) -> None:
    letters = "".join(f'"Dear {i},\nyes, no\nbye",x\n' for i in range(9))
    content = "text,label\n" + letters + '"open,x\n' + csv_rows(30, 38) + 'closed",x\n'
    assert "a.csv line 29: the quote that opens column 'text' is closed in line 38" in refused(
        tmp_path, "a.csv", content
    )


def test_a_csv_field_may_be_longer_than_the_csv_modules_own_limit(tmp_path: Path) -> None:
    (row,) = read(tmp_path, "a.csv", "a\n" + "x" * 200_000 + "\n")
    assert isinstance(row, Row)
    assert len(row.values["a"]) == 200_000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl has no rows"),
        ("a.jsonl", b"\xef\xbb\xbf\n\n", "a.jsonl has no rows"),
        ("a.csv", b"", "a.csv has no rows"),
        ("a.csv", b"a,b\n", "a.csv has no rows"),
        ("a.csv", b"a,,c\n1,2,3\n", "column 2 of a.csv has no name; name it in the header, or take the column out"),
        ("a.csv", b",,c\n1,2,3\n", "column 2 of a.csv has no name"),
        ("a.csv", b'"text,label\na,b\nc,d\n', "the header of a.csv opens a quote in line 1 that is not closed there"),
        ("a.csv", b'"text,label\na",b\nc,d\n', "the header of a.csv opens a quote in line 1 that is not closed there"),
        ("a.csv", b"a,b\r1,2\r3,4\r", "the lines of a.csv end in a bare carriage return"),
        ("a.csv", b"a,b,a\n1,2,3\n", "names 'a' twice"),
        ("a.csv", b"a,\xff\n1,2\n", "the header of a.csv is not UTF-8"),
        ("a.csv", b'"a"b\n1\n', "the header of a.csv can't be read"),
        (
            "a.csv",
            b'\n{"a": 1, "b": "x"}\n{"a": 2}\n',
            "a.csv looks like JSON Lines, not Csv: its first line is a JSON",
        ),
        ("a.tsv", b'\xef\xbb\xbf{"a": 1}\n', "a.tsv looks like JSON Lines, not Tsv"),
        ("a.csv", b"a;b\n1;2\n3\n4\n", "'a;b', is one column, though it holds semicolons: the rows below"),
        ("a.csv", b"PK\x03\x04....", "a.csv is a zip archive or a workbook of Excel"),
        ("a.csv", b"FEA1....", "a Feather file of the first version; write it with the second version"),
        (
            "a.jsonl.xz",
            b"\xfd7zXZ\x00..",
            "a.jsonl.xz is compressed with xz; compress it with gzip or zstd, or not at all",
        ),
        ("a.csv", b"\n<!DOCTYPE html><html>", "a.csv is a web page, not rows"),
        (
            "a.dat",
            b"a",
            "the ending of 'a.dat' does not tell its format; set dataset.format to one of Jsonl, Json, Csv",
        ),
        ("a.gz", b"a", "the ending of 'a.gz' does not tell its format"),
    ],
)
def test_a_file_that_is_no_dataset_ends_the_stage(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(StageError) as caught:
        read(tmp_path, name, content)
    assert caught.value.reason is Reason.DATASET_INVALID
    assert message in caught.value.message
    assert caught.value.tells_mend  # no row is to blame, so badRows mends nothing


@pytest.mark.parametrize(
    ("name", "declared", "kind"),
    [
        ("a.jsonl", "Auto", "Jsonl"),
        ("a.ndjson", "Auto", "Jsonl"),
        ("a.csv", "Auto", "Csv"),
        ("a.tsv", "Auto", "Tsv"),
        ("a.json", "Auto", "Json"),
        ("a.PARQUET", "Auto", "Parquet"),
        ("a.feather", "Auto", "Arrow"),
        ("a.jsonl.gz", "Auto", "Jsonl"),
        ("a.b.csv.zst", "Auto", "Csv"),
        ("a.txt", "Csv", "Csv"),
        ("a.csv", "Tsv", "Tsv"),
        ("a", "Jsonl", "Jsonl"),
    ],
)
def test_the_declared_format_wins_over_the_ending(name: str, declared: str, kind: str) -> None:
    assert resolve_format(Path(name), declared) == kind


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n' * 3)
    rows = read_rows(look_at(path))
    assert next(rows) == Row(1, {"a": 1})
    path.write_bytes(b"")
    assert next(rows) == Row(2, {"a": 1})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(rows=st.lists(st.dictionaries(st.text(), json_values), min_size=1), ascii_only=st.booleans())
def test_any_json_lines_written_by_json_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], ascii_only: bool
) -> None:
    text = "".join(json.dumps(r, ensure_ascii=ascii_only) + "\n" for r in rows)
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_bytes(text.encode())
    assert list(read_rows(look_at(path))) == [Row(i, r) for i, r in enumerate(rows, start=1)]


def test_a_first_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    assert read(tmp_path, "a.csv", ",text,label\n0,a,b\n1,c,d\n") == [
        Row(2, {"text": "a", "label": "b"}),
        Row(3, {"text": "c", "label": "d"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", ",text,label\n0,a,b\n", 1),
        ("a.csv", '\n"",text,label\n0,a,b\n', 1),
        ("a.tsv", "\ttext\tlabel\n0\ta\tb\n", 1),
        ("a.csv", "id,text,label\n0,a,b\n", 0),
        ("a.csv", '",x",text\na,b\n', 0),
        ("a.jsonl", '{"": 1}\n', 0),
    ],
)
def test_a_first_column_that_is_left_out_is_told_once_with_the_users_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str, told: int
) -> None:
    path = write(tmp_path, name, content)
    dataset = Dataset.model_validate({"uri": f"s3://data/mine{path.suffix}", "template": {"name": "intent"}})
    with caplog.at_level(logging.INFO):
        table = read_table({"all": path}, dataset, BadRowLog(dataset))
        assert len(list(table.records())) == 1
    said = f"the first column of mine{path.suffix} has no name and is left out"
    assert [record.getMessage() for record in caplog.records].count(said) == told


def test_a_lone_column_without_a_name_is_not_said_to_be_left_out(tmp_path: Path) -> None:
    assert not lacks_first_name(look_at(write(tmp_path, "a.csv", '" "\nx\n')))


def test_words_that_stand_for_missing_values_elsewhere_are_texts_in_csv(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", "a,b\nNA,null\nNone,nan\ntrue,1e999\n")
    assert [list(r.values.values()) for r in rows if isinstance(r, Row)] == [
        ["NA", "null"],
        ["None", "nan"],
        ["true", "1e999"],
    ]


def test_messages_use_the_users_name_of_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, "all.csv", "a,a\n1,2\n")
    with pytest.raises(StageError, match=r"the header of intents\.csv"):
        list(read_rows(look_at(path, name="intents.csv")))


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("rows.csv", "rows.csv"),
        ("2024/part-0.csv", "2024/part-0.csv"),
        ("x" * 200 + ".csv", "..." + "x" * 73 + ".csv"),
    ],
)
def test_a_long_name_of_a_file_is_shown_by_its_end(uri: str, name: str) -> None:
    assert file_name(uri) == name
