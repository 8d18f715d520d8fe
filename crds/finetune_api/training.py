"""``spec.training``: how the model is tuned.

A part of :mod:`finetune_api.job`; rules that need other blocks, such as validation rows, stand there.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune_api.base import DecimalString, Rule, SpecModel, not_yet

__all__ = ["Checkpoint", "EarlyStopping", "LoRA", "Training", "Validation"]


class LoRA(SpecModel):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on linear layers of the blocks."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.targetModules) || self.targetModules.all(a, self.targetModules.exists_one(b, a == b))",
            message="training.lora.targetModules must not repeat a name; remove the duplicate",
            check=lambda o: o.target_modules is None or len(set(o.target_modules)) == len(o.target_modules),
            field="targetModules",
        ),
    )

    rank: int = Field(16, ge=1, le=512, description="Rank of the adapters.")
    alpha: int = Field(
        32,
        ge=1,
        le=4096,
        description="Scale of the adapters; the update is multiplied by alpha / rank, with useRslora by alpha / "
        "sqrt(rank).",
    )
    dropout: DecimalString = Field(
        "0.0", description='Dropout on the adapters\' input, as text in quotes such as "0.05".'
    )
    target_modules: list[Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.*?-]+$")]] | None = (
        Field(
            None,
            min_length=1,
            max_length=32,
            description="Layers that carry adapters: names such as q_proj, or patterns with * and ?; one with a dot "
            "in it stands for the end of the whole name. Absent: all linear layers of the blocks.",
        )
    )
    use_rslora: bool = Field(
        False, description="Rank-stabilized scaling (Kalajdzievski 2023, arXiv:2312.03732), for high ranks."
    )
    use_dora: bool = Field(
        False,
        description="Weight-decomposed adapters (Liu et al. 2024, arXiv:2402.09353): direction and length of each row "
        "apart. Slower; not every server loads such adapters, all load the merged model.",
    )
    init_lora_weights: Literal["Kaiming", "Gaussian"] = Field(
        "Kaiming", description="How the first matrix of an adapter begins; the second one is always zero."
    )


class EarlyStopping(SpecModel):
    """Stops when no better validation comes."""

    patience: int = Field(
        ge=1,
        le=100,
        description="Validations without a better one, by training.selectBy, before training stops: epochs, unless "
        "training.validation.everySteps says otherwise.",
    )


class Validation(SpecModel):
    """When the validation rows are scored during training."""

    every_steps: int | None = Field(
        None,
        ge=1,
        le=1000000000,
        description="Optimizer steps from one validation to the next; the end of training is one too. Absent: each "
        "epoch's end.",
    )
    limit: int | None = Field(
        None, ge=1, le=10000000, description="Score at most so many validation rows, the same each time. Absent: all."
    )


class Checkpoint(SpecModel):
    """When training state is saved.

    It is also saved before the pod is stopped, and where an epoch ends 30 seconds or more after the last state.
    """

    interval_seconds: int = Field(600, ge=30, le=86400, description="Most seconds of training between two checkpoints.")


class Training(SpecModel):
    """How the model is tuned. Absent numbers are chosen and echoed in status.resolved."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.lora) || self.method != 'Full'",
            message="training.lora belongs to method LoRA; remove it or set method: LoRA",
            check=lambda t: t.lora is None or t.method != "Full",
            field="lora",
        ),
        Rule(
            cel="!has(self.learningRate) || (double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0)",
            message='training.learningRate must be above 0 and at most 1, as text such as "2e-4"',
            check=lambda t: t.learning_rate is None or 0 < float(t.learning_rate) <= 1,
            field="learningRate",
        ),
        Rule(
            cel="!has(self.lora) || (double(self.lora.dropout) >= 0.0 && double(self.lora.dropout) < 1.0)",
            message='training.lora.dropout must be at least 0 and below 1, as text such as "0.05"',
            check=lambda t: t.lora is None or 0 <= float(t.lora.dropout) < 1,
            field="lora.dropout",
        ),
        Rule(
            cel="double(self.warmupPercent) >= 0.0 && double(self.warmupPercent) < 100.0",
            message='training.warmupPercent must be at least 0 and below 100, as text such as "5"',
            check=lambda t: 0 <= float(t.warmup_percent) < 100,
            field="warmupPercent",
        ),
        Rule(
            cel="double(self.weightDecay) >= 0.0 && double(self.weightDecay) <= 1.0",
            message='training.weightDecay must be at least 0 and at most 1, as text such as "0.01"',
            check=lambda t: 0 <= float(t.weight_decay) <= 1,
            field="weightDecay",
        ),
        Rule(
            cel="double(self.maxGradNorm) >= 0.0 && double(self.maxGradNorm) <= 1000000.0",
            message="training.maxGradNorm must be at least 0, which never clips, and at most 1000000, as text such as "
            '"1"',
            check=lambda t: 0 <= float(t.max_grad_norm) <= 1000000,
            field="maxGradNorm",
        ),
        not_yet(
            "self.method != 'QLoRA'",
            "training.method QLoRA",
            lambda t: t.method != "QLoRA",
            field="method",
            mend="use LoRA",
        ),
    )

    method: Literal["Full", "LoRA", "QLoRA"] = Field(
        "LoRA", description="Full changes all weights, LoRA adds adapters. QLoRA is refused by this version."
    )
    lora: LoRA | None = Field(None, description="Adapter settings; only with LoRA.")
    epochs: int = Field(3, ge=1, le=1000, description="Passes over the training rows.")
    max_steps: int | None = Field(
        None,
        ge=1,
        le=1000000000,
        description="Optimizer steps after which training ends, if epochs doesn't end it before.",
    )
    learning_rate: DecimalString | None = Field(
        None,
        description='Peak learning rate as text in quotes, such as "2e-4"; with Adafactor relative to each weight.',
    )
    scheduler: Literal["Cosine", "Linear", "Constant", "WSD"] = Field(
        "Cosine",
        description="How the learning rate goes after the warm-up: to zero along a cosine or a line, not at all, or "
        "not until the last fifth of the steps (WSD: warm-up, stable, decay).",
    )
    warmup_percent: DecimalString = Field(
        "5",
        description='Percent of the steps in which the learning rate rises to its peak, as text in quotes: "5".',
    )
    optimizer: Literal["AdamW", "Adafactor", "AdamW8bit"] = Field(
        "AdamW",
        description="AdamW; AdamW8bit, which remembers two bytes for each number of a weight; or Adafactor, which "
        "remembers rows and columns.",
    )
    weight_decay: DecimalString = Field(
        "0",
        description="Share of a weight, times the learning rate, that goes with each step, as text in quotes such as "
        '"0.01"; never of norms and biases.',
    )
    max_grad_norm: DecimalString = Field(
        "1", description='What the norm of a step\'s gradient is cut to, as text in quotes; "0" never cuts.'
    )
    batch_size: int | None = Field(None, ge=1, le=65536, description="Rows per optimizer step over all ranks.")
    max_length: int = Field(
        1024,
        ge=16,
        le=1048576,
        description="Tokens of prompt and completion; of a longer row the longest field is shortened.",
    )
    precision: Literal["Auto", "BFloat16", "Float32"] = Field(
        "Auto", description="Arithmetic of the weights; the optimizer always keeps 32-bit master weights."
    )
    seed: int = Field(7, ge=0, le=2147483647, description="Seed of row order, dropout and new weights.")
    early_stopping: EarlyStopping | None = Field(
        None, description="Stop when no better validation comes, by training.selectBy."
    )
    validation: Validation | None = Field(None, description="When the validation rows are scored during training.")
    select_by: Literal["Auto", "Score", "Loss"] = Field(
        "Auto",
        description="Which weights are kept: those with the best validation score (ties by loss), or with the lowest "
        "validation loss. Auto is Score with 100 validation rows or more, else Loss.",
    )
    checkpoint: Checkpoint = Field(
        Checkpoint(), description="When state is saved; a pod that was stopped goes on from there."
    )
