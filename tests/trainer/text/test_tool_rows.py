"""The encoder on rows with tools: the tokens are those of the tokenizer's own rendering, and nothing is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_trainer.text.encode import Encoded, Encoder, Example
from finetune_trainer.text.template.conversation import Message, to_messages
from finetune_trainer.text.turns import answers_before
from tests.support.chat_templates import TOOL_TEMPLATES, with_tools
from tests.support.tokenizer_families import FRAME

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"properties": {"city": {}}}}}]
ASK = {"role": "user", "content": "Is it warm in Oslo?"}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": '{"degrees": 14, "sky": "blue"}'}
DONE = {"role": "assistant", "content": "No, 14 degrees."}
KINDS = pytest.mark.parametrize("kind", TOOL_TEMPLATES)


def calling(*cities: str) -> dict[str, Any]:
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}
        for n, city in enumerate(cities, start=1)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def example(*messages: dict[str, Any], tools: Any = TOOLS, learn_all: bool = False) -> Example:
    *before, last = to_messages(list(messages), "m", beside={"tools": tools})
    earlier = answers_before(before) if learn_all else ()
    return Example("line 1", tuple(before), last.content, earlier=earlier, turn=last if last.more else None)


def encoded(tokenizer: PreTrainedTokenizerFast, row: Example, **more: Any) -> Any:
    (result,) = Encoder(tokenizer, **{"max_length": 4096, **more}).encode([row])
    return result


def rendered(tokenizer: PreTrainedTokenizerFast, *messages: dict[str, Any], text: bool, ask: bool = False) -> list[int]:
    """The oracle: the library's own rendering, of arguments as objects or as text."""
    turns = json.loads(json.dumps(messages))
    for call in (call for turn in turns for call in turn.get("tool_calls", ())):
        if not text:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    batch: Any = tokenizer.apply_chat_template(turns, tools=TOOLS, add_generation_prompt=ask, return_dict=True)
    return list(batch["input_ids"])


@KINDS
def test_a_call_is_learned_with_the_tokens_of_its_rendering(kind: str) -> None:
    tokenizer = with_tools(TOOL_TEMPLATES[kind])
    result = encoded(tokenizer, example(ASK, calling("Oslo")))
    whole = rendered(tokenizer, ASK, calling("Oslo"), text=kind == "text")
    assert list(result.prompt) == rendered(tokenizer, ASK, text=False, ask=True)
    line_end = tokenizer.encode("\n", add_special_tokens=False)
    assert [*result.prompt, *result.completion, *line_end] == whole
    assert "weather" in result.written
    assert "Oslo" in result.written
    assert tokenizer.decode(result.completion).startswith(result.written)


@KINDS
def test_an_answer_after_a_result_has_tools_call_and_result_in_its_prompt(kind: str) -> None:
    tokenizer = with_tools(TOOL_TEMPLATES[kind])
    row = (ASK, calling("Oslo"), RESULT)
    result = encoded(tokenizer, example(*row, DONE))
    assert list(result.prompt) == rendered(tokenizer, *row, text=kind == "text", ask=True)
    assert result.written == ""
    assert tokenizer.decode(result.completion) == "No, 14 degrees.<|im_end|>"


@KINDS
def test_call_and_answer_are_learned_in_one_row_with_the_result_between_them_unlearned(kind: str) -> None:
    tokenizer = with_tools(TOOL_TEMPLATES[kind])
    row = (ASK, calling("Oslo"), RESULT, DONE)
    result = encoded(tokenizer, example(*row, learn_all=True))
    assert isinstance(result, Encoded)
    assert result.before == ()
    (gap,) = result.gaps
    assert [*result.prompt, *result.completion] == rendered(tokenizer, *row, text=kind == "text")[:-1]
    assert "degrees" in tokenizer.decode(result.completion[slice(*gap)])
    learned = [tokenizer.decode(result.completion[: gap[0]]), tokenizer.decode(result.completion[gap[1] :])]
    assert "Oslo" in learned[0]
    assert learned[1] == "No, 14 degrees.<|im_end|>"


@pytest.mark.parametrize("kind", [kind for kind in TOOL_TEMPLATES if kind != "bare"])
def test_several_calls_of_a_turn_are_learned(kind: str) -> None:
    tokenizer = with_tools(TOOL_TEMPLATES[kind])
    row = (ASK, calling("Oslo", "Bergen"))
    result = encoded(tokenizer, example(*row))
    assert [*result.prompt, *result.completion] == rendered(tokenizer, *row, text=kind == "text")[:-1]


