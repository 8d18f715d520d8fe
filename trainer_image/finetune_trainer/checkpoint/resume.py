"""Runs the training loop so that it survives its pod: goes on from a checkpoint, makes new ones, and leaves in order.

Between ``job/train.py``, which knows the job, and ``training/loop.py``, which knows neither storage nor signals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from finetune_api.reasons import Reason
from finetune_trainer.checkpoint import background as checkpointing
from finetune_trainer.checkpoint.background import BackgroundCheckpointer, Schedule, machine_of, settings_of
from finetune_trainer.checkpoint.catalog import Checkpoints
from finetune_trainer.checkpoint.format import Restored
from finetune_trainer.errors import StageError
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import Console, Progress
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.training.loop import train
from finetune_trainer.training.observer import Observer
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.plan import Hyperparameters
from finetune_trainer.training.state import TrainingState, TrainingStopped

__all__ = ["ResumableTraining"]


class ResumableObserver(Observer, Protocol):
    """An observer that also shows where training stands, and begins with the curve of earlier attempts."""

    def resume(self, metrics: str) -> None:
        """Begin with what an earlier attempt wrote up to the state that this one goes on from."""

    def training(self, progress: Progress) -> None:
        """Show optimizer steps from now on."""


class ResumableTraining:
    """One attempt at a training.

    Parameters
    ----------
    checkpoints
        What earlier attempts left, and where this one leaves its own.
    interval
        Most seconds between two checkpoints.
    metrics
        metrics.jsonl, which ``observer`` writes.
    may_write
        Called before each upload; raises where nothing may be written any more.
    threads
        Arithmetic threads.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        interval: float,
        observer: ResumableObserver,
        metrics: Path,
        may_write: Callable[[], None],
        console: Console,
        interrupt: Interrupt,
        threads: int,
    ) -> None:
        self._checkpoints, self._interval, self._observer, self._metrics = checkpoints, interval, observer, metrics
        self._may_write, self._console, self._interrupt, self._threads = may_write, console, interrupt, threads
        self._checkpointer: BackgroundCheckpointer | None = None

    def run(self, loaded: LoadedModel, prepared: Prepared, parameters: Hyperparameters) -> TrainOutcome:
        """Train, from the newest checkpoint if there is one; afterwards the model holds the best weights.

        Raises
        ------
        StageError
            Of the loop and the store; ArtifactUploadFailed when the process was told to stop and no state is stored.
        Interrupted
            The process was told to stop, and a later one can go on.
        """
        console, interrupt = self._console, self._interrupt
        settings, machine = settings_of(parameters), machine_of(loaded.device, self._threads)
        restored = self._restore(loaded, settings, machine)
        interrupt.resumable = restored is not None
        self._checkpointer = checkpointer = BackgroundCheckpointer(
            self._checkpoints,
            schedule=Schedule(interval=self._interval, min_epoch=checkpointing.MIN_EPOCH_SECONDS),
            precision=loaded.precision,
            settings=settings,
            machine=machine,
            metrics=self._metrics,
            console=console,
            interrupt=interrupt,
            check=self._may_write,
            restored=restored.state.progress.step if restored else None,
        )
        with console.step("train", f"train with {parameters.method}") as progress, interrupt.deferred():
            self._observer.training(progress)
            try:
                return train(
                    loaded,
                    prepared,
                    parameters,
                    observer=self._observer,
                    checkpointer=checkpointer,
                    state=restored.state if restored else None,
                )
            except TrainingStopped as stopped:
                self._leave(checkpointer, stopped.state)
                raise Interrupted from None

    def close(self) -> None:
        """Wait for the checkpoint that is being stored; call before the scratch folder or the checkpoints go."""
        if self._checkpointer is not None:
            self._checkpointer.wait()

    def _restore(self, loaded: LoadedModel, settings: Mapping[str, Any], machine: Mapping[str, Any]) -> Restored | None:
        if not self._checkpoints.found:
            return None
        console = self._console
        shapes = {name: p.shape for name, p in loaded.model.named_parameters() if p.requires_grad}
        with console.step("fetch_checkpoint", "fetch the state of the stopped training") as progress:
            restored = self._checkpoints.restore(
                precision=loaded.precision, settings=settings, shapes=shapes, progress=progress
            )
        if restored is None:
            return None
        manifest = restored.found.manifest
        step = manifest.progress.step
        console.event(
            "resumed",
            f"the training goes on after step {step}" if console.interactive else None,
            step=step,
            key=restored.found.key,
            attempt=self._checkpoints.attempt,
        )
        differ = sorted(key for key in machine if manifest.machine.get(key) != machine[key])
        if differ:
            told = ", ".join(f"{key} {manifest.machine.get(key)} there and {machine[key]} here" for key in differ)
            console.event(
                "machine_differs",
                f"the state comes from another machine, so the result is not the same to the bit: {told}",
                level="warning",
                fields=differ,
            )
        self._observer.resume(restored.metrics)
        return restored

    def _leave(self, checkpointer: BackgroundCheckpointer, state: TrainingState) -> None:
        """Save what the loop handed out.

        Raises
        ------
        StageError
            ArtifactUploadFailed: nothing of this training is stored.
        """
        failure = checkpointer.save_now(state)
        lost = failure is not None and not self._interrupt.resumable
        self._console.event(
            "interrupted",
            f"stopped after step {state.progress.step}; run it again and it goes on"
            if self._console.interactive and not failure
            else None,
            level="warning",
            step=state.progress.step,
            saved=failure is None,
        )
        if lost:
            if not isinstance(failure, StageError):
                raise RuntimeError("the state of the training could not be stored") from failure
            raise StageError(
                Reason.ARTIFACT_UPLOAD_FAILED,
                f"the process was told to stop and its state could not be stored: {failure.message}",
            ) from failure
