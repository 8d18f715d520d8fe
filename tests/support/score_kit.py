"""Rows handed to the evaluator as token lists, and the definitions that its answers are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig

from finetune_api.status import DatasetSummary, MetricName
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import EncodedPart, Prepared, TextRow
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.stop import StopRule
from tests.support.tiny_model import Architecture

__all__ = ["END", "Loader", "Row", "hand_over", "log_likelihood", "plain_greedy", "said_by", "texts_of"]

END = 1

Row = tuple[list[int], list[int], int]
"""Prompt, completion, choice set."""
Loader = Callable[[Architecture], LoadedModel]


def hand_over(
    rows: Sequence[Row],
    choices: Sequence[Sequence[Sequence[int]]] = (),
    *,
    metric: MetricName = "ExactMatch",
    score_end_tokens: bool = False,
    max_new_tokens: int = 6,
    answers: Sequence[int] | None = None,
    unanswerable: Sequence[int] | None = None,
) -> tuple[EncodedPart, Prepared]:
    tokens = [t for prompt, completion, _ in rows for t in prompt + completion]
    part = EncodedPart(
        tokens=np.array(tokens, dtype=np.int32),
        offsets=np.cumsum([0, *(len(p) + len(c) for p, c, _ in rows)]).astype(np.int64),
        prompt_lengths=np.array([len(p) for p, _, _ in rows], dtype=np.int32),
        rows=np.arange(1, len(rows) + 1, dtype=np.int64),
        choice_set=np.array([s for _, _, s in rows], dtype=np.int32),
        answer=np.array(answers or [0] * len(rows), dtype=np.int32),
        unanswerable=np.array(unanswerable or [0] * len(rows), dtype=np.int32),
    )
    prepared = Prepared(
        parts={"train": part, "validation": part, "test": part},
        texts={},
        choice_sets=tuple(
            ChoiceSet(tuple(f"choice {i}" for i in range(len(c))), tuple(tuple(ids) for ids in c)) for c in choices
        ),
        score_end_tokens=score_end_tokens,
        end_ids=(END,),
        pad_id=0,
        max_new_tokens=max_new_tokens,
        metric=metric,
        template_digest="sha256:" + "0" * 64,
        tokenizer_digest="sha256:" + "0" * 64,
        summary=DatasetSummary(rows=len(rows)),
    )
    return part, prepared


def log_likelihood(loaded: LoadedModel, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """As lm-evaluation-harness defines it: one full forward for one answer, log-softmax, gather, sum."""
    ids = torch.tensor([[*prompt, *answer][:-1]])
    with torch.no_grad():
        logprobs = loaded.model(ids).logits[0].double().log_softmax(-1)
    at = torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return float(logprobs[at, torch.tensor(list(answer))].sum())


def plain_greedy(loaded: LoadedModel, prompt: Sequence[int], limit: int) -> list[int]:
    generate: Any = loaded.model.generate
    output = generate(
        torch.tensor([list(prompt)]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        generation_config=GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=END, pad_token_id=0
        ),
    )
    new: list[int] = output[0, len(prompt) :].tolist()
    return new[: new.index(END) + 1] if END in new else new


def said_by(loaded: LoadedModel, tokens: Sequence[int], ends: Sequence[int] = (END,)) -> str:
    kept = [t for t in tokens if t not in ends]
    return StopRule().answer(str(loaded.tokenizer.decode(kept, skip_special_tokens=True)))


def texts_of(loaded: LoadedModel, rows: Sequence[Row]) -> list[TextRow]:
    decode = loaded.tokenizer.decode
    return [TextRow(i + 1, "", str(decode(c, skip_special_tokens=True))) for i, (_, c, _) in enumerate(rows)]
