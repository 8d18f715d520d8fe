"""Who watches a training: the narrow way by which progress leaves the loop and the evaluator.

Reporters (JSON lines, a progress bar, metrics.jsonl) implement :class:`Observer`; the loop knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune_api.status import ValidationPoint
from finetune_trainer.training.samples import Sample

__all__ = ["LogEntry", "Observer", "Silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """Training metrics over the optimizer steps since the last entry.

    Attributes
    ----------
    step, total_steps
        Optimizer steps done and planned.
    epoch
        Passes over the rows so far, with the fraction of the running one.
    loss
        Mean cross-entropy of a completion token, in nats.
    token_accuracy
        Share of completion tokens whose arg-max under teacher forcing is right, 0 to 1.
    tokens_per_second
        Prompt and completion tokens a second, padding not counted.
    learning_rate, grad_norm
        Of the last step; the norm is the one before clipping.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    token_accuracy: float
    tokens_per_second: float
    learning_rate: float
    grad_norm: float


class Observer(Protocol):
    """What the loop and the evaluator tell; calls come from their own thread and should return quickly."""

    def on_log(self, entry: LogEntry) -> None:
        """Training metrics, once per log interval."""

    def on_validation(self, point: ValidationPoint) -> None:
        """Loss and score on the validation rows."""

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Answers to a few validation rows, all of one moment."""

    def on_evaluated(self, done: int, total: int) -> None:
        """Rows scored so far by the running evaluation."""


class Silent:
    """An observer that keeps nothing."""

    def on_log(self, entry: LogEntry) -> None:
        """Do nothing."""

    def on_validation(self, point: ValidationPoint) -> None:
        """Do nothing."""

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Do nothing."""

    def on_evaluated(self, done: int, total: int) -> None:
        """Do nothing."""
