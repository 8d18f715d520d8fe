"""Likelihoods of answers under a model: one forward pass for a prompt and all of its answers.

Layout of a row: ``[prompt without the shared prefix][fed nodes of its answer tree][padding]``. A tree that is a plain
chain needs no mask. Else a mask lets each node see the prompt and its own ancestors, and positions restart after the
prompt, so every answer is scored as if it stood alone. What all prompts of a part have in common (system prompt,
instruction, list of choices) is computed once and kept as a key-value cache.

Not every architecture can be masked like this (recurrent layers, position biases from a two-dimensional mask, windows
shorter than the row). ``abilities.py`` tries it on two made-up rows; without it, every answer is a row of its own
through the plain forward, which is always right and slower.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from finetune_trainer.evaluation.answer_tree import build_tree
from finetune_trainer.evaluation.batches import Budget, cut
from finetune_trainer.evaluation.questions import Question
from finetune_trainer.model.device import to_device
from finetune_trainer.model.load import LoadedModel, embedding_rows

__all__ = [
    "Prefix",
    "Question",
    "Scored",
    "Scores",
    "compute_prefix",
    "run_prefix",
    "score",
    "score_alone",
]

COPIED_LOGITS = 2**22
MIN_PREFIX = 8
"""A shorter common beginning isn't worth a pass of its own."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The common beginning of all prompts with its cache (batch of one); length 0 without one."""

    length: int
    cache: DynamicCache | None

    def expand(self, rows: int) -> DynamicCache | None:
        """Return a copy of the cache for so many rows."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


@dataclass(frozen=True, slots=True)
class Scored:
    """One question's outcome.

    Attributes
    ----------
    logprobs
        For every answer: float64 log-probabilities of its tokens.
    greedy
        Most likely next token after the prompt (index 0) and after every fed node (index node + 1).
    """

    logprobs: tuple[NDArray[np.float64], ...]
    greedy: Ints


@dataclass(frozen=True, slots=True)
class Scores:
    """A batch of outcomes, with the cache to decode on from where it was asked for."""

    rows: tuple[Scored, ...]
    cache: Any


def compute_prefix(loaded: LoadedModel, prompts: Sequence[tuple[int, ...]]) -> Prefix:
    """Find what all prompts begin with (short of the last token of any) and run the model over it once."""
    first, last = min(prompts), max(prompts)  # the common prefix of all is that of the two extremes
    length = 0
    most = min(len(p) for p in prompts) - 1
    while length < most and first[length] == last[length]:
        length += 1
    return run_prefix(loaded, first[:length] if len(prompts) > 1 else ())


def run_prefix(loaded: LoadedModel, beginning: Sequence[int]) -> Prefix:
    """Run the model once over what all prompts begin with; over nothing where that is too short."""
    length = len(beginning)
    if length < MIN_PREFIX:
        return Prefix(0, None)
    ids = to_device(np.array([beginning], dtype=np.int64), loaded.device)
    index = torch.zeros(1, dtype=torch.int64, device=loaded.device)
    with torch.no_grad():
        _, cache = loaded.head(ids, index, use_cache=True, past_key_values=DynamicCache(config=loaded.model.config))
    return Prefix(length, cache)


def _visible(question: Question, prefix: int, width: int) -> NDArray[np.bool_]:
    """Build the mask of one row: bool (width, prefix + width), what each fed token sees."""
    suffix = len(question.prompt) - prefix
    seen = np.zeros((width, prefix + width), dtype=np.bool_)
    seen[:, :prefix] = True
    seen[:suffix, prefix : prefix + suffix] = np.tri(suffix, dtype=np.bool_)
    used = suffix + len(question.tree.tokens)
    seen[suffix:used, prefix : prefix + suffix] = True
    seen[suffix:used, prefix + suffix : prefix + used] = question.tree.ancestors
    seen[used:, 0] = True  # padding must see something, or its softmax is not a number
    return seen


def additive(visible: NDArray[np.bool_], loaded: LoadedModel) -> torch.Tensor:
    """Turn (rows, queries, keys) into the mask that attention adds: (rows, 1, queries, keys) of 0 and -inf-like."""
    mask = to_device(visible, loaded.device).unsqueeze(1)
    dtype = loaded.model.dtype
    return torch.zeros(mask.shape, dtype=dtype, device=loaded.device).masked_fill_(~mask, torch.finfo(dtype).min)


@torch.no_grad()
def score(loaded: LoadedModel, questions: Sequence[Question], prefix: Prefix, *, keep_cache: bool) -> Scores:
    """Score a batch of questions in one forward pass.

    Parameters
    ----------
    prefix
        From :func:`compute_prefix` over these prompts or more.
    keep_cache
        Return the key-value cache, (prefix + width) slots a row, for decoding on.
    """
    width = max(q.length for q in questions) - prefix.length
    ids = np.zeros((len(questions), width), dtype=np.int64)
    positions = np.zeros_like(ids)
    index = []
    for i, q in enumerate(questions):
        suffix = len(q.prompt) - prefix.length
        end = suffix + len(q.tree.tokens)
        ids[i, :suffix] = q.prompt[prefix.length :]
        ids[i, suffix:end] = q.tree.tokens
        ids[i, end:] = ids[i, end - 1]
        positions[i, :suffix] = np.arange(prefix.length, len(q.prompt))
        positions[i, suffix:end] = len(q.prompt) - 1 + np.array(q.tree.depths, dtype=np.int64)
        index.append(np.arange(suffix - 1, end) + i * width)
    inputs: dict[str, Any] = {}
    if not all(q.tree.is_chain for q in questions):
        inputs["attention_mask"] = additive(np.stack([_visible(q, prefix.length, width) for q in questions]), loaded)
        inputs["position_ids"] = to_device(positions, loaded.device)
    cache = prefix.expand(len(questions))
    if cache is None and keep_cache:
        cache = DynamicCache(config=loaded.model.config)
    logits, cache = loaded.head(
        to_device(ids, loaded.device),
        to_device(np.concatenate(index), loaded.device),
        use_cache=cache is not None,
        past_key_values=cache,
        **inputs,
    )
    return Scores(_read(logits, questions), cache if keep_cache else None)


def _read(logits: torch.Tensor, questions: Sequence[Question]) -> tuple[Scored, ...]:
    """Pick the answers' log-probabilities from (sum of 1 + fed nodes, vocabulary) logits; one transfer to the host.

    Sums run in 32 bits, over a few positions at a time, so that there is no second copy of the logits.
    """
    base, sources, tokens = 0, [], []
    for q in questions:
        for node, token in (pair for sequence in q.tree.sequences for pair in sequence):
            sources.append(base + 1 + node)
            tokens.append(token)
        base += 1 + len(q.tree.tokens)
    at = torch.tensor(sources, device=logits.device)
    chunks = logits.split(max(1, COPIED_LOGITS // logits.shape[-1]))
    sums = torch.cat([chunk.float().logsumexp(-1) for chunk in chunks])
    picked = logits[at, torch.tensor(tokens, device=logits.device)].float() - sums[at]
    host, greedy = picked.cpu().numpy().astype(np.float64), logits.argmax(-1).cpu().numpy()
    scored, i, base = [], 0, 0
    for q in questions:
        logprobs = []
        for sequence in q.tree.sequences:
            logprobs.append(host[i : i + len(sequence)])
            i += len(sequence)
        scored.append(Scored(tuple(logprobs), greedy[base : base + 1 + len(q.tree.tokens)]))
        base += 1 + len(q.tree.tokens)
    return tuple(scored)


def score_alone(loaded: LoadedModel, questions: Sequence[Question], budget: Budget | None = None) -> tuple[Scored, ...]:
    """Score every answer as a row of its own through the plain forward: needs nothing but causality.

    In batches within the budget, or all at once.
    """
    alone = [
        Question(q.prompt, build_tree([[token for _, token in sequence]]))
        for q in questions
        for sequence in q.tree.sequences
    ]
    parts = iter(_score_within(loaded, alone, budget))
    scored = []
    for q in questions:
        greedy = np.zeros(1 + len(q.tree.tokens), dtype=np.int64)
        logprobs = []
        for sequence in q.tree.sequences:
            part = next(parts)
            logprobs.append(part.logprobs[0])
            for (node, _), best in zip(sequence, part.greedy, strict=True):
                greedy[node + 1] = best
        scored.append(Scored(tuple(logprobs), greedy))
    return tuple(scored)


def _score_within(loaded: LoadedModel, questions: Sequence[Question], budget: Budget | None) -> list[Scored]:
    if budget is None:
        return list(score(loaded, questions, Prefix(0, None), keep_cache=False).rows)
    widths = np.array([q.length for q in questions], dtype=np.int64)
    labels = np.array([1 + len(q.tree.tokens) for q in questions], dtype=np.int64)
    scored: dict[int, Scored] = {}
    for batch in cut(widths, labels, budget, vocabulary=embedding_rows(loaded.model)):
        asked = [questions[i] for i in batch]
        scored.update(zip(batch.tolist(), score(loaded, asked, Prefix(0, None), keep_cache=False).rows, strict=True))
    return [scored[i] for i in range(len(questions))]