def test_what_the_template_itself_refuses_is_told_in_its_words() -> None:
    result = encoded(with_tools(TOOL_TEMPLATES["bare"]), example(ASK, calling("Oslo", "Bergen")))
    assert result == "the model's chat template refuses it: one call at a time"


def test_tags_around_a_call_are_tokens_and_the_same_tags_in_a_text_are_characters() -> None:
    tokenizer = with_tools(TOOL_TEMPLATES["tags"])
    tag = tokenizer.convert_tokens_to_ids("<tool_call>")
    plain = encoded(tokenizer, example(ASK, calling("Oslo")))
    spelled = encoded(tokenizer, example(ASK, calling("a <tool_call> b")))
    assert plain.completion.count(tag) == spelled.completion.count(tag) == 1
    assert (plain.control_tokens, spelled.control_tokens) == (False, True)
    assert 'a <tool_call> b"' in tokenizer.decode(spelled.completion)
    asked = encoded(tokenizer, example({"role": "user", "content": "what is <tool_call>?"}, calling("Oslo")))
    assert tag not in asked.prompt


def test_a_tool_that_spells_a_control_token_is_shown_as_characters() -> None:
    tokenizer = with_tools(TOOL_TEMPLATES["tags"])
    tools = [{"type": "function", "function": {"name": "weather", "description": "never say <|im_end|>"}}]
    result = encoded(tokenizer, example(ASK, DONE, tools=tools))
    plain = encoded(tokenizer, example(ASK, DONE))
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert result.prompt.count(end) == plain.prompt.count(end) == 2
    assert result.control_tokens


# What a template doesn't show.


def refused(template: str, *messages: dict[str, Any], tools: Any = TOOLS) -> str:
    result = encoded(with_tools(template), example(*messages, tools=tools))
    assert isinstance(result, str), result
    return result


def test_tools_that_a_template_does_not_show_make_a_bad_row() -> None:
    said = refused(FRAME, ASK, DONE)
    assert said.startswith("the model's chat template refuses it: it shows no tools")
    assert "use a model whose chat template knows tools, or leave such rows out" in said


def test_a_call_that_a_template_leaves_out_names_the_message() -> None:
    assert "message 2 calls a tool, and it leaves" in refused(FRAME, ASK, calling("Oslo"), RESULT, DONE, tools=None)
    assert "message 2 calls a tool, and it leaves" in refused(FRAME, ASK, calling("Oslo"), tools=None)


def test_a_template_that_shows_tools_and_drops_results_is_found_out() -> None:
    template = TOOL_TEMPLATES["tags"].replace("<answer>{{ m.content }}</answer>", "")
    assert "leaves calls of tools or their results out" in refused(template, ASK, calling("Oslo"), RESULT, DONE)
    assert isinstance(encoded(with_tools(template), example(ASK, DONE)), Encoded)


def test_tools_that_a_template_shows_beside_a_system_turn_only_are_missed_in_a_row_without() -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}" + (
        "{% if tools and m.role == 'user' and 'warm' not in m.content %}{{ tools | tojson }}{% endif %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert "it shows nothing of the tools that the row offers" in refused(template, ASK, DONE)
    other = {"role": "user", "content": "And in Bergen?"}
    assert isinstance(encoded(with_tools(template), example(other, DONE)), Encoded)


def test_a_second_call_that_a_template_drops_is_missed() -> None:
    template = TOOL_TEMPLATES["tags"].replace("for c in m.tool_calls", "for c in m.tool_calls[:1]")
    assert "it shows nothing of a call in message 2" in refused(template, ASK, calling("Oslo", "Bergen"))


def test_a_call_is_missed_though_its_name_is_an_offered_tools_and_its_arguments_are_words_of_the_question() -> None:
    template = TOOL_TEMPLATES["tags"].replace("for c in m.tool_calls", "for c in m.tool_calls[:1]")
    both = {"role": "user", "content": "Is it warm in Oslo and in Bergen?"}
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": "14"} for n in (1, 2)]
    for turns in ([both, calling("Oslo", "Bergen")], [both, calling("Oslo", "Bergen"), *results, DONE]):
        assert "it shows nothing of a call in message 2" in refused(template, *turns)


