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

from finetune_api.job import LoRA, Training
from finetune_trainer.data.sample import permutation

__all__ = [
    "BatchLimits",
    "Hyperparameters",
    "learning_rate_factor",
    "micro_batches",
    "resolve",
    "step_seed",
    "steps",
]

Rows = NDArray[np.int64]

STEPS_PER_EPOCH: Final = 20
"""Automatic batch sizes leave at least so many optimizer steps an epoch, if the rows allow it."""
WARMUP_SHARE: Final = 0.05
SCORED_ROWS: Final = 100
"""From so many validation rows on, the epoch is chosen by their score, which is what the test reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hyperparameters:
    """The training with nothing left open; what the spec left out has been chosen.

    ``learning_rate`` is the peak rate as the decimal string that goes into ``status.resolved``; ``patience`` is None
    without early stopping; ``lora`` is None for a full fine-tune; ``select_by`` is what the kept epoch is the best by.
    """

    method: Literal["Full", "LoRA"]
    epochs: int
    batch_size: int
    learning_rate: str
    seed: int
    patience: int | None = None
    lora: LoRA | None = None
    select_by: Literal["Score", "Loss"] = "Loss"


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
    """
    lora = adapters_of(training)
    batch_size = training.batch_size or 2 ** int(math.log2(min(32, max(4, rows // STEPS_PER_EPOCH))))
    if lora is not None:
        rate = "5e-4" if parameters < 1e9 else "2e-4"
    else:
        rate = "5e-5" if parameters < 1e9 else "2e-5" if parameters < 1e10 else "1e-5"
    return Hyperparameters(
        method="Full" if lora is None else "LoRA",
        epochs=training.epochs,
        batch_size=batch_size,
        learning_rate=training.learning_rate or rate,
        seed=training.seed,
        patience=training.early_stopping.patience if training.early_stopping else None,
        lora=lora,
        select_by=_select_by(training, validation_rows),
    )


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


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the peak learning rate at an optimizer step: linear warm-up, then half a cosine to zero.

    Parameters
    ----------
    step
        From 0.
    total
        Planned steps; a twentieth of them is warm-up (Loshchilov and Hutter 2017, arXiv:1608.03983, with the warm-up
        of Goyal et al. 2017).

    Returns
    -------
    float
        Above 0 and at most 1 for every step below ``total``.
    """
    warmup = int(WARMUP_SHARE * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))
