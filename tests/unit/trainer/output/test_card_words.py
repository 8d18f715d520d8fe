"""Sentences of the card that a job's settings decide."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import LoRA
from finetune_api.status import Resolved
from finetune_trainer.output.card import adapter_facts


@pytest.mark.parametrize(
    ("lora", "told"),
    [
        ({}, "The adapters have rank 16, alpha 32 on `q_proj`, `v_proj`."),
        (
            {"rank": 1, "alpha": 2, "dropout": "0.05", "useRslora": True, "useDora": True},
            "The adapters have rank 1, alpha 2, dropout 0.05, rank-stabilized scaling, weight decomposition (DoRA) on "
            "`q_proj`, `v_proj`.",
        ),
    ],
)
def test_the_settings_of_adapters_are_told(lora: dict[str, Any], told: str) -> None:
    assert adapter_facts(LoRA.model_validate(lora), Resolved(target_modules=["q_proj", "v_proj"])) == told


def test_a_full_fine_tune_tells_of_no_adapters() -> None:
    assert adapter_facts(None, Resolved(target_modules=None)) == ""
