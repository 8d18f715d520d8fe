"""Which rows go into which optimizer step, and how a step is cut into micro-batches: pure functions, no torch.

The order is a function of (seed, epoch) alone. There is no sampler state, so a continued training cannot replay or skip
rows, and every world size sees the same steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from finetune_api.job import LoRA, Training, Validation
from finetune_trainer.data.sample import permutation
from finetune_trainer.training.schedule import Schedule, Scheduler

__all__ = [
    "BatchLimits",
    "Hyperparameters",
    "micro_batches",
    "resolve",
    "step_seed",
    "steps",
]

Rows = NDArray[np.int64]

_RATES: Final = {
    (False, False): ((1e9, "5e-4"), (math.inf, "2e-4")),
    (False, True): ((1e9, "5e-5"), (1e10, "2e-5"), (math.inf, "1e-5")),
    (True, False): ((1e9, "5e-2"), (math.inf, "2e-2")),
    (True, True): ((1e9, "1e-3"), (1e10, "4e-4"), (math.inf, "2e-4")),
}
"""Learning rates by (Adafactor, Full), each for models of fewer parameters than stand before it."""

STEPS_PER_EPOCH: Final = 20
"""Automatic batch sizes leave at least so many optimizer steps an epoch, if the rows allow it."""
SCORED_ROWS: Final = 100
"""From so many validation rows on, the epoch is chosen by their score, which is what the test reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """The training with nothing left open; what the spec left out has been chosen.

    ``learning_rate`` is the peak rate as the decimal string that goes into ``status.resolved``; ``patience`` is None
    without early stopping, and counts validations; ``lora`` is None for a full fine-tune; ``select_by`` is what the
    kept validation is the best by. ``validate_every`` is in steps, None for the ends of epochs; ``validation_limit``
    bounds the rows of one. ``max_grad_norm`` 0 never clips.
    """

    method: Literal["Full", "LoRA"]
    epochs: int
    batch_size: int
    learning_rate: str
    seed: int
    patience: int | None = None
    lora: LoRA | None = None
    select_by: Literal["Score", "Loss"] = "Loss"
    optimizer: Literal["AdamW", "Adafactor", "AdamW8bit"] = "AdamW"
    scheduler: Scheduler = "Cosine"
    warmup_percent: str = "5"
    weight_decay: str = "0"
    max_grad_norm: str = "1"
    max_steps: int | None = None
    validate_every: int | None = None
    validation_limit: int | None = None

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of a pass over so many rows."""
        return math.ceil(rows / self.batch_size)

    def total_steps(self, rows: int) -> int:
        """Optimizer steps of the whole training, unless it is stopped early."""
        total = self.steps_per_epoch(rows) * self.epochs
        return total if self.max_steps is None else min(total, self.max_steps)

    def schedule(self, rows: int) -> Schedule:
        """How the learning rate goes."""
        return Schedule.of(self.scheduler, total=self.total_steps(rows), warmup_percent=self.warmup_percent)


def adapters_of(training: Training) -> LoRA | None:
    """Return the settings of the adapters; None for a full fine-tune."""
    return None if training.method == "Full" else training.lora or LoRA()


def resolve(training: Training, *, rows: int, parameters: int, validation_rows: int = 0) -> Hyperparameters:
    """Fill in what the spec leaves open.

    Parameters
    ----------
    rows
        Training rows; small sets get small batches, so that an epoch still has some 20 steps.
    parameters
        Size of the model; a full fine-tune takes smaller steps in a larger model.
    validation_rows
        Of fewer than :data:`SCORED_ROWS` a score says less than the loss does.

    Returns
    -------
    Hyperparameters
        Batch size between 4 and 32, a power of two; learning rate for a full fine-tune 5e-5 below a billion parameters,
        2e-5 below ten, else 1e-5; for LoRA ten times the full one's: 5e-4, and 2e-4 from a billion parameters on.
        Adafactor's rate is relative to the size of the weights: twenty times as much for a full fine-tune, and a
        hundred times for adapters, which start at nothing.
    """
    batch_size = training.batch_size or 2 ** int(math.log2(min(32, max(4, rows // STEPS_PER_EPOCH))))
    validation = training.validation or Validation()
    return Hyperparameters(
        method="Full" if training.method == "Full" else "LoRA",
        epochs=training.epochs,
        batch_size=batch_size,
        learning_rate=training.learning_rate or _rate(training, parameters),
        seed=training.seed,
        patience=training.early_stopping.patience if training.early_stopping else None,
        lora=adapters_of(training),
        select_by=_select_by(training, min(validation_rows, validation.limit or validation_rows)),
        optimizer=training.optimizer,
        scheduler=training.scheduler,
        warmup_percent=training.warmup_percent,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        max_steps=training.max_steps,
        validate_every=validation.every_steps,
        validation_limit=validation.limit,
    )


def _rate(training: Training, parameters: int) -> str:
    by_size = _RATES[training.optimizer == "Adafactor", training.method == "Full"]
    return next(rate for below, rate in by_size if parameters < below)


def _select_by(training: Training, validation_rows: int) -> Literal["Score", "Loss"]:
    if training.select_by != "Auto":
        return training.select_by
    return "Score" if validation_rows >= SCORED_ROWS else "Loss"


def steps(seed: int, epoch: int, n: int, batch_size: int) -> list[Rows]:
    """Rows of every optimizer step of an epoch.

    Parameters
    ----------
    epoch
        From 0.
    n
        Training rows, at least 1.
    batch_size
        Most rows in a step.

    Returns
    -------
    list of int64 arrays
        ceil(n / batch_size) steps whose sizes differ by at most one, so that the last step is no outlier; together a
        permutation of 0..n-1.
    """
    return np.array_split(permutation(n, seed, epoch), math.ceil(n / batch_size))


def step_seed(seed: int, step: int) -> int:
    """Seed of all randomness inside one optimizer step (dropout), 63 bits."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What bounds a micro-batch.

    Attributes
    ----------
    tokens
        Most tokens, padding counted; a longer row stands alone.
    labels
        Most completion tokens: each takes a row of logits over the whole vocabulary.
    overhead
        What a batch costs besides its tokens, in tokens.
    """

    tokens: int
    labels: int
    overhead: int = 0


def micro_batches(
    rows: Rows,
    lengths: NDArray[np.integer],
    labels: NDArray[np.integer],
    limits: BatchLimits,
    *,
    packed: bool = False,
) -> list[Rows]:
    """Cut a step into batches of rows of similar length, with the least padding that is worth a batch of its own.

    Parameters
    ----------
    rows
        Row numbers of the step.
    lengths, labels
        Tokens and completion tokens of every row of the part, indexed by row number.
    packed
        Rows stand one behind the other, without padding.

    Returns
    -------
    list of int64 arrays
        The step's rows, longest first; the cut minimises padded tokens + overhead x batches (dynamic programming over
        the sorted lengths).
    """
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    sizes, supervised = lengths[order].tolist(), labels[order].tolist()
    n = len(order)
    cost = [0.0] * (n + 1)  # cheapest way to batch order[i:]
    end = [n] * (n + 1)
    for i in range(n - 1, -1, -1):
        cost[i], in_batch, tokens = math.inf, 0, 0
        for j in range(i + 1, n + 1):
            in_batch += supervised[j - 1]
            tokens = tokens + sizes[j - 1] if packed else sizes[i] * (j - i)
            if j > i + 1 and (tokens > limits.tokens or in_batch > limits.labels):
                break
            candidate = tokens + limits.overhead + cost[j]
            if candidate < cost[i]:
                cost[i], end[i] = candidate, j
    batches, i = [], 0
    while i < n:
        batches.append(order[i : end[i]])
        i = end[i]
    return batches
