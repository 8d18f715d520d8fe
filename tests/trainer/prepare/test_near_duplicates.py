"""Near duplicates across the split: counted, and left out of train where the job says so."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.status import NearDuplicates
from tests.support.prepare_kit import LABELS, Dataset, spec_of

LONG = "please tell me why the card that I ordered three weeks ago has still not come to my new address number"


def rows() -> list[dict[str, Any]]:
    """Ninety rows of their own words; ten of train with one more word than ten of test."""
    own = [{"text": f"w{n} " * 3 + f"a{n} b{n} c{n} d{n}", "label": LABELS[n % 3], "part": "train"} for n in range(90)]
    test = [{"text": f"{LONG} x{n} y{n} z{n} v{n} u{n}", "label": LABELS[n % 3], "part": "test"} for n in range(10)]
    train = [row | {"text": row["text"] + " thanks", "part": "train"} for row in test]
    return own + test + train


def split(**dataset: Any) -> dict[str, Any]:
    return {"split": {"by": "part", "trainPercent": 100}, **dataset}


def test_they_are_counted_by_part_and_kept(dataset: Dataset) -> None:
    summary = dataset.prepare(rows(), spec_of(dataset=split())).summary
    assert summary.near_duplicates == NearDuplicates(train=10, test=10)
    assert (summary.train, summary.test) == (100, 10)


def test_those_of_train_are_left_out_on_demand_and_test_stays_whole(dataset: Dataset) -> None:
    prepared = dataset.prepare(rows(), spec_of(dataset=split(nearDuplicates="Drop")))
    assert prepared.summary.near_duplicates == NearDuplicates(train=10, test=10, dropped=10)
    assert (prepared.summary.train, prepared.summary.test) == (90, 10)
    assert max(int(row) for row in prepared.parts["train"].rows) == 90


def test_rows_of_their_own_have_none(dataset: Dataset) -> None:
    assert dataset.prepare(rows()[:100], spec_of(dataset=split())).summary.near_duplicates is None


@pytest.mark.parametrize(
    "template", [{"inline": {"prompt": "Say what it is about.\n{{ text }}", "completion": "{{ label }}"}}]
)
def test_the_words_of_an_inline_template_are_no_words_of_the_row(template: dict[str, Any], dataset: Dataset) -> None:
    summary = dataset.prepare(rows(), spec_of(template, dataset=split())).summary
    assert summary.near_duplicates == NearDuplicates(train=10, test=10)


AMOUNT = {"inline": {"prompt": "{{ instruction }}\nAmount: {{ amount }}\nAnswer:", "completion": "{{ label }}"}}


def test_rows_that_differ_in_a_number_alone_are_no_near_duplicates(dataset: Dataset) -> None:
    told = "Say whether this payment has to be looked at by a person before it is carried out today"
    payments = [{"instruction": told, "amount": 3 + 7 * n, "label": ("yes", "no")[n % 2]} for n in range(200)]
    assert dataset.prepare(payments, spec_of(AMOUNT)).summary.near_duplicates is None


def test_where_nothing_would_be_left_to_learn_from_the_field_is_named(dataset: Dataset) -> None:
    error = dataset.refused(rows()[90:], spec_of(dataset=split(nearDuplicates="Drop")))
    assert error.message.startswith("all 10 train rows nearly repeat a validation or test row")
    assert "set nearDuplicates to Report" in error.message
