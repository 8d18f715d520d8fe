"""Calls of tools read back out of a text: what is the same calls as JSON, and above all what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.text.call_format import CallFormat
from finetune_trainer.text.chat import ChatFormat
from finetune_trainer.text.encode import Encoded, Encoder
from finetune_trainer.text.example import Example
from finetune_trainer.text.template.conversation import Message
from tests.support.chat_templates import TOOL_TEMPLATES, that_thinks, with_tools

READ = [kind for kind in TOOL_TEMPLATES if kind != "elements"]
QUESTION = (Message("user", "Is it warm in Oslo?"),)
WITH_IDS = TOOL_TEMPLATES["tags"].replace('{"name":', '{"id": {{ c.id | tojson }}, "type": "function", "name":')


def turn(*calls: tuple[str, dict[str, Any]], content: str = "") -> Message:
    made = [
        {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(calls)
    ]
    return Message("assistant", content, more=json.dumps({"tool_calls": made}, ensure_ascii=False))


def chat_of(template: str) -> ChatFormat:
    chat = ChatFormat.find(with_tools(template))
    assert chat is not None
    return chat


def format_of(template: str) -> CallFormat:
    found = chat_of(template).calls()
    assert found is not None
    return found


def written(template: str, *calls: tuple[str, dict[str, Any]], content: str = "") -> str:
    chat = chat_of(template)
    return chat.answer(QUESTION, chat.prompt(QUESTION), turn(*calls, content=content)).strip()


@pytest.mark.parametrize("kind", READ)
def test_calls_that_a_template_wrote_are_read_back(kind: str) -> None:
    found = format_of(TOOL_TEMPLATES[kind])
    arguments = {"city": 'Ås "x" {', "days": [1, 2.5, None, True], "at": {"a": {}}}
    for calls in ([("weather", arguments)], [("weather", {}), ("other_tool", arguments)]):
        if kind == "bare" and len(calls) > 1:
            continue
        assert found.holds(written(TOOL_TEMPLATES[kind], *calls), turn(*calls))


@pytest.mark.parametrize("kind", READ)
def test_the_order_of_keys_and_white_space_are_not_read(kind: str) -> None:
    found = format_of(TOOL_TEMPLATES[kind])
    one = written(TOOL_TEMPLATES[kind], ("weather", {"city": "Oslo", "days": 2}))
    arguments = '{"city": "Oslo", "days": 2}'
    other = one.replace(arguments, '{"days":2,\n "city" :"\\u004fslo" }')
    assert other != one
    assert found.read(other) == found.read(one)
    if kind != "text":
        name = '"parameters"' if kind == "bare" else '"arguments"'
        turned = one.replace(f'"name": "weather", {name}: {arguments}', f'{name}: {arguments}, "name": "weather"')
        assert turned != one
        assert found.read(turned) == found.read(one)


ONE: tuple[str, dict[str, Any]] = ("weather", {"city": "Oslo", "days": 1})
OTHERS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "another name": [("Weather", ONE[1])],
    "another value": [("weather", {"city": "oslo", "days": 1})],
    "text for a number": [("weather", {"city": "Oslo", "days": "1"})],
    "true for 1": [("weather", {"city": "Oslo", "days": True})],
    "1.0 for 1": [("weather", {"city": "Oslo", "days": 1.0})],
    "null for 1": [("weather", {"city": "Oslo", "days": None})],
    "a list for a value": [("weather", {"city": ["Oslo"], "days": 1})],
    "a missing argument": [("weather", {"city": "Oslo"})],
    "an argument more": [("weather", {"city": "Oslo", "days": 1, "unit": None})],
    "no argument": [("weather", {})],
    "nested under another": [("weather", {"city": {"city": "Oslo", "days": 1}})],
    "a second call": [ONE, ("other", {})],
    "twice": [ONE, ONE],
}


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("what", OTHERS)
def test_other_calls_are_other_ones(kind: str, what: str) -> None:
    found, calls = format_of(TOOL_TEMPLATES[kind]), OTHERS[what]
    if kind == "bare" and len(calls) > 1:
        return
    read = found.read(written(TOOL_TEMPLATES[kind], *calls))
    assert read is not None
    assert read != found.read(written(TOOL_TEMPLATES[kind], ONE))


@pytest.mark.parametrize("kind", [kind for kind in READ if kind != "bare"])
def test_calls_in_another_order_and_fewer_calls_are_other_ones(kind: str) -> None:
    found, template = format_of(TOOL_TEMPLATES[kind]), TOOL_TEMPLATES[kind]
    both = found.read(written(template, ONE, ("other", {"a": 1})))
    assert both is not None
    assert found.read(written(template, ("other", {"a": 1}), ONE)) != both
    assert found.read(written(template, ONE)) != both
    assert found.read(written(template, ("other", ONE[1]), ("weather", {"a": 1}))) != both


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize(
    ("what", "arguments"),
    [
        ("a key twice", '{"city": "Bergen", "city": "Oslo", "days": 1}'),
        ("the same key and value twice", '{"city": "Oslo", "city": "Oslo", "days": 1}'),
        ("a key twice further in", '{"city": "Oslo", "days": {"a": 1, "a": 1}}'),
        ("no quotes", "{'city': 'Oslo', 'days': 1}"),
        ("not closed", '{"city": "Oslo", "days": 1'),
        ("a comma more", '{"city": "Oslo", "days": 1,}'),
        ("no number", '{"city": "Oslo", "days": NaN}'),
        ("an endless number", '{"city": "Oslo", "days": 1e99999999999999999999}'),
        ("a list", '["Oslo", 1]'),
        ("JSON as text", '"{\\"city\\": \\"Oslo\\", \\"days\\": 1}"'),
        ("nested without end", '{"city": ' + "[" * 100_000),
        ("nothing", ""),
    ],
)
def test_what_is_no_json_object_once_is_not_read(kind: str, what: str, arguments: str) -> None:
    one = written(TOOL_TEMPLATES[kind], ONE)
    other = one.replace('{"city": "Oslo", "days": 1}', arguments)
    assert other != one
    assert format_of(TOOL_TEMPLATES[kind]).read(other) is None


@pytest.mark.parametrize("kind", READ)
def test_text_around_calls_is_not_passed_over(kind: str) -> None:
    found, one = format_of(TOOL_TEMPLATES[kind]), written(TOOL_TEMPLATES[kind], ONE)
    alone = found.read(one)
    assert found.read(f"{one} Done.") is None
    assert found.read(f"{one}\n{{}}") is None
    assert found.read(f"Sure. {one}") != alone
    assert found.read("") is None
    assert found.read('{"city": "Oslo", "days": 1}') is None


def test_text_beside_calls_is_compared_as_text() -> None:
    template = TOOL_TEMPLATES["tags"]
    found = format_of(template)
    one = written(template, ONE, content='I look: {"a": 1}.')
    assert found.holds(one, turn(ONE, content='I look: {"a": 1}.'))
    assert found.read(one.replace('"Oslo", "days": 1', '"Oslo",  "days": 1')) == found.read(one)
    assert found.read(one.replace('{"a": 1}', '{"a":1}')) != found.read(one)
    assert found.read(one.removeprefix('I look: {"a": 1}.')) != found.read(one)


def test_a_missing_or_additional_key_of_the_call_itself_is_not_read() -> None:
    found, one = format_of(TOOL_TEMPLATES["tags"]), written(TOOL_TEMPLATES["tags"], ONE)
    assert found.read(one.replace('"name"', '"note": "", "name"')) is None
    assert found.read(one.replace('"name": "weather", ', "")) is None
    assert found.read(one.replace('"weather"', "null")) is None
    assert found.read(one.replace("<tool_call>", "<tool_calls>")) is None
    assert found.read(one.removesuffix("</tool_call>")) is None


def test_ids_of_calls_say_nothing_of_what_is_called_and_what_else_is_written_does() -> None:
    found, one = format_of(WITH_IDS), written(WITH_IDS, ONE)
    assert '"id": "c0"' in one
    assert found.read(one.replace('"c0"', '"other"')) == found.read(one) is not None
    assert found.read(one.replace('"c0"', "7")) is None
    assert found.read(one.replace('"function"', '"code"')) is None


@pytest.mark.parametrize(
    "template",
    [
        TOOL_TEMPLATES["elements"],
        TOOL_TEMPLATES["tags"].replace("<tool_call>\n", "<tool_call>{{ c.id }}\n"),
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ],
    ids=["no JSON", "an id outside of it", "no calls"],
)
def test_a_template_that_writes_calls_in_another_way_has_no_format(template: str) -> None:
    assert chat_of(template).calls() is None


def test_a_format_that_wants_a_name_apart_takes_no_part_of_a_word_for_it() -> None:
    found = format_of(TOOL_TEMPLATES["text"])
    assert found.read('callweather\n{"city": "Oslo"}\ndone') is None
    assert found.read('call weather {"city": "Oslo"} done') == found.read('call weather\n{"city": "Oslo"}\ndone')
    assert found.read('call the weather\n{"city": "Oslo"}\ndone') is None


def encoded(template: str, answer: Message) -> Encoded:
    row = Example("line 1", QUESTION, answer.content, turn=answer if answer.more else None)
    (result,) = Encoder(with_tools(template), max_length=4096).encode([row])
    assert isinstance(result, Encoded)
    return result


def test_a_row_is_compared_as_calls_where_they_are_read_back_out_of_its_own_text() -> None:
    assert encoded(TOOL_TEMPLATES["tags"], turn(ONE)).called
    assert not encoded(TOOL_TEMPLATES["elements"], turn(ONE)).called
    text = Message("assistant", '{"name": "weather", "parameters": {"city": "Oslo"}}')
    assert not encoded(TOOL_TEMPLATES["bare"], text).called
    changed = TOOL_TEMPLATES["tags"].replace("c.function.arguments | tojson", "c.function.arguments | tojson | lower")
    assert encoded(changed, turn(("weather", {"city": "oslo"}))).called
    assert not encoded(changed, turn(ONE)).called


def test_a_thought_before_a_call_is_no_part_of_the_format() -> None:
    template = (
        TOOL_TEMPLATES["list"]
        .replace(
            "[TOOL_CALLS]",
            "{% if m.reasoning_content %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}[TOOL_CALLS]",
        )
        .replace(
            "{% else %}",
            "{% elif m.role == 'assistant' %}<|im_start|>assistant\n{% if m.reasoning_content %}[THINK]"
            "{{ m.reasoning_content }}[/THINK]{% endif %}{{ m.content }}<|im_end|>\n{% else %}",
        )
    )
    encoder = Encoder(that_thinks(template), max_length=4096, thinking=True)
    answer = turn(ONE).thinking("I look it up.")
    (result,) = encoder.encode([Example("line 1", QUESTION, "", turn=answer)])
    assert isinstance(result, Encoded)
    assert result.written == written(TOOL_TEMPLATES["list"], ONE)
    assert result.called
