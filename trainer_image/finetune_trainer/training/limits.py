"""The largest micro-batches that a job takes by itself, by device and precision; ``loop.py`` cuts its steps by them."""

from __future__ import annotations

from typing import Final

from finetune_trainer.model.load import LoadedModel
from finetune_trainer.training.plan import BatchLimits, Hyperparameters

__all__ = ["default_limits"]

LIMITS: Final = {
    ("cpu", "Float32"): BatchLimits(tokens=256, labels=256, overhead=64),
    ("cpu", "BFloat16"): BatchLimits(tokens=1024, labels=1024, overhead=256),
    ("cuda", "Float32"): BatchLimits(tokens=16384, labels=8192, overhead=1024),
    ("cuda", "BFloat16"): BatchLimits(tokens=16384, labels=8192, overhead=1024),
}
"""By device and precision. On a CPU a batch that fills the processor gains nothing by growing, and its activations are
most of the memory; what a batch costs by itself is the way of all gradients through memory, which weighs more the
faster the products are."""
ADAPTER_LIMITS: Final = {**LIMITS, ("cpu", "Float32"): BatchLimits(tokens=512, labels=256, overhead=64)}
"""The same where only adapters are trained: their products are too thin to fill a processor with 256 tokens, and no
gradient of the base takes the memory."""


def default_limits(loaded: LoadedModel, parameters: Hyperparameters) -> BatchLimits:
    """Return the largest micro-batches that a job takes by itself."""
    by_place = ADAPTER_LIMITS if parameters.method == "LoRA" else LIMITS
    return by_place[loaded.device.type, loaded.precision]
