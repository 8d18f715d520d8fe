"""Which weights a training keeps: those of its best validation; and whether a better one is still waited for.

Beside ``loop.py``, which validates. Of equals the earlier one stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from finetune_api.status import ValidationPoint
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.training.state import TrainingProgress

__all__ = ["Kept"]


@dataclass
class Kept:
    """The validations so far, and the weights of the best one.

    Attributes
    ----------
    step
        Steps done by the best one; 0 before the first.
    """

    by: Literal["Score", "Loss"]
    points: list[ValidationPoint] = field(default_factory=list)
    loss: float = math.inf
    score: float = -math.inf
    step: int = 0
    weights: Mapping[str, Tensor] | None = None

    @classmethod
    def restored(
        cls, by: Literal["Score", "Loss"], progress: TrainingProgress, weights: Mapping[str, Tensor] | None
    ) -> Kept:
        """Return what an earlier attempt kept."""
        return cls(
            by,
            points=list(progress.validation),
            loss=math.inf if progress.best_loss is None else progress.best_loss,
            score=-math.inf if progress.best_score is None else progress.best_score,
            step=progress.best_step,
            weights=weights,
        )

    def take(self, point: ValidationPoint, outcome: Evaluation, copied: Callable[[], Mapping[str, Tensor]]) -> None:
        """Add a validation; ``copied`` gives its weights, if they are the best."""
        self.points.append(point)
        if self._better(outcome):
            self.loss, self.score, self.step = outcome.loss, outcome.goodness, point.step
            self.weights = copied()

    @property
    def best(self) -> ValidationPoint | None:
        """The best validation; None before the first."""
        return next((point for point in self.points if point.step == self.step), None)

    def validated(self, step: int) -> bool:
        """Whether the weights after so many steps have been validated."""
        return bool(self.points) and self.points[-1].step >= step

    def waited(self, patience: int | None) -> bool:
        """Whether so many validations have come after the best one."""
        if patience is None or not self.step:
            return False
        return sum(point.step > self.step for point in self.points) >= patience

    def _better(self, outcome: Evaluation) -> bool:
        if self.by == "Score" and outcome.goodness != self.score:
            return outcome.goodness > self.score
        return outcome.loss < self.loss
