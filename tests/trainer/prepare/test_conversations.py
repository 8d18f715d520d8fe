"""Prepare: rows that were cut from one conversation stay in one part."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from finetune_trainer.data.parts import PARTS
from finetune_trainer.prepare.keys import opening_of
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.text.template.fields import Message
from tests.support.prepare_kit import Dataset, spec_of

SPEC = spec_of({"name": "messages"})


def talk(*turns: str, system: str | None = None) -> dict[str, Any]:
    """User and assistant in turn."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


def sides(prepared: Prepared) -> dict[int, str]:
    return {int(row): part for part in PARTS for row in prepared.parts[part].rows}


def by_talk(prepared: Prepared, rows_each: int) -> list[set[str]]:
    """The parts in which the rows of each conversation lie; so many rows stand one behind the other."""
    found: dict[int, set[str]] = defaultdict(set)
    for row, part in sides(prepared).items():
        found[(row - 1) // rows_each].add(part)
    return list(found.values())


def test_successive_cuts_of_one_conversation_stay_in_one_part(dataset: Dataset) -> None:
    rows = []
    for n in range(60):
        turns = [f"question {n}", "first", f"and then {n}?", "second", "and now?", "third"]
        rows += [talk(*turns[:2]), talk(*turns[:4]), talk(*turns)]
    prepared = dataset.prepare(rows, SPEC)
    assert all(len(parts) == 1 for parts in by_talk(prepared, 3))
    assert prepared.summary.test > 0


def test_the_order_the_system_turn_and_case_change_nothing(dataset: Dataset) -> None:
    rows = []
    for n in range(60):
        rows += [
            talk(f"Question  {n}", "first", "and?", "second", system="Be brief."),
            talk(f"question {n}", "First", system=f"It is {n} o'clock."),
        ]
    assert all(len(parts) == 1 for parts in by_talk(dataset.prepare(rows, SPEC), 2))


def test_threads_from_one_first_question_stay_in_one_part(dataset: Dataset) -> None:
    rows = []
    for n in range(60):
        rows += [talk(f"How do I bake bread no {n}?", f"answer {i}", f"why {i}?", "so") for i in range(3)]
    assert all(len(parts) == 1 for parts in by_talk(dataset.prepare(rows, SPEC), 3))


def test_a_greeting_that_strangers_share_does_not_tie_them(dataset: Dataset) -> None:
    rows = [talk("Hi", f"Hello {n}", f"question {n}", "answer") for n in range(100)]
    assert set(sides(dataset.prepare(rows, SPEC)).values()) == set(PARTS)


def test_a_greeting_with_its_reply_ties_a_row_to_those_that_go_on_from_it(dataset: Dataset) -> None:
    rows = []
    for name in (f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"):
        rows += [talk(f"hi {name}", "hello"), talk(f"hi {name}", "hello", "what now?", "this")]
    assert all(len(parts) == 1 for parts in by_talk(dataset.prepare(rows, SPEC), 2))


def test_cuts_of_a_given_test_conversation_leave_train(dataset: Dataset) -> None:
    spec = spec_of(
        {"name": "messages"}, dataset={"files": {"train": "s3://data/train.jsonl", "test": "s3://data/test.jsonl"}}
    )
    train = [talk(f"question {n}", "first", "and?", "second") for n in range(60)]
    test = [talk(f"question {n}", "first") for n in range(50, 65)]
    prepared = dataset.prepare({"train": train, "test": test}, spec)
    assert (prepared.summary.test, prepared.summary.leaked) == (15, 10)
    assert {row for part in ("train", "validation") for row in map(int, prepared.parts[part].rows)} == set(range(1, 51))


def test_one_beginning_of_most_rows_is_named_where_a_part_stays_empty(dataset: Dataset) -> None:
    rows = [talk("question 1", "first", f"and {n}?", "second") for n in range(50)]
    message = dataset.refused(rows, SPEC).message
    assert "50 rows share an input, a group or the beginning of a conversation and stay together" in message


def test_an_opening_is_the_first_turn_or_with_its_reply_where_that_is_a_greeting() -> None:
    def opening(said: str, reply: str) -> bytes | None:
        return opening_of([Message("system", "s"), Message("user", said)], reply)

    assert opening("hello there", "a") != opening("hello there", "b")
    assert opening("where is my order", "a") == opening("where is my order", "b")
    assert opening("order 7", "a") == opening("ORDER  7", "b")
    assert opening_of([Message("system", "s")], "a") is None
