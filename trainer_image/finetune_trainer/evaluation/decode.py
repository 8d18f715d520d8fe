"""Greedy decoding of the rows that teacher forcing got wrong.

Greedy output equals the expected tokens exactly when the arg-max under teacher forcing is right at every completion
position, so only other rows need decoding. Those start from the cache that scoring left: as long as the model's own
choice lies in the tree of known answers, the next arg-max is known already; decoding begins where it leaves the tree.
When an answer is finished is the caller's to say: at an end token, at a stop text, or when its verdict is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from typing_extensions import override

from finetune_trainer.evaluation.answer_tree import ROOT
from finetune_trainer.evaluation.questions import Question
from finetune_trainer.evaluation.score import Scores, additive
from finetune_trainer.model.device import to_device
from finetune_trainer.model.load import LoadedModel

__all__ = ["Finished", "Watch", "decode_from_cache", "generate_plain", "known"]

Finished = Callable[[int, Sequence[int]], bool]
"""Whether an answer needs no more tokens: (which of the questions, its tokens so far, at least one)."""


def known(
    question: Question, greedy: NDArray[np.int64], finished: Callable[[Sequence[int]], bool], limit: int
) -> tuple[list[int], int]:
    """Follow the model's own choices through the tree: (tokens chosen, last fed node reached)."""
    node, tokens = ROOT, [int(greedy[0])]
    while len(tokens) < limit and (node, tokens[-1]) in question.tree.children and not finished(tokens):
        node = question.tree.children[node, tokens[-1]]
        tokens.append(int(greedy[node + 1]))
    return tokens, node


def room(loaded: LoadedModel, prompt: Sequence[int], limit: int) -> int:
    """Return how many tokens may follow a prompt: the limit, or fewer where the model's positions end before.

    The last token is only chosen and never fed, so it needs no position of its own.
    """
    if loaded.most_positions is None:
        return limit
    return max(1, min(limit, loaded.most_positions - len(prompt) + 1))


@torch.no_grad()
def decode_from_cache(
    loaded: LoadedModel,
    questions: Sequence[Question],
    scores: Scores,
    rows: Sequence[int],
    *,
    finished: Finished,
    limit: int,
) -> list[list[int]]:
    """Decode greedily after some of a batch's prompts.

    Parameters
    ----------
    scores
        What ``score`` returned for ``questions``, with its cache, which is used up.
    rows
        Which questions to decode.
    finished
        Gets numbers of questions, as ``rows`` has them.
    limit
        The most tokens of an answer, an end token included; fewer where the model's positions end.

    Returns
    -------
    list of list of int
        Token ids for each of ``rows``, the end token included where there was one.
    """
    width = max(q.length for q in questions)  # slots a row in the cache
    texts: list[list[int]] = []
    most = [room(loaded, questions[row].prompt, limit) for row in rows]
    visible = np.zeros((len(rows), width), dtype=np.bool_)
    for i, row in enumerate(rows):
        q = questions[row]
        tokens, node = known(q, scores.rows[row].greedy, partial(finished, row), most[i])
        texts.append(tokens)
        visible[i, : len(q.prompt)] = True
        visible[i, [len(q.prompt) + n for n in q.tree.path(node)]] = True

    cache = scores.cache
    held: list[int] | None = None  # which of ``rows`` the cache holds
    active = [i for i, row in enumerate(rows) if len(texts[i]) < most[i] and not finished(row, texts[i])]
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
        best = dict(zip(held, logits.float().argmax(-1).tolist(), strict=True))
        for i in active:
            texts[i].append(best[i])
        active = [i for i in active if len(texts[i]) < most[i] and not finished(rows[i], texts[i])]
    return texts


@torch.no_grad()
def generate_plain(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    pad_id: int,
    stops: frozenset[int],
    finished: Finished,
    limit: int,
) -> list[list[int]]:
    """Decode greedily by the library's own ``generate``; for architectures that can't decode from a masked cache.

    The ids are the encoder's, padded on the left. The model has lost its own generation config when it was loaded. All
    prompts must have :func:`room` for ``limit`` tokens: the library feeds rows that are finished until all are.
    """
    width = max(len(p) for p in prompts)
    ids = np.full((len(prompts), width), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = prompt
        mask[i, width - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=limit, eos_token_id=sorted(stops), pad_token_id=pad_id
    )
    watch = Watch(width, finished, len(prompts))
    model: Any = loaded.model  # generate is a mix-in that the base class does not declare
    output = model.generate(
        input_ids=to_device(ids, loaded.device),
        attention_mask=to_device(mask, loaded.device),
        generation_config=config,
        stopping_criteria=StoppingCriteriaList([watch]),
    )
    return [row[:length] for row, length in zip(output[:, width:].tolist(), watch.lengths, strict=True)]


class Watch(StoppingCriteria):
    """Ends each row's generation where it is finished, and notes how long it was by then."""

    def __init__(self, width: int, finished: Finished, rows: int) -> None:
        self.width, self.finished = width, finished
        self.lengths = [0] * rows
        self._done = [False] * rows

    @override
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        for i, row in enumerate(input_ids[:, self.width :].tolist()):
            if not self._done[i]:
                self.lengths[i] = len(row)
                self._done[i] = self.finished(i, row)
        return torch.tensor(self._done, dtype=torch.bool, device=input_ids.device)
