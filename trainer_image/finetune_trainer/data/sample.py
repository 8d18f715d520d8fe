"""Seeded orders and samples of rows: the same on every machine and in every release of numpy; pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation", "row_sample"]

Rows = NDArray[np.int64]


def permutation(n: int, *key: int) -> Rows:
    """Permute 0..n-1 by sorting random words.

    Only the raw stream of a bit generator is promised to stay the same in later numpy releases (NEP 19), hence no
    ``Generator.permutation``.
    """
    words = np.random.Philox(np.random.SeedSequence(key)).random_raw(n)
    return np.argsort(words, kind="stable").astype(np.int64)


def row_sample(n: int, limit: int | None) -> Rows:
    """Numbers of the rows that an evaluation scores: all, or the same ``limit`` rows each time, in ascending order."""
    if limit is None or limit >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(permutation(n, n, limit)[:limit])
