"""The table of scored rows."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluation.rows import RowResult, Rows

ROWS = st.lists(
    st.builds(
        RowResult,
        index=st.integers(0, 2**40),
        row=st.integers(1, 2**40),
        chosen=st.none() | st.integers(0, 2**20),
        right_choice=st.none() | st.booleans(),
        exact_match=st.booleans(),
        exact_match_tokens=st.booleans(),
        loss=st.floats(allow_nan=False),
        tokens=st.integers(0, 2**30),
        tokens_correct=st.integers(0, 2**30),
        predicted=st.none() | st.text(max_size=4),
        generated=st.none() | st.text(max_size=4),
        expected=st.text(max_size=4),
        correct=st.booleans(),
    ),
    max_size=6,
)


@given(ROWS)
def test_rows_are_read_as_they_were_put(rows: list[RowResult]) -> None:
    table = Rows.of(rows)
    assert list(table) == rows
    assert table[:2] == rows[:2]
    assert table == rows
    assert [type(r.correct) for r in table] == [bool] * len(rows)


@given(ROWS)
def test_a_table_is_read_from_json_as_it_was_written(rows: list[RowResult]) -> None:
    assert Rows.from_wire(json.loads(json.dumps(Rows.of(rows).to_wire()))) == rows


def test_rows_may_come_in_any_order() -> None:
    rows = [row(i) for i in range(5)]
    table = Rows(5)
    for at in (3, 0, 4, 1, 2):
        table.put(at, rows[at])
    assert table == rows
    assert table[-1] == rows[4]
    with pytest.raises(IndexError):
        table[5]


def test_a_table_that_lost_something_is_refused() -> None:
    wire = Rows.of([row(i) for i in range(3)]).to_wire()
    for damage in ("loss", "texts"):
        other = {**wire, "columns": dict(wire["columns"]), "texts": list(wire["texts"])}
        if damage == "loss":
            other["columns"]["loss"] = other["columns"]["loss"][:2]
        else:
            other["texts"].pop()
        with pytest.raises(ValueError, match=r"of 3 rows|too few texts"):
            Rows.from_wire(other)


def test_a_hundred_thousand_rows_with_few_answers_take_less_than_ten_megabytes() -> None:
    rows = Rows(100_000)
    for at in range(0, 100_000, 100):
        rows.put(at, row(at))
    assert rows.column("loss").base.nbytes < 10e6
    assert sys.getsizeof(rows.to_wire()["texts"]) < 1e3


def row(at: int) -> RowResult:
    return RowResult(
        index=at,
        row=at + 1,
        chosen=None,
        right_choice=None,
        exact_match=False,
        exact_match_tokens=False,
        loss=at / 3,
        tokens=2,
        tokens_correct=1,
        predicted=f"answer {at % 7}",
        generated=None,
        expected="answer",
        correct=at % 2 == 0,
    )
