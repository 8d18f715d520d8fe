"""Numbers of classes, and the names in their place."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.data.classes import named, usable

NAMES = {"label": ("neg", "pos")}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "neg"), (1, "pos"), ("1", "pos"), (" 0 ", "neg"), (-1, None), ("-1", None), (2, None), (None, None)],
)
def test_a_number_becomes_the_name_of_its_class(value: Any, expected: str | None) -> None:
    assert named({"label": value}, NAMES) == {"label": expected}


@pytest.mark.parametrize("value", ["pos", "other", "1.0", "", 1.5])
def test_what_is_no_number_of_a_class_stays(value: Any) -> None:
    assert named({"label": value}, NAMES) == {"label": value}


def test_a_text_that_is_a_name_itself_is_no_number() -> None:
    assert named({"label": "1"}, {"label": ("1", "2")}) == {"label": "1"}


def test_a_row_without_the_column_stays() -> None:
    assert named({"text": "a"}, NAMES) == {"text": "a"}


def test_choices_in_other_words_keep_the_numbers() -> None:
    assert usable(NAMES, ["good", "bad"]) == {}
    assert usable(NAMES, ["POS", " neg"]) == NAMES
    assert usable(NAMES, None) == NAMES
