"""What a model can do that speeds scoring up: tried on made-up rows, once, and remembered beside the model.

Not every architecture keeps answers apart that share a prompt. Trying is cheap, but what was found is part of the
arithmetic: a later attempt at the same job takes it over (``checkpoint/``) and doesn't try again.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import torch

from finetune_trainer.evaluation.answer_tree import build_tree
from finetune_trainer.evaluation.score import Question, compute_prefix, score, score_alone
from finetune_trainer.model.load import Abilities, LoadedModel, embedding_rows

__all__ = ["supports_branches", "try_out"]

log = logging.getLogger(__name__)


def try_out(loaded: LoadedModel) -> LoadedModel:
    """Return the model with its abilities beside it; what is known already is not tried again."""
    if loaded.abilities is not None:
        return loaded
    branching = not loaded.encoder_decoder and _try_branches(loaded)
    if not branching and not loaded.encoder_decoder:
        log.warning("this architecture can't share a prompt among answers; each answer is scored by itself")
    return dataclasses.replace(loaded, abilities=Abilities(branching=branching))


def supports_branches(loaded: LoadedModel, longest: int) -> bool:
    """Whether rows of up to ``longest`` slots can be scored as trees."""
    config = loaded.model.config.get_text_config()
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    if any(isinstance(w, int) and longest >= w for w in windows):
        return False
    known = loaded.abilities or try_out(loaded).abilities
    return known is not None and known.branching


def _try_branches(loaded: LoadedModel) -> bool:
    vocabulary = embedding_rows(loaded.model)
    made_up = [int(i) for i in np.arange(1, 40) * 7919 % vocabulary]
    tree = build_tree([made_up[30:32], [*made_up[30:32], made_up[33]], made_up[34:37], made_up[37:38]])
    questions = [Question(tuple(made_up[:20]), tree), Question(tuple(made_up[:12] + made_up[20:23]), tree)]
    try:
        prefix = compute_prefix(loaded, [q.prompt for q in questions])
        shared = score(loaded, questions, prefix, keep_cache=True).rows
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, IndexError) as error:
        log.info("sharing a prompt among answers failed: %s", str(error))  # its traceback would hold the model
        return False
    alone = score_alone(loaded, questions)
    bound = 1e-3 if loaded.model.dtype == torch.float32 else 0.3  # nats; unlikely tokens are known less exactly
    return all(
        bool((np.abs(a - b) <= bound * np.maximum(1, np.abs(b) / 8)).all())
        for x, y in zip(shared, alone, strict=True)
        for a, b in zip(x.logprobs, y.logprobs, strict=True)
    )
