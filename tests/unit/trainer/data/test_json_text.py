"""JSON that is not one object a line: every way in which people write rows as JSON is read, and named where broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.reasons import Reason
from finetune_trainer.data import json_text, opened
from finetune_trainer.data.json_text import Shape
from finetune_trainer.data.readers import BadRow, Row, look_at, read_rows
from finetune_trainer.errors import StageError

ROWS: list[dict[str, Any]] = [{"text": f'word {i} [, {{ \\ " ü', "label": i, "turns": [{"a": i}]} for i in range(40)]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def values(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(look_at(path)) if isinstance(row, Row)]


WAYS = {
    "one line": json.dumps(ROWS),
    "one a line, in brackets": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "bracket beside the first": "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
    "pretty array": json.dumps(ROWS, indent=2, ensure_ascii=False),
    "pretty objects": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "pretty objects with commas": ",\n".join(json.dumps(row, indent=2) for row in ROWS),
    "lines that end in commas": ",\n".join(map(json.dumps, ROWS)) + "\n",
    "byte order mark": "\ufeff" + json.dumps(ROWS, indent=1),
    "windows line ends": json.dumps(ROWS, indent=1).replace("\n", "\r\n"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_rows_are_the_same_however_their_json_is_put_together(tmp_path: Path, way: str, name: str) -> None:
    assert values(written(tmp_path, name, WAYS[way])) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("wrapped", [{"data": ROWS}, {"version": "1.0", "tags": ["x"], "rows": ROWS, "n": {"a": [1]}}])
def test_an_object_around_one_array_gives_the_rows_of_the_array(
    tmp_path: Path, wrapped: dict[str, Any], indent: int | None
) -> None:
    assert values(written(tmp_path, "rows.json", json.dumps(wrapped, indent=indent))) == ROWS


def test_an_object_around_an_array_is_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MAX_RECORD_BYTES", 500)
    monkeypatch.setattr(json_text, "_CHUNK", 64)
    path = written(tmp_path, "rows.json", json.dumps({"about": "x", "rows": ROWS}))
    assert look_at(path).shape is Shape.WRAPPED
    assert values(path) == ROWS


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_array_in_one_line_is_read_however_long_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(opened, "MAX_RECORD_BYTES", 500)
    monkeypatch.setattr(json_text, "_CHUNK", 64)
    assert values(written(tmp_path, name, json.dumps(ROWS))) == ROWS


def test_one_object_alone_in_json_lines_is_a_row(tmp_path: Path) -> None:
    assert values(written(tmp_path, "a.jsonl", '{"messages": [{"role": "user"}]}')) == [
        {"messages": [{"role": "user"}]}
    ]
    assert values(written(tmp_path, "b.jsonl", '{\n"messages": [{"role": "user"}]\n}')) == [
        {"messages": [{"role": "user"}]}
    ]


@pytest.mark.parametrize(
    "text",
    [
        '[\n  {\n    "a": 1\n  },\n  {\n    "a": 2\n  }\n]\n',
        '[{"a": 1}, {"a": 2}]',
        '{"rows": [{"a": 1}, {"a": 2}]}',
        '{"a": 1} {"a": 2}',
    ],
)
def test_each_element_has_a_number_of_its_own_however_many_stand_on_a_line(tmp_path: Path, text: str) -> None:
    source = look_at(written(tmp_path, "rows.json", text))
    assert list(read_rows(source)) == [Row(1, {"a": 1}), Row(2, {"a": 2})]
    assert source.unit == "row"


def test_rows_of_one_object_a_line_are_named_by_their_lines(tmp_path: Path) -> None:
    source = look_at(written(tmp_path, "rows.json", '{"a": 1}\n\n{"a": 2}\n'))
    assert [row.number for row in read_rows(source)] == [1, 3]
    assert source.unit == "line"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ('{"a": "\\ud800"}', "half of a surrogate pair"),
        ("[1, 2]", "a JSON array, not an object"),
        ('"text"', "a JSON string, not an object"),
    ],
)
def test_what_makes_a_line_a_bad_row_makes_an_element_one(tmp_path: Path, value: str, why: str) -> None:
    good, bad, after = read_rows(look_at(written(tmp_path, "rows.json", f'[{{"a": 1}},\n{value},\n{{"a": 3}}]')))
    assert (good, after) == (Row(1, {"a": 1}), Row(3, {"a": 3}))
    assert isinstance(bad, BadRow)
    assert (bad.number, why in bad.why) == (2, True)


def test_bytes_that_are_no_text_cost_their_own_element(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": "x"},\n{"a": "\xff"},\n{"a": "y"}]')
    good, bad, after = read_rows(look_at(path))
    assert (good, after) == (Row(1, {"a": "x"}), Row(3, {"a": "y"}))
    assert isinstance(bad, BadRow)
    assert bad.why.startswith("not UTF-8")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": 2}', "rows.json line 2: neither a comma nor the closing bracket after an element"),
        ('[{"a": 1},\n{"a": 2},\n]', "rows.json line 3: a comma before the closing bracket"),
        ('[{"a": 1}\n{"a": 2}]', "rows.json line 2: neither a comma nor the closing bracket after an element"),
        ('[{"a": 1},\n{"a": }]', "rows.json line 2: not JSON: Expecting value"),
        ('[{"a": 1},\n{"a": "x', "rows.json line 2: not JSON: Unterminated string"),
        ('[{"a": 1}]\n[{"a": 2}]', "rows.json line 2: more after the end of a JSON array"),
        ('{"a": [{"x": 1}],\n"b": [{"x": 2}]}', "rows.json line 2: a second array of objects, 'b' beside 'a'"),
        ('{\n"a": 1,\n"b" 2}', "rows.json line 3: not JSON: Expecting ':' delimiter"),
        ("[]", "rows.json has no rows; a Json file holds an array of objects"),
        ("", "rows.json has no rows"),
    ],
)
def test_a_broken_structure_ends_the_reading_at_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StageError) as caught:
        list(read_rows(look_at(written(tmp_path, "rows.json", text))))
    assert caught.value.reason is Reason.DATASET_INVALID
    assert message in caught.value.message
    assert caught.value.tells_mend


def test_an_element_over_the_bound_is_told_by_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_text, "_CHUNK", 64)
    path = written(tmp_path, "rows.json", '[{"a": 1},\n{"a": "' + "x" * 3000 + '"}]')
    with pytest.raises(StageError, match=r"rows\.json line 2: a value of more than 1000 bytes"):
        list(read_rows(look_at(path)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text(), JSON), min_size=1, max_size=8),
    indent=st.none() | st.integers(0, 3),
    chunk=st.integers(1, 50),
)
def test_any_array_written_by_json_comes_back_wherever_its_chunks_end(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8", newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "_CHUNK", chunk)
        assert values(path) == rows
