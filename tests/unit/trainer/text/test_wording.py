"""Which wording a train row gets."""

from __future__ import annotations

from collections import Counter

from finetune_trainer.text.template.wording import wording_of

ROWS = [{"text": f"text {i}"} for i in range(3000)]


def test_every_wording_is_as_likely_as_another() -> None:
    counts = Counter(wording_of(42, row, 3) for row in ROWS)
    assert set(counts) == {0, 1, 2}
    # Six standard deviations of a count of 3000 rows, each with a chance of one in three.
    assert all(abs(count - 1000) < 6 * (3000 * 2 / 9) ** 0.5 for count in counts.values())


def test_the_wording_of_a_row_is_known_for_good() -> None:
    assert [wording_of(42, row, 3) for row in ROWS[:12]] == [1, 1, 1, 0, 2, 1, 2, 0, 2, 1, 1, 1]


def test_another_seed_gives_other_wordings() -> None:
    assert [wording_of(1, row, 3) for row in ROWS] != [wording_of(2, row, 3) for row in ROWS]


def test_the_order_of_fields_means_nothing() -> None:
    assert wording_of(7, {"a": "1", "b": "2"}, 97) == wording_of(7, {"b": "2", "a": "1"}, 97)


def test_half_a_surrogate_pair_has_a_wording_too() -> None:
    assert wording_of(7, {"a": "\ud800"}, 4) in range(4)
