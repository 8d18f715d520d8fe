"""The encoder: what a row's tokens are, with and without a chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.text.encode import Encoder, Example
from finetune_trainer.text.template.conversation import Message
from tests.support.encode_kit import (
    BOS,
    EOS,
    NO_END,
    TURN_END,
    TURN_START,
    conversation,
    decode,
    encode,
    ids_of,
    texts,
    with_template,
)
from tests.support.tiny_tokenizer import CHAT_TEMPLATE, make_tokenizer

# The oracle: the tokenizer's own rendering of the whole conversation.


@given(prompt=texts, completion=texts)
def test_a_chat_row_has_the_tokens_of_the_rendered_conversation_up_to_the_end_of_the_turn(
    chat: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    result = encode(Encoder(chat, max_length=512), prompt, completion)
    whole = conversation(chat, prompt, completion)
    assert decode(chat, whole[len(ids_of(result)) :]) == "\n"
    assert ids_of(result) == whole[: len(ids_of(result))]
    assert list(result.prompt) == conversation(chat, prompt, ask=True)
    assert result.completion[-1] == TURN_END
    assert not result.truncated


@given(contents=st.lists(texts, min_size=4, max_size=4))
def test_a_conversation_of_many_turns_has_the_tokens_of_its_rendering(
    chat: PreTrainedTokenizerFast, contents: list[str]
) -> None:
    roles = ["user", "assistant", "user"]
    messages = tuple(Message(r, c) for r, c in zip(roles, contents, strict=False))
    result = encode(Encoder(chat, max_length=512), messages, contents[3])
    assert list(result.prompt) == conversation(chat, *contents[:3], ask=True)
    assert ids_of(result) == conversation(chat, *contents)[:-1]


@given(prompt=texts, completion=texts)
def test_a_plain_row_is_prompt_blank_completion_and_eos(
    plain: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    result = encode(Encoder(plain, max_length=512), prompt, completion)
    assert list(result.prompt) == plain.encode(prompt, add_special_tokens=False)
    assert result.completion[-1] == EOS
    assert list(result.completion[:-1]) == plain.encode(" " + completion, add_special_tokens=False)
    assert decode(plain, ids_of(result)[:-1]) == f"{prompt} {completion}"


def test_the_boundary_gives_the_tokens_of_the_joint_text(plain: PreTrainedTokenizerFast) -> None:
    result = encode(Encoder(plain, max_length=512), "Sentiment:", "positive")
    assert ids_of(result) == [*plain.encode("Sentiment: positive"), EOS]


def test_another_separator_stands_on_the_completions_side(plain: PreTrainedTokenizerFast) -> None:
    result = encode(Encoder(plain, max_length=512, separator="\n\n"), "Say hi.", "Hi.")
    assert list(result.completion) == [*plain.encode("\n\nHi."), EOS]
    assert list(result.prompt) == plain.encode("Say hi.")


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("def f(x):\n", "    return x\n"),
        ("  a", "b  "),
        ("a\n", "\n\nb\n"),
        ("Q: ", "b"),
        ("a", "\tb"),
        ("<bos>a", "b<|im_end|>"),
    ],
)
def test_ready_texts_are_the_tokens_of_the_text_byte_for_byte(
    plain: PreTrainedTokenizerFast, prompt: str, completion: str
) -> None:
    result = encode(Encoder(plain, max_length=512, separator=""), prompt, completion)
    assert decode(plain, ids_of(result)[:-1]) == prompt + completion
    assert decode(plain, result.prompt) == prompt
    assert result.completion[-1] == EOS


def test_a_chat_model_gets_no_separator(chat: PreTrainedTokenizerFast) -> None:
    one, other = (encode(Encoder(chat, max_length=512, separator=s), "a", "b") for s in (" ", "\n\n"))
    assert one == other


# BOS, EOS, end of turn.


@pytest.mark.parametrize("prompt", ["a text", "<bos>a text", "<bos><bos>a text"])
def test_bos_stands_once_before_a_plain_prompt_and_never_before_a_completion(folder: Path, prompt: str) -> None:
    encoder = Encoder(make_tokenizer(folder / "bos", chat=False, bos=True), max_length=512)
    result = encode(encoder, prompt, "b")
    assert ids_of(result).count(BOS) == 1
    assert result.prompt[0] == BOS


def test_a_tokenizer_that_adds_no_bos_gets_none(plain: PreTrainedTokenizerFast) -> None:
    assert BOS not in ids_of(encode(Encoder(plain, max_length=512), "a", "b"))


def test_a_tokenizer_that_ends_every_text_with_eos_does_not_end_prompts_with_it(folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "eos", chat=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    assert tokenizer("a")["input_ids"][-1] == EOS
    result = encode(Encoder(tokenizer, max_length=512), "a text", "b")
    assert result.prompt[0] == BOS
    assert ids_of(result).count(EOS) == 1
    assert ids_of(result)[-1] == EOS


def test_a_chat_template_that_writes_bos_gives_one_even_if_the_tokenizer_adds_one(folder: Path) -> None:
    tokenizer = with_template(folder / "chatbos", "{{ bos_token }}" + CHAT_TEMPLATE, bos=True)
    result = encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert result.prompt[:2] == (BOS, TURN_START)
    assert ids_of(result).count(BOS) == 1


def test_two_bos_are_refused(folder: Path) -> None:
    tokenizer = with_template(folder / "twobos", "{{ bos_token }}{{ bos_token }}" + CHAT_TEMPLATE)
    with pytest.raises(StageError, match="two BOS") as caught:
        Encoder(tokenizer, max_length=512)
    assert caught.value.reason is Reason.MODEL_INVALID


BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
TWO_ENDS = CHAT_TEMPLATE.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")


@pytest.mark.parametrize(
    ("template", "end", "ending"),
    [
        (CHAT_TEMPLATE, [TURN_END], "b<|im_end|>"),
        (BRACKETS, [EOS], " b<eos>"),
        (NO_END, [EOS], "b<eos>"),
        (TWO_ENDS, [TURN_END], "b<|im_end|>"),
        (CHAT_TEMPLATE.replace("<|im_end|>", " .<|im_end|>"), None, "b .<|im_end|>"),
    ],
    ids=["a turn's end", "eos and a blank before the answer", "nothing", "a turn's end and eos", "text, then the end"],
)
def test_an_answer_ends_as_the_chat_template_ends_it_else_with_eos(
    folder: Path, template: str, end: list[int] | None, ending: str
) -> None:
    tokenizer = with_template(folder / "ends", template)
    encoder = Encoder(tokenizer, max_length=512)
    if end is not None:
        assert list(encoder.end_ids) == end
    result = encode(encoder, "a", "b")
    assert decode(tokenizer, result.completion) == ending
    assert result.completion[-len(encoder.end_ids) :] == encoder.end_ids
    if template != NO_END:
        assert ids_of(result) == conversation(tokenizer, "a", "b")[: len(ids_of(result))]


def test_a_tokenizer_without_eos_is_refused(plain: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "noeos", chat=False)
    tokenizer.eos_token = None
    with pytest.raises(StageError, match="no EOS token") as caught:
        Encoder(tokenizer, max_length=512)
    assert caught.value.reason is Reason.MODEL_INVALID


def test_padding_falls_back_to_the_end(folder: Path) -> None:
    tokenizer = make_tokenizer(folder / "nopad", chat=False)
    assert Encoder(tokenizer, max_length=512).pad_id == 0
    tokenizer.pad_token = None
    assert Encoder(tokenizer, max_length=512).pad_id == EOS


# Chat templates that can't be used.


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no users here') }}", "can't render a question: no users here"),
        ("{{ messages[0].content.nothing.at.all }}", "can't render a question"),
        (
            "{% for m in messages %}{{ m.content }}|{% endfor %}{% if add_generation_prompt %}think: {% endif %}",
            "generation prompt followed by the answer",
        ),
        ("fixed text", "generation prompt followed by the answer"),
        ("{{ messages[0].content }}", "generation prompt followed by the answer"),
    ],
)
def test_a_chat_template_that_does_not_answer_its_own_prompt_is_refused(
    folder: Path, template: str, message: str
) -> None:
    with pytest.raises(StageError) as caught:
        Encoder(with_template(folder / "bad", template), max_length=512)
    assert caught.value.reason is Reason.MODEL_INVALID
    assert message in caught.value.message


def test_a_conversation_that_renders_otherwise_once_answered_is_a_bad_row(folder: Path) -> None:
    template = CHAT_TEMPLATE.replace("<|im_start|>{{", "{{ messages | length if messages | length > 3 }}<|im_start|>{{")
    encoder = Encoder(with_template(folder / "count", template), max_length=512)
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert "renders the conversation in another way once it is answered" in encode(encoder, turns, "d")
    assert encode(encoder, turns[2:], "d") == encode(encoder, "c", "d")


def test_a_row_that_the_chat_template_refuses_is_a_bad_row_alone(folder: Path) -> None:
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}" + CHAT_TEMPLATE
    encoder = Encoder(with_template(folder / "nosystem", template), max_length=512)
    refused = (Message("system", "s"), Message("user", "a"))
    bad, good = encoder.encode([Example("line 1", refused, "b"), Example("line 2", (Message("user", "a"),), "b")])
    assert bad == "the model's chat template refuses it: no system turn"
    assert good == encode(encoder, "a", "b")


def test_messages_without_a_chat_template_are_refused(plain: PreTrainedTokenizerFast) -> None:
    with pytest.raises(StageError, match="needs a model with a chat template") as caught:
        encode(Encoder(plain, max_length=512), (Message("user", "a"),), "b")
    assert caught.value.reason is Reason.TEMPLATE_INVALID


@pytest.mark.parametrize(
    ("code", "shown"), [("%d %b %Y", "01 Jan 2025"), ("%Y-%m-%d", "2025-01-01"), ("%A, %B %-d", "Wednesday, January 1")]
)
def test_a_template_that_prints_the_date_gives_the_same_tokens_every_day(folder: Path, code: str, shown: str) -> None:
    tokenizer = with_template(folder / "date", "\n{{ strftime_now('" + code + "') }}\n" + CHAT_TEMPLATE)
    result = encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert decode(tokenizer, result.prompt) == f"\n{shown}\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_leaves_room_for_reasoning_is_told_not_to(folder: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and enable_thinking is false %}"
        "<think></think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>"
        "assistant\n{% if enable_thinking is false %}<think></think>{% endif %}{% endif %}"
    )
    tokenizer = with_template(folder / "think", template)
    result = encode(Encoder(tokenizer, max_length=512), "a", "b")
    assert list(result.prompt) == conversation(tokenizer, "a", ask=True, enable_thinking=False)
    assert decode(tokenizer, result.completion) == "b<|im_end|>"
