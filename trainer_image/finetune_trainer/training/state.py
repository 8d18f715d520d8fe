"""What a training is at a moment: all that the loop needs to go on from there as if it had never stopped.

The order of rows and all randomness are functions of (seed, step), so neither is in here. ``loop.py`` makes and takes
these states, ``checkpoint/`` stores them; the loop knows of both no more than the :class:`Checkpointer` protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from typing_extensions import override

from finetune_api.status import ValidationPoint
from finetune_trainer.training.optimizer import OptimizerState
from finetune_trainer.training.samples import Sample

__all__ = ["Checkpointer", "Moment", "NoCheckpoints", "TrainingProgress", "TrainingState", "TrainingStopped"]

Moment = Literal["step", "epoch", "end"]
"""Where the loop asks whether a checkpoint is due: between steps, after an epoch with its validation, at the end."""


class TrainingProgress(BaseModel):
    """The part of a state that is no tensor. Floats keep every bit in JSON: Python writes and reads them exactly.

    Attributes
    ----------
    step
        Optimizer steps done.
    losses
        Mean cross-entropy of a completion token for each of them.
    validation
        One point for each validation.
    best_loss, best_score, best_step
        The best validation so far: its loss, its score (turned round where lower is
        better) and the steps done by then; None and 0 before the first one.
    samples
        Answers to a few validation rows so far (``samples.py``).
    seconds
        Time in optimizer steps.
    branching
        Whether answers shared a prompt's forward pass, which is tried once a model and then part of the arithmetic.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    losses: tuple[float, ...]
    validation: tuple[ValidationPoint, ...] = ()
    best_loss: float | None = None
    best_score: float | None = None
    best_step: int = 0
    samples: tuple[Sample, ...] = ()
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    branching: bool | None = None

    @model_validator(mode="after")
    def _one_loss_a_step(self) -> Self:
        if len(self.losses) != self.step:
            raise ValueError(f"{len(self.losses)} losses for {self.step} steps")
        return self


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """A training between two steps; its tensors are on the CPU and change no more.

    Attributes
    ----------
    best
        Weights of the best validation as they will be stored, by name; None before the first validation.
    """

    progress: TrainingProgress
    optimizer: OptimizerState
    best: Mapping[str, Tensor] | None


class TrainingStopped(BaseException):
    """The loop ended before the training did, because it was told to.

    No error: whoever catches ``Exception`` must not take it for one.
    """

    def __init__(self, state: TrainingState) -> None:
        super().__init__(f"stopped after step {state.progress.step}")
        self.state = state


class Checkpointer(Protocol):
    """Who decides when a state is kept; asked by the loop from its own thread."""

    @property
    def stopping(self) -> bool:
        """Whether the loop shall stop as soon as it can; read between micro-batches."""
        ...

    def due(self, moment: Moment) -> bool:
        """Whether a state should be saved now; cheap."""
        ...

    def save(self, state: TrainingState) -> None:
        """Keep a state; returns before it is stored."""
        ...


class NoCheckpoints(Checkpointer):
    """A checkpointer that keeps nothing and never stops the loop."""

    @property
    @override
    def stopping(self) -> bool:
        return False

    @override
    def due(self, moment: Moment) -> bool:
        return False

    @override
    def save(self, state: TrainingState) -> None:
        """Do nothing."""
