"""Answers of one conversation become one row where that is exact, and rows of their own where it is not."""

from __future__ import annotations

from finetune_trainer.text.example import Encoded, Example, NoRoom
from finetune_trainer.text.template.conversation import Message
from finetune_trainer.text.turns import answers_before, join_answers, split_answers

TURNS = (
    Message("system", "s"),
    Message("user", "q1"),
    Message("assistant", "a1"),
    Message("user", "q2"),
    Message("assistant", "a2", learned=False),
    Message("user", "q3"),
)


def test_answers_that_are_marked_are_left_out() -> None:
    assert answers_before(TURNS) == (2,)


def test_a_greeting_answers_nothing() -> None:
    assert answers_before((Message("assistant", "hello"), Message("user", "q"), Message("assistant", "a"))) == (2,)


def test_each_answer_is_asked_for_with_the_turns_before_it() -> None:
    first, last = split_answers(Example("line 1", TURNS, "a3", ("a3", "b"), earlier=(2,)))
    assert (first.prompt, first.completion, first.choices) == (TURNS[:2], "a1", ())
    assert (last.prompt, last.completion, last.choices) == (TURNS, "a3", ("a3", "b"))


def test_a_prompt_of_text_is_one_example() -> None:
    example = Example("line 1", "text", "answer")
    assert split_answers(example) == [example]


def test_a_prompt_that_goes_on_from_the_answer_before_it_becomes_one_row() -> None:
    joined = join_answers([Encoded((1, 2), (3, 9)), Encoded((1, 2, 3, 9, 5, 6), (7, 8, 9))])
    assert joined == Encoded((1, 2), (3, 9, 5, 6, 7, 8, 9), gaps=((2, 4),))


def test_what_is_learned_of_a_joined_row_is_each_answer_with_its_end() -> None:
    parts = [Encoded((1,), (2, 9)), Encoded((1, 2, 9, 3), (4, 9)), Encoded((1, 2, 9, 3, 4, 9, 5, 6), (7, 7, 7, 9))]
    joined = join_answers(parts)
    assert isinstance(joined, Encoded)
    whole = joined.prompt + joined.completion
    assert whole == parts[-1].prompt + parts[-1].completion
    assert (joined.gaps, joined.answers) == (((2, 3), (5, 7)), (2, 2, 4))


def test_a_prompt_that_directly_follows_the_answer_has_an_empty_gap() -> None:
    joined = join_answers([Encoded((1,), (2, 9)), Encoded((1, 2, 9), (3, 9))])
    assert isinstance(joined, Encoded)
    assert (joined.gaps, joined.answers) == (((2, 2),), (2, 2))


def test_a_prompt_that_rewrites_what_was_before_begins_a_row() -> None:
    first, second = Encoded((1, 2), (3, 9)), Encoded((1, 2, 4, 9, 5), (7, 9))
    assert join_answers([first, second]) == Encoded((1, 2, 4, 9, 5), (7, 9), before=(first,))


def test_a_shortened_conversation_is_never_joined() -> None:
    short = Encoded((1, 2), (3, 9), shortened=("messages",))
    later = Encoded((1, 2, 3, 9, 5), (7, 9))
    assert join_answers([short, later]) == Encoded((1, 2, 3, 9, 5), (7, 9), before=(short,))
    shortened_later = Encoded((1, 2, 3, 9, 5), (7, 9), shortened=("messages",))
    joined = join_answers([Encoded((1, 2), (3, 9)), shortened_later])
    assert isinstance(joined, Encoded)
    assert joined.before == (Encoded((1, 2), (3, 9)),)


def test_rows_go_on_being_joined_after_one_that_was_not() -> None:
    parts = [Encoded((1,), (2, 9)), Encoded((5,), (6, 9)), Encoded((5, 6, 9, 1), (7, 9))]
    joined = join_answers(parts)
    assert isinstance(joined, Encoded)
    assert joined.before == (parts[0],)
    assert (joined.prompt, joined.completion, joined.gaps) == ((5,), (6, 9, 1, 7, 9), ((2, 3),))


def test_an_answer_that_can_t_be_used_is_named() -> None:
    assert join_answers([Encoded((1,), (2,)), "it is odd"]) == "answer 2 of 2: it is odd"
    assert join_answers([NoRoom("too long"), Encoded((1,), (2,))]) == NoRoom("answer 1 of 2: too long")


def test_the_only_answer_needs_no_number() -> None:
    assert join_answers(["it is odd"]) == "it is odd"


def test_control_tokens_of_any_answer_are_told() -> None:
    joined = join_answers([Encoded((1,), (2,), control_tokens=True), Encoded((1, 2), (3,))])
    assert isinstance(joined, Encoded)
    assert joined.control_tokens
