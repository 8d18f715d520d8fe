"""The training loop: cross-entropy on the completion tokens, several epochs, the best weights kept.

The loss of an optimizer step is the sum over all its completion tokens divided by their number, which the plan knows
beforehand; so it does not depend on how the step is cut into micro-batches. What all prompts begin with (system prompt,
instruction, list of choices) is run once a micro-batch, not once a row: its keys and values serve all rows, and their
gradients add up there, which is the same sum. The host reads the device once per log
interval. Randomness (dropout) is seeded anew for every step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from finetune_api.reasons import Reason
from finetune_api.status import ValidationPoint
from finetune_trainer.batch import collate, common_beginning, completion_lengths, input_lengths, to_device
from finetune_trainer.errors import StageError
from finetune_trainer.evaluate import evaluate
from finetune_trainer.hardware import gpu_memory_errors, peak_memory_bytes
from finetune_trainer.model import LoadedModel
from finetune_trainer.observer import LogEntry, Observer, Silent
from finetune_trainer.optimizer import MasterAdamW
from finetune_trainer.outcome import TrainOutcome
from finetune_trainer.plan import BatchLimits, Hyperparameters, learning_rate_factor, micro_batches, step_seed, steps
from finetune_trainer.prepared import EncodedPart, Prepared
from finetune_trainer.score import supports_branches
from finetune_trainer.stats import decimal

__all__ = ["train"]

MAX_NORM: Final = 1.0
LIMITS: Final = {
    "cpu": BatchLimits(tokens=2048, labels=2048, overhead=32),
    "cuda": BatchLimits(tokens=16384, labels=8192, overhead=1024),
}
SHARED_SHARE: Final = 0.2
"""Least share of a mean row that a common beginning must have to be worth a pass of its own."""
LOG_STEPS: Final = {"cpu": 1, "cuda": 10}
"""Steps between two looks at the device; on a CPU looking is free."""


def train(
    loaded: LoadedModel,
    prepared: Prepared,
    parameters: Hyperparameters,
    *,
    observer: Observer | None = None,
    limits: BatchLimits | None = None,
) -> TrainOutcome:
    """Fine-tune in place; afterwards the model holds the weights with the lowest validation loss.

    What is trained is what requires a gradient: everything, or the adapters after
    :func:`~finetune_trainer.model.add_lora`. The weights end as they will be stored, rounded to ``stored_dtype``
    (adapters stay 32-bit), and stand in ``loaded.weights``.

    Raises
    ------
    StageError
        Diverged, naming the step; GPUOutOfMemory.
    """
    loop = _Loop(loaded, prepared, parameters, observer or Silent(), limits or LIMITS[loaded.device.type])
    with gpu_memory_errors("training"):
        return loop.run()


@dataclass
class _Pending:
    """Metrics that are still on the device, and their host side, since the last look."""

    first_step: int = 0
    sums: list[Tensor] = field(default_factory=list)  # (loss sum, tokens right, gradient norm) of each step
    labels: list[int] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0


class _Loop:
    def __init__(
        self,
        loaded: LoadedModel,
        prepared: Prepared,
        parameters: Hyperparameters,
        observer: Observer,
        limits: BatchLimits,
    ) -> None:
        self.loaded, self.prepared, self.parameters = loaded, prepared, parameters
        self.observer, self.limits = observer, limits
        self.part = prepared.parts["train"]
        self.shared = _shared_beginning(loaded, prepared.parts["train"])
        if self.shared:
            self.limits = dataclasses.replace(limits, overhead=limits.overhead + self.shared)
        self.lengths, self.labels = input_lengths(self.part) - self.shared, completion_lengths(self.part)
        self.optimizer = MasterAdamW({n: p for n, p in loaded.model.named_parameters() if p.requires_grad})
        self.per_epoch = math.ceil(len(self.part) / parameters.batch_size)
        self.total = self.per_epoch * parameters.epochs
        self.pending = _Pending()
        self.losses: list[float] = []
        self.tokens = self.seconds = 0.0

    def run(self) -> TrainOutcome:
        stored = torch.float32 if self.loaded.adapter is not None else self.loaded.stored_dtype
        points: list[ValidationPoint] = []
        best_loss, best_epoch, best = math.inf, 0, None
        epoch = 0
        while epoch < self.parameters.epochs:
            self._epoch(epoch)
            epoch += 1
            if len(self.prepared.parts["validation"]) == 0:
                continue
            loss, point = self._validate(epoch)
            points.append(point)
            self.observer.on_validation(point)
            if loss < best_loss:
                best_loss, best_epoch = loss, epoch
                best = self.optimizer.snapshot(stored)
            elif self.parameters.patience is not None and epoch - best_epoch >= self.parameters.patience:
                break
        self.loaded.weights = best or self.optimizer.snapshot(stored)
        with torch.no_grad():
            for name, parameter in self.loaded.model.named_parameters():
                if name in self.loaded.weights:
                    parameter.copy_(self.loaded.weights[name])
        self.loaded.model.eval()
        return TrainOutcome(
            losses=tuple(self.losses),
            validation=tuple(points),
            best_epoch=best_epoch or epoch,
            stopped_early=epoch < self.parameters.epochs,
            tokens=int(self.part.lengths.sum()) * epoch,
            supervised_tokens=int(self.labels.sum()) * epoch,
            attention_pairs=int((self.part.lengths.astype(np.int64) ** 2).sum()) * epoch,
            seconds=self.seconds,
            peak_memory_bytes=peak_memory_bytes(self.loaded.device),
        )

    def _epoch(self, epoch: int) -> None:
        self.loaded.model.train()
        for i, rows in enumerate(steps(self.parameters.seed, epoch, len(self.part), self.parameters.batch_size)):
            start = time.perf_counter()
            step = epoch * self.per_epoch + i
            self.pending.sums.append(self._step(step, rows))
            self.pending.labels.append(int(self.labels[rows].sum()))
            self.pending.tokens += int(self.part.lengths[rows].sum())
            look = (step + 1) % LOG_STEPS[self.loaded.device.type] == 0 or i + 1 == self.per_epoch
            host = torch.stack(self.pending.sums).tolist() if look else None
            self.pending.seconds += time.perf_counter() - start
            if host is not None:
                self._log(step, host)

    def _step(self, step: int, rows: NDArray[np.int64]) -> Tensor:
        """One optimizer step; returns (summed loss, tokens right, gradient norm) on the device, unread."""
        torch.manual_seed(step_seed(self.parameters.seed, step))
        labels = int(self.labels[rows].sum())
        sums = torch.zeros(2, device=self.loaded.device)
        for micro in micro_batches(rows, self.lengths, self.labels, self.limits):
            batch = collate(self.part, micro, device=self.loaded.device, skip=self.shared)
            cache = self._beginning(len(micro))
            logits, _ = self.loaded.head(
                batch.input_ids, batch.index, use_cache=cache is not None, past_key_values=cache
            )
            loss = functional.cross_entropy(logits.float(), batch.targets, reduction="sum")
            (loss / labels).backward()
            self.optimizer.collect()
            right = (logits.detach().argmax(-1) == batch.targets).sum()
            sums += torch.stack([loss.detach(), right.to(loss.dtype)])
        norm = self.optimizer.step(self._learning_rate(step), max_norm=MAX_NORM)
        return torch.cat([sums, norm.detach().reshape(1).to(sums.dtype)])

    def _beginning(self, rows: int) -> DynamicCache | None:
        """Run the shared beginning and return its cache for so many rows, connected to the weights."""
        if not self.shared:
            return None
        cache = DynamicCache(config=self.loaded.model.config)
        ids = to_device(self.part.tokens[None, : self.shared].astype(np.int64), self.loaded.device)
        nowhere = torch.zeros(1, dtype=torch.int64, device=self.loaded.device)
        self.loaded.head(ids, nowhere, use_cache=True, past_key_values=cache)
        cache.batch_repeat_interleave(rows)
        return cache

    def _learning_rate(self, step: int) -> float:
        return float(self.parameters.learning_rate) * learning_rate_factor(step, self.total)

    def _log(self, step: int, host: list[list[float]]) -> None:
        """Take the metrics that have arrived on the host; ``step`` is the last one, from 0."""
        pending, self.pending = self.pending, _Pending(first_step=step + 1)
        for i, ((loss, _, norm), labels) in enumerate(zip(host, pending.labels, strict=True)):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise StageError(
                    Reason.DIVERGED,
                    f"training diverged at step {pending.first_step + i + 1} of {self.total}: the loss is "
                    f"{loss / labels} and the gradient's norm {norm}, with training.learningRate "
                    f"{self.parameters.learning_rate}",
                )
            self.losses.append(loss / labels)
        labels = sum(pending.labels)
        self.seconds += pending.seconds
        self.observer.on_log(
            LogEntry(
                step=step + 1,
                total_steps=self.total,
                epoch=(step + 1) / self.per_epoch,
                loss=math.fsum(row[0] for row in host) / labels,
                token_accuracy=sum(row[1] for row in host) / labels,
                tokens_per_second=pending.tokens / pending.seconds,
                learning_rate=self._learning_rate(step),
                grad_norm=host[-1][2],
            )
        )

    def _validate(self, epoch: int) -> tuple[float, ValidationPoint]:
        evaluation = evaluate(
            self.loaded,
            self.prepared.parts["validation"],
            self.prepared,
            texts=(),
            generate=False,
            observer=self.observer,
        )
        if not math.isfinite(evaluation.loss):
            raise StageError(
                Reason.DIVERGED,
                f"training diverged: the validation loss after epoch {epoch} is {evaluation.loss}, with "
                f"training.learningRate {self.parameters.learning_rate}",
            )
        point = ValidationPoint(
            epoch=epoch,
            step=epoch * self.per_epoch,
            loss=decimal(evaluation.loss),
            score=decimal(evaluation.accuracy),
        )
        return evaluation.loss, point


def _shared_beginning(loaded: LoadedModel, part: EncodedPart) -> int:
    """Tokens that all rows can share in training; 0 where sharing is not exact or not worth it.

    Dropout draws a mask for each row, also in the common beginning; so a model that has any does not share.
    """
    length = common_beginning(part)
    longest = int(part.lengths.max())
    if length < SHARED_SHARE * float(part.lengths.mean()) or _has_dropout(loaded.model):
        return 0
    return length if supports_branches(loaded, longest) else 0


def _has_dropout(model: nn.Module) -> bool:
    if any(isinstance(m, nn.Dropout) and m.p > 0 for m in model.modules()):
        return True
    config = getattr(model, "config", None)
    values = config.get_text_config().to_dict() if config is not None else {}
    return any(("dropout" in k or k.endswith("_pdrop")) and isinstance(v, float) and v > 0 for k, v in values.items())
