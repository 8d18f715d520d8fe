"""What both sides of the trainer benchmark agree on: the order of a run, and the line that it ends with.

Imported in two environments; nothing here may need more than numpy and the standard library.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Final

__all__ = ["BATCH_SIZE", "LEARNING_RATE", "SEED", "Order", "Timer"]

BATCH_SIZE: Final = 8
"""Rows of an optimizer step: what TRL takes by itself."""
SEED: Final = 7
LEARNING_RATE: Final = 1e-5


@dataclass(frozen=True, kw_only=True)
class Order:
    """One run.

    Attributes
    ----------
    model, rows
        Folder of the model, file of the rows.
    method
        Full or LoRA.
    epochs
        Passes over the rows; the first one warms up and is not measured. 0 trains one step on the first rows alone, for
        its loss.
    variant
        Which way of TRL; not used by the other side.
    settings
        What the variant is tuned with.
    """

    model: str
    rows: str
    method: str = "Full"
    epochs: int = 3
    variant: str = ""
    settings: dict[str, int | str | bool] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return what :func:`Order.from_arguments` reads."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_arguments() -> Order:
        """Read the order from the command line."""
        return Order(**json.loads(sys.argv[1]))


class Timer:
    """Counts real tokens, optimizer steps and time from the end of the first epoch on."""

    def __init__(self, tokens_of_an_epoch: int) -> None:
        self.warm_up = tokens_of_an_epoch
        self.begin: float | None = None
        self.seen = self.tokens = self.steps = 0
        self.elapsed = 0.0

    def step(self, tokens: int) -> None:
        """Note a finished optimizer step with the real tokens of its rows."""
        now = time.perf_counter()
        if self.begin is not None:
            self.tokens += tokens
            self.steps += 1
            self.elapsed = now - self.begin
        self.seen += tokens
        if self.begin is None and self.seen >= self.warm_up:
            self.begin = now

    def report(self, **more: object) -> None:
        """Print the result as the process's last line."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result = {"tokens": self.tokens, "steps": self.steps, "seconds": self.elapsed, "peak_mib": peak, **more}
        print(json.dumps(result), flush=True)
