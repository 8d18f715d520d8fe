"""Saves the running training in the background, so that a stopped pod costs minutes and not the job.

The training thread only copies tensors to the host; one writer thread at a time turns the copy into files, uploads them
and removes older checkpoints. What goes wrong there is a warning: the training goes on, and the next time that a
checkpoint is due it is tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from finetune_trainer.checkpoint.catalog import Catalog
from finetune_trainer.model.device import Precision
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt
from finetune_trainer.training.state import Checkpointer, Moment, TrainingState

__all__ = ["BackgroundCheckpointer", "Schedule"]

MIN_EPOCH_SECONDS: Final = 30.0
"""An epoch that ends sooner than this after the last checkpoint isn't worth one; small jobs then write none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When a checkpoint is due.

    Attributes
    ----------
    interval
        Most seconds of training between two.
    min_epoch
        Least seconds between two at the ends of epochs.
    """

    interval: float
    min_epoch: float


class BackgroundCheckpointer(Checkpointer):
    """The loop's checkpointer.

    Parameters
    ----------
    catalog
        Where they go.
    metrics
        metrics.jsonl, which grows meanwhile.
    interrupt
        Whether to stop.
    check
        Called before each upload; raises where nothing may be written any more.
    restored
        Step that the training goes on from, if it does.
    clock
        Seconds, monotonic.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        schedule: Schedule,
        precision: Precision,
        settings: Mapping[str, Any],
        machine: Mapping[str, Any],
        metrics: Path,
        console: Console,
        interrupt: Interrupt,
        check: Callable[[], None],
        restored: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._schedule = catalog, schedule
        self._about: dict[str, Any] = {"precision": precision, "settings": settings, "machine": machine}
        self._metrics, self._console, self._interrupt, self._clock = metrics, console, interrupt, clock
        self._check = check
        self._thread: threading.Thread | None = None
        self._taken = self._saved = clock()
        self._saved_step, self._owed = restored, False
        self._failure: Exception | None = None
        interrupt.watch(self.uploading)

    @property
    @override
    def stopping(self) -> bool:
        return self._interrupt.requested

    @override
    def due(self, moment: Moment) -> bool:
        now = self._clock()
        due = self._owed or now - self._taken >= self._schedule.interval
        due = due or (moment != "step" and now - self._saved >= self._schedule.min_epoch)
        # One at a time: what is due meanwhile is taken as soon as the writer is done. The last one waits for it.
        self._owed = due and moment != "end" and self.uploading() is not None
        return due and not self._owed

    @override
    def save(self, state: TrainingState) -> None:
        self.wait()
        if state.progress.step == self._saved_step:
            return
        self._taken, self._owed, self._failure = self._clock(), False, None
        size = self._metrics.stat().st_size
        self._thread = threading.Thread(
            target=self._write, args=(state, size, self._taken), name="checkpoint", daemon=True
        )
        self._thread.start()

    def save_now(self, state: TrainingState) -> Exception | None:
        """Store a state before returning; return what prevented it."""
        if state.progress.step > 0:
            self.save(state)
            self.wait()
        return self._failure

    def uploading(self) -> threading.Thread | None:
        """Return the writer that is at work, if one is."""
        thread = self._thread
        return thread if thread is not None and thread.is_alive() else None

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if (thread := self._thread) is not None:
            thread.join()

    def _write(self, state: TrainingState, metrics_size: int, taken: float) -> None:
        start = time.monotonic()
        step = state.progress.step
        try:
            with self._metrics.open("rb") as file:
                metrics = file.read(metrics_size)
            self._check()
            key, size = self._catalog.write(state, metrics=metrics, **self._about)
        except Exception as error:  # whatever it is, the training goes on and tries again
            self._failure = error
            self._console.event(
                "checkpoint_failed",
                f"the checkpoint of step {step} could not be stored: {error}",
                level="warning",
                step=step,
            )
            return
        self._saved, self._saved_step = taken, step
        self._interrupt.resumable = True
        seconds = time.monotonic() - start
        self._console.event(
            "checkpoint_saved",
            f"checkpoint of step {step}, {size / 1e6:.1f} MB in {seconds:.1f} s" if self._console.interactive else None,
            step=step,
            key=key,
            bytes=size,
            seconds=round(seconds, 3),
        )
        grace = self._interrupt.grace_seconds
        if grace is not None and 2 * seconds > grace:
            # A pod that is told to stop may have to wait for one upload and then do another.
            self._console.event(
                "grace_period_short",
                f"saving took {seconds:.0f} s, and the pod gets {grace} s to save after SIGTERM; what came after the "
                "last checkpoint may be trained again. The platform team raises terminationGracePeriodSeconds of the "
                "FineTuneRuntime",
                level="warning",
                seconds=round(seconds, 3),
                grace_seconds=grace,
            )
