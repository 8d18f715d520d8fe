"""From the dialects of files with tools to one form, or to words that name the message and the mend."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.job import Template
from finetune_trainer.text.template.catalog import resolve_template
from finetune_trainer.text.template.conversation import (
    TOOLS,
    Message,
    as_dicts,
    as_text_of_turn,
    plain_turn,
    to_messages,
    turn_of,
)
from finetune_trainer.text.template.fields import Projected, project
from finetune_trainer.text.template.labels import open_answer

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ASK = {"role": "user", "content": "Is it warm in Oslo?"}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "14"}
DONE = {"role": "assistant", "content": "No, 14 degrees."}


def call(arguments: object = '{"city": "Oslo"}', *, number: str = "c1", **more: Any) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": "weather", "arguments": arguments}, **more}


def calling(*calls: dict[str, Any], content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls or [call()]), **more}


def projected(*messages: dict[str, Any], messages_block: dict[str, Any] | None = None, **columns: Any) -> Projected:
    template = resolve_template(Template.model_validate({"name": "messages", "messages": messages_block or {}}))
    return project(template, {"messages": list(messages), **columns}, open_answer)


@pytest.mark.parametrize("arguments", ['{"city": "Oslo"}', {"city": "Oslo"}, ' {"city":"Oslo"}\n'])
def test_arguments_become_an_object_whether_they_are_one_or_json_text(arguments: object) -> None:
    (_, turn, *_) = to_messages([ASK, calling(call(arguments)), RESULT, DONE], "m")
    assert [c["function"] for c in turn.calls] == [{"name": "weather", "arguments": {"city": "Oslo"}}]


@pytest.mark.parametrize("arguments", ["", None, "{}", {}])
def test_a_call_without_arguments_has_an_empty_object(arguments: object) -> None:
    assert to_messages([ASK, calling(call(arguments))], "m")[-1].calls[0]["function"]["arguments"] == {}


@pytest.mark.parametrize("arguments", ["{city: Oslo}", '["Oslo"]', 7, '"Oslo"', '{"a": NaN}', "[" * 100_000])
def test_arguments_that_are_no_object_name_message_and_function(arguments: object) -> None:
    with pytest.raises(ValueError, match=r"message 2: the arguments of its call of 'weather' are no JSON"):
        to_messages([ASK, calling(call(arguments))], "m")


def test_a_call_keeps_its_id_and_a_result_says_which_it_answers() -> None:
    turns = to_messages([ASK, calling(), RESULT, DONE], "m")
    assert turns[1].calls[0]["id"] == "c1"
    assert turns[2].keys == RESULT


def test_the_old_form_of_functions_is_read() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    result = {"role": "function", "name": "weather", "content": "14"}
    row = projected(ASK, old, result, DONE, functions=[WEATHER["function"]])
    dicts, tools = as_dicts(row.messages)
    assert tools == [WEATHER]
    assert dicts[1]["tool_calls"] == [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
    assert dicts[2] == {"role": "tool", "name": "weather", "content": "14"}


def test_calls_of_sharegpt_are_read() -> None:
    value = [
        {"from": "human", "value": "a"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
        {"from": "observation", "value": "14"},
        {"from": "gpt", "value": "b"},
    ]
    assert [m.role for m in to_messages(value, "m")] == ["user", "assistant", "tool", "assistant"]
    assert to_messages(value, "m")[1].calls[0]["function"] == {"name": "weather", "arguments": {"city": "Oslo"}}


@pytest.mark.parametrize(
    "tools", [[WEATHER], json.dumps([WEATHER]), [WEATHER["function"]]], ids=["list", "text", "bare"]
)
def test_tools_stand_before_the_turns(tools: object) -> None:
    row = projected(ASK, DONE, tools=tools)
    assert row.messages[0].role == TOOLS
    assert json.loads(row.messages[0].content) == [WEATHER]


def test_the_job_names_the_column_of_tools() -> None:
    row = projected(ASK, DONE, messages_block={"tools": "offered"}, offered=[WEATHER], tools="not these")
    assert as_dicts(row.messages)[1] == [WEATHER]
    assert as_dicts(projected(ASK, DONE, messages_block={"tools": "offered"}, tools=[WEATHER]).messages)[1] is None


@pytest.mark.parametrize("nothing", [None, [], "", "[]", " null ", {}])
def test_an_empty_column_of_tools_offers_none(nothing: object) -> None:
    assert [m.role for m in projected(ASK, DONE, tools=nothing).messages] == ["user"]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("weather", "column 'tools' is no JSON list of tools"),
        ({"name": "weather"}, "column 'tools' is no list of tools"),
        ([WEATHER, {"type": "code_interpreter"}], "tool 2 in column 'tools' has type 'code_interpreter'"),
        ([{"type": "function", "function": {"parameters": {}}}], "tool 1 in column 'tools' has no name"),
        (["weather"], "tool 1 in column 'tools' has no name"),
    ],
)
def test_tools_that_are_none_name_the_column(tools: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        projected(ASK, DONE, tools=tools)


def test_two_columns_of_tools_are_one_too_many() -> None:
    with pytest.raises(ValueError, match="columns 'tools' and 'functions' both offer tools"):
        projected(ASK, DONE, tools=[WEATHER], functions=[WEATHER])


def test_the_same_question_with_other_tools_is_another_question() -> None:
    assert projected(ASK, DONE).inputs != projected(ASK, DONE, tools=[WEATHER]).inputs
    assert projected(ASK, DONE).inputs == {"messages": [ASK]}


def test_a_call_is_an_answer_and_its_text_for_whoever_counts_answers_is_json() -> None:
    row = projected(ASK, calling(content="I look it up."))
    assert row.answer == 'I look it up.\n{"name": "weather", "arguments": {"city": "Oslo"}}'
    assert row.turn is not None
    assert row.turn.calls
    assert projected(ASK, DONE).turn is None


def test_turns_come_back_from_how_they_are_stored() -> None:
    turns = to_messages([ASK, calling(), RESULT, DONE], "m", beside={"tools": [WEATHER]})
    assert [turn_of(plain_turn(turn)) for turn in turns] == list(turns)
    assert plain_turn(Message("user", "a")) == ("user", "a")
    assert as_text_of_turn(turns[2]) == '{"name": "weather", "arguments": {"city": "Oslo"}}'


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([ASK, RESULT, DONE], "message 2 is a tool's result, and no call before it"),
        ([ASK, calling(), RESULT, RESULT, DONE], "message 4 is a tool's result, and no call before it"),
        ([ASK, calling(), DONE], "message 2 calls a tool, and message 3 comes before the result of a call"),
        ([ASK, calling(call(), call(number="c2")), RESULT, DONE], "message 4 comes before the result of a call"),
        (
            [ASK, calling(), {**RESULT, "tool_call_id": "c9"}, DONE],
            "message 3 has tool_call_id 'c9', which is no call of message 2: 'c1'",
        ),
        ([{**ASK, "tool_calls": [call()]}, DONE], "message 1 calls a tool and has role user"),
        ([ASK, {**calling(), "tool_calls": {"a": 1}}], "message 2 has tool_calls that are no list"),
        ([ASK, {**calling(), "tool_calls": ["weather"]}], "message 2 has a call that is no object"),
        ([ASK, calling(call(type="custom"))], "message 2 calls a tool of type 'custom'"),
        ([ASK, calling({"id": "a", "type": "function", "function": {}})], "message 2 has a call without the function"),
        ([ASK, {**calling(), "function_call": {"name": "f"}}], "message 2 has both tool_calls and function_call"),
        ([ASK, calling(), RESULT], "the last message must have role assistant"),
        ([ASK, {"role": "function_call", "content": "weather()"}], "message 2 is a call of a tool, and its text is no"),
        ([ASK, {"role": "assistant", "content": None, "audio": {"id": "a"}}], "message 2 has audio"),
    ],
)
def test_calls_and_results_that_do_not_fit_name_the_message(messages: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_messages(messages, "m")


def test_results_of_several_calls_come_in_any_order() -> None:
    results = [{**RESULT, "tool_call_id": number} for number in ("c2", "c1")]
    turns = to_messages([ASK, calling(call(), call(number="c2")), *results, DONE], "m")
    assert [m.role for m in turns] == ["user", "assistant", "tool", "tool", "assistant"]


def test_calls_may_follow_results() -> None:
    assert len(to_messages([ASK, calling(), RESULT, calling(), RESULT, DONE], "m")) == 6


def test_several_calls_where_the_row_says_one_at_a_time_are_refused() -> None:
    both = calling(call(), call(number="c2"))
    with pytest.raises(ValueError, match="parallel_tool_calls is false, and a message calls several tools"):
        projected(ASK, both, tools=[WEATHER], parallel_tool_calls=False)
    assert projected(ASK, both, tools=[WEATHER], parallel_tool_calls=True).turn is not None
    assert projected(ASK, calling(), tools=[WEATHER], parallel_tool_calls=False).turn is not None


def test_a_call_of_weight_0_is_read_and_not_learned() -> None:
    turns = to_messages([ASK, calling(weight=0), RESULT, DONE], "m")
    assert [m.learned for m in turns if m.role == "assistant"] == [False, True]


def offered(properties: dict[str, Any], name: str = "weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties, **more}}}


CITY = {"city": {"type": "string"}}


def test_a_tool_has_no_parameters_that_are_null_since_those_are_other_tools() -> None:
    padded = {
        **offered({**CITY, "a": None, "deep": {"type": "object", "properties": {"x": {"type": "t"}, "y": None}}}),
        "strict": None,
    }
    turns = to_messages([ASK, DONE], "m", beside={"tools": [padded]})
    plain = offered({**CITY, "deep": {"type": "object", "properties": {"x": {"type": "t"}}}})
    assert as_dicts(turns)[1] == [plain]


def test_null_as_a_value_of_a_definition_stays() -> None:
    tool = offered({"city": {"enum": ["Oslo", None], "default": None}, "other": {"const": None, "examples": [None]}})
    assert as_dicts(to_messages([ASK, DONE], "m", beside={"tools": [tool]}))[1] == [tool]


@pytest.mark.parametrize(
    ("tool", "kept"),
    [
        (offered(CITY), {"city": None}),
        (offered({}), {}),
        (offered({**CITY, "a": {"type": "number"}}), {"city": None, "a": None}),
        (offered(CITY, additionalProperties=True), {"city": None, "a": None}),
        (offered(CITY, name="other"), {"city": None, "a": None}),
        ({"type": "function", "function": {"name": "weather"}}, {"city": None, "a": None}),
    ],
    ids=["a tool's own", "of a tool without", "both its own", "any", "not offered", "nothing is said"],
)
def test_a_call_has_no_null_arguments_that_its_tool_does_not_have(tool: dict[str, Any], kept: dict[str, Any]) -> None:
    turns = to_messages([ASK, calling(call({"city": None, "a": None}))], "m", beside={"tools": [tool]})
    assert turns[-1].calls[0]["function"]["arguments"] == kept
    assert turns[-1].calls[0]["id"] == "c1"


@pytest.mark.parametrize(
    ("content", "read"),
    [
        (14, "14"),
        (0, "0"),
        (2.5, "2.5"),
        (False, "false"),
        ({"a": "é"}, '{"a": "é"}'),
        ([{"a": 1}, {"a": 2}], '[{"a": 1}, {"a": 2}]'),
        ([1, 2], "[1, 2]"),
        ([{"type": "text", "text": "one"}, "two"], "one\ntwo"),
        (None, ""),
    ],
)
def test_a_result_that_is_a_value_is_read_as_json_and_never_as_nothing(content: object, read: str) -> None:
    (_, _, result, _) = to_messages([ASK, calling(), {**RESULT, "content": content}, DONE], "m")
    assert result.content == read


UNUSABLE = pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
        ('{"a": 1e400}', "the number 1e400 is too large"),
        ('{"a": "\\ud83d"}', "holds half of a surrogate pair"),
        ('{"a": NaN}', "NaN is not a JSON number"),
    ],
)
"""What Python's reader takes."""


@UNUSABLE
def test_json_text_in_a_cell_is_held_to_the_rule_of_a_row(text: str, why: str) -> None:
    turn = f'{{"role": "assistant", "content": "x", "more": {text}}}'
    with pytest.raises(ValueError, match=f"no JSON list of messages: {why}"):
        to_messages(f'[{{"role": "user", "content": "q"}}, {turn}]', "m")
    with pytest.raises(ValueError, match=f"are no JSON: {why}"):
        to_messages([ASK, calling(call(text))], "m")
    with pytest.raises(ValueError, match=f"no JSON list of tools: {why}"):
        to_messages([ASK, DONE], "m", beside={"tools": f'[{{"name": "f", "parameters": {text}}}]'})


def test_the_flat_form_of_a_tool_is_that_with_a_function() -> None:
    flat = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    assert as_dicts(to_messages([ASK, DONE], "m", beside={"tools": [flat]}))[1] == [WEATHER]
