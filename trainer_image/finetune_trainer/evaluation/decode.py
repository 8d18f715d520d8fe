"""Greedy decoding of the rows that teacher forcing got wrong.

Greedy output equals the expected tokens exactly when the arg-max under teacher forcing is right at every completion
position, so only other rows need decoding. Those start from the cache that scoring left: as long as the model's own
choice lies in the tree of known answers, the next arg-max is known already; decoding begins where it leaves the tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig

from finetune_trainer.evaluation.answer_tree import ROOT
from finetune_trainer.evaluation.score import Question, Scores, additive
from finetune_trainer.model.device import to_device
from finetune_trainer.model.load import LoadedModel, embedding_rows

__all__ = ["decode_from_cache", "generate_plain"]


def _bound(loaded: LoadedModel, prompt: Sequence[int], limit: int) -> int:
    """Most tokens after a prompt: no more than the model has positions for; the last one is never fed."""
    most = loaded.most_positions
    return limit if most is None else max(1, min(limit, most - len(prompt) + 1))


def _walk(question: Question, greedy: NDArray[np.int64], stops: frozenset[int], limit: int) -> tuple[list[int], int]:
    """Follow the model's own choices through the tree: (tokens chosen, last fed node reached)."""
    node, tokens = ROOT, [int(greedy[0])]
    while tokens[-1] not in stops and len(tokens) < limit and (node, tokens[-1]) in question.tree.children:
        node = question.tree.children[node, tokens[-1]]
        tokens.append(int(greedy[node + 1]))
    return tokens, node


@torch.no_grad()
def decode_from_cache(
    loaded: LoadedModel,
    questions: Sequence[Question],
    scores: Scores,
    rows: Sequence[int],
    *,
    stops: frozenset[int],
    limit: int,
) -> list[list[int]]:
    """Decode greedily after some of a batch's prompts.

    Parameters
    ----------
    scores
        What ``score`` returned for ``questions``, with its cache, which is used up.
    rows
        Which questions to decode.
    stops, limit
        Tokens that end an answer, and the most tokens of one, the stop included.

    Returns
    -------
    list of list of int
        Token ids for each of ``rows``, the stop included where there was one.
    """
    width = max(q.length for q in questions)  # slots a row in the cache
    texts: list[list[int]] = []
    bounds = [_bound(loaded, questions[row].prompt, limit) for row in rows]
    visible = np.zeros((len(rows), width), dtype=np.bool_)
    for i, row in enumerate(rows):
        q = questions[row]
        tokens, node = _walk(q, scores.rows[row].greedy, stops, bounds[i])
        texts.append(tokens)
        visible[i, : len(q.prompt)] = True
        visible[i, [len(q.prompt) + n for n in q.tree.path(node)]] = True

    def unfinished(i: int) -> bool:
        return texts[i][-1] not in stops and len(texts[i]) < bounds[i]

    cache = scores.cache
    held: list[int] | None = None  # which of ``rows`` the cache holds
    active = [i for i in range(len(rows)) if unfinished(i)]
    while active:
        if held is None or len(active) <= len(held) // 2:
            keep = [rows[i] for i in active] if held is None else [held.index(i) for i in active]
            cache.batch_select_indices(torch.tensor(keep, device=loaded.device))
            held = list(active)
        slot = np.ones((len(rows), 1), dtype=np.bool_)
        visible = np.concatenate([visible, slot], axis=1)
        ids = np.array([[texts[i][-1]] for i in held], dtype=np.int64)
        positions = np.array([[len(questions[rows[i]].prompt) + len(texts[i]) - 1] for i in held], dtype=np.int64)
        if loaded.most_positions is not None:  # rows that are finished are still fed, and what they say is not read
            positions = np.minimum(positions, loaded.most_positions - 1)
        index = torch.arange(len(held), device=loaded.device)
        logits, cache = loaded.head(
            to_device(ids, loaded.device),
            index,
            use_cache=True,
            past_key_values=cache,
            attention_mask=additive(visible[held][:, None, :], loaded),
            position_ids=to_device(positions, loaded.device),
        )
        best = logits.float().argmax(-1).tolist()
        for i, token in zip(held, best, strict=True):
            if unfinished(i):
                texts[i].append(token)
        active = [i for i in active if unfinished(i)]
    return texts


@torch.no_grad()
def generate_plain(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    stops: frozenset[int],
    limit: int,
) -> list[list[int]]:
    """Decode greedily by the library's own ``generate``; for architectures that can't decode from a masked cache.

    The ids are the encoder's, padded on the left. The model has lost its own generation config when it was loaded.
    """
    bounds = [_bound(loaded, prompt, limit) for prompt in prompts]
    if len(set(bounds)) > 1:
        found: dict[int, list[int]] = {}
        for bound in sorted(set(bounds)):
            rows = [i for i, own in enumerate(bounds) if own == bound]
            some = generate_plain(loaded, [prompts[i] for i in rows], pad_id=pad_id, stops=stops, limit=bound)
            found |= dict(zip(rows, some, strict=True))
        return [found[i] for i in range(len(prompts))]
    limit = bounds[0]
    if pad_id >= embedding_rows(loaded.model):
        pad_id = 0  # hidden from the model, but it has to be an id that there is
    width = max(len(p) for p in prompts)
    ids = np.full((len(prompts), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = prompt
        mask[i, width - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=sorted(stops), pad_token_id=pad_id
    )
    model: Any = loaded.model  # generate is a mix-in that the base class does not declare
    output = model.generate(
        input_ids=to_device(ids, loaded.device),
        attention_mask=to_device(mask, loaded.device),
        generation_config=config,
    )
    texts = []
    for row in output[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(row) if token in stops), len(row))
        texts.append(row[:end])
    return texts
