"""The encoder on rows with thoughts: what is learned is what the model's template writes, after what it asks with."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.chat import ChatFormat
from finetune_trainer.text.encode import Encoded, Encoder, Example
from finetune_trainer.text.template.conversation import Message, to_messages
from finetune_trainer.text.thought_format import Thoughts
from finetune_trainer.text.turns import answers_before
from tests.support.chat_templates import THINKING_TEMPLATES, TOOL_TEMPLATES, that_thinks

KINDS = pytest.mark.parametrize("kind", THINKING_TEMPLATES)
OF_THE_TEMPLATE = {"switched": "reasoning_content", "opened": "reasoning_content", "channels": "reasoning"}
"""Templates that write thoughts themselves, and the key by which they take them."""
MARKS = {
    "switched": Thoughts("<think>", "</think>"),
    "opened": Thoughts("", "</think>"),
    "cut": Thoughts("", "</think>"),
    "plain": Thoughts("<think>", "</think>"),
    "channels": Thoughts("[THINK]", "[/THINK][SAY]"),
}
WHOLE = {
    "switched": "<think>\nit rains\n</think>\n\nstay in<|im_end|>",
    "opened": "it rains\n</think>\n\nstay in<|im_end|>",
    "cut": "it rains\n</think>\n\nstay in<|im_end|>",
    "plain": "<think>\nit rains\n</think>\n\nstay in<|im_end|>",
    "channels": "[THINK]it rains[/THINK][SAY]stay in<|im_end|>",
}
ASK = {"role": "user", "content": "what shall I do?"}


def said(content: str = "stay in", thought: str = "it rains") -> dict[str, Any]:
    return {"role": "assistant", "content": content, "reasoning_content": thought}


def example(*messages: dict[str, Any], learn_all: bool = False) -> Example:
    *before, last = to_messages(list(messages), "m")
    earlier = answers_before(before) if learn_all else ()
    return Example("line 1", tuple(before), last.content, earlier=earlier, turn=last if last.more else None)


def encoded(tokenizer: PreTrainedTokenizerFast, row: Example, *, thinking: bool = True) -> Any:
    (result,) = Encoder(tokenizer, max_length=4096, thinking=thinking).encode([row])
    return result


def rendered(tokenizer: PreTrainedTokenizerFast, *messages: dict[str, Any], key: str, ask: bool, **more: Any) -> Any:
    """The oracle: the library's own rendering."""
    turns = [{key if name == "reasoning_content" else name: text for name, text in m.items()} for m in messages]
    batch: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=ask, return_dict=True, **more)
    return list(batch["input_ids"])


@KINDS
@pytest.mark.parametrize("family", ["byte-level", "unigram"])
def test_thought_and_answer_are_learned_as_the_model_writes_them(kind: str, family: str) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind], family)
    encoder = Encoder(tokenizer, max_length=4096, thinking=True)
    (row,) = encoder.encode([example(ASK, said())])
    assert isinstance(row, Encoded)
    assert encoder.thoughts is not None
    assert encoder.thoughts.marks == MARKS[kind]
    assert list(row.prompt) == rendered(tokenizer, ASK, key="reasoning_content", ask=True)
    assert "".join(tokenizer.decode(row.completion).split()) == "".join(WHOLE[kind].split())
    assert row.written == ""
    if family == "byte-level":
        assert tokenizer.decode(row.completion) == WHOLE[kind]
    if key := OF_THE_TEMPLATE.get(kind):
        whole = rendered(tokenizer, ASK, said(), key=key, ask=False)
        assert [*row.prompt, *row.completion] == whole[: len(row.prompt) + len(row.completion)]


@KINDS
def test_marks_of_a_thought_are_control_tokens_and_the_same_marks_in_its_text_are_characters(kind: str) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind])
    mark = tokenizer.convert_tokens_to_ids("[/THINK]" if kind == "channels" else "</think>")
    plain = encoded(tokenizer, example(ASK, said()))
    assert plain.completion.count(mark) == 1
    spelled = encoded(tokenizer, example(ASK, said("x <|im_start|> or [TOOL_CALLS]", "a <|im_end|> b")))
    assert spelled.control_tokens
    assert spelled.completion.count(mark) == 1
    assert tokenizer.decode(spelled.completion).endswith("x <|im_start|> or [TOOL_CALLS]<|im_end|>")
    assert spelled.completion.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1
    assert "a <|im_end|> b" in tokenizer.decode(spelled.completion)


@KINDS
def test_a_thought_that_holds_its_own_end_makes_a_bad_row(kind: str) -> None:
    end = MARKS[kind].closing
    result = encoded(that_thinks(THINKING_TEMPLATES[kind]), example(ASK, said(thought=f"a {end} b")))
    assert result == f"the model's chat template refuses it: the thought holds {end}, which ends a thought"


