"""What a training yields: the weights, its curve and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from finetune_api.status import ValidationPoint

__all__ = ["TrainOutcome"]


@dataclass(frozen=True, kw_only=True)
class TrainOutcome:
    """How a training went. The model that was passed in holds the best weights.

    Attributes
    ----------
    weights
        The trained parameters by name, on the CPU, as exact as they will be stored.
    losses
        Mean cross-entropy of a completion token, one number for each optimizer step.
    validation
        One point for each validation; empty without validation rows.
    best_epoch
        Passes over the rows after which the model held the weights that it now holds: where validation was best by
        ``select_by``, else all.
    kept
        That validation; None without validation rows.
    stopped_early
        Whether early stopping ended it.
    tokens, supervised_tokens
        Prompt and completion tokens seen over all steps, and the completion tokens among them; padding not counted.
    attention_pairs, prompt_pairs
        Sums of squared lengths of rows and of prompts over all steps, for the compute estimate.
    seconds
        Time in optimizer steps, without the evaluations between them.
    """

    weights: Mapping[str, Tensor] = field(repr=False)
    losses: Sequence[float]
    validation: tuple[ValidationPoint, ...]
    best_epoch: float
    kept: ValidationPoint | None
    stopped_early: bool
    tokens: int
    supervised_tokens: int
    attention_pairs: int
    prompt_pairs: int
    seconds: float
    peak_memory_bytes: int = field(default=0)

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return len(self.losses)

    @property
    def tokens_per_second(self) -> float:
        """Training tokens a second, padding not counted."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0
