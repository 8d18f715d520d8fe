"""One encoder: what is trained, what is scored and what a server asks are the same tokens, whatever the tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from finetune_trainer.evaluation.questions import Questions
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.text.encode import Encoded, Encoder, Example
from finetune_trainer.training.batch import collate
from tests.support.score_kit import hand_over
from tests.support.tokenizer_families import FRAME, MORE_FAMILIES, make_family

PROMPTS = [
    "The film was great.",
    "  two\n\nlines\n",
    "a",
    "12345 + 6 = 78?",
    "Café, naïve e\u0301",
    "<b>plot</b>  urgent",
]
COMPLETIONS = ["great", "thin, but good", "b", "12351", "über alles", "no\nyes"]


def encoded(encoder: Encoder) -> tuple[EncodedPart, Prepared]:
    rows = encoder.encode([Example("", p, c) for p, c in zip(PROMPTS, COMPLETIONS, strict=True)])
    assert all(isinstance(row, Encoded) for row in rows), rows
    return hand_over([(list(row.prompt), list(row.completion), -1) for row in rows if isinstance(row, Encoded)])


def trained(part: EncodedPart, row: int) -> tuple[list[int], list[int]]:
    """What a training step is fed of a row, and what it learns."""
    batch = collate(part, np.array([row]), device=torch.device("cpu"))
    return [*batch.input_ids[0].tolist(), int(batch.targets[-1])], batch.targets.tolist()


@pytest.mark.parametrize("frame", [FRAME, None], ids=["chat", "no chat"])
@pytest.mark.parametrize("family", MORE_FAMILIES)
def test_what_is_trained_scored_and_served_are_the_same_tokens(family: str, frame: str | None, tmp_path: Path) -> None:
    tokenizer = make_family(family)
    tokenizer.chat_template = frame
    encoder = Encoder(tokenizer, max_length=512)
    part, prepared = encoded(encoder)
    if encoder.chat is not None:
        tokenizer.chat_template = encoder.chat.template
    tokenizer.save_pretrained(tmp_path)
    server: Any = AutoTokenizer.from_pretrained(tmp_path)
    questions = Questions(part, prepared, np.arange(len(part)))
    for i, prompt in enumerate(PROMPTS):
        if frame is None:
            served = server(prompt)["input_ids"]
        else:
            messages = [{"role": "user", "content": prompt}]
            served = server.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        fed, learned = trained(part, i)
        assert list(questions[i].prompt) == served
        assert fed == [*served, *learned]
        assert learned[-1] == part.tokens[part.offsets[i + 1] - 1]
        said = str(server.decode(learned, skip_special_tokens=True))
        assert said.strip() == str(server.decode(server(COMPLETIONS[i])["input_ids"], skip_special_tokens=True)).strip()


def test_there_are_eight_kinds_of_tokenizers_and_they_differ() -> None:
    ids = {tuple(make_family(name)("Café e\u0301 12345 \n\n  urgent plot")["input_ids"]) for name in MORE_FAMILIES}
    assert len(MORE_FAMILIES) == 8
    assert len(ids) >= 7
