"""A fixed chat template says without arguments what the model's own says with its switches off, on any day."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.chat import ChatFormat
from finetune_trainer.text.encode import Encoder
from finetune_trainer.text.fixed_template import fix_template
from finetune_trainer.text.template.conversation import Message
from tests.support.encode_kit import conversation, decode, encode, with_template
from tests.support.tiny_tokenizer import CHAT_TEMPLATE

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n"
THINK = "<think>\n\n</think>\n\n"
SWITCHED = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}<|im_start|>assistant\n"
    + THINK
    + "{{ m.content }}<|im_end|>\n{% else %}"
    + TURN
    + "{% endif %}{% endfor %}"
    + ASK
    + "{% if enable_thinking is defined and enable_thinking is false %}"
    + THINK
    + "{% endif %}{% endif %}"
)
"""Thinks unless it is told not to; an answered turn has an empty block."""
DATED = (
    "{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n'
    '    {%- else %}\n        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "<|im_start|>system\nToday: {{ date_string }}<|im_end|>\n{% for m in messages %}" + TURN + "{% endfor %}" + ASK
) + "{% endif %}"
CHANNEL = (
    "{%- macro system() %}You are helpful. {{ strftime_now('%Y-%m-%d') }}{% endmacro -%}"
    "<|im_start|>system\n{{ system() }}<|im_end|>\n{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|im_start|>assistant<|channel|>final<|message|>{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}" + TURN + "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}\n"
)
"""A default system turn with the date, and a channel that only an answered turn names."""
DEFAULTED = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}" + CHAT_TEMPLATE
)
IN_A_MACRO = (
    "{% macro gate() %}{% if enable_thinking is not defined or enable_thinking %}<think>{% endif %}{% endmacro %}"
    "{% for m in messages %}" + TURN + "{% endfor %}" + ASK + "{{ gate() }}{% endif %}"
)
THINKING = CHAT_TEMPLATE.replace("assistant\n{%", "assistant\n{{ '<think>' if thinking | default(true) }}{%")
ALL = {
    "switch": SWITCHED,
    "date": DATED,
    "channel": CHANNEL,
    "default system": DEFAULTED,
    "switch in a macro": IN_A_MACRO,
    "another switch": THINKING,
    "plain": CHAT_TEMPLATE,
    "leading line end": "\n" + DATED,
    "leading blanks": "   " + SWITCHED,
}


def served(tokenizer: PreTrainedTokenizerFast, format_: ChatFormat) -> PreTrainedTokenizerFast:
    """The tokenizer as it is exported."""
    tokenizer.chat_template = format_.template
    return tokenizer


@pytest.mark.parametrize("name", ALL)
def test_what_is_encoded_is_what_a_plain_call_renders_with_the_fixed_template(folder: Path, name: str) -> None:
    tokenizer = with_template(folder / "fixed", ALL[name])
    encoder = Encoder(tokenizer, max_length=512)
    assert encoder.chat is not None
    result = encode(encoder, "Where is it?", "Here.")
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    longer = encode(encoder, turns, "d")
    tokenizer = served(tokenizer, encoder.chat)
    assert list(result.prompt) == conversation(tokenizer, "Where is it?", ask=True)
    assert list(longer.prompt) == conversation(tokenizer, "a", "b", "c", ask=True)
    assert decode(tokenizer, result.completion) == "Here.<|im_end|>"


@pytest.mark.parametrize("name", ALL)
def test_the_fixed_template_says_what_the_models_own_says_with_its_switches_off(folder: Path, name: str) -> None:
    tokenizer = with_template(folder / "same", ALL[name])
    fixed = fix_template(ALL[name], switches=False)

    def render(template: str, **switches: Any) -> str:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
            **switches,
        )
        return re.sub(r"\d{2} \w{3} \d{4}|\d{4}-\d{2}-\d{2}", "DATE", str(text))

    assert render(fixed) == render(ALL[name], enable_thinking=False, thinking=False)


@pytest.mark.parametrize("name", ALL)
def test_a_server_that_switches_thinking_on_by_itself_changes_nothing(folder: Path, name: str) -> None:
    tokenizer = with_template(folder / "server", ALL[name])
    format_ = ChatFormat.find(tokenizer)
    assert format_ is not None
    tokenizer = served(tokenizer, format_)
    plain = conversation(tokenizer, "a", ask=True)
    assert plain == conversation(tokenizer, "a", ask=True, enable_thinking=True, thinking=True)


def test_a_template_with_nothing_to_fix_stays_as_it_is() -> None:
    assert fix_template(DEFAULTED, switches=False) == DEFAULTED


def test_a_switch_that_the_template_sets_itself_is_left_to_it() -> None:
    source = "{% set thinking = true %}" + THINKING
    assert fix_template(source, switches=False) == source


def test_a_message_key_is_no_switch() -> None:
    source = CHAT_TEMPLATE.replace("{{ message['content'] }}", "{{ message.thinking }}{{ message['content'] }}")
    assert fix_template(source, switches=False) == source


def test_the_text_between_prompt_and_answer_is_asked_with_and_not_learned(folder: Path) -> None:
    format_ = ChatFormat.find(with_template(folder / "channel", CHANNEL))
    assert format_ is not None
    assert format_.prompt([Message("user", "a")]).endswith("<|im_start|>assistant<|channel|>final<|message|>")
    assert (format_.before, format_.after) == ("", "<|im_end|>")


def test_a_blank_before_the_answer_stays_the_answers(folder: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}[Q] {{ m.content }} [A]{% else %} {{ m.content }}<|im_end|>"
        "{% endif %}{% endfor %}"
    )
    format_ = ChatFormat.find(with_template(folder / "blank", template))
    assert format_ is not None
    assert (format_.template, format_.before) == (template, " ")


def test_a_template_that_can_not_be_rendered_with_its_switch_off_keeps_it(folder: Path) -> None:
    template = "{% if enable_thinking is defined %}{{ raise_exception('no such switch') }}{% endif %}" + CHAT_TEMPLATE
    format_ = ChatFormat.find(with_template(folder / "noswitch", template))
    assert format_ is not None
    assert format_.template == template


def test_of_several_templates_the_default_is_meant(folder: Path) -> None:
    tokenizer = with_template(folder / "several", CHAT_TEMPLATE)
    tokenizer.chat_template = {"tool_use": "{{ messages }}", "default": DEFAULTED}
    format_ = ChatFormat.find(tokenizer)
    assert format_ is not None
    assert format_.template == DEFAULTED


def test_several_templates_without_a_default_are_named(folder: Path) -> None:
    tokenizer = with_template(folder / "several", CHAT_TEMPLATE)
    tokenizer.chat_template = {"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE}
    with pytest.raises(
        StageError, match=r"several chat templates \(rag, tool_use\) and none of them is named default"
    ) as e:
        ChatFormat.find(tokenizer)
    assert e.value.reason is Reason.MODEL_INVALID


@pytest.mark.parametrize(
    "error", ["{{ 1 // (content | length - 5) }}", "{{ {}[content].x }}", "{{ content.append(1) }}"]
)
def test_any_error_of_a_template_is_the_rows_own(folder: Path, error: str) -> None:
    bad = "{% set content = messages[0].content %}{% if content == 'wrong' %}" + error + "{% endif %}"
    encoder = Encoder(with_template(folder / "error", bad + CHAT_TEMPLATE), max_length=512)
    assert "the model's chat template refuses it: " in encode(encoder, "wrong", "b")


@pytest.mark.parametrize("answer", ["<think>why</think>because", "</think>because", "<think>\n"])
def test_thinking_tags_that_a_template_takes_away_make_a_bad_row(folder: Path, answer: str) -> None:
    template = SWITCHED.replace(
        "{{ m.content }}<|im_end|>\n{% else",
        "{{ m.content.split('</think>')[-1].replace('<think>', '') }}<|im_end|>\n{% else",
    )
    encoder = Encoder(with_template(folder / "tags", template), max_length=512)
    asked = (Message("user", "a"),)
    assert "in another way once it is answered" in encode(encoder, asked, answer)
    assert not isinstance(encode(encoder, asked, "because"), str)
