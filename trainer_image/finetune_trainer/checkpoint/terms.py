"""On what terms a training runs: what a state must have been made with, so that going on from it is the same training.

Values only; ``checkpoints.py`` takes them from the job, ``catalog.py`` holds stored states against them.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import torch

from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.training.plan import Hyperparameters

__all__ = ["Terms", "machine_of", "settings_of", "terms_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms of one attempt.

    Attributes
    ----------
    settings
        The training with nothing left open, as JSON.
    machine
        What the bits of the arithmetic depend on besides; a state of another machine is taken with a warning.
    shapes
        Shape of every trained parameter.
    """

    precision: Precision
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    shapes: Mapping[str, torch.Size]


def terms_of(loaded: LoadedModel, parameters: Hyperparameters, *, threads: int) -> Terms:
    """Return the terms on which a model is about to be trained."""
    return Terms(
        precision=loaded.precision,
        settings=settings_of(parameters),
        machine=machine_of(loaded.device, threads),
        shapes={name: p.shape for name, p in loaded.model.named_parameters() if p.requires_grad},
    )


def settings_of(parameters: Hyperparameters) -> dict[str, Any]:
    """Return the training with nothing left open, as JSON."""
    lora = parameters.lora.to_wire() if parameters.lora else None
    return {**{f.name: getattr(parameters, f.name) for f in dataclasses.fields(parameters)}, "lora": lora}


def machine_of(device: torch.device, threads: int) -> dict[str, Any]:
    """Return what the bits of the arithmetic depend on besides the program."""
    cuda = device.type == "cuda"
    return {
        "architecture": platform.machine(),
        "capability": torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "torch": torch.__version__,
    }
