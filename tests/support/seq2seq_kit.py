"""Definitions that scores of encoder-decoder models are compared with: the library's own model, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.text.encode import Encoder
from finetune_trainer.text.example import Encoded, Example
from tests.support.score_kit import hand_over
from tests.support.tiny_model import WORDS, learnable_rows
from tests.support.tiny_seq2seq import Kind

__all__ = ["LABELS", "START", "load", "own_likelihood", "own_network", "own_words", "prepared_of"]

LABELS = tuple(sorted(WORDS.values()))
START: dict[Kind, tuple[int, ...]] = {
    "t5": (0,), "t5-untied": (0,), "mt5": (0,), "umt5": (0,), "bart": (2, 0), "pegasus": (0,),
}  # fmt: skip
"""What stands before an answer: the start token of the kind, and what its tokenizer puts before a text."""


def load(folder: Path) -> LoadedModel:
    return load_model(folder, device=torch.device("cpu"), precision="Float32")


def own_network(folder: Path) -> Any:
    """The library's model, with nothing of the trainer on it; its own generation settings are not to fill others."""
    network = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    network.generation_config = GenerationConfig()
    return network


@torch.no_grad()
def own_likelihood(network: Any, kind: Kind, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Sum of log P(token | prompt, tokens before) over an answer, in a forward pass of its own."""
    fed = torch.tensor([[*START[kind], *answer[:-1]]])
    logits = network(input_ids=torch.tensor([list(prompt)]), decoder_input_ids=fed).logits[0].double()
    at = torch.arange(len(START[kind]) - 1, fed.shape[1])
    return float(logits.log_softmax(-1)[at, torch.tensor(list(answer))].sum())


def own_words(network: Any, kind: Kind, prompt: Sequence[int], limit: int, end: int) -> list[int]:
    """What the library's greedy ``generate`` writes, the end token included."""
    start = START[kind]
    output = network.generate(
        input_ids=torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        generation_config=GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=limit + len(start) - 1,
            eos_token_id=end,
            pad_token_id=1 if kind == "bart" else 0,
            decoder_start_token_id=start[0],
            forced_bos_token_id=start[1] if len(start) > 1 else None,
        ),
    )
    new: list[int] = output[0, len(start) :].tolist()
    return new[: new.index(end) + 1] if end in new else new


def prepared_of(loaded: LoadedModel, *, choices: bool = True, count: int = 60, max_new_tokens: int = 6) -> Prepared:
    """Rows that even a tiny model learns, through the encoder: the first half train, then validation, then test."""
    encoder = Encoder(loaded.tokenizer, max_length=200, encoder_decoder=True)
    rows = learnable_rows(count, seed=2)
    encoded = [row for row in encoder.encode([Example("", *row) for row in rows]) if isinstance(row, Encoded)]
    assert len(encoded) == count
    given = [(list(row.prompt), list(row.completion), 0 if choices else -1) for row in encoded]
    answers = [LABELS.index(label) for _, label in rows]
    ids = [encoder.choices(LABELS).ids] if choices else []
    half, most = count // 2, count * 3 // 4
    parts = {}
    for name, part in (("train", slice(0, half)), ("validation", slice(half, most)), ("test", slice(most, count))):
        parts[name], prepared = hand_over(
            given[part],
            ids,
            metric="ChoiceAccuracy" if choices else "ExactMatch",
            max_new_tokens=max_new_tokens,
            answers=answers[part] if choices else [-1] * len(given[part]),
        )
    return replace(prepared, parts=parts, end_ids=encoder.end_ids, pad_id=encoder.pad_id)
