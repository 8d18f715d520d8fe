"""Reading dataset files: every bad row is named by its line and ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_trainer.data import readers as data
from finetune_trainer.data.readers import BadRow, Row, read_rows, resolve_format
from finetune_trainer.errors import StageError


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, name: str, content: bytes | str) -> list[Row | BadRow]:
    return list(read_rows(write(folder, name, content)))


def test_json_lines_are_read_with_their_line_numbers_past_blank_lines(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.jsonl", '{"a": 1}\n\n  \r\n{"a": "ü", "b": [null, {"c": 1.5}]}')
    assert rows == [Row(1, {"a": 1}), Row(4, {"a": "ü", "b": [None, {"c": 1.5}]})]


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n') == [Row(1, {"a": 1})]
    assert read(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\n1,2\n") == [Row(2, {"a": "1", "b": "2"})]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"a": ', "not JSON: Expecting value at column"),
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
    monkeypatch.setattr(data, "MAX_RECORD_BYTES", 20)
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
        (b'"a"b,2', "not a row"),
    ],
)
def test_a_bad_csv_row_is_named_and_reading_goes_on(tmp_path: Path, line: bytes, why: str) -> None:
    good, bad, after = read(tmp_path, "a.csv", b"a,b\n1,2\n" + line + b"\n\n3,4\n")
    assert good == Row(2, {"a": "1", "b": "2"})
    assert isinstance(bad, BadRow)
    assert (bad.number, why in bad.why) == (3, True)
    assert after == Row(5, {"a": "3", "b": "4"})


def test_a_quote_that_never_closes_is_one_bad_row(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.csv", 'a,b\n1,2\n"3,4\n5,6\n')
    assert rows[0] == Row(2, {"a": "1", "b": "2"})
    assert isinstance(rows[1], BadRow)
    assert rows[1].number == 3
    assert len(rows) == 2


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
        ("a.csv", b"a,,c\n1,2,3\n", "column 2 of a.csv has no name"),
        ("a.csv", b"a,b,a\n1,2,3\n", "names 'a' twice"),
        ("a.csv", b"a,\xff\n1,2\n", "the header of a.csv is not UTF-8"),
        ("a.csv", b'"a"b\n1\n', "the header of a.csv can't be read"),
        ("a.jsonl", b'[\n{"a": 1}\n]', "JSON array; write one object a line"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "UTF-16; store it as UTF-8"),
        ("a.dat", b"a", "set dataset.format to Jsonl, Csv or Tsv"),
    ],
)
def test_a_file_that_is_no_dataset_ends_the_stage(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(StageError) as caught:
        read(tmp_path, name, content)
    assert caught.value.reason is Reason.DATASET_INVALID
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("name", "declared", "kind"),
    [
        ("a.jsonl", "Auto", "Jsonl"),
        ("a.ndjson", "Auto", "Jsonl"),
        ("a.csv", "Auto", "Csv"),
        ("a.tsv", "Auto", "Tsv"),
        ("a.txt", "Csv", "Csv"),
        ("a.csv", "Tsv", "Tsv"),
        ("a", "Jsonl", "Jsonl"),
    ],
)
def test_the_declared_format_wins_over_the_ending(name: str, declared: str, kind: str) -> None:
    assert resolve_format(Path(name), declared) == kind


def test_rows_are_streamed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"a": 1}\n' * 3)
    rows = read_rows(path)
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
    assert list(read_rows(path)) == [Row(i, r) for i, r in enumerate(rows, start=1)]
