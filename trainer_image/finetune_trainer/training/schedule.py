"""The learning rate at every step, as a share of its peak: pure, no torch.

Each schedule begins with a linear warm-up (Goyal et al. 2017, arXiv:1706.02677) and keeps above zero to its last step,
so no step is in vain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

__all__ = ["DECAY_SHARE", "Schedule", "Scheduler"]

Scheduler = Literal["Cosine", "Linear", "Constant", "WSD"]
DECAY_SHARE: Final = 5
"""WSD falls during the last fifth of the steps, as Haegele et al. (2024, arXiv:2405.18392) found to be enough."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the learning rate goes.

    Attributes
    ----------
    kind
        After the warm-up: Cosine falls along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983), Linear along
        a line, Constant stays, and WSD stays and then falls as one minus a square root.
    total
        Planned steps.
    warmup
        The first steps, which rise.
    """

    kind: Scheduler
    total: int
    warmup: int

    @classmethod
    def of(cls, kind: Scheduler, *, total: int, warmup_percent: str) -> Schedule:
        """Return the schedule whose warm-up takes a share of the steps, rounded down."""
        return cls(kind, total, int(Decimal(warmup_percent) * total / 100))

    def factor(self, step: int) -> float:
        """Share of the peak at a step from 0, above 0 and at most 1 for every step below :attr:`total`."""
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / (self.total - self.warmup)
        if self.kind == "Cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.kind == "Linear":
            return (self.total - step) / (self.total - self.warmup)
        return 1.0 if self.kind == "Constant" else self._falling(step)

    def _falling(self, step: int) -> float:
        falling = min(self.total // DECAY_SHARE, self.total - self.warmup)
        since = step - (self.total - falling)
        return 1.0 if since < 0 or not falling else 1 - math.sqrt(since / falling)
