"""How an evaluation cuts its rows into batches, so that a batch takes no more than it may; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Budget", "budget_of", "cut"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What bounds a batch.

    Attributes
    ----------
    tokens
        Most tokens fed at once, padding counted.
    slots
        Most places in key-value caches: those of a beginning that all prompts share, copied for each row, those of the
        fed tokens, and those of answers that are decoded on.
    logits
        Most numbers in the logits: positions that predict something, times the vocabulary.
    """

    tokens: int
    slots: int
    logits: int


_BUDGETS: Final = {
    "cpu": Budget(tokens=2048, slots=16384, logits=2**26),
    "cuda": Budget(tokens=32768, slots=65536, logits=2**28),
}


def budget_of(device: str, tokens: int | None = None) -> Budget:
    """Return the budget of a kind of device, or one of so many tokens with slots in proportion."""
    usual = _BUDGETS[device]
    if tokens is None:
        return usual
    return Budget(tokens=tokens, slots=tokens * usual.slots // usual.tokens, logits=usual.logits)


def cut(
    widths: NDArray[np.integer], labels: NDArray[np.integer], budget: Budget, *, vocabulary: int, held: int = 0
) -> list[Rows]:
    """Cut 0..n-1 into batches of similar width within a budget, widest first; a row that is over it stands alone.

    The widest first, so that memory runs out at once or not at all.

    Parameters
    ----------
    widths
        Tokens that each row feeds; a batch is as wide as its widest row.
    labels
        Positions of each row that predict something.
    held
        Slots that a row takes besides those of its own tokens.
    """
    order = np.argsort(-widths, kind="stable").astype(np.int64)
    batches, i = [], 0
    while i < len(order):
        width = max(1, int(widths[order[i]]))
        most = max(1, min(budget.tokens // width, budget.slots // (width + held)))
        numbers = np.cumsum(labels[order[i : i + most]].astype(np.int64)) * vocabulary
        taken = max(1, int(np.searchsorted(numbers, budget.logits, side="right")))
        batches.append(order[i : i + taken])
        i += taken
    return batches
