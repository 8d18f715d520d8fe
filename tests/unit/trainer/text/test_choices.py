"""What the choices of a list have in common."""

from __future__ import annotations

import pytest

from finetune_trainer.text.choices import shared_beginning


@pytest.mark.parametrize(
    ("values", "shared"),
    [
        (((7, 1), (7, 2), (7, 1, 5)), 1),
        (((1, 2), (1, 3), (2, 1)), 0),
        (((4, 5), (4, 5, 6)), 2),
        (((3,),), 1),
    ],
    ids=["one", "none, though two share one", "all of the shortest", "a single one"],
)
def test_tokens_that_all_choices_begin_with_are_counted(values: tuple[tuple[int, ...], ...], shared: int) -> None:
    assert shared_beginning(values) == shared
