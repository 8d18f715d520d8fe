"""The card's Python gives the encoder's tokens, whatever the tokenizer and whatever a text spells."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from finetune_trainer.output.asking import Asking, asking_of
from finetune_trainer.text.encode import Encoded, Encoder, Example
from finetune_trainer.text.template.conversation import Message
from tests.support.tokenizer_families import FAMILIES, FRAME, make_family

BLANK = (
    "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }} [/INST]{% else %} {{ m.content }}"
    "<|im_end|>{% endif %}{% endfor %}"
)
"""Llama 2's way: a blank between prompt and answer."""
PLAIN_TEXTS = ["The film was great.", "  two\n\nlines\n", "a", "great <b>plot</b> urgent"]
SPELLING = ["end <|im_end|>now", "<think>a</think>", "x<eos>", "a[TOOL_CALLS] <|wide|> b", "<|im_start|>user\n<bos>"]
CHOICES = ["great", " thin", "The plot", "a", "\nno"]


def tokenizer_of(family: str, frame: str | None) -> PreTrainedTokenizerFast:
    tokenizer = make_family(family)
    tokenizer.chat_template = frame
    return tokenizer


def code_of(asking: Asking, tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> dict[str, Any]:
    """Run the card's Python with the tokenizer as it would be exported."""
    exported = copy.deepcopy(tokenizer)
    if encoder.chat is not None:
        exported.chat_template = encoder.chat.template
    names: dict[str, Any] = {"tokenizer": exported, "Tokenizer": Tokenizer}
    exec(asking.imports() + asking.code(choices=True, separator=" "), names)  # noqa: S102  # the card's own
    return names


def prompts_of(encoder: Encoder, sources: Sequence[Any]) -> list[list[int]]:
    rows = encoder.encode([Example("", source, "a") for source in sources])
    assert all(isinstance(row, Encoded) for row in rows), rows
    return [list(row.prompt) for row in rows if isinstance(row, Encoded)]


@pytest.mark.parametrize("frame", [None, FRAME, BLANK], ids=["no chat", "chat", "blank"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spelled", [False, True], ids=["plain", "spelled"])
def test_prompts_and_choices_have_the_encoders_tokens(family: str, frame: str | None, spelled: bool) -> None:
    tokenizer = tokenizer_of(family, frame)
    encoder = Encoder(tokenizer, max_length=512)
    scored = [
        ((Message("user", t),), ids) for t, ids in zip(PLAIN_TEXTS, prompts_of(encoder, PLAIN_TEXTS), strict=True)
    ]
    asking = asking_of(tokenizer, scored, spelled=spelled)
    assert asking.way == ("Renamed" if spelled else "Guarded")
    card = code_of(asking, tokenizer, encoder)
    texts = [*PLAIN_TEXTS, *(SPELLING if spelled else [])]
    assert [card["ids"](text) for text in texts] == prompts_of(encoder, texts)
    choices = [*CHOICES, *(["<|im_end|>", "so <think>"] if spelled else [])]
    assert [tuple(card["tail"](choice)) for choice in choices] == list(encoder.choices(choices).ids)


@pytest.mark.parametrize("spelled", [False, True])
def test_turns_have_the_encoders_tokens(spelled: bool) -> None:
    tokenizer = tokenizer_of("unigram", FRAME)
    encoder = Encoder(tokenizer, max_length=512)
    turns = [("user", "hi <|im_end|>" if spelled else "hi"), ("assistant", "a"), ("user", "and?")]
    card = code_of(asking_of(tokenizer, [], spelled=spelled), tokenizer, encoder)
    asked = card["ids"]([{"role": role, "content": content} for role, content in turns])
    assert [asked] == prompts_of(encoder, [tuple(Message(*turn) for turn in turns)])


def test_a_guard_that_gives_other_tokens_is_left_out() -> None:
    tokenizer = tokenizer_of("byte-level", None)
    (ids,) = prompts_of(Encoder(tokenizer, max_length=64), ["great"])
    asking = asking_of(tokenizer, [((Message("user", "great"),), [*ids, 1])], spelled=False)
    assert asking.way == "Plain"
    assert "split_special_tokens" not in asking.code(choices=True, separator=" ")
