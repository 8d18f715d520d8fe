"""A file of JSON lines as a sequence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_trainer.prepare import linefile
from finetune_trainer.prepare.linefile import LineFile


def lines(path: Path, values: list[str]) -> LineFile[str]:
    path.write_text("".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values), encoding="utf-8", newline="")
    return LineFile(path, str)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=6))
def test_it_is_the_sequence_of_its_lines(tmp_path: Path, values: list[str]) -> None:
    file = lines(tmp_path / "a", values)
    assert len(file) == len(values)
    assert list(file) == values
    assert file == values
    assert file[1:] == values[1:]
    assert [file[-i] for i in range(1, len(values) + 1)] == values[::-1]
    assert bool(file) == bool(values)


def test_line_ends_are_found_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linefile, "_CHUNK", 3)
    values = ["a" * n for n in range(9)]
    assert list(lines(tmp_path / "a", values)) == values


def test_line_separators_of_unicode_end_no_line(tmp_path: Path) -> None:
    assert list(lines(tmp_path / "a", ["a\u2028b", "c\x85d\rf"])) == ["a\u2028b", "c\x85d\rf"]


@pytest.mark.parametrize(("one", "other"), [(["a"], ["b"]), (["a"], ["a", "a"]), (["a"], [])])
def test_files_with_other_items_are_not_equal(tmp_path: Path, one: list[str], other: list[str]) -> None:
    file = lines(tmp_path / "a", one)
    assert file != other
    assert file != lines(tmp_path / "b", other)
    assert file != 7


@pytest.mark.parametrize("index", [1, -2, 10])
def test_an_index_beyond_the_ends_is_an_error(tmp_path: Path, index: int) -> None:
    with pytest.raises(IndexError):
        lines(tmp_path / "a", ["a"])[index]


def test_a_last_line_without_an_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'"a"\n"b"')
    with pytest.raises(ValueError, match="a does not end with a line end"):
        LineFile(tmp_path / "a", str)
