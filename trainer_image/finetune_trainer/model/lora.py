"""Adapters on a loaded model: which layers carry them, and how they start.

Above ``load.py``, which knows models without; training, export and scoring see no difference.
"""

from __future__ import annotations

import dataclasses

import torch

from finetune_api.job import LoRA
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.model.load import LoadedModel

__all__ = ["add_lora"]


def add_lora(loaded: LoadedModel, lora: LoRA, *, seed: int) -> LoadedModel:
    """Put adapters on every linear layer of the blocks; never on embeddings or head (they may be tied).

    The adapters start as a zero update, so the model's answers are still those of the base. They have the type of the
    base weights; the optimizer keeps 32-bit masters.

    Returns
    -------
    LoadedModel
        The model with adapters. Its network is the one that was passed in, so the old value is of no use any more.

    Raises
    ------
    StageError
        ModelInvalid for an architecture whose layers can't carry adapters.
    """
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - seconds to import, and full fine-tunes don't need it
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415

    torch.manual_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=float(lora.dropout),
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in loaded.model.modules()),
        task_type="CAUSAL_LM",
    )
    try:
        adapter = get_peft_model(loaded.model, config, autocast_adapter_dtype=False)
    except ValueError as error:
        kind = loaded.model.config.model_type
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: training.method LoRA is not possible with {kind}, but Full is: {error}",
        ) from error
    loaded.model.eval()
    return dataclasses.replace(loaded, adapter=adapter)
