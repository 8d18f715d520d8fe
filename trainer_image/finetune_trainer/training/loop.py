"""The training loop: cross-entropy on the completion tokens, several epochs, the best weights kept (``kept.py``).

The loss of an optimizer step is the sum over all its completion tokens divided by their number, which the plan knows
beforehand; so it does not depend on how the step is cut into micro-batches. What all prompts begin with (system prompt,
instruction, list of choices) is run once a micro-batch, not once a row: its keys and values serve all rows, and their
gradients add up there, which is the same sum. Where prompts share nothing, rows are packed without padding if that is
exact (``packing.py``). The host reads the device once per log interval. Randomness (dropout) is seeded anew for every
step, so a training that goes on from a state of
``state.py`` ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from finetune_api.reasons import Reason
from finetune_api.status import ValidationPoint
from finetune_trainer.errors import StageError
from finetune_trainer.evaluation.abilities import try_out
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.metrics.registry import text_metrics
from finetune_trainer.evaluation.stats import decimal
from finetune_trainer.model.attention import attention_for_training
from finetune_trainer.model.device import gpu_memory_errors, peak_memory_bytes, to_device
from finetune_trainer.model.load import Abilities, LoadedModel
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.training.batch import Batch, collate, collate_apart, input_lengths, pack
from finetune_trainer.training.beginning import shared_beginning
from finetune_trainer.training.eight_bits import MasterAdamW8bit
from finetune_trainer.training.kept import Kept
from finetune_trainer.training.limits import default_limits
from finetune_trainer.training.loss import summed_cross_entropy
from finetune_trainer.training.observer import LogEntry, Observer, Silent
from finetune_trainer.training.optimizer import MasterAdafactor, MasterAdamW, MasterOptimizer, decaying
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.packing import supports_packing
from finetune_trainer.training.plan import BatchLimits, Hyperparameters, micro_batches, step_seed, steps
from finetune_trainer.training.samples import Samples
from finetune_trainer.training.state import (
    Checkpointer,
    NoCheckpoints,
    TrainingProgress,
    TrainingState,
    TrainingStopped,
)

__all__ = ["train"]

_OPTIMIZERS: Final[Mapping[str, type[MasterOptimizer]]] = {
    "AdamW": MasterAdamW,
    "AdamW8bit": MasterAdamW8bit,
    "Adafactor": MasterAdafactor,
}
LOG_STEPS: Final = {"cpu": 1, "cuda": 10}
"""Steps between two looks at the device; on a CPU looking is free."""


def train(
    loaded: LoadedModel,
    prepared: Prepared,
    parameters: Hyperparameters,
    *,
    observer: Observer | None = None,
    limits: BatchLimits | None = None,
    checkpointer: Checkpointer | None = None,
    state: TrainingState | None = None,
    samples: int = 0,
) -> TrainOutcome:
    """Fine-tune in place; afterwards the model holds the weights of the best validation, by ``select_by``.

    What is trained is what requires a gradient: everything, or the adapters after
    :func:`~finetune_trainer.model.lora.add_lora`. The weights end as they will be stored, rounded to ``stored_dtype``
    (adapters stay 32-bit); the outcome holds them too.

    Parameters
    ----------
    checkpointer
        Is asked when to keep a state and whether to stop; without one the loop does neither.
    state
        Where an earlier run of the same training came to; None starts at the beginning.
    samples
        Validation rows whose answers are told where epochs end (``samples.py``); changes nothing else.

    Raises
    ------
    StageError
        Diverged, naming the step; GPUOutOfMemory.
    TrainingStopped
        The checkpointer told the loop to stop; holds the state after the last whole step.
    ValueError
        The state is that of another training.
    """
    if state is not None and state.progress.branching is not None:
        loaded = dataclasses.replace(loaded, abilities=Abilities(branching=state.progress.branching))
    loaded = try_out(loaded)
    with gpu_memory_errors("training"), attention_for_training(loaded.model):
        loop = _Loop(
            loaded,
            prepared,
            parameters,
            observer=observer or Silent(),
            limits=limits or default_limits(loaded, parameters),
            checkpointer=checkpointer or NoCheckpoints(),
            samples=Samples(prepared, parameters, rows=samples),
        )
        if state is not None:
            loop.restore(state)
        try:
            with loop.optimizer.collecting():
                return loop.run()
        except _StopNow:
            raise TrainingStopped(loop.state()) from None


class _StopNow(BaseException):
    """Unwinds the loop from wherever it noticed that it shall stop."""


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
        *,
        observer: Observer,
        limits: BatchLimits,
        checkpointer: Checkpointer,
        samples: Samples,
    ) -> None:
        self.loaded, self.prepared, self.parameters = loaded, prepared, parameters
        self.observer, self.limits, self.checkpointer, self.samples = observer, limits, checkpointer, samples
        self.part = prepared.parts["train"]
        self.shared = 0 if loaded.encoder_decoder else shared_beginning(loaded, self.part)
        if self.shared:
            self.limits = dataclasses.replace(limits, overhead=limits.overhead + self.shared)
        self.packed = not (self.shared or loaded.encoder_decoder) and supports_packing(loaded)
        # Of an encoder-decoder model these are the tokens of both sides, less the decoder's beginning.
        self.lengths, self.labels = input_lengths(self.part) - self.shared, self.part.completion_lengths
        self.optimizer = _optimizer(loaded, parameters)
        self.per_epoch, self.total = parameters.steps_per_epoch(len(self.part)), parameters.total_steps(len(self.part))
        self.schedule = parameters.schedule(len(self.part))
        self.step = 0
        self.pending = _Pending()
        self.losses: list[float] = []
        self.kept = Kept(parameters.select_by)
        self.seconds = 0.0
        self.peak_memory = 0
        self.stored = torch.float32 if loaded.adapter is not None else loaded.stored_dtype

    def restore(self, state: TrainingState) -> None:
        """Go on from ``state``."""
        progress = state.progress
        if progress.step > self.total:
            raise ValueError(f"the state is at step {progress.step} of a training with {self.total}")
        self.optimizer.restore(state.optimizer)
        self.step, self.pending = progress.step, _Pending(first_step=progress.step)
        self.losses = list(progress.losses)
        self.kept = Kept.restored(self.parameters.select_by, progress, state.best)
        self.samples.restore(progress.samples)
        self.seconds, self.peak_memory = progress.seconds, progress.peak_memory_bytes

    def state(self) -> TrainingState:
        """Copy the state after the last whole step."""
        self._look()
        return TrainingState(
            progress=TrainingProgress(
                step=self.step,
                losses=tuple(self.losses),
                validation=tuple(self.kept.points),
                best_loss=self.kept.loss if self.kept.step else None,
                best_score=self.kept.score if self.kept.step else None,
                best_step=self.kept.step,
                samples=tuple(self.samples.taken),
                seconds=self.seconds,
                peak_memory_bytes=self._peak_memory(),
                branching=self.loaded.abilities.branching if self.loaded.abilities else None,
            ),
            optimizer=self.optimizer.state(),
            best=self.kept.weights,
        )

    def run(self) -> TrainOutcome:
        # An earlier run may have been stopped between an epoch's last step and the end of its validation.
        while not self._pause():
            self._train_on()
        weights = dict(self.kept.weights) if self.kept.weights else self.optimizer.snapshot(self.stored)
        with torch.no_grad():
            for name, parameter in self.loaded.model.named_parameters():
                if name in weights:
                    parameter.copy_(weights[name])
        self.loaded.model.eval()
        lengths = self.part.lengths.astype(np.int64)
        return TrainOutcome(
            weights=weights,
            losses=tuple(self.losses),
            validation=tuple(self.kept.points),
            best_epoch=(self.kept.step or self.step) / self.per_epoch,
            kept=self.kept.best,
            stopped_early=self.step < self.total,
            tokens=self._seen(lengths),
            supervised_tokens=self._seen(self.labels),
            attention_pairs=self._seen(lengths**2),
            prompt_pairs=self._seen(self.part.prompt_lengths.astype(np.int64) ** 2),
            seconds=self.seconds,
            peak_memory_bytes=self._peak_memory(),
        )

    def _seen(self, of_rows: NDArray[np.integer]) -> int:
        """Sum a number of each row over all rows of the steps done."""
        epochs, begun = divmod(self.step, self.per_epoch)
        partly = sum(int(of_rows[rows].sum()) for rows in self._rows_of(epochs)[:begun]) if begun else 0
        return int(of_rows.sum()) * epochs + partly

    def _rows_of(self, epoch: int) -> list[NDArray[np.int64]]:
        return steps(self.parameters.seed, epoch, len(self.part), self.parameters.batch_size)

    def _next_pause(self) -> int:
        """The step after which the loop looks up next: at an epoch's end, for a validation, at the end."""
        lengths = {self.per_epoch, self.parameters.validate_every or self.per_epoch}
        return min(self.total, *((self.step // length + 1) * length for length in lengths))

    def _pause(self) -> bool:
        """Validate, sample and save what is due where the loop looks up; return whether that was the last time."""
        ended, last = self.step % self.per_epoch == 0, self.step == self.total
        due = last or self.step % (self.parameters.validate_every or self.per_epoch) == 0
        if not (ended or due):
            return False  # an earlier run was stopped here
        if due and self.step and len(self.prepared.parts["validation"]) and not self.kept.validated(self.step):
            self._validate()
        last = last or (due and self.kept.waited(self.parameters.patience))
        if self.samples.due(self.step, last=last):
            self.observer.on_samples(self.samples.take(self.loaded, self.step, self._evaluated))
        if self.checkpointer.stopping:
            raise _StopNow
        if self.step and self.checkpointer.due("end" if last else "epoch" if ended else "step"):
            self.checkpointer.save(self.state())
        return last

    def _train_on(self) -> None:
        """Train to the next pause from wherever the training stands."""
        self.loaded.model.train()
        epoch, first = divmod(self.step, self.per_epoch)
        pause = self._next_pause()
        for rows in self._rows_of(epoch)[first : first + pause - self.step]:
            start = time.perf_counter()
            self.pending.sums.append(self._step(self.step, rows))
            self.pending.labels.append(int(self.labels[rows].sum()))
            self.pending.tokens += int(self.part.lengths[rows].sum())
            self.step += 1
            self.pending.seconds += time.perf_counter() - start
            if self.step % LOG_STEPS[self.loaded.device.type] == 0 or self.step == pause:
                self._look()
                # At a pause its validation comes first.
                if self.step != pause and self.checkpointer.due("step"):
                    self.checkpointer.save(self.state())

    def _step(self, step: int, rows: NDArray[np.int64]) -> Tensor:
        """One optimizer step; returns (summed loss, tokens right, gradient norm) on the device, unread."""
        torch.manual_seed(step_seed(self.parameters.seed, step))
        labels = int(self.labels[rows].sum())
        sums = torch.zeros(2, device=self.loaded.device)
        for micro in micro_batches(rows, self.lengths, self.labels, self.limits, packed=self.packed):
            if self.checkpointer.stopping:
                raise _StopNow  # the step doesn't count, and its gradients go with this process
            batch = self._batch(micro)
            cache = self._beginning(len(micro))
            logits, _ = self.loaded.head(
                batch.input_ids, batch.index, use_cache=cache is not None, past_key_values=cache, **batch.inputs
            )
            loss, right = summed_cross_entropy(logits, batch.targets)
            del logits, cache  # the backward pass frees what it has used
            (loss / labels).backward()
            sums += torch.stack([loss.detach(), right.to(loss.dtype)])
        norm = self.optimizer.step(self._learning_rate(step), max_norm=float(self.parameters.max_grad_norm))
        return torch.cat([sums, norm.detach().reshape(1).to(sums.dtype)])

    def _batch(self, rows: NDArray[np.int64]) -> Batch:
        """Lay rows out as the model takes them."""
        device = self.loaded.device
        if start := self.loaded.decoder_start:
            return collate_apart(self.part, rows, device=device, start=start, pad_id=self.prepared.pad_id)
        if self.packed:
            return pack(self.part, rows, device=device)
        return collate(self.part, rows, device=device, skip=self.shared)

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
        return float(self.parameters.learning_rate) * self.schedule.factor(step)

    def _peak_memory(self) -> int:
        return max(self.peak_memory, peak_memory_bytes(self.loaded.device))

    def _look(self) -> None:
        """Fetch the metrics that are still on the device and tell them."""
        if not self.pending.sums:
            return
        start = time.perf_counter()
        host: list[list[float]] = torch.stack(self.pending.sums).tolist()
        self.pending.seconds += time.perf_counter() - start
        pending, self.pending = self.pending, _Pending(first_step=self.step)
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
                step=self.step,
                total_steps=self.total,
                epoch=self.step / self.per_epoch,
                loss=math.fsum(row[0] for row in host) / labels,
                token_accuracy=sum(row[1] for row in host) / labels,
                tokens_per_second=pending.tokens / pending.seconds,
                learning_rate=self._learning_rate(self.step - 1),
                grad_norm=host[-1][2],
            )
        )

    def _validate(self) -> None:
        evaluation = evaluate(
            self.loaded,
            self.prepared.parts["validation"],
            self.prepared,
            texts=self.prepared.texts["validation"] if text_metrics(self.prepared.metric, beside=False) else (),
            generate=False,
            limit=self.parameters.validation_limit,
            progress=self._evaluated,
        )
        if not math.isfinite(evaluation.loss):
            raise StageError(
                Reason.DIVERGED,
                f"training diverged: the validation loss after step {self.step} is {evaluation.loss}, with "
                f"training.learningRate {self.parameters.learning_rate}",
            )
        point = ValidationPoint(
            epoch=self.step // self.per_epoch,
            step=self.step,
            loss=decimal(evaluation.loss),
            score=decimal(evaluation.value),
        )
        self.kept.take(point, evaluation, lambda: self.optimizer.snapshot(self.stored))
        self.observer.on_validation(point)

    def _evaluated(self, done: int, total: int) -> None:
        """Pass on how far an evaluation is, and stop between its batches."""
        if self.checkpointer.stopping:
            raise _StopNow
        self.observer.on_evaluated(done, total)


def _optimizer(loaded: LoadedModel, parameters: Hyperparameters) -> MasterOptimizer:
    trained = {n: p for n, p in loaded.model.named_parameters() if p.requires_grad}
    kind = _OPTIMIZERS[parameters.optimizer]
    decay = float(parameters.weight_decay)
    return kind(trained, weight_decay=decay, decayed=decaying(loaded.model) & set(trained) if decay else ())
