"""What the runs of the trainer benchmark say about each other: ratios, spread, and whether they trained the same."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.common import table
from benchmarks.trainer_bench.ways import Tried, Way

__all__ = ["MEAN_BOUND", "RIGHT_BOUND", "STEP_BOUND", "Parity", "lines", "parity", "ratios", "speed", "spread", "tries"]

STEP_BOUND: Final = 0.05
"""Most relative difference of the losses of any step, where both sides train the same rows in it."""
MEAN_BOUND: Final = 0.01
"""The same of the mean of all steps' losses, and of the loss of the held-out rows at the end."""
RIGHT_BOUND: Final = 0.07
"""Most difference of the shares of held-out tokens, and of held-out rows, that are right at the end."""
BLOCK: Final = 10
"""Steps whose speed is one value of the spread."""
HEADER: Final = (
    "way",
    "tokens/s",
    "rows/s",
    "spread",
    "ours is faster by",
    "peak MiB",
    "of it, ours",
    "loss differs, a step",
    "in all",
    "held-out loss",
    "tokens right",
    "rows right",
)


def speed(result: Mapping[str, Any], what: str = "tokens") -> float:
    """Real tokens, or rows, a second."""
    return float(result[what]) / float(result["seconds"])


def spread(result: Mapping[str, Any]) -> float:
    """Distance of the slowest block of ten steps from the fastest, by the middle one."""
    seconds: list[float] = result["step_seconds"]
    blocks = [sum(seconds[i : i + BLOCK]) for i in range(0, len(seconds) - BLOCK + 1, BLOCK)] or [sum(seconds)]
    return (max(blocks) - min(blocks)) / statistics.median(blocks)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far another way's training is from ours.

    ``step`` is None where its steps hold other rows (packs); for what is left the wider bound holds then.
    """

    step: float | None
    mean: float
    held: float
    right: float

    @property
    def same(self) -> bool:
        """Whether the two trained the same thing."""
        bound = STEP_BOUND if self.step is None else MEAN_BOUND
        return (self.step or 0.0) <= STEP_BOUND and max(self.mean, self.held) <= bound and self.right <= RIGHT_BOUND


def parity(ours: Mapping[str, Any], other: Mapping[str, Any], *, same_steps: bool) -> Parity:
    """Compare the losses of all steps, warm-up included, and the held-out rows at the end.

    Raises
    ------
    ValueError
        The ways that should train the same rows in each step took different numbers of steps.
    """
    mine, theirs = ours["losses"], other["losses"]
    if same_steps and len(mine) != len(theirs):
        raise ValueError(f"{len(mine)} steps against {len(theirs)}")
    step = max(abs(b - a) / a for a, b in zip(mine, theirs, strict=True)) if same_steps else None
    mean = statistics.fmean(mine)
    return Parity(
        step=step,
        mean=abs(statistics.fmean(theirs) - mean) / mean,
        held=abs(other["held_loss"] - ours["held_loss"]) / ours["held_loss"],
        right=max(abs(other[k] - ours[k]) for k in ("held_tokens_right", "held_rows_right")),
    )


def ratios(results: Mapping[str, Mapping[str, Any]], ways: Sequence[Way]) -> dict[str, float]:
    """Our speed by that of each other way, and ``best`` by the fastest of the ways that aren't ours."""
    ours = speed(results["ours"])
    found = {way.name: ours / speed(results[way.name]) for way in ways if way.name != "ours"}
    return {**found, "best": min(found[way.name] for way in ways if not way.ours)}


def lines(results: Mapping[str, Mapping[str, Any]], ways: Sequence[Way], parities: Mapping[str, Parity]) -> str:
    """Return a dataset's table."""
    found, ours = ratios(results, ways), results["ours"]
    rows = []
    for way in ways:
        result, compared = results[way.name], parities.get(way.name)
        rows.append(
            [
                way.name,
                f"{speed(result):.0f}",
                f"{speed(result, 'rows'):.2f}",
                f"{spread(result):.1%}",
                f"{found[way.name]:.2f}" if way.name in found else "",
                f"{result['peak_mib']:.0f}",
                f"{ours['peak_mib'] / result['peak_mib']:.2f}",
                "" if compared is None else "other rows" if compared.step is None else f"{compared.step:.2%}",
                "" if compared is None else f"{compared.mean:.2%}" + ("" if compared.same else " (too much)"),
                f"{result['held_loss']:.4f}",
                f"{result['held_tokens_right']:.1%}",
                f"{result['held_rows_right']:.1%}",
            ]
        )
    return table(HEADER, rows)


def tries(tried: Sequence[Tried]) -> str:
    """List what was tried, the fastest first, those that took too long last."""
    ordered = sorted(tried, key=lambda t: -(t.tokens_per_second or 0.0))
    return table(
        ("settings", "tokens/s", "peak MiB"),
        [
            [
                ", ".join(f"{k} {v}" for k, v in t.settings.items()) or "as it comes",
                "took too long" if t.tokens_per_second is None else f"{t.tokens_per_second:.0f}",
                "" if t.peak_mib is None else f"{t.peak_mib:.0f}",
            ]
            for t in ordered
        ],
    )
