"""Parts by a column and an order in time, from the rows to the summary."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.data.parts import PARTS
from finetune_trainer.prepare.prepared import Prepared
from tests.support.prepare_kit import Dataset, intents, spec_of


def numbered(prepared: Prepared) -> dict[str, list[int]]:
    return {part: sorted(int(row) for row in prepared.parts[part].rows) for part in PARTS}


def by(**split: Any) -> dict[str, Any]:
    return {"split": {"by": "part", **split}}


def test_the_column_gives_the_parts(dataset: Dataset) -> None:
    names = ["train"] * 60 + ["Dev"] * 20 + ["holdout"] * 20
    rows = [row | {"part": name} for row, name in zip(intents(100), names, strict=True)]
    prepared = dataset.prepare(rows, spec_of(dataset=by()))
    assert numbered(prepared) == {
        "train": list(range(1, 61)),
        "validation": list(range(61, 81)),
        "test": list(range(81, 101)),
    }
    assert prepared.percents == (100, 0, 0)


def test_validation_is_cut_from_train_where_the_column_gives_none(dataset: Dataset) -> None:
    rows = [row | {"part": "test" if i < 50 else "train"} for i, row in enumerate(intents(450))]
    prepared = dataset.prepare(rows, spec_of(dataset=by()))
    assert numbered(prepared)["test"] == list(range(1, 51))
    assert 20 < prepared.summary.validation < 60
    assert prepared.percents == (90, 10, 0)


def test_a_row_that_train_and_test_share_leaves_train(dataset: Dataset) -> None:
    rows = [row | {"part": "train"} for row in intents(60)] + [row | {"part": "test"} for row in intents(20, 50)]
    prepared = dataset.prepare(rows, spec_of(dataset=by(trainPercent=100)))
    assert (prepared.summary.test, prepared.summary.leaked, prepared.summary.train) == (20, 10, 50)


def test_a_row_without_a_part_is_bad_before_the_split(dataset: Dataset) -> None:
    rows = [row | {"part": "test" if i % 2 else "train"} for i, row in enumerate(intents(200))]
    rows[7]["part"] = ""
    prepared = dataset.prepare(rows, spec_of(dataset=by()))
    assert (prepared.summary.dropped, prepared.summary.dropped_by and prepared.summary.dropped_by.unsplit) == (1, 1)


def test_bad_rows_of_a_small_given_part_can_not_hide_among_the_others(dataset: Dataset) -> None:
    rows = [row | {"part": "test" if i < 20 else "train"} for i, row in enumerate(intents(400))]
    for i in range(5):
        del rows[i]["text"]
    error = dataset.refused(rows, spec_of(dataset=by()))
    assert (error.reason, "5 of 20 test rows" in error.message) == (Reason.DATASET_INVALID, True)


def test_early_stopping_without_validation_rows_is_refused_when_the_column_is_known(dataset: Dataset) -> None:
    rows = [row | {"part": "test" if i % 2 else "train"} for i, row in enumerate(intents(100))]
    spec = spec_of(dataset=by(trainPercent=100), training={"earlyStopping": {"patience": 2}})
    error = dataset.refused(rows, spec)
    assert error.reason is Reason.INVALID_SPEC
    assert "training.earlyStopping needs validation rows, and column 'part'" in error.message


@pytest.mark.parametrize("field", ["by", "orderBy"])
def test_a_column_that_no_row_has_is_refused(field: str, dataset: Dataset) -> None:
    error = dataset.refused(intents(50), spec_of(dataset={"split": {field: "who"}}))
    assert error.reason is Reason.INVALID_SPEC
    assert f"dataset.split.{field} names column 'who', which no row has" in error.message


def test_the_newest_rows_are_sealed(dataset: Dataset) -> None:
    rows = [row | {"day": f"2024-{1 + i % 10:02}-{1 + i // 10:02}"} for i, row in enumerate(intents(200))]
    prepared = dataset.prepare(rows, spec_of(dataset={"split": {"orderBy": "day"}}))
    days = {part: {rows[n - 1]["day"] for n in numbers} for part, numbers in numbered(prepared).items()}
    assert max(days["train"]) < min(days["validation"])
    assert max(days["validation"]) < min(days["test"])
    assert [getattr(prepared.summary, part) for part in PARTS] == [160, 20, 20]


def test_rows_without_a_time_are_bad_ones(dataset: Dataset) -> None:
    rows = [row | {"day": str(i)} for i, row in enumerate(intents(100))]
    rows[3]["day"], rows[4]["day"] = "soon", "NaN"
    prepared = dataset.prepare(rows, spec_of(dataset={"split": {"orderBy": "day"}}))
    assert prepared.summary.dropped == 2
    assert {4, 5}.isdisjoint(n for lines in numbered(prepared).values() for n in lines)


def test_too_few_moments_for_three_parts_name_the_column(dataset: Dataset) -> None:
    rows = [row | {"year": 2023 + i % 2} for i, row in enumerate(intents(100))]
    error = dataset.refused(rows, spec_of(dataset={"split": {"orderBy": "year"}}))
    assert error.reason is Reason.DATASET_INVALID
    assert "no row fell into validation" in error.message
    assert "rows with the same value in 'year' (dataset.split.orderBy)" in error.message
