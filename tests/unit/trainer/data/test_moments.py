"""The order of rows in time: numbers or ISO dates, never both, and nothing that has no place in it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from finetune_api.dataset import Percents, Split
from finetune_api.reasons import Reason
from finetune_trainer.data.moments import MomentColumn
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.data.split import Keyed, RowKeys, exact_key, input_key, output_key, split_rows
from finetune_trainer.errors import StageError


def moment(value: object) -> Any:
    return MomentColumn("day").of("line 1", {"day": value})


@pytest.mark.parametrize(
    "ordered",
    [
        [-1, 0, 1, 2.5, 10],
        ["-1", "0.5", "1e3", "20240101"],
        [2**60, 2**60 + 1, 2**60 + 2],  # nanoseconds: floats of their own can't tell these apart
        ["1700000000000000001", "1700000000000000002"],
        ["2023-12-31", "2024-01-01", "2024-01-01T00:00:01", "2024-01-01 08:00:00.000001", "2024-02-01T00:00:00Z"],
        ["2024-01-01T02:00:00+03:00", "2024-01-01", "2024-01-01T00:00:00-01:00"],
    ],
)
def test_moments_have_the_order_of_their_values(ordered: list[object]) -> None:
    moments = [moment(value) for value in ordered]
    assert all(one < other for one, other in itertools.pairwise(moments)), moments


def test_one_moment_in_two_zones_is_the_same() -> None:
    assert moment("2024-01-01T02:00:00+02:00") == moment("2024-01-01") == moment("2024-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "value",
    [None, "", " ", "NaN", "inf", float("nan"), float("-inf"), True, "yesterday", "31.12.2024", "2024-13-01", []],
)
def test_what_has_no_place_in_time_is_a_bad_row(value: object) -> None:
    assert "column 'day'" in moment(value)


def test_numbers_and_dates_in_one_column_end_the_job() -> None:
    column = MomentColumn("day")
    column.of("line 1", {"day": "2024"})
    with pytest.raises(StageError) as caught:
        column.of("line 7", {"day": "2024-01-01"})
    assert caught.value.reason is Reason.DATASET_INVALID
    assert "numbers ('2024' in line 1) and dates ('2024-01-01' in line 7)" in caught.value.message


def cut(
    moments: list[float],
    percents: Percents,
    *,
    groups: dict[int, str] | None = None,
    given: dict[int, Part] | None = None,
) -> dict[Part, list[int]]:
    keys = RowKeys()
    for i, at in enumerate(moments):
        text = f"row {i}"
        group = (groups or {}).get(i)
        row = Keyed(input_key(text), output_key("x"), exact_key(text), group, None, None, (at, 0.0))
        keys.add(row, (given or {}).get(i, "train"))
    sides = split_rows(keys, Split(order_by="day", seed=1), percents).sides
    return {part: np.flatnonzero(sides == n).tolist() for n, part in enumerate(PARTS)}


def test_the_newest_rows_are_tested_and_those_before_them_validated() -> None:
    shuffled = [float((7 * i) % 20) for i in range(20)]
    parts = cut(shuffled, Percents(80, 10, 10))
    assert sorted(shuffled[i] for i in parts["test"]) == [18, 19]
    assert sorted(shuffled[i] for i in parts["validation"]) == [16, 17]
    assert len(parts["train"]) == 16


def test_rows_of_one_moment_stay_on_one_side_and_the_nearest_share_is_taken() -> None:
    parts = cut([0] * 50 + [1] * 38 + [2] * 12, Percents(90, 0, 10))
    assert [len(parts[part]) for part in PARTS] == [88, 0, 12]
    parts = cut([0] * 50 + [1] * 2 + [2] * 48, Percents(90, 0, 10))
    assert [len(parts[part]) for part in PARTS] == [52, 0, 48]


def test_a_group_goes_by_its_newest_row_so_that_train_knows_nothing_of_the_future() -> None:
    parts = cut([float(i) for i in range(100)], Percents(80, 10, 10), groups={0: "a", 99: "a", 1: "b", 50: "b"})
    assert 0 in parts["test"]
    assert {1, 50} <= set(parts["train"])
    assert max(i for i in parts["train"]) < min(i for i in parts["test"] if i)


def test_one_moment_is_left_to_learn_from() -> None:
    parts = cut([0.0] * 2 + [1.0] * 98, Percents(60, 20, 20))
    assert (parts["train"], len(parts["test"]), parts["validation"]) == ([0, 1], 98, [])


def test_given_rows_keep_their_part_whatever_their_time() -> None:
    parts = cut([float(i) for i in range(10)], Percents(90, 10, 0), given={0: "test", 1: "test"})
    assert (parts["test"], parts["validation"]) == ([0, 1], [9])


def test_the_seed_has_no_share_in_an_order() -> None:
    one = cut([float(i % 7) for i in range(70)], Percents(70, 15, 15))
    assert one == cut([float(i % 7) for i in range(70)], Percents(70, 15, 15))