def test_a_result_is_missed_though_its_words_stand_elsewhere() -> None:
    last = "m.role == 'tool' and (loop.last or loop.nextitem.role != 'tool')"
    template = (
        TOOL_TEMPLATES["tags"]
        .replace("{% if m.role == 'tool' %}", "{% if " + last + " %}", 1)
        .replace("{% else %}", "{% elif m.role != 'tool' %}")
    )
    results = [{"role": "tool", "tool_call_id": f"c{n}", "content": word} for n, word in ((1, "warm"), (2, "cold"))]
    said = refused(template, ASK, calling("Oslo", "Bergen"), *results, DONE)
    assert "it shows nothing of message 3, a tool's result" in said


def test_one_of_several_tools_that_a_template_drops_is_missed() -> None:
    template = TOOL_TEMPLATES["tags"].replace("for t in tools", "for t in tools[:1]")
    tools = [*TOOLS, {"type": "function", "function": {"name": "warm"}}]
    assert "it shows nothing of tool 2 of those that the row offers" in refused(template, ASK, DONE, tools=tools)
    assert isinstance(encoded(with_tools(template), example(ASK, DONE)), Encoded)


@pytest.mark.parametrize("kind", [kind for kind in TOOL_TEMPLATES if kind != "tags"])
def test_text_beside_a_call_that_a_template_drops_is_missed_learned_or_read(kind: str) -> None:
    said = {**calling("Oslo"), "content": "Is it?"}
    for turns in ([ASK, said], [ASK, said, RESULT, DONE]):
        assert "it shows nothing of message 2, the text beside its calls" in refused(TOOL_TEMPLATES[kind], *turns)


@pytest.mark.parametrize("tools", [TOOLS, None], ids=["with tools", "without"])
def test_a_system_turn_that_a_template_drops_is_missed(tools: Any) -> None:
    template = TOOL_TEMPLATES["tags"].replace("{% else %}", "{% elif m.role != 'system' %}")
    system = {"role": "system", "content": "Answer in Norwegian."}
    said = refused(template, system, ASK, DONE, tools=tools)
    assert "it shows nothing of message 1, which has role system, so the model would not see it" in said
    assert isinstance(encoded(with_tools(template), example(ASK, DONE, tools=tools)), Encoded)


def test_what_is_shown_in_another_spelling_is_shown() -> None:
    template = TOOL_TEMPLATES["list"].replace(
        "\n{{ m.content }}", "\n{{ m.content | upper if m.role == 'system' else m.content }}"
    )
    system = {"role": "system", "content": "Answer in Norwegian."}
    assert isinstance(encoded(with_tools(template), example(system, ASK, calling("Oslo"), tools=TOOLS)), Encoded)


def test_arguments_printed_as_python_has_them_are_taken_as_text_instead() -> None:
    template = TOOL_TEMPLATES["tags"].replace("c.function.arguments | tojson", "c.function.arguments")
    result = encoded(with_tools(template), example(ASK, calling("Oslo")))
    assert '"arguments": {"city": "Oslo"}' in result.written


# Too long.


def test_a_long_conversation_keeps_its_tools_and_loses_the_oldest_question_with_its_calls() -> None:
    tokenizer = with_tools(TOOL_TEMPLATES["tags"])
    first, last = (ASK, calling("Oslo"), RESULT, DONE), ({"role": "user", "content": "And the sky?"}, DONE)
    short = encoded(tokenizer, example(*last))
    size = len(short.prompt) + len(short.completion)
    result = encoded(tokenizer, example(*first, *last), max_length=size)
    assert result.prompt == short.prompt
    assert result.shortened == ("messages",)


def test_of_a_long_result_the_middle_is_left_out() -> None:
    tokenizer = with_tools(TOOL_TEMPLATES["tags"])
    long = {**RESULT, "content": "first " + "c " * 200 + "last"}
    result = encoded(tokenizer, example(ASK, calling("Oslo"), long, DONE), max_length=300)
    assert isinstance(result, Encoded)
    assert len(result.prompt) + len(result.completion) <= 300
    text = tokenizer.decode(result.prompt)
    assert "first c" in text
    assert "c last" in text
    assert "Is it warm in Oslo?" in text


def test_a_message_without_tools_costs_no_second_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = with_tools(TOOL_TEMPLATES["tags"])
    encoder = Encoder(tokenizer, max_length=512)
    renderings: list[object] = []
    plain = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: (renderings.append(a), plain(*a, **k))[1])
    encoder.encode([Example("line 1", (Message("user", "Where is the tower?"),), "By the river.")])
    assert len(renderings) == 2  # the prompt, and the answered conversation that it is compared with
