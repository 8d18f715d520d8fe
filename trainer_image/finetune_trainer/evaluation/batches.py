"""How an evaluation cuts its rows into batches; pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["length_groups"]

Rows = NDArray[np.int64]


def length_groups(lengths: NDArray[np.integer], token_budget: int) -> list[Rows]:
    """Cut 0..n-1 into groups of similar length within a token budget, padding counted, longest first; for evaluation.

    The longest first, so that memory runs out at once or not at all.
    """
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    groups, i = [], 0
    while i < len(order):
        j = i + max(1, int(token_budget // max(1, lengths[order[i]])))
        groups.append(order[i:j])
        i = j
    return groups
