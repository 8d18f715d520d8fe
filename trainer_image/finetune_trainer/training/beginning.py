"""Whether the rows of a training share what their prompts begin with: only where that is exact and worth a pass.

The loop then runs the common beginning once a micro-batch; its keys and values serve all rows.
"""

from __future__ import annotations

from typing import Final

from torch import nn

from finetune_trainer.evaluation.abilities import supports_branches
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import EncodedPart
from finetune_trainer.training.batch import common_beginning

__all__ = ["shared_beginning"]

SHARED_SHARE: Final = 0.2
"""Least share of a mean row that a common beginning must have to be worth a pass of its own."""


def shared_beginning(loaded: LoadedModel, part: EncodedPart) -> int:
    """Tokens that all rows can share in training; 0 where sharing is not exact or not worth it.

    Dropout draws a mask for each row, also in the common beginning; so a model that has any does not share.
    """
    length = common_beginning(part)
    longest = int(part.lengths.max())
    if length < SHARED_SHARE * float(part.lengths.mean()) or _has_dropout(loaded.model):
        return 0
    return length if supports_branches(loaded, longest) else 0


def _has_dropout(model: nn.Module) -> bool:
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()):
        return True
    config = getattr(model, "config", None)
    values = config.get_text_config().to_dict() if config is not None else {}
    return any(("dropout" in k or k.endswith("_pdrop")) and isinstance(v, float) and v > 0 for k, v in values.items())
