"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from finetune_trainer.counted import counted, size_of


@pytest.mark.parametrize(
    ("number", "told"), [(0, "0 rows are"), (1, "1 row is"), (2, "2 rows are")], ids=["none", "one", "two"]
)
def test_only_one_is_singular(number: int, told: str) -> None:
    assert counted(number, "row is", "rows are") == told
    assert counted(number, "row") == told.rpartition(" ")[0]


@pytest.mark.parametrize(
    ("parameters", "told"),
    [(38_912, "38,912 parameters"), (999_999, "999,999 parameters"), (134_515_008, "134.5 million parameters")],
)
def test_a_tiny_model_has_more_than_no_parameters(parameters: int, told: str) -> None:
    assert size_of(parameters) == told
