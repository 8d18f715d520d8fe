"""Arrays on disk: what is written is what the safetensors library writes, what is mapped is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.numpy import save

from finetune_trainer.prepare import arrayfile
from finetune_trainer.prepare.arrayfile import ArrayColumn, Column, GrowingColumn, Kind, map_arrays, write_arrays

names = st.text("abcdefgh.", min_size=1, max_size=6)
numbers = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=9)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(names, st.tuples(st.sampled_from(["<i4", "<i8"]), numbers), min_size=1, max_size=6))
def test_the_file_is_byte_for_byte_the_librarys_and_maps_to_the_same_arrays(
    tmp_path: Path, content: dict[str, tuple[Kind, list[int]]]
) -> None:
    arrays = {name: np.array(values, dtype=kind) for name, (kind, values) in content.items()}
    columns: dict[str, Column] = {name: ArrayColumn(arrays[name], kind) for name, (kind, _) in content.items()}
    write_arrays(tmp_path / "a", columns)
    assert (tmp_path / "a").read_bytes() == save(arrays)
    mapped = map_arrays(tmp_path / "a")
    assert mapped.keys() == arrays.keys()
    assert all(np.array_equal(mapped[n], arrays[n]) and mapped[n].dtype == arrays[n].dtype for n in arrays)


@pytest.fixture
def column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GrowingColumn:
    monkeypatch.setattr(arrayfile, "_CHUNK", 4)
    return GrowingColumn(tmp_path / "column", "<i4")


def test_a_growing_column_holds_only_its_newest_numbers(column: GrowingColumn, tmp_path: Path) -> None:
    for i in range(11):
        column.append(i)
    assert len(column) == 11
    assert (tmp_path / "column").stat().st_size == 8 * 4
    assert np.frombuffer(b"".join(column.chunks()), dtype="<i4").tolist() == list(range(11))
    column.extend(range(11, 14))
    assert np.frombuffer(b"".join(column.chunks()), dtype="<i4").tolist() == list(range(14))


def test_numbers_are_replaced_and_negative_ones_stay(column: GrowingColumn) -> None:
    column.extend([0, 2, -1, 1, 1, 0])
    column.map_values(np.array([7, 8, 9], dtype=np.int64))
    assert np.frombuffer(b"".join(column.chunks()), dtype="<i4").tolist() == [7, 9, -1, 8, 8, 7]
    assert len(column) == 6


@pytest.mark.parametrize("content", [b"", b"{", b"\x02\0\0\0\0\0\0\0{}more"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises((SafetensorError, ValueError)):
        map_arrays(tmp_path / "a")


def test_a_type_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(save({"a": np.zeros(3, dtype=np.float32)}))
    with pytest.raises(KeyError):
        map_arrays(tmp_path / "a")


def test_mapped_arrays_cannot_be_written_to(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", {"a": ArrayColumn(np.arange(3), "<i8")})
    with pytest.raises(ValueError, match="read-only"):
        map_arrays(tmp_path / "a")["a"][0] = 1
