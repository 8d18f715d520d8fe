"""One run of TRL's SFTTrainer, or of transformers' own Trainer, on the same rows; in an environment of its own.

``settings``:

    library    trl, or trainer
    layout     padded; free (rows one behind the other, told apart by positions); packed (the same, up to ``length``
               tokens, rows of all steps mixed); default (SFTConfig as it comes, and nothing below)
    precision  float32; bfloat16 (weights trained as they are, there is no 32-bit master copy); autocast (bfloat16
               products of 32-bit weights)
    attention  sdpa or eager
    micro      rows, or packs, of a forward pass

The rows come in the order of the other side's steps, the longest of a step first, and are not shuffled: so every step
is one over the same rows, and micro-batches hold rows of similar length.
"""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # in the other environment
from peft import LoraConfig, get_peft_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]  # in the other environment

from benchmarks.trainer_bench.rows import TokenRows, load_rows
from benchmarks.trainer_bench.worker import SEED, Order, Timer, quality

# The operator's own defaults.
LORA = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


class _Counting:
    """Adds up the real tokens and rows that a trainer is given, and follows the learning rates of the order."""

    real_tokens = real_rows = 0
    factors: tuple[float, ...] = ()
    optimizer: Any
    lr_scheduler: Any

    def training_step(self, model: Any, inputs: dict[str, Any], *more: Any, **words: Any) -> Any:
        """Count, and train as ever."""
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        self.real_tokens += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        self.real_rows += int((positions == 0).sum()) if mask is None and positions is not None else len(mask)  # type: ignore[arg-type]
        return super().training_step(model, inputs, *more, **words)  # type: ignore[misc]  # of the trainer beside it

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002 - the interface
        """Take the factors; packs can make a few more steps, which take the last one."""
        if self.lr_scheduler is None:
            last = len(self.factors) - 1
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: self.factors[min(step, last)])
        return self.lr_scheduler


class _Trl(_Counting, SFTTrainer):  # type: ignore[misc]  # untyped here
    pass


class _Plain(_Counting, Trainer):
    pass


class _Watch(TrainerCallback):
    """Notes every optimizer step."""

    def __init__(self, timer: Timer) -> None:
        self.timer = timer
        self.trainer: _Counting | None = None
        self.before = (0, 0)

    def on_step_end(self, *_arguments: Any, **_more: Any) -> None:
        """Note a step."""
        assert self.trainer is not None  # noqa: S101  # set before the training begins
        now = (self.trainer.real_tokens, self.trainer.real_rows)
        self.timer.step(now[0] - self.before[0], now[1] - self.before[1])
        self.before = now


def common(order: Order, folder: str) -> dict[str, Any]:
    """What is no choice: the same training as on the other side."""
    return {
        "output_dir": folder,
        "use_cpu": True,
        "num_train_epochs": 1,
        "learning_rate": order.learning_rate,
        "seed": SEED,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
    }


def batches(order: Order) -> dict[str, Any]:
    """Cut an optimizer step as the settings say."""
    micro = int(order.settings["micro"])
    if order.settings["layout"] != "packed":
        return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": order.batch // micro}
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": int(order.settings["packs"]) // micro}


def trl_config(order: Order, rows: TokenRows, folder: str) -> SFTConfig:
    """Return TRL's configuration; what is not named stays TRL's own."""
    settings = order.settings
    same = {**common(order, folder), "completion_only_loss": True}
    if settings["layout"] == "default":
        return SFTConfig(**same, per_device_train_batch_size=order.batch)
    return SFTConfig(
        **same,
        **batches(order),
        gradient_checkpointing=False,
        bf16=settings["precision"] == "autocast",
        optim="adamw_torch_fused",
        model_init_kwargs={"dtype": dtype(order), "attn_implementation": settings["attention"]},
        padding_free=settings["layout"] == "free",
        packing=settings["layout"] == "packed",
        # No row is cut; without padding TRL takes no length.
        max_length={"packed": settings.get("length"), "free": None}.get(str(settings["layout"]), rows.longest),
    )


def dtype(order: Order) -> str:
    """Type of the weights."""
    return "bfloat16" if order.settings["precision"] == "bfloat16" else "float32"


def trl(order: Order, rows: TokenRows, folder: str, watch: _Watch) -> Any:
    """Return TRL's trainer."""
    pairs = [rows.row(i) for i in range(len(rows))]
    columns = {
        "input_ids": [prompt + completion for prompt, completion in pairs],
        "completion_mask": [[0] * len(prompt) + [1] * len(completion) for prompt, completion in pairs],
    }
    return _Trl(
        model=order.model,
        args=trl_config(order, rows, folder),
        train_dataset=Dataset.from_dict(columns),
        processing_class=AutoTokenizer.from_pretrained(order.model),
        callbacks=[watch],
        peft_config=LORA if order.method == "LoRA" else None,
    )


def plain(order: Order, rows: TokenRows, folder: str, watch: _Watch) -> Any:
    """Return transformers' own trainer, as its documentation fine-tunes a causal model on labelled tokens."""
    pairs = [rows.row(i) for i in range(len(rows))]
    columns = {
        "input_ids": [prompt + completion for prompt, completion in pairs],
        "labels": [[-100] * len(prompt) + completion for prompt, completion in pairs],
    }
    tokenizer = AutoTokenizer.from_pretrained(order.model)
    model: Any = AutoModelForCausalLM.from_pretrained(
        order.model, dtype=dtype(order), attn_implementation=order.settings["attention"]
    )
    if order.method == "LoRA":
        torch.manual_seed(SEED)
        model = get_peft_model(model, LORA)
    arguments = TrainingArguments(
        **common(order, folder),
        **batches(order),
        bf16=order.settings["precision"] == "autocast",
        optim="adamw_torch_fused",
    )
    return _Plain(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
        callbacks=[watch],
    )


@torch.no_grad()
def round_weights(model: torch.nn.Module) -> None:
    """Round them as the other side does, which scores what it will store: in the type of the model's folder."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(torch.bfloat16))


def main() -> None:
    """Train, score and report."""
    order = Order.from_arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = load_rows(Path(order.rows))
    watch = _Watch(Timer(order.warm))
    with tempfile.TemporaryDirectory() as folder:
        make = plain if order.settings["library"] == "trainer" else trl
        watch.trainer = trainer = make(order, rows, folder, watch)
        trainer.factors = order.factors
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = watch.timer.result()
    if order.method == "Full":
        round_weights(trainer.model)
    result |= quality(trainer.model, Path(order.held))
    print(json.dumps({**result, "losses": losses, "threads": torch.get_num_threads()}), flush=True)


if __name__ == "__main__":
    main()
