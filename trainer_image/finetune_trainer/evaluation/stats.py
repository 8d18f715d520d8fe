"""Interval, paired test and printing of scores that are shares of right rows: pure, no torch, no scipy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["PValue", "decimal", "mcnemar", "signed", "wilson"]

Z95: Final = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
_HUGE: Final = 1e15


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Score interval of a proportion at 95 % (Wilson 1927), both ends within [0, 1].

    Raises
    ------
    ValueError
        Without rows, or with more correct rows than rows.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"no interval for {correct} of {total} rows")
    p, z2 = correct / total, Z95 * Z95
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == total else min(1.0, centre + half)
    return low, high


@dataclass(frozen=True, slots=True)
class PValue:
    """A p-value kept as its decimal logarithm, since large test sets leave the range of a float."""

    log10: float

    @property
    def value(self) -> float:
        """The p-value; 0.0 where it is smaller than a float can be."""
        return math.pow(10.0, self.log10)

    def __str__(self) -> str:
        """Print as in a paper: ``1``, ``0.0313``, ``1.3e-60``; at most 24 characters."""
        if self.log10 >= -3:
            return decimal(self.value) if self.log10 < 0 else "1"
        exponent = math.floor(self.log10)
        mantissa = f"{10 ** (self.log10 - exponent):.1f}"
        if mantissa == "10.0":
            mantissa, exponent = "1", exponent + 1
        return f"{mantissa.removesuffix('.0')}e{exponent}"


def mcnemar(gained: int, lost: int) -> PValue:
    """Two-sided exact McNemar test: could rows have changed sides by chance?

    Parameters
    ----------
    gained, lost
        Rows that only the second model got right, and rows that only the first did. Rows on which both agree carry no
        information (McNemar 1947); under the null hypothesis ``gained`` is binomial with p = 1/2.

    Returns
    -------
    PValue
        min(1, 2 P(X <= min(gained, lost))), summed from the largest term down relative to it, so that nothing
        underflows however many rows there are.
    """
    n, k = gained + lost, min(gained, lost)
    term, total = 1.0, 0.0
    for i in range(k, -1, -1):
        total += term
        term *= i / (n - i + 1)  # C(n, i-1) / C(n, i)
        if term < total * 1e-17:
            break
    largest = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    return PValue(min(0.0, (largest + math.log(2 * total)) / math.log(10)))


def decimal(value: float) -> str:
    """Print a score or a loss with four places: ``0.8709``, ``0.1000``; what is huge with an exponent."""
    return f"{value:.4f}" if abs(value) < _HUGE else f"{value:.4e}"


def signed(value: float) -> str:
    """Print a difference of two scores with its sign: ``+0.4589``, ``-0.0123``, ``+0.0000``."""
    text = f"{value:+.4f}" if abs(value) < _HUGE else f"{value:+.4e}"
    return "+0.0000" if text == "-0.0000" else text
