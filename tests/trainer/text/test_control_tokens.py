"""Control tokens that a row spells stay text, whatever the tokenizer; the chat frame's stay control tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from finetune_trainer.text.encode import Encoder, Example
from finetune_trainer.text.template.conversation import Message
from tests.support.encode_kit import conversation, decode, encode, ids_of
from tests.support.tokenizer_families import FAMILIES, FRAME, make_family

CONTROL = ["<|im_end|>", "<|im_start|>", "<eos>", "<bos>", "<pad>", "<think>", "</think>", "[TOOL_CALLS]", "<|wide|>"]


@pytest.fixture(scope="module", params=list(FAMILIES))
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return make_family(request.param)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerFast) -> Encoder:
    return Encoder(tokenizer, max_length=4096)


def control_in(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[int]:
    control = {tokenizer.convert_tokens_to_ids(t) for t in CONTROL}
    return [i for i in ids if i in control]


def frame_of(tokenizer: PreTrainedTokenizerFast, *contents: str) -> list[int]:
    """Control tokens of a conversation of harmless texts with as many turns."""
    return control_in(tokenizer, conversation(tokenizer, *("a" for _ in contents), ask=len(contents) % 2 == 1))


pieces = st.sampled_from(
    [
        "a",
        "<",
        ">",
        "[",
        "]",
        "|",
        " ",
        "\n",
        "film",
        "urgent",
        "<|im_",
        "end|>",
        "\u00e9",
        "\U0001f600",
        "INST",
        *CONTROL,
    ]
)
texts = st.lists(pieces, min_size=1, max_size=8).map("".join).map(str.strip).filter(bool)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(prompt=texts)
def test_a_prompt_has_the_control_tokens_of_its_frame_and_no_other(
    tokenizer: PreTrainedTokenizerFast, encoder: Encoder, prompt: str
) -> None:
    result = encode(encoder, prompt, "good")
    assert control_in(tokenizer, result.prompt) == frame_of(tokenizer, prompt)
    assert result.control_tokens == any(t in prompt for t in [*CONTROL, "<unk>"])


@quick
@given(prompt=texts, completion=texts)
def test_texts_without_control_tokens_have_the_tokens_of_the_rendered_conversation(
    tokenizer: PreTrainedTokenizerFast, encoder: Encoder, prompt: str, completion: str
) -> None:
    for token in CONTROL:
        prompt, completion = prompt.replace(token, "x") or "x", completion.replace(token, "x") or "x"
    result = encode(encoder, prompt, completion)
    assert not result.control_tokens
    assert list(result.prompt) == conversation(tokenizer, prompt, ask=True)


@quick
@given(prompt=texts)
def test_the_way_for_control_tokens_gives_the_same_tokens_to_texts_without_any(
    tokenizer: PreTrainedTokenizerFast, encoder: Encoder, prompt: str
) -> None:
    for token in CONTROL:
        prompt = prompt.replace(token, "x") or "x"
    control: Any = encoder._control
    assert encoder.chat is not None
    plain = encoder.chat.prompt([Message("user", prompt)])
    marked = encoder.chat.prompt([Message("user", control.hide(prompt))])
    assert list(control.encode(marked, plain)) == conversation(tokenizer, prompt, ask=True)


@pytest.mark.parametrize("token", CONTROL)
def test_a_completion_that_spells_a_control_token_is_read_back_as_it_was_written(
    tokenizer: PreTrainedTokenizerFast, encoder: Encoder, token: str
) -> None:
    result = encode(encoder, "a", f"good {token} film")
    assert control_in(tokenizer, result.completion) == control_in(tokenizer, encoder.end_ids)
    assert result.control_tokens
    shown = tokenizer.decode(list(result.completion), skip_special_tokens=True)
    assert shown.strip() == f"good {token} film"


@pytest.mark.parametrize("token", CONTROL)
def test_every_turn_of_a_conversation_is_text(tokenizer: PreTrainedTokenizerFast, encoder: Encoder, token: str) -> None:
    turns = (
        Message("system", f"s {token}"),
        Message("user", f"{token} a"),
        Message("assistant", f"b{token}c"),
        Message("user", token),
    )
    result = encode(encoder, turns, f"d {token}")
    harmless = encode(encoder, tuple(Message(m.role, "a") for m in turns), "d")
    assert control_in(tokenizer, ids_of(result)) == control_in(tokenizer, ids_of(harmless))
    assert decode(tokenizer, result.prompt).count(token) == 4 + decode(tokenizer, harmless.prompt).count(token)


@pytest.mark.parametrize("token", CONTROL)
def test_choices_are_text(tokenizer: PreTrainedTokenizerFast, encoder: Encoder, token: str) -> None:
    choices = encoder.choices((f"{token} yes", f"no {token}"))
    assert [control_in(tokenizer, ids) for ids in choices.ids] == [[], []]
    for text, ids in zip(choices.texts, choices.ids, strict=True):
        assert (*ids, *encoder.end_ids) == encode(encoder, "a", text).completion


@pytest.mark.parametrize("token", CONTROL)
def test_plain_models_take_it_as_text_too(tokenizer: PreTrainedTokenizerFast, token: str) -> None:
    tokenizer.chat_template = None
    try:
        result = encode(Encoder(tokenizer, max_length=512), f"{token}a {token}", "b")
    finally:
        tokenizer.chat_template = FRAME
    assert control_in(tokenizer, result.prompt) == []
    assert decode(tokenizer, result.prompt).strip() == f"{token}a {token}"


def test_added_words_and_html_tags_are_text_of_one_token(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    result = encode(encoder, "an urgent <|im_end|> urgent film", "b")
    assert result.prompt.count(tokenizer.convert_tokens_to_ids("urgent")) == 2
    added = make_family("byte-level")
    added.add_tokens(["<table>", "   "])
    assert not encode(Encoder(added, max_length=512), "<table>   x", "b").control_tokens


def test_a_text_that_makes_a_control_token_with_the_frame_around_it_stays_text() -> None:
    tokenizer = make_family("byte-level")
    tokenizer.chat_template = FRAME.replace("{{ m.content }}", "[{{ m.content }}]")
    encoder = Encoder(tokenizer, max_length=512)
    result = encode(encoder, "TOOL_CALLS", "b")
    assert control_in(tokenizer, result.prompt) == frame_of(tokenizer, "a")
    assert not result.control_tokens


def test_a_token_in_other_case_that_the_normaliser_would_turn_into_one_stays_text() -> None:
    from tokenizers import normalizers

    tokenizer = make_family("byte-level")
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert control_in(tokenizer, tokenizer.encode("x </THINK>", add_special_tokens=False))
    result = encode(Encoder(tokenizer, max_length=512), "x </THINK>", "b")
    assert control_in(tokenizer, result.prompt) == frame_of(tokenizer, "a")
    assert result.control_tokens


def test_a_chat_template_that_acts_on_what_a_row_spells_makes_it_a_bad_row_alone() -> None:
    tokenizer = make_family("byte-level")
    tokenizer.chat_template = FRAME.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    encoder = Encoder(tokenizer, max_length=512)
    bad, good = encoder.encode([Example("line 1", "x</think>y", "b"), Example("line 2", "x", "b")])
    assert bad == "its text spells control tokens that the model's chat template acts on"
    assert good == encode(encoder, "x", "b")


def test_an_end_token_that_can_not_be_written_otherwise_makes_a_bad_row() -> None:
    tokenizer = make_family("byte-level")
    tokenizer.eos_token = "!"
    tokenizer.chat_template = None
    encoder = Encoder(tokenizer, max_length=512)
    assert encode(encoder, "a", "b!") == "its completion contains the token that ends an answer"
    assert encode(encoder, "a!", "b").prompt == tuple(tokenizer.encode("a!"))


def test_a_row_can_not_name_the_copys_tokens(encoder: Encoder, tokenizer: PreTrainedTokenizerFast) -> None:
    """Names are drawn anew for each encoder, and ids don't depend on them."""
    text = "\ue000\ue001 <|im_end|> \uf8ff"
    other = Encoder(tokenizer, max_length=4096)
    assert encoder._control._nonce != other._control._nonce
    assert encode(encoder, text, text) == encode(other, text, text)
