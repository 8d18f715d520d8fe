"""One run of TRL's SFTTrainer on the same rows; started by ``__main__.py`` in an environment of its own.

    default   SFTConfig as it comes: padded batches, activation checkpointing, 32-bit weights under bfloat16 autocast
    padded    its documented options for speed: no checkpointing, rows of similar length together, fused AdamW
    packed    the same with packing instead of padding

``settings``: ``dtype`` of the weights (bfloat16 weights are trained as they are; there is no 32-bit master copy),
``micro`` rows or packs in a forward pass, ``length`` of a pack.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-not-found]  # in the other environment
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]  # in the other environment

from benchmarks.trainer_bench.rows import TokenRows, load_rows
from benchmarks.trainer_bench.worker import BATCH_SIZE, LEARNING_RATE, SEED, Order, Timer

PACK_LENGTH = 1024
"""What TRL packs to by itself."""


class _Counting(SFTTrainer):  # type: ignore[misc]  # untyped here
    """Adds up the real tokens that it is given."""

    real_tokens = 0

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **words: Any) -> Any:
        """Count, and train as ever."""
        mask = inputs.get("attention_mask")
        self.real_tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        return super().training_step(model, inputs, *more, **words)


class _Watch(TrainerCallback):
    """Notes every optimizer step."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.trainer: _Counting | None = None
        self.before = 0

    def on_step_end(self, *_arguments: Any, **_more: Any) -> None:
        """Note a step."""
        assert self.trainer is not None  # noqa: S101  # set before the training begins
        tokens, self.before = self.trainer.real_tokens - self.before, self.trainer.real_tokens
        self.timer.step(tokens)


def _dataset(rows: TokenRows) -> Any:
    pairs = [rows.row(i) for i in range(len(rows))]
    return Dataset.from_dict(
        {
            "input_ids": [prompt + completion for prompt, completion in pairs],
            "completion_mask": [[0] * len(prompt) + [1] * len(completion) for prompt, completion in pairs],
        }
    )


def config(order: Order, rows: TokenRows, folder: str) -> SFTConfig:
    """Return the variant's settings; what is not named stays TRL's own."""
    common: dict[str, Any] = {
        "output_dir": folder,
        "use_cpu": True,
        "num_train_epochs": max(1, order.epochs),
        "learning_rate": LEARNING_RATE,
        "seed": SEED,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "completion_only_loss": True,
        "logging_steps": 1 if order.epochs == 0 else 1000,
        "per_device_train_batch_size": BATCH_SIZE,
    }
    if order.variant == "default":
        return SFTConfig(**common)
    dtype = str(order.settings.get("dtype", "bfloat16"))
    micro = int(order.settings.get("micro", BATCH_SIZE))
    common |= {
        "gradient_checkpointing": False,
        "bf16": True,
        "optim": "adamw_torch_fused",
        "dataloader_pin_memory": False,
        "model_init_kwargs": {"dtype": dtype},
        "per_device_train_batch_size": micro,
    }
    if order.variant == "padded":
        return SFTConfig(
            **common,
            gradient_accumulation_steps=BATCH_SIZE // micro,
            train_sampling_strategy="group_by_length",
            max_length=rows.longest,
        )
    # For its loss alone the step must hold all rows, however they would fall into packs.
    least = len(rows.tokens) if order.epochs == 0 else rows.longest
    length = max(least, int(order.settings.get("length", PACK_LENGTH)))
    # As many packs as hold the rows of an optimizer step, on average.
    packs = max(1, round(BATCH_SIZE * len(rows.tokens) / len(rows) / length))
    micro = min(micro, packs)
    return SFTConfig(
        **{**common, "per_device_train_batch_size": micro},
        gradient_accumulation_steps=max(1, round(packs / micro)),
        packing=True,
        max_length=length,
    )


def main() -> None:
    """Train and report."""
    order = Order.from_arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = load_rows(Path(order.rows))
    if order.epochs == 0:
        rows = rows.first(BATCH_SIZE)
    watch = _Watch(Timer(len(rows.tokens)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = _Counting(
            model=order.model,
            args=config(order, rows, folder),
            train_dataset=_dataset(rows),
            processing_class=AutoTokenizer.from_pretrained(order.model),
            callbacks=[watch],
            # The operator's own defaults.
            peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear")
            if order.method == "LoRA"
            else None,
        )
        watch.trainer = trainer
        trainer.train()
        loss = next((entry["loss"] for entry in trainer.state.log_history if "loss" in entry), None)
    watch.timer.report(loss=loss, threads=torch.get_num_threads(), rows_of_packs=len(trainer.train_dataset))


if __name__ == "__main__":
    main()
