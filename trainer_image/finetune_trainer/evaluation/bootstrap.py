"""Interval and paired test of any score by drawing rows anew: seeded, pure, no torch, no text is looked at again.

The rows that are equal in what a metric keeps of them are one cell; a draw is how often each cell counts. Cells are in
the order of their content, so neither batches nor the order of the rows change a bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.evaluation.stats import PValue

__all__ = ["ROUNDS", "percentile_interval", "same_rows_differ"]

ROUNDS: Final = 2000
_SEED: Final = 7
_WEIGHTS: Final = 2**22
"""Weights that are held at once, so that memory doesn't grow with rows times rounds."""
Array = NDArray[np.float64]
Value = Callable[[Array, Array], Array]


def percentile_interval(kept: Array, value: Value) -> tuple[float, float] | None:
    """Return the bounds of 95 % of the scores that rows drawn anew have (Efron 1979, percentile method).

    Parameters
    ----------
    kept
        What the metric keeps of each row, (rows, numbers).
    value
        Scores from (cells, numbers) and (scores, cells).

    Returns
    -------
    tuple or None
        None where all rows are equal, or all draws: such a sample says nothing of how others would differ.
    """
    cells, weights = _drawn(kept)
    if len(cells) < 2:
        return None
    scores = np.concatenate([value(cells, some) for some in weights])
    if scores.min() == scores.max():
        return None
    low, high = np.percentile(scores, [2.5, 97.5])
    return float(low), float(high)


def same_rows_differ(before: Array, after: Array, value: Value) -> PValue:
    """Test whether two models' scores on the same rows differ by chance: two-sided, by a bootstrap over pairs of rows.

    The p-value is the share of draws whose difference is at least as far from the mean of all draws as the two scores
    are from each other (Efron and Tibshirani 1993, chapter 16; Koehn 2004), one added above and below, so never 0. Nor
    is it ever below 2 to the power of (1 - rows that differ), the least that swapping the two models' answers row by
    row can show: a handful of rows proves nothing, however alike they are.
    """
    width = before.shape[1]
    cells, weights = _drawn(np.concatenate([before, after], axis=1))
    once = np.ones((1, len(before)))
    observed = abs(float(value(after, once)[0]) - float(value(before, once)[0]))
    drawn = np.concatenate([value(cells[:, width:], some) - value(cells[:, :width], some) for some in weights])
    centred = np.abs(drawn - drawn.mean())
    as_far = int((centred >= observed * (1 - 1e-9)).sum())
    differing = int((before != after).any(axis=1).sum())
    p = max((1 + as_far) / (1 + ROUNDS), 2.0 ** min(0, 1 - differing))
    return PValue(float(np.log10(p)))


def _drawn(kept: Array) -> tuple[Array, Iterator[Array]]:
    """Return the different cells, and in parts how often each counts in each of the draws."""
    cells, counts = np.unique(kept, axis=0, return_counts=True)
    return cells, _weights(counts)


def _weights(counts: NDArray[np.int64]) -> Iterator[Array]:
    rng, rows = np.random.default_rng(_SEED), int(counts.sum())
    cell_of = np.repeat(np.arange(len(counts)), counts)
    at_once = max(1, _WEIGHTS // len(counts))
    for start in range(0, ROUNDS, at_once):
        yield np.stack(
            [
                np.bincount(cell_of[rng.integers(0, rows, rows)], minlength=len(counts)).astype(np.float64)
                for _ in range(min(at_once, ROUNDS - start))
            ]
        )