@pytest.mark.parametrize(
    ("kind", "completion"),
    [
        ("switched", "<think>\n\n</think>\n\nstay in<|im_end|>"),
        ("opened", "\n</think>\n\nstay in<|im_end|>"),
        ("cut", "\n</think>\n\nstay in<|im_end|>"),
        ("plain", "stay in<|im_end|>"),
        ("channels", "[SAY]stay in<|im_end|>"),
    ],
)
def test_an_answer_without_a_thought_among_others_is_learned_as_the_template_has_it(kind: str, completion: str) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind])
    row = encoded(tokenizer, example(ASK, said(thought="")))
    assert list(row.prompt) == rendered(tokenizer, ASK, key="reasoning_content", ask=True)
    assert tokenizer.decode(row.completion) == completion


@KINDS
def test_earlier_turns_are_asked_with_as_the_template_shows_them(kind: str) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind])
    talk = (ASK, said("go out", "the sun shines"), ASK)
    row = encoded(tokenizer, example(*talk, said()))
    key = OF_THE_TEMPLATE.get(kind, "reasoning_content")
    assert list(row.prompt) == rendered(tokenizer, *talk, key=key, ask=True)
    assert ("the sun shines" in tokenizer.decode(row.prompt)) == (kind == "channels")


@KINDS
def test_all_answers_are_learned_with_their_thoughts_each_after_what_it_is_asked_with(kind: str) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind])
    row = encoded(tokenizer, example(ASK, said("go out", "the sun shines"), ASK, said(), learn_all=True))
    rows = (*row.before, row)
    assert sum(len(one.answers) for one in rows) == 2
    assert len(rows) == (1 if kind == "channels" else 2)
    first = encoded(tokenizer, example(ASK, said("go out", "the sun shines")))
    assert rows[0].completion[: len(first.completion)] == first.completion


@pytest.mark.parametrize("kind", [k for k in THINKING_TEMPLATES if k not in ("plain", "channels")])
def test_a_model_that_is_not_to_think_is_asked_with_an_empty_thought(kind: str) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind])
    row = encoded(tokenizer, example(ASK, said(thought="")), thinking=False)
    assert tokenizer.decode(row.prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert tokenizer.decode(row.completion) == "stay in<|im_end|>"


@KINDS
@pytest.mark.parametrize("thinking", [True, False])
def test_a_server_that_knows_no_switch_asks_with_the_same_tokens(kind: str, thinking: bool) -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES[kind])
    row = encoded(tokenizer, example(ASK, said("go out", ""), ASK, said(thought="")), thinking=thinking)
    chat = ChatFormat.find(tokenizer, thinking=thinking)
    assert chat is not None
    tokenizer.chat_template = chat.template
    turns = (ASK, {"role": "assistant", "content": "go out"}, ASK)
    for switches in ({}, {"enable_thinking": True}, {"enable_thinking": False}, {"thinking": False}):
        assert rendered(tokenizer, *turns, key="reasoning_content", ask=True, **switches) == list(row.prompt)
    again = ChatFormat.find(tokenizer, thinking=thinking)
    assert again is not None
    assert again.prompt([Message("user", "a")]) == chat.prompt([Message("user", "a")])


def test_a_switch_that_is_off_by_itself_is_on_where_thoughts_are_learned() -> None:
    template = THINKING_TEMPLATES["plain"].replace("assistant\n{%", "assistant\n{{ '<think>' if thinking else '' }}{%")
    tokenizer = that_thinks(template)
    row = encoded(tokenizer, example(ASK, said()))
    assert tokenizer.decode(row.prompt).endswith("assistant\n<think>")
    assert tokenizer.decode(row.completion) == "\nit rains\n</think>\n\nstay in<|im_end|>"


def test_a_call_of_a_tool_is_learned_with_its_thought_and_shown_without() -> None:
    tokenizer = that_thinks(TOOL_TEMPLATES["list"])
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    turn = {**said("", "I should look"), "tool_calls": [call]}
    row = encoded(tokenizer, example(ASK, turn))
    text = tokenizer.decode(row.completion)
    assert text.startswith("<think>\nI should look\n</think>\n\n[TOOL_CALLS][{")
    assert "Oslo" in row.written
    assert "look" not in row.written


def test_a_template_that_changes_the_answer_of_a_thought_makes_a_bad_row() -> None:
    tokenizer = that_thinks(THINKING_TEMPLATES["switched"].replace("lstrip('\n') }}", "upper() }}"))
    with pytest.raises(StageError) as caught:
        encoded(tokenizer, example(ASK, said()))
    assert caught.value.reason is Reason.MODEL_INVALID
    tokenizer = that_thinks(THINKING_TEMPLATES["switched"].replace("lstrip('\n') }}", "replace('y', '') }}"))
    assert "in another way than the row" in encoded(tokenizer, example(ASK, said()))
