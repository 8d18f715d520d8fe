"""The micro-batches that a job takes by itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from finetune_trainer.model.device import Precision
from finetune_trainer.training.limits import default_limits
from tests.support.tiny_model import make_model
from tests.support.train_kit import FULL, load


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["Float32", "BFloat16"])
def test_adapters_get_micro_batches_of_at_least_the_tokens_that_all_weights_get(
    tmp_path: Path, device: str, precision: Precision
) -> None:
    make_model(tmp_path)
    loaded = dataclasses.replace(load(tmp_path), device=torch.device(device), precision=precision)
    all_weights, adapters = (
        default_limits(loaded, dataclasses.replace(FULL, method=method)) for method in ("Full", "LoRA")
    )
    assert adapters.tokens >= all_weights.tokens
    assert (adapters.tokens > all_weights.tokens) == ((device, precision) == ("cpu", "Float32"))
