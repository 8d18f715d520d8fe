"""What is kept of texts that are too long: how much of each, and where it is cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finetune_trainer.text.shorten import OMITTED, Cut, borders, shorten
from finetune_trainer.text.template.catalog import Side


def cut(text: str, side: Side = "end", name: str = "text") -> Cut:
    return Cut(name, text, side, borders(text, range(len(text))))


def shortened(cuts: Sequence[Cut], room: int, *, per: int = 1) -> list[str] | None:
    """Where ``per`` characters are one token."""

    def over(kept: list[str]) -> int:
        return sum(-(-len(k) // per) for k in kept) - room

    return shorten(cuts, over, over([c.text for c in cuts]))


@pytest.mark.parametrize(("side", "kept"), [("end", "abcd"), ("start", "ghij")])
def test_a_text_loses_one_of_its_ends(side: Side, kept: str) -> None:
    assert shortened([cut("abcdefghij", side)], 4) == [kept]


def test_the_middle_goes_where_both_ends_matter() -> None:
    text = "abcdefghijklmnopqrstuvwxyz"
    assert shortened([cut(text, "middle")], len(OMITTED) + 5) == [f"abc{OMITTED}yz"]


def test_the_longest_of_several_texts_loses_first_and_then_all_alike() -> None:
    texts = [cut("a" * 10), cut("b" * 4), cut("c" * 6)]
    assert shortened(texts, 16) == ["a" * 6, "b" * 4, "c" * 6]
    assert shortened(texts, 9) == ["a" * 3, "b" * 3, "c" * 3]
    assert shortened(texts, 3) == ["a", "b", "c"]
    assert shortened(texts, 2) is None
    assert shortened([], 2) is None


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    room=st.integers(1, 60),
    per=st.integers(1, 4),
)
def test_what_is_left_fits_and_nothing_more_would(lengths: list[int], room: int, per: int) -> None:
    assume(sum(-(-n // per) for n in lengths) > room)
    cuts = [cut("x" * n) for n in lengths]
    kept = shortened(cuts, room, per=per)
    if kept is None:
        assert len(lengths) > room
        return
    used = sum(-(-len(k) // per) for k in kept)
    assert used <= room
    assert used == room or per > 1


def test_few_tries_are_enough() -> None:
    tries = 0

    def over(kept: list[str]) -> int:
        nonlocal tries
        tries += 1
        return len(kept[0]) // 3 - 100

    assert shorten([cut("x" * 30000)], over, 9900) is not None
    assert tries <= 25


@pytest.mark.parametrize(
    "text",
    [
        "e\u0301",  # a letter and its accent
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "\U0001f44b\U0001f3fd",  # a hand and its tone
        "\U0001f1e9\U0001f1ea",  # a flag
        "\u1100\u1161\u11a8",  # one syllable of three letters
        "\u0915\u094d",  # a letter and its sign
        "\r\n",
    ],
)
def test_a_text_is_never_cut_between_characters_that_are_shown_as_one(text: str) -> None:
    whole = f"a{text}{text}b"
    assert borders(whole, range(len(whole))) == (0, 1, 1 + len(text), 1 + 2 * len(text), len(whole))


@given(text=st.text(min_size=1), ends=st.lists(st.integers(0, 40)))
def test_borders_begin_and_end_with_the_text(text: str, ends: list[int]) -> None:
    places = borders(text, ends)
    assert places[0] == 0
    assert places[-1] == len(text)
    assert list(places) == sorted(set(places))
    assert not any(unicodedata.combining(text[p]) for p in places[1:-1])
