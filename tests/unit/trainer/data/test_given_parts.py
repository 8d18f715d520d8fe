"""Parts by a column: usual spellings, nothing guessed, and percents for what the column never says."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.given_parts import PartColumn, part_named, resolved_percents
from finetune_trainer.data.parts import Part
from finetune_trainer.errors import StageError


def dataset(**split: Any) -> Dataset:
    return Dataset.model_validate(
        {"uri": "s3://b-1/rows.csv", "template": {"name": "topic"}, "split": {"by": "part", **split}}
    )


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("train", "train"),
        (" TRAIN ", "train"),
        ("Training", "train"),
        ("dev", "validation"),
        ("val", "validation"),
        ("eval", "validation"),
        ("Validation", "validation"),
        ("TEST", "test"),
        ("hold-out", "test"),
        ("holdout", "test"),
        ("tests", None),
        ("", None),
        ("0", None),
        (0, None),
        (True, None),
        (["train"], None),
    ],
)
def test_a_part_is_known_by_its_usual_spellings(value: object, part: Part | None) -> None:
    assert part_named(value) == part


def test_a_row_without_a_part_is_a_bad_one() -> None:
    column = PartColumn("part")
    for values in ({}, {"part": None}, {"part": "  "}):
        assert "column 'part' is empty" in str(column.look(values))
    assert column.look({"part": "train"}) is None
    assert column.given() == {"train"}


def test_a_value_that_names_no_part_ends_the_job_with_all_that_was_found() -> None:
    column = PartColumn("part")
    for value, count in (("train", 5), ("unsupervised", 3), ("test", 2), (7, 1)):
        for _ in range(count):
            column.look({"part": value})
    with pytest.raises(StageError) as caught:
        column.given()
    assert caught.value.reason is Reason.DATASET_INVALID
    assert "name no part: 'unsupervised' (3), '7' (1); beside them: train 5, test 2" in caught.value.message


def test_no_row_to_learn_from_ends_the_job() -> None:
    column = PartColumn("part")
    column.look({"part": "test"})
    with pytest.raises(StageError, match="has no row for train \\(test 1\\)"):
        column.given()


@pytest.mark.parametrize(
    ("given", "split", "percents"),
    [
        (("train", "validation", "test"), {}, (100, 0, 0)),
        (("train", "test"), {}, (90, 10, 0)),
        (("train", "validation"), {}, (90, 0, 10)),
        (("train",), {}, (80, 10, 10)),
        (("train", "test"), {"trainPercent": 75, "validationPercent": 25}, (75, 25, 0)),
        (("train", "test"), {"trainPercent": 100}, (100, 0, 0)),
    ],
)
def test_what_the_column_never_says_is_cut_from_train(
    given: tuple[Part, ...], split: dict[str, int], percents: tuple[int, int, int]
) -> None:
    assert resolved_percents(dataset(**split), given) == percents


@pytest.mark.parametrize(
    ("given", "split", "words"),
    [
        (("train", "test"), {"trainPercent": 90, "testPercent": 10}, "testPercent is 10, and column 'part'"),
        (
            ("train", "validation", "test"),
            {"trainPercent": 90, "validationPercent": 10},
            "validationPercent is 10, and column 'part'",
        ),
        (("train", "validation"), {"trainPercent": 100}, "testPercent must be above 0: column 'part'"),
    ],
)
def test_percents_at_odds_with_the_column_are_refused(
    given: tuple[Part, ...], split: dict[str, int], words: str
) -> None:
    with pytest.raises(StageError) as caught:
        resolved_percents(dataset(**split), given)
    assert (caught.value.reason, words in caught.value.message) == (Reason.INVALID_SPEC, True)


HUB = "hf://datasets/org/rows"


def hub(uri: str = HUB, **split: Any) -> Dataset:
    return Dataset.model_validate({"uri": uri, "template": {"name": "topic"}, "split": split})


@pytest.mark.parametrize(
    ("given", "split", "percents"),
    [
        (("train", "validation", "test"), {}, (100, 0, 0)),
        (("train", "test"), {}, (90, 10, 0)),
        ((), {}, (80, 10, 10)),
        (("train", "test"), {"trainPercent": 80, "validationPercent": 20}, (80, 20, 0)),
    ],
)
def test_what_a_dataset_of_the_hub_does_not_bring_is_cut_from_train(
    given: tuple[Part, ...], split: dict[str, int], percents: tuple[int, int, int]
) -> None:
    assert resolved_percents(hub(**split), given) == percents


@pytest.mark.parametrize(
    ("given", "split", "words"),
    [
        (
            ("train", "test"),
            {"trainPercent": 90, "testPercent": 10},
            f"dataset.split.testPercent is 10, and {HUB} (dataset.uri) gives the test rows; leave it out, or name the "
            f"split to cut, such as {HUB}#train",
        ),
        ((), {"trainPercent": 100}, f"testPercent must be above 0: {HUB} (dataset.uri) gives no test row"),
    ],
)
def test_percents_at_odds_with_the_parts_of_the_hub_are_refused(
    given: tuple[Part, ...], split: dict[str, int], words: str
) -> None:
    with pytest.raises(StageError) as caught:
        resolved_percents(hub(**split), given)
    assert (caught.value.reason, words in caught.value.message) == (Reason.INVALID_SPEC, True)


def test_one_split_of_the_hub_is_cut_by_the_percents_of_the_spec() -> None:
    assert resolved_percents(hub(f"{HUB}#train"), ()) == (80, 10, 10)


def test_a_source_of_the_hub_is_named_by_its_field() -> None:
    sources = [{"uri": "s3://bucket/a.jsonl"}, {"uri": HUB}]
    both = Dataset.model_validate({"sources": sources, "template": {"name": "topic"}, "split": {"trainPercent": 100}})
    with pytest.raises(StageError, match=r"gives no test row") as caught:
        resolved_percents(both, ())
    assert f"{HUB} (dataset.sources[1].uri)" in caught.value.message
