"""What benchmarks share: percentiles, tables, and results that programs and people can read."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.common import finish, machine, percentile, table, versions


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 50, 7),
        ([3, 1, 2], 50, 2),
        ([4, 3, 2, 1], 50, 2),
        ([4, 3, 2, 1], 51, 3),
        (range(1, 201), 99, 198),
        (range(1, 201), 100, 200),
        ([5, 9], 0, 5),
    ],
)
def test_a_percentile_is_the_nearest_rank(values: list[int], percent: float, expected: int) -> None:
    assert percentile(values, percent) == expected


@given(st.lists(st.integers(), min_size=1), st.floats(min_value=0, max_value=100))
def test_a_percentile_is_a_value_that_was_measured(values: list[int], percent: float) -> None:
    assert percentile(values, percent) in values


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_table_has_its_first_column_on_the_left_and_the_others_on_the_right() -> None:
    assert table(["figure", "ms"], [["a", 1], ["longer one", 12345]]).splitlines() == [
        "figure         ms",
        "----------  -----",
        "a               1",
        "longer one  12345",
    ]


def test_a_result_ends_with_one_json_object_and_is_kept_under_its_date(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finish("operator", {"jobs": 5, "machine": machine()}, "a table\n", results=tmp_path / "results")
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert (last["benchmark"], last["jobs"], last["machine"]) == ("operator", 5, machine())
    assert last["date"] == date.today().isoformat()
    assert printed.startswith("a table\n\n{")
    assert (tmp_path / f"results/{date.today().isoformat()}-operator.txt").read_text() == printed


def test_a_second_run_on_the_same_day_replaces_the_first(tmp_path: Path) -> None:
    for jobs in (1, 2):
        finish("operator", {"jobs": jobs}, "", results=tmp_path)
    assert [json.loads(p.read_text().splitlines()[-1])["jobs"] for p in tmp_path.iterdir()] == [2]


def test_the_machine_and_the_versions_are_named() -> None:
    assert machine()["cores"] >= 1
    assert machine()["memory_gib"] > 0
    assert re.fullmatch(r"[0-9a-f]{7,40}(-dirty)?|unknown", versions()["commit"])
    assert versions("pydantic")["pydantic"].startswith("2.")
