"""The stop rule as a pure function of texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.text.stop import StopRule, is_single_line, stop_texts

LINE = StopRule(("\n",))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("billing", "billing"),
        (" billing\nText: another", "billing"),
        ("billing\r\nText", "billing"),
        ("billing\rText", "billing"),
        ("\n\n billing\nText", "billing"),  # an answer has not begun before its first visible character
        ("\r\nbilling  \n", "billing"),
        ("card  arrival\n", "card  arrival"),  # inner white space counts
        ("\n \n", ""),
        ("", ""),
    ],
)
def test_the_line_rule_takes_the_first_line_that_says_something(text: str, answer: str) -> None:
    assert LINE.answer(text) == answer


@pytest.mark.parametrize(
    ("stops", "text", "answer"),
    [
        (("###",), "billing ### next", "billing"),
        (("###",), "### next", ""),  # a visible stop text counts from the start
        (("\n\n",), "\n\none\ntwo\n\nthree", "one\ntwo"),
        (("\r\n",), "one\ntwo", "one"),
        (("\nText:",), "\nText: billing", ""),
        (("b", "a"), "xxaxxb", "xx"),
        ((), "one\r\ntwo\n", "one\ntwo"),
    ],
)
def test_given_texts_end_an_answer_at_the_first_of_them(stops: tuple[str, ...], text: str, answer: str) -> None:
    assert StopRule(stops).answer(text) == answer


@pytest.mark.parametrize(
    ("stops", "expected", "reference"),
    [
        (("\n",), "billing", "billing"),
        (("\n",), " billing\n", "billing"),  # rows of template raw may bring their own line end
        (("###",), "billing ###", "billing"),
        (("#", "###"), "billing ###", "billing"),  # of those that begin together the longest
        (("###",), "billing ### refund", None),
        (("\n",), "first\nsecond", None),
        (("###",), "###", None),  # else every empty answer would be right
        ((), " \n", None),
        ((), "first\r\nsecond\n", "first\nsecond"),
    ],
)
def test_an_expected_answer_is_cut_by_the_same_rule_or_cannot_be_matched(
    stops: tuple[str, ...], expected: str, reference: str | None
) -> None:
    assert StopRule(stops).reference(expected) == reference


@given(st.lists(st.text("ab \n#\r", min_size=1, max_size=3), max_size=4), st.text("ab \n#\r"), st.text("ab \n#\r"))
def test_a_text_that_ended_has_its_answer_whatever_follows(stops: list[str], text: str, more: str) -> None:
    rule = StopRule(tuple(stops))
    if rule.ends(text) and not text.endswith("\r") and not any(s.endswith("\r") for s in stops):
        assert rule.ends(text + more)
        if len(stops) == 1:
            assert rule.answer(text + more) == rule.answer(text)


@given(st.lists(st.text("ab \n", min_size=1, max_size=3), max_size=3), st.text("ab \n"), st.text("ab \n", max_size=5))
def test_a_text_that_becomes_a_match_is_never_given_up(stops: list[str], reference: str, more: str) -> None:
    rule = StopRule(tuple(stops))
    expected = rule.reference(reference)
    whole = f" {expected}{more}"
    if expected is not None and rule.answer(whole) == expected:
        for end in range(len(whole) + 1):
            if not rule.ends(whole[:end]):
                assert rule.may_become(whole[:end], expected)


def test_a_stop_text_that_has_only_begun_is_not_taken_for_more_of_the_answer() -> None:
    rule = StopRule(("END",))
    assert [rule.may_become(text, "yes") for text in ("yesE", "yes EN", "yesN", "yesterday")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("", True),
        ("\n", True),
        ("bil", True),
        ("billing ", True),
        ("bug", False),
        ("billings", False),
        ("b\ufffd", True),
    ],
)
def test_a_text_that_has_left_the_reference_can_be_given_up(text: str, may: bool) -> None:
    assert LINE.may_become(text, "billing") == may


@pytest.mark.parametrize(
    ("text", "single"), [("a", True), (" a\n", True), ("a\r\n", True), ("a\nb", False), ("a\rb", False)]
)
def test_a_line_end_inside_makes_more_than_a_line(text: str, single: bool) -> None:
    assert is_single_line(text) == single


def test_the_users_texts_take_the_place_of_the_line_end() -> None:
    assert stop_texts(None, single_lines=True) == ("\n",)
    assert stop_texts(None, single_lines=False) == ()
    assert stop_texts(["###", "###", "END"], single_lines=True) == ("###", "END")
