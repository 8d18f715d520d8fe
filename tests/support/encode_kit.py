"""What the tests of the encoder share: how a row is encoded, and the tokenizer's own rendering to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from finetune_trainer.text.encode import Encoded, Encoder, Example
from finetune_trainer.text.template.conversation import Message
from tests.support.tiny_tokenizer import make_tokenizer

__all__ = [
    "BOS",
    "EOS",
    "TURN_END",
    "TURN_START",
    "conversation",
    "decode",
    "encode",
    "ids_of",
    "texts",
    "with_template",
]

EOS, BOS, TURN_START, TURN_END = 1, 2, 3, 4

NO_END = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""A chat template without any token that ends an answer."""

texts = st.text(min_size=1, max_size=40).map(str.strip).filter(bool).filter(lambda t: "<" not in t)


def with_template(folder: Path, template: str, **more: Any) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer(folder, **more)
    tokenizer.chat_template = template
    return tokenizer


def encode(encoder: Encoder, prompt: str | tuple[Message, ...], completion: str, choices: tuple[str, ...] = ()) -> Any:
    (result,) = encoder.encode([Example("line 1", prompt, completion, choices)])
    return result


def ids_of(result: Encoded) -> list[int]:
    return [*result.prompt, *result.completion]


def conversation(tokenizer: PreTrainedTokenizerBase, *contents: str, ask: bool = False, **more: Any) -> list[int]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
    batch: Any = tokenizer.apply_chat_template(turns, add_generation_prompt=ask, return_dict=True, **more)
    return list(batch["input_ids"])


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids)))
