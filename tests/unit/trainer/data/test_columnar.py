"""Parquet and Arrow: the values that JSON would hold, whatever types the columns have."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.readers import BadRow, Row, look_at, read_rows
from finetune_trainer.data.table import read_table
from finetune_trainer.errors import StageError

ROWS: list[dict[str, Any]] = [
    {"text": f"Übung {i}", "label": i % 3, "turns": [{"role": "user", "content": f"{i}"}]} for i in range(700)
]


def dataset(**template: Any) -> Dataset:
    return Dataset.model_validate({"uri": "s3://data/rows.parquet", "template": {"name": "intent", **template}})


def stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=300)


WRITERS: dict[str, Any] = {
    "a.parquet": lambda table, path: parquet.write_table(table, path, row_group_size=300),
    "zstd.parquet": lambda table, path: parquet.write_table(table, path, compression="zstd"),
    "a.feather": lambda table, path: feather.write_feather(table, str(path), compression="lz4"),
    "a.arrow": stream,
}


def write(table: pa.Table, path: Path) -> Path:
    WRITERS[path.name if path.name in WRITERS else "a.parquet"](table, path)
    return path


def values(path: Path, about: Dataset | None = None) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(look_at(path, about)) if isinstance(row, Row)]


@pytest.mark.parametrize("name", WRITERS)
def test_rows_come_back_in_their_order(tmp_path: Path, name: str) -> None:
    path = write(pa.Table.from_pylist(ROWS), tmp_path / name)
    rows = list(read_rows(look_at(path)))
    assert [row.number for row in rows] == list(range(1, 701))
    assert values(path) == ROWS


def test_a_packed_parquet_file_is_unpacked(tmp_path: Path) -> None:
    plain = write(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    packed = tmp_path / "b.parquet.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert values(packed) == ROWS


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1.5, None, math.nan]), [1.5, None, None]),
        (pa.array([math.inf]), ["inf"]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array([b"text", b"\xff\xd8\xff"]), ["text", None]),
        (pa.array([datetime.date(2026, 1, 31)]), ["2026-01-31"]),
        (pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")), ["2023-11-14 22:13:20.000000001"]),
        (pa.array([decimal.Decimal("1.20")]), ["1.20"]),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), [{"k": 1}]),
        (pa.array([[1.0, math.nan]]), [[1.0, None]]),
        (pa.array([2**63], pa.uint64()), [2**63]),
        (pa.array(["x"], pa.large_string()), ["x"]),
        (pa.array([None, None], pa.null()), [None, None]),
        (pa.array([True, None]), [True, None]),
    ],
)
def test_values_become_what_json_would_hold(tmp_path: Path, column: pa.Array, expected: list[Any]) -> None:
    path = write(pa.table({"a": column}), tmp_path / "a.parquet")
    assert [row["a"] for row in values(path)] == expected
    json.dumps(values(path), allow_nan=False)


def test_the_index_that_pandas_stores_is_no_column(tmp_path: Path) -> None:
    path = write(pa.table({"text": ["a"], "__index_level_0__": [7]}), tmp_path / "a.parquet")
    assert values(path) == [{"text": "a"}]


def with_classes(names: list[str]) -> pa.Table:
    features = {"text": {"_type": "Value"}, "label": {"names": names, "_type": "ClassLabel"}}
    about = json.dumps({"info": {"features": features}})
    table = pa.table({"text": ["a", "b", "c", "d"], "label": [0, 1, -1, None]})
    return table.replace_schema_metadata({"huggingface": about})


def test_the_numbers_of_classes_become_their_names(tmp_path: Path) -> None:
    path = write(with_classes(["neg", "pos"]), tmp_path / "a.parquet")
    assert [row["label"] for row in values(path)] == ["neg", "pos", None, None]


def test_choices_in_another_order_do_not_shift_the_labels(tmp_path: Path) -> None:
    path = write(with_classes(["neg", "pos"]), tmp_path / "a.parquet")
    assert [row["label"] for row in values(path, dataset(choices=["Pos", "Neg"]))][:2] == ["neg", "pos"]


def test_choices_in_other_words_are_those_that_the_numbers_count(tmp_path: Path) -> None:
    path = write(with_classes(["neg", "pos"]), tmp_path / "a.parquet")
    assert [row["label"] for row in values(path, dataset(choices=["bad", "good"]))][:2] == [0, 1]


def test_text_that_is_not_utf_8_costs_its_own_row(tmp_path: Path) -> None:
    damaged = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc"))
    path = write(pa.table({"text": damaged}), tmp_path / "a.feather")
    first, bad, last = read_rows(look_at(path))
    assert (first, last) == (Row(1, {"text": "a"}), Row(3, {"text": "c"}))
    assert isinstance(bad, BadRow)
    assert "text that is not UTF-8" in bad.why


def refused(path: Path) -> str:
    with pytest.raises(StageError) as caught:
        values(path)
    assert caught.value.reason is Reason.DATASET_INVALID
    assert caught.value.tells_mend
    return caught.value.message


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_was_cut_off_is_no_shorter_dataset(tmp_path: Path, name: str) -> None:
    path = write(pa.Table.from_pylist(ROWS), tmp_path / name)
    content = path.read_bytes()
    for end in (len(content) // 2, len(content) - 3):
        path.write_bytes(content[:end])
        assert f"{name} can't be read: " in refused(path)


def test_a_stream_that_ends_between_two_batches_is_no_shorter_dataset(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as sink:
        writer = pa.ipc.new_stream(sink, pa.Table.from_pylist(ROWS).schema)
        writer.write_table(pa.Table.from_pylist(ROWS[:300]))
    assert "a.arrow can't be read: neither an Arrow file nor a stream with its end mark" in refused(path)


def test_a_file_that_is_no_arrow_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n')
    assert "a.arrow can't be read: " in refused(path)


def test_parquet_is_told_by_its_first_bytes_and_held_against_what_is_declared(tmp_path: Path) -> None:
    plain = write(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    path = plain.rename(tmp_path / "a.csv")
    assert values(path) == ROWS
    about = dataset().model_copy(update={"format": "Csv"})
    with pytest.raises(
        StageError, match=r"a\.csv is Parquet, not Csv; set dataset\.format to Parquet, or leave it out"
    ):
        look_at(path, about)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.feather")
    assert "a.feather has two columns 'text'; rename or remove one of them" in refused(path)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = write(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert refused(path) == "a.parquet has no rows; a Parquet file holds a row at least"


def test_a_row_is_called_row_not_line(tmp_path: Path) -> None:
    path = write(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    about = dataset()
    seen: list[str] = []
    read_table({"all": path}, about, BadRowLog(about), observe=lambda where, _: seen.append(where))
    assert seen == ["rows.parquet row 1"]


CALLS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "user", "content": f"{i}"},
            {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]},
        ],
        "tools": [{"function": {"name": name, "parameters": {"properties": {key: {} for key in arguments}}}}],
        "notes": [{"seen": None, "by": "me"}, {"seen": "yes", "by": None}],
        "about": {"source": "web", "page": None},
    }
    for i, (name, arguments) in enumerate(
        [("weather", {"city": "Oslo"}), ("add", {"a": 1, "b": {"c": 2}}), ("now", {})]
    )
]
"""Objects with keys of their own, which a column has to make alike."""


@pytest.mark.parametrize("name", WRITERS)
def test_turns_and_tools_come_back_without_the_keys_of_others(tmp_path: Path, name: str) -> None:
    dressed = [
        json.loads(json.dumps(row).replace('"properties": {}', '"properties": {"q": {"type": "t"}}')) for row in CALLS
    ]
    for row in dressed:
        for tool in row["tools"]:
            for key in tool["function"]["parameters"]["properties"]:
                tool["function"]["parameters"]["properties"][key] = {"type": "t"}
    found = values(write(pa.Table.from_pylist(dressed), tmp_path / name))
    assert [row["tools"] for row in found] == [row["tools"] for row in dressed]
    assert [row["messages"][:1] for row in found] == [row["messages"][:1] for row in dressed]
    told = [row["messages"][1]["tool_calls"][0]["function"] for row in found]
    assert told == [row["messages"][1]["tool_calls"][0]["function"] for row in dressed]


def test_of_other_lists_and_objects_what_is_empty_stays(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("notes", "about")} for row in CALLS]
    rows[0]["about"] = {"source": "web", "page": "1"}
    assert values(write(pa.Table.from_pylist(rows), tmp_path / "a.parquet")) == rows
