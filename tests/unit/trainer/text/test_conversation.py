"""From the dialects of chat files to turns, or to words that name the message and the mend."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.job import Template
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.conversation import Message, to_messages
from finetune_trainer.text.template.fields import project
from finetune_trainer.text.template.labels import open_answer


def turns(*roles: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": f" {role} {i} "} for i, role in enumerate(roles)]


def marked(**marks: Any) -> list[dict[str, Any]]:
    """Two answers; ``a1`` and ``a3`` are what stands in them beside role and content."""
    rows = turns("user", "assistant", "user", "assistant")
    rows[1].update(marks.get("a1", {}))
    rows[3].update(marks.get("a3", {}))
    return rows


@pytest.mark.parametrize(
    "roles", [("user", "assistant"), ("system", "user", "assistant"), ("user", "assistant", "user", "assistant")]
)
def test_the_last_turn_is_the_answer_and_all_before_it_the_prompt(roles: tuple[str, ...]) -> None:
    expected = [Message(role, f"{role} {i}") for i, role in enumerate(roles)]
    assert list(to_messages(turns(*roles), "m")) == expected
    assert list(to_messages(json.dumps(turns(*roles)), "m")) == expected
    template = resolve_template(Template.model_validate({"name": "messages", "columns": {"messages": "m"}}))
    result = project(template, {"m": turns(*roles)}, open_answer)
    assert (list(result.messages), result.answer) == (expected[:-1], expected[-1].content)
    assert result.inputs == {"messages": [{"role": m.role, "content": m.content} for m in expected[:-1]]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("text", "'m' is no JSON list of messages"),
        ({"role": "user"}, "'m' is no list of objects"),
        (["a"], "'m' is no list of objects"),
        ([], "the last message must have role assistant"),
        (turns("user"), "the last message must have role assistant"),
        (turns("user", "assistant", "user"), "the last message must have role assistant"),
        (turns("system", "assistant"), "no message has role user"),
        (turns("assistant"), "no message has role user"),
        (turns("user", "user", "assistant"), "alternate between user and assistant"),
        (turns("user", "assistant", "assistant"), "alternate between user and assistant"),
        (turns("user", "system", "assistant"), "only the first message may have role system"),
        ([{"content": "a"}], "message 1 has no role; a message has role and content"),
        ([{"role": "user", "content": ""}], "message 1 has no text"),
        ([{"role": "user", "content": " \n"}], "message 1 has no text"),
        ([{"role": "user", "content": None}], "message 1 has no text"),
        ([{"role": "user", "content": []}], "message 1 has no text"),
        ([{"role": "user", "content": {"text": "a"}}], "message 1 has no text"),
    ],
)
def test_other_conversations_are_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_messages(value, "m")


@pytest.mark.parametrize(
    ("role", "mend"),
    [
        ("critic", "use system, user, assistant or tool"),
        (None, "use system, user, assistant or tool"),
    ],
)
def test_a_role_of_another_dialect_is_named_with_its_mend(role: object, mend: str) -> None:
    with pytest.raises(ValueError, match=rf"^message 1 has role '{role}'; {mend}$"):
        to_messages([{"role": role, "content": "a"}, {"role": "assistant", "content": "b"}], "m")


@pytest.mark.parametrize("nothing", [None, []])
def test_a_turn_with_an_empty_list_of_calls_is_a_plain_one(nothing: object) -> None:
    assert to_messages(marked(a3={"tool_calls": nothing}), "m")[-1] == Message("assistant", "assistant 3")


@pytest.mark.parametrize(
    ("role", "plain"),
    [("developer", "system"), ("human", "user"), ("gpt", "assistant"), ("Model", "assistant"), ("User", "user")],
)
def test_a_role_of_another_dialect_is_read_as_what_it_is(role: str, plain: str) -> None:
    before = {"system": [], "user": [], "assistant": turns("user")}[plain]
    after = {"system": turns("user", "assistant"), "user": turns("assistant"), "assistant": []}[plain]
    messages = to_messages([*before, {"role": role, "content": "a"}, *after], "m")
    assert messages[len(before)] == Message(plain, "a")


def test_the_turns_of_sharegpt_are_read() -> None:
    value = [{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert to_messages(value, "m") == (Message("system", "s"), Message("user", "a"), Message("assistant", "b"))


def test_a_greeting_before_the_first_question_stays_in_the_prompt() -> None:
    value = [{"from": "gpt", "value": "Hello"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert [m.content for m in to_messages(value, "m")] == ["Hello", "a", "b"]


@pytest.mark.parametrize("column", ["system", "system_prompt"])
def test_a_system_turn_in_a_column_of_its_own_stands_before_the_others(column: str) -> None:
    told = to_messages(turns("user", "assistant"), "m", beside={column: " Be kind.\n", "other": "x"})
    assert told == (Message("system", "Be kind."), Message("user", "user 0"), Message("assistant", "assistant 1"))


@pytest.mark.parametrize("nothing", [None, "", " \n", "system 0"])
def test_an_empty_or_the_same_system_turn_in_a_column_changes_nothing(nothing: object) -> None:
    value = turns("system", "user", "assistant")
    assert to_messages(value, "m", beside={"system": nothing}) == to_messages(value, "m")


def test_a_column_that_holds_the_turns_is_no_system_turn() -> None:
    value = turns("user", "assistant")
    assert to_messages(value, "system", beside={"system": value}) == to_messages(value, "m")


@pytest.mark.parametrize(
    ("beside", "roles", "message"),
    [
        ({"system": 3}, ("user", "assistant"), "column 'system', the system turn beside the messages, is no text"),
        (
            {"system": "other"},
            ("system", "user", "assistant"),
            "column 'system' has another text than the first message, of role system; keep one",
        ),
        (
            {"system": "a", "system_prompt": "b"},
            ("user", "assistant"),
            "columns 'system' and 'system_prompt' have different texts; keep one of them",
        ),
    ],
)
def test_a_system_turn_that_cant_be_told_makes_a_bad_row(
    beside: dict[str, Any], roles: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        to_messages(turns(*roles), "m", beside=beside)


@pytest.mark.parametrize("other", [{"role": "user"}, {"content": "c"}])
def test_a_turn_of_two_dialects_that_differ_is_refused(other: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="message 2 has from and value beside another role or content"):
        to_messages([*turns("user"), {"from": "gpt", "value": "b", **other}], "m")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": " a "}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "input_text", "text": "a"}], "a"),
        ([{"text": "a"}, "b"], "a\nb"),
    ],
)
def test_content_as_parts_of_text_is_text(content: object, text: str) -> None:
    assert to_messages([{"role": "user", "content": content}, *turns("assistant")], "m")[0] == Message("user", text)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"type": "image"}, "image"),
        ({"type": "text", "text": None}, "text"),
        ({"type": ["text"], "text": "a"}, r"\['text'\]"),
    ],
)
def test_a_part_that_is_no_text_is_named(part: object, kind: str) -> None:
    with pytest.raises(ValueError, match=f"message 1 has a part of type .{kind}.; only parts of type text"):
        to_messages([{"role": "user", "content": [{"type": "text", "text": "a"}, part]}, *turns("assistant")], "m")


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"weight": "0"}, {"weight": False}, {"train": False}])
def test_the_last_answer_that_is_not_marked_is_the_one_to_learn(mark: dict[str, Any]) -> None:
    assert [m.content for m in to_messages(marked(a3=mark), "m")] == ["user 0", "assistant 1"]


@pytest.mark.parametrize("mark", [{"weight": 1}, {"weight": 1.0}, {"weight": "1"}, {"weight": None}, {"train": True}])
def test_an_answer_that_is_marked_to_be_learned_is_the_last_one(mark: dict[str, Any]) -> None:
    assert len(to_messages(marked(a3=mark), "m")) == 4


def test_an_earlier_answer_of_weight_0_is_context() -> None:
    assert len(to_messages(marked(a1={"weight": 0}, a3={"weight": 1}), "m")) == 4


def test_a_conversation_without_an_answer_to_learn_is_refused() -> None:
    with pytest.raises(ValueError, match="its answers are all marked as not to be learned"):
        to_messages(marked(a1={"weight": 0}, a3={"weight": 0}), "m")


@pytest.mark.parametrize("weight", [0.5, 2, -1, "high", [0]])
def test_another_weight_is_refused(weight: object) -> None:
    with pytest.raises(ValueError, match=r"message 4 has weight .*; only 0"):
        to_messages(marked(a3={"weight": weight}), "m")
