"""Whether rows of a training can stand one behind the other instead of being padded: only where that is exact.

A model that goes by positions and masks keeps such rows apart; one with recurrent layers or convolutions doesn't. So it
is tried on two made-up rows, as :mod:`finetune_trainer.training.beginning` does for what rows share.
"""

from __future__ import annotations

import logging
from typing import Final

import torch
from torch import Tensor

from finetune_trainer.model.attention import NAME
from finetune_trainer.model.load import LoadedModel, embedding_rows
from finetune_trainer.training.batch import packed_inputs

__all__ = ["supports_packing"]

LENGTHS: Final = (20, 13)
ROUNDING: Final = 0.05
"""Relative to the norm of the logits; a model that counts positions wrongly is far beyond."""
log = logging.getLogger(__name__)


def supports_packing(loaded: LoadedModel) -> bool:
    """Whether packing is exact and pays: on a CPU, with the attention that works on each row by itself."""
    model = loaded.model
    if model.config._attn_implementation != NAME or model.dtype not in (torch.bfloat16, torch.float32):
        return False
    ids = torch.arange(1, 1 + sum(LENGTHS)).mul_(7919).remainder_(embedding_rows(model))[None]
    second = ids[:, LENGTHS[0] :]
    try:
        packed = _logits(loaded, ids, packed=True)
        after_another = _logits(loaded, torch.cat([ids[:, : LENGTHS[0]].flip(1), second], dim=1), packed=True)
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, IndexError) as error:
        # Architectures that don't know these inputs refuse them in one of these ways; padding is right for all.
        log.info("packing rows failed: %s", str(error))  # its traceback would hold the model
        return False
    alone = _logits(loaded, second, packed=False)
    packed, after_another = packed[LENGTHS[0] :], after_another[LENGTHS[0] :]
    # What stands before a row must not change a bit of it, and its positions must be its own.
    exact = torch.equal(packed, after_another) and bool((packed - alone).norm() <= ROUNDING * alone.norm())
    if not exact:
        log.info("this architecture doesn't keep packed rows apart; they are padded")
    return exact


def _logits(loaded: LoadedModel, ids: Tensor, *, packed: bool) -> Tensor:
    inputs = packed_inputs(LENGTHS, ids.device) if packed else {}
    index = torch.arange(ids.shape[1])
    with torch.enable_grad():  # as in training
        return loaded.head(ids, index, **inputs)[0].detach().float()
