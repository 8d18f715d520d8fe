"""Two-layer models with random weights and rows that even they can learn, for tests of the trainer.

Initial weights are larger than usual, so that an untrained model has opinions: with near-uniform outputs a wrong mask
or a wrong position would hardly change an answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)

from finetune_api.status import DatasetSummary, MetricName
from finetune_trainer.data.parts import Part
from finetune_trainer.prepare.prepared import EncodedPart, Prepared, TextRow
from finetune_trainer.text.choices import ChoiceSet
from tests.support.tiny_tokenizer import EOS, PAD, SPECIAL_TOKENS, make_tokenizer

__all__ = ["ARCHITECTURES", "Architecture", "encode_rows", "learnable_rows", "make_model", "make_prepared"]

Architecture = Literal["llama", "llama-untied", "qwen2", "qwen3", "gpt2", "gemma2", "mistral", "bloom", "mamba"]
ARCHITECTURES: Final[tuple[Architecture, ...]] = (
    "llama",
    "llama-untied",
    "qwen2",
    "qwen3",
    "gpt2",
    "gemma2",
    "mistral",
    "bloom",
    "mamba",
)
"""Dense ones, tied and untied; a window shorter than the rows (mistral), position biases instead of positions (bloom),
a recurrent one (mamba). The last three can't be scored as trees."""
WORDS: Final = {"card": "billing", "crash": "bug", "river": "world", "music": "arts", "goal": "sports"}


def _config(architecture: Architecture, vocab_size: int) -> PreTrainedConfig:
    common: dict[str, Any] = {
        "vocab_size": vocab_size,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "initializer_range": 0.15,
    }
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": architecture not in ("llama-untied", "mistral"),
        **common,
    }
    match architecture:
        case "llama" | "llama-untied":
            config: PreTrainedConfig = LlamaConfig(**shape)
        case "qwen2":
            config = Qwen2Config(**shape)
        case "qwen3":
            config = Qwen3Config(**shape)
        case "gemma2":  # soft caps so low that leaving them out is seen; a window that short rows fit into
            config = Gemma2Config(**shape, final_logit_softcapping=3.0, attn_logit_softcapping=5.0, sliding_window=128)
        case "mistral":  # a window shorter than most rows
            config = MistralConfig(**shape, sliding_window=8)
        case "gpt2":
            config = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512, **common)
        case "bloom":
            config = BloomConfig(hidden_size=32, n_layer=2, n_head=4, **common)
        case "mamba":
            config = MambaConfig(hidden_size=32, state_size=4, num_hidden_layers=2, **common)
    return config


def make_model(
    folder: Path,
    *,
    vocab_size: int = 512,
    architecture: Architecture = "llama",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    chat: bool = True,
    bos: bool = False,
) -> None:
    """Write a model folder with tokenizer that ``from_pretrained`` loads; the same bytes for the same arguments."""
    make_tokenizer(folder, chat=chat, bos=bos)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(architecture, vocab_size), dtype=torch.float32)
    torch.random.set_rng_state(state)
    model.to(dtype).save_pretrained(folder)


def learnable_rows(n: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts with one telling word among noise, and the label that the word stands for."""
    rng = random.Random(seed)  # noqa: S311 - test data, the same every time
    noise = ("the", "film", "was", "good", "a", "man", "walks", "by", "tower", "plot", "thin")
    rows = []
    for _ in range(n):
        word = rng.choice(sorted(WORDS))
        words = [rng.choice(noise) for _ in range(rng.randint(1, 9))]
        words.insert(rng.randint(0, len(words)), word)
        rows.append(
            (f"Possible answers: {', '.join(sorted(WORDS.values()))}. Text: {' '.join(words)} Intent:", WORDS[word])
        )
    return rows


def encode_rows(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[str, str]],
    choices: Sequence[str] | None,
    end_ids: Sequence[int],
    first_row: int = 1,
) -> EncodedPart:
    """Encode prompts and completions the simple way: apart, a space before the completion, end tokens after it."""
    tokens: list[int] = []
    offsets, prompt_lengths = [0], []
    for prompt, completion in rows:
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        tokens += prompt_ids + tokenizer(" " + completion, add_special_tokens=False)["input_ids"] + list(end_ids)
        offsets.append(len(tokens))
        prompt_lengths.append(len(prompt_ids))
    return EncodedPart(
        tokens=np.array(tokens, dtype=np.int32),
        offsets=np.array(offsets, dtype=np.int64),
        prompt_lengths=np.array(prompt_lengths, dtype=np.int32),
        rows=np.arange(first_row, first_row + len(rows), dtype=np.int64),
        choice_set=np.full(len(rows), -1 if choices is None else 0, dtype=np.int32),
        answer=np.array([-1 if choices is None else list(choices).index(c) for _, c in rows], dtype=np.int32),
        unanswerable=np.zeros(len(rows), dtype=np.int32),
    )


def make_prepared(
    tokenizer: PreTrainedTokenizerBase,
    rows: dict[Part, Sequence[tuple[str, str]]] | None = None,
    *,
    choices: Sequence[str] | None = tuple(sorted(WORDS.values())),
    score_end_tokens: bool = False,
    max_new_tokens: int = 8,
) -> Prepared:
    """Hand-over of prepare for rows given as text; by default 64 learnable ones, 16 to validate and 16 to test."""
    if rows is None:
        made = learnable_rows(96)
        rows = {"train": made[:64], "validation": made[64:80], "test": made[80:]}
    pad, eos = SPECIAL_TOKENS.index(PAD), SPECIAL_TOKENS.index(EOS)
    end_ids = (eos,)
    parts = {name: encode_rows(tokenizer, part, choices, end_ids) for name, part in rows.items()}
    metric: MetricName = "ExactMatch" if choices is None else "ChoiceAccuracy"
    sets = (
        []
        if choices is None
        else [
            ChoiceSet(
                tuple(choices),
                tuple(tuple(tokenizer(" " + c, add_special_tokens=False)["input_ids"]) for c in choices),
            )
        ]
    )
    return Prepared(
        parts=parts,
        texts={
            name: tuple(TextRow(i + 1, prompt, completion) for i, (prompt, completion) in enumerate(rows[name]))
            for name in rows
            if name != "train"
        },
        choice_sets=tuple(sets),
        score_end_tokens=score_end_tokens,
        end_ids=end_ids,
        pad_id=pad,
        max_new_tokens=max_new_tokens,
        metric=metric,
        template_digest="sha256:" + "0" * 64,
        tokenizer_digest="sha256:" + "0" * 64,
        summary=DatasetSummary(rows=sum(len(r) for r in rows.values()), train=len(rows["train"])),
    )
