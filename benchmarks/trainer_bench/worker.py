"""What both sides of the trainer benchmark agree on: the order of a run, what is counted, and how it is scored.

Imported in two environments; nothing here may need more than numpy, torch and the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.trainer_bench.rows import load_rows

__all__ = ["SEED", "Order", "Settings", "Timer", "quality"]

SEED: Final = 7
Settings = dict[str, int | str | bool]


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run: an epoch over the rows, then the held-out rows.

    Attributes
    ----------
    model, rows, held
        Folder of the model, files of the rows.
    method
        Full or LoRA.
    batch
        Rows of an optimizer step.
    warm
        Optimizer steps that are not timed.
    learning_rate
        Its peak.
    factors
        Share of the peak for each step.
    settings
        What this way is run with.
    """

    model: str
    rows: str
    held: str
    method: str
    batch: int
    warm: int
    learning_rate: float
    factors: tuple[float, ...]
    settings: Settings = field(default_factory=dict)

    def to_json(self) -> str:
        """Return what :func:`Order.from_arguments` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_arguments() -> Order:
        """Read the order from the command line."""
        order = json.loads(sys.argv[1])
        return Order(**{**order, "factors": tuple(order["factors"])})


class Timer:
    """Counts real tokens, rows, optimizer steps, time and processor time after so many steps of warm-up."""

    def __init__(self, warm: int) -> None:
        self.warm = warm
        self.seen = self.tokens = self.rows = 0
        self.moments: list[float] = []
        self.cpu = self.cpu_begin = 0.0

    def step(self, tokens: int, rows: int) -> None:
        """Note a finished optimizer step with the real tokens of its rows."""
        self.seen += 1
        if self.seen > self.warm:
            self.tokens += tokens
            self.rows += rows
        if self.seen >= self.warm:
            self.moments.append(time.perf_counter())
            times = os.times()
            self.cpu = times.user + times.system
            if self.seen == self.warm:
                self.cpu_begin = self.cpu

    def result(self) -> dict[str, Any]:
        """Return what was counted, with the peak of the process's memory so far."""
        return {
            "tokens": self.tokens,
            "rows": self.rows,
            "steps": len(self.moments) - 1,
            "seconds": self.moments[-1] - self.moments[0],
            "step_seconds": [round(b - a, 4) for a, b in zip(self.moments, self.moments[1:], strict=False)],
            "cpu_seconds": round(self.cpu - self.cpu_begin, 2),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def quality(model: Any, held: Path) -> dict[str, float]:
    """Score rows that were not trained, one at a time: loss, and the shares of tokens and of rows that are right."""
    import torch  # noqa: PLC0415 - seconds, and the driver needs none of it

    rows = load_rows(held)
    loss = 0.0
    right = tokens = whole = 0
    model.eval()
    for i in range(len(rows)):
        prompt, completion = rows.row(i)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + completion[:-1]]), use_cache=False).logits[0]
        logits, targets = logits[len(prompt) - 1 :].float(), torch.tensor(completion)
        loss += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        hits = int((logits.argmax(-1) == targets).sum())
        right, tokens, whole = right + hits, tokens + len(completion), whole + (hits == len(completion))
    return {"held_loss": loss / tokens, "held_tokens_right": right / tokens, "held_rows_right": whole / len(rows)}
