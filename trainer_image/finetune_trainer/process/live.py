"""How far the stage is, kept for whoever reports it: what console and observer tell, as one document.

``console.py`` tells which step begins, ``job/watcher.py`` what the loop and the evaluator say; ``reporter.py`` asks for
the document from a thread of its own. No number is made up: what isn't known yet is left out.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, get_args

from finetune_api.live import NEWEST_POINTS, LivePhase, LivePoint, LiveReport, ValidationPoint

__all__ = ["LiveState"]

_ORDER: Final[tuple[LivePhase, ...]] = get_args(LivePhase)
_PHASES: Final[dict[str, LivePhase]] = {
    "fetch_rows": "Preparing",
    "fetch_model": "Baseline",
    "load_model": "Baseline",
    "baseline": "Baseline",
    "train": "Training",
    "export": "Uploading",
    "test": "Evaluating",
}
"""The phase that a step begins; steps between belong to the phase before them."""


@dataclass(frozen=True, slots=True)
class _Trained:
    step: int
    total: int
    epoch: float
    loss: float
    tokens_per_second: float
    at: float


class LiveState:
    """What is known of the running stage; told by its thread, read by another.

    Parameters
    ----------
    clock
        Seconds of a clock that never jumps.

    Attributes
    ----------
    news
        Set when something is worth reporting at once: another phase, a validation.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase: LivePhase | None = None
        self._step: tuple[str, float] | None = None
        self._first: _Trained | None = None
        self._newest: _Trained | None = None
        self._points: list[LivePoint] = []
        self._scored: tuple[int, int] | None = None
        self._baseline_seconds: float | None = None
        self.news = threading.Event()

    # --- telling ------------------------------------------------------------------------------------------------------

    def began(self, step: str) -> None:
        """A step of the console begins."""
        with self._lock:
            self._step, self._scored = (step, self._clock()), None
            phase = _PHASES.get(step)
            if phase is None or (self._phase is not None and _ORDER.index(phase) <= _ORDER.index(self._phase)):
                return
            self._phase = phase
        self.news.set()

    def ended(self, step: str, seconds: float) -> None:
        """A step has ended well; scoring again what was scored will take as long."""
        if step == "baseline":
            with self._lock:
                self._baseline_seconds = seconds

    def trained(self, *, step: int, total: int, epoch: float, loss: float, tokens_per_second: float) -> None:
        """Optimizer steps are done."""
        with self._lock:
            self._newest = _Trained(step, total, epoch, loss, tokens_per_second, self._clock())
            self._first = self._first or self._newest

    def validated(self, point: ValidationPoint) -> None:
        """The validation rows were scored."""
        with self._lock:
            self._points = [*self._points, LivePoint.model_validate(point.model_dump())][-NEWEST_POINTS:]
        self.news.set()

    def scored(self, done: int, total: int) -> None:
        """Rows of the running step were scored."""
        with self._lock:
            self._scored = done, total

    # --- reading ------------------------------------------------------------------------------------------------------

    def document(self, sequence: int) -> LiveReport | None:
        """Return the report; None before the first phase."""
        with self._lock:
            if self._phase is None:
                return None
            newest, training = self._newest, self._phase == "Training"
            return LiveReport(
                sequence=sequence,
                phase=self._phase,
                percent=self._percent(),
                step=newest.step if newest else None,
                total_steps=newest.total if newest else None,
                epoch=_decimal(newest.epoch, 2) if newest else None,
                eta_seconds=self._eta(),
                tokens_per_second=_whole(newest.tokens_per_second) if newest and training else None,
                loss=_decimal(newest.loss, 4) if newest else None,
                validation=self._points or None,
            )

    def _percent(self) -> int | None:
        if self._phase in ("Uploading", "Evaluating"):
            return 99
        if self._newest is None or self._newest.total <= 0:
            return None  # not known yet, and for a training that goes on from a checkpoint not 0
        return min(99, 100 * self._newest.step // self._newest.total)

    def _eta(self) -> int | None:
        first, newest = self._first, self._newest
        if self._phase == "Training" and first is not None and newest is not None and newest.step > first.step:
            a_step = (newest.at - first.at) / (newest.step - first.step)  # with the validations between them
            left = (newest.total - newest.step) * a_step - (self._clock() - newest.at)
            return _whole(max(0.0, left) + (self._baseline_seconds or 0.0))
        if self._step is not None and self._step[0] == "test" and self._scored is not None and self._scored[0] > 0:
            done, total = self._scored
            return _whole((total - done) * (self._clock() - self._step[1]) / done)
        return None


def _whole(value: float) -> int | None:
    return max(0, round(value)) if math.isfinite(value) else None


def _decimal(value: float, places: int) -> str | None:
    """Return a number as the API writes it; None for one that is none."""
    return f"{value:.{places}f}" if math.isfinite(value) and abs(value) < 1e15 else None
