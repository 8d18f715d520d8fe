"""``model.adapter`` of a job: brought here, held against spec and base, and made part of the untouched model.

The untouched model of such a job is the base with the adapter, so the baseline is scored with it. A full fine-tune
merges it first and is then one of a model that lies in the scratch folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from finetune_trainer.job.base_model import Inputs
from finetune_trainer.model.adapter import merge_into
from finetune_trainer.model.load import load_model
from finetune_trainer.output.write import save_model
from finetune_trainer.process.console import Console

__all__ = ["merged_first"]


def merged_first(inputs: Inputs, folder: Path, console: Console) -> Inputs:
    """Return the inputs of a full fine-tune: their model has the adapter in its weights.

    Parameters
    ----------
    folder
        Where the merged model goes.
    """
    if inputs.adapter is None:
        return inputs
    with console.step("merge_adapter", "merge the adapter into the model"):
        # On the CPU: the 32 bits of all weights may not fit beside what comes on a GPU.
        base = load_model(inputs.model_folder, device=torch.device("cpu"), precision="Float32")
        merged = merge_into(base, inputs.adapter)
        save_model(merged.model, inputs.model_folder, folder)
    return replace(inputs, model_folder=folder)
