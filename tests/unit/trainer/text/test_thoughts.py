"""What is thought before an answer, in the forms that files have it in."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import Template
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.conversation import Message, as_dicts, plain_turn, to_messages, turn_of
from finetune_trainer.text.template.fields import Projected, project
from finetune_trainer.text.template.labels import open_answer
from finetune_trainer.text.thought_format import ThoughtFormat, opened_by

ASK = {"role": "user", "content": "why?"}


def answer(content: str = "so", **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


def last(content: str = "so", **keys: Any) -> Message:
    return to_messages([ASK, answer(content, **keys)], "m")[-1]


def projected(*messages: dict[str, Any], thinking: str | None = None) -> Projected:
    block = {} if thinking is None else {"messages": {"thinking": thinking}}
    template = resolve_template(Template.model_validate({"name": "messages", **block}))
    return project(template, {"messages": list(messages)}, open_answer)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_a_key_beside_the_answer_holds_the_thought(key: str) -> None:
    turn = last(**{key: " because\n"})
    assert (turn.thought, turn.content) == ("because", "so")


@pytest.mark.parametrize(
    "content",
    [
        "<think>\nbecause\n</think>\n\nso",
        " <think>because</think>so ",
        "<think>because</think>\nso",
        "because\n</think>\n\nso",
        "because</think>\r\nso",
    ],
)
def test_a_tag_before_the_answer_ends_the_thought_also_where_the_first_one_stood_in_the_prompt(content: str) -> None:
    turn = last(content)
    assert (turn.thought, turn.content) == ("because", "so")


@pytest.mark.parametrize("content", ["<think>\n\n</think>\n\nso", "<think></think>so", "so"])
def test_an_empty_thought_is_none(content: str) -> None:
    assert last(content, reasoning_content="") == Message("assistant", "so")


@pytest.mark.parametrize("content", ["the tag </think> ends a thought", "write <think>a</think>\nfirst", "x <think> y"])
def test_a_tag_within_a_text_is_text(content: str) -> None:
    assert last(content) == Message("assistant", content)


def test_tags_of_a_user_are_text() -> None:
    (turn, _) = to_messages([{"role": "user", "content": "<think>a</think>b"}, answer()], "m")
    assert turn == Message("user", "<think>a</think>b")


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (answer("<think>because so"), "message 2 begins with <think> and has no </think>: its thought never ends"),
        (answer(reasoning={"steps": []}, thinking=["a"]), "message 2 has reasoning that is no text"),
        (
            answer("<think>one</think>so", reasoning_content="other"),
            "message 2 has different thoughts in reasoning_content and <think> in its content; keep one of them",
        ),
        (
            answer(reasoning="one", thinking="other"),
            "message 2 has different thoughts in reasoning and thinking; keep one of them",
        ),
        (answer("<think>because</think>"), "message 2 has no text as its content"),
        (answer([{"type": "thinking", "thinking": "because"}]), "message 2 has no text as its content"),
        (
            answer([{"type": "reasoning", "summary": []}, {"type": "text", "text": "so"}]),
            "message 2 has a part of type reasoning without text under reasoning or text in its content",
        ),
        (
            answer([{"type": "text", "text": "so"}, {"type": "thinking", "thinking": "because"}]),
            "message 2 has a part of type thinking behind its answer; put all of its thought before the answer",
        ),
        (
            answer([{"type": "thinking", "thinking": "one"}, "so"], reasoning="other"),
            "message 2 has different thoughts in reasoning and parts of its content; keep one of them",
        ),
    ],
)
def test_a_thought_that_cant_be_read_makes_a_bad_row(turn: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("?", r"\?") + "$"):
        to_messages([ASK, turn], "m")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": " because\n"},
        {"type": "thinking", "thinking": "because", "text": None, "signature": "x"},
        {"type": "reasoning", "reasoning": "because"},
        {"type": "reasoning", "text": "because"},
        {"type": "thinking", "thinking": None, "text": "because"},
    ],
)
def test_parts_of_a_content_hold_the_thought(part: dict[str, Any]) -> None:
    told = last([part, {"type": "text", "text": "so"}])
    assert (told.content, told.thought) == ("so", "because")


def test_a_users_part_that_is_thought_is_no_text() -> None:
    part = {"type": "thinking", "thinking": "because"}
    with pytest.raises(ValueError, match="message 1 has a part of type 'thinking'"):
        to_messages([{"role": "user", "content": [part, "a"]}, answer()], "m")


def test_the_same_thought_in_two_places_is_one() -> None:
    assert last("<think>because</think>so", reasoning_content="because", thinking="because ").thought == "because"


def test_a_thought_stays_with_its_turn_however_it_is_stored() -> None:
    turn = last(reasoning="because")
    assert turn_of(plain_turn(turn)) == turn
    assert as_dicts([turn])[0] == [{"role": "assistant", "content": "so", "reasoning_content": "because"}]
    assert as_dicts([turn], thought="thinking")[0] == [{"role": "assistant", "content": "so", "thinking": "because"}]
    assert turn.thinking("") == Message("assistant", "so")


def test_earlier_answers_are_learned_with_their_thoughts() -> None:
    turns = to_messages([ASK, answer(thinking="one"), ASK, answer()], "m")
    assert [(turn.thought, turn.learned) for turn in turns if turn.role == "assistant"] == [("one", True), ("", True)]


def test_drop_takes_thoughts_out_of_every_turn() -> None:
    row = (ASK, answer(thinking="one"), ASK, answer("<think>two</think>so"))
    kept, dropped = projected(*row), projected(*row, thinking="Drop")
    assert kept.thoughts == ("one", "two")
    assert dropped == projected(ASK, answer(), ASK, answer())
    assert kept == projected(*row, thinking="Keep")


def test_whatever_was_thought_it_is_the_same_question() -> None:
    one, other = (projected(ASK, answer(thinking=thought), ASK, answer()) for thought in ("one", "other"))
    assert one.inputs == other.inputs
    assert one.thoughts != other.thoughts


def test_drop_has_a_digest_of_its_own_and_keep_that_of_before() -> None:
    digests = {
        thinking: resolve_template(Template.model_validate({"name": "messages", "messages": {"thinking": thinking}}))
        for thinking in ("Keep", "Drop")
    }
    before = resolve_template(Template.model_validate({"name": "messages"}))
    assert digests["Keep"].digest == before.digest != digests["Drop"].digest


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", ("<think>\n", "\n</think>\n\n")),
        ("<assistant><think>", ("<think>", "</think>")),
        ("A:[THINK]", ("[THINK]", "[/THINK]")),
        ("<assistant>", ("", "")),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ("<think>\n\n</think>\n\n", "")),
        ("A:[THINK][/THINK]", ("[THINK][/THINK]", "")),
        ("assistant\n<think>\n\n</think>\n\nwell", ("", "")),
    ],
)
def test_a_generation_prompt_opens_a_thought_by_a_tag_that_is_named_for_it(
    prompt: str, opened: tuple[str, str]
) -> None:
    assert opened_by(prompt) == opened


def test_what_the_prompt_has_opened_is_closed_in_any_case() -> None:
    opened, free = ThoughtFormat("", "", "\n</t>\n"), ThoughtFormat("", "<t>", "</t>")
    assert (opened.written("", "so"), free.written("", "so")) == ("\n</t>\nso", "so")
    for form in (opened, free):
        for thought in ("", "because"):
            assert form.answer_in(form.written(thought, "so")) == "so"
