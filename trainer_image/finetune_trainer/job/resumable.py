"""Trains so that the training survives its pod: goes on from the newest state, offers new ones, and leaves in order.

Between ``tune.py``, which knows the job, and ``training/loop.py``, which knows neither storage nor signals.
"""

from __future__ import annotations

from finetune_api.reasons import Reason
from finetune_trainer.checkpoint.checkpoints import Checkpoints, terms_of
from finetune_trainer.errors import StageError
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import Console
from finetune_trainer.process.interrupt import Interrupt, Interrupted
from finetune_trainer.training.loop import train
from finetune_trainer.training.outcome import TrainOutcome
from finetune_trainer.training.plan import Hyperparameters
from finetune_trainer.training.samples import SAMPLED_ROWS
from finetune_trainer.training.state import TrainingState, TrainingStopped

__all__ = ["train_resumably"]


def train_resumably(
    loaded: LoadedModel,
    prepared: Prepared,
    parameters: Hyperparameters,
    *,
    threads: int,
    checkpoints: Checkpoints,
    watcher: TrainingWatcher,
    console: Console,
    interrupt: Interrupt,
) -> TrainOutcome:
    """Train; afterwards the model holds the best weights.

    Raises
    ------
    StageError
        Of the loop and the store; ArtifactUploadFailed when the process was told to stop and no state is stored.
    Interrupted
        The process was told to stop, and a later one can go on.
    """
    newest = checkpoints.newest(terms_of(loaded, parameters, threads=threads))
    if newest is not None:
        watcher.resume(newest.metrics, newest.state.progress.samples)
    with console.step("train", f"train with {parameters.method}") as progress, interrupt.deferred():
        watcher.training(progress)
        try:
            return train(
                loaded,
                prepared,
                parameters,
                observer=watcher,
                checkpointer=checkpoints,
                state=newest.state if newest else None,
                samples=SAMPLED_ROWS,
            )
        except TrainingStopped as stopped:
            _leave(stopped.state, checkpoints, console, interrupt)
            raise Interrupted from None


def _leave(state: TrainingState, checkpoints: Checkpoints, console: Console, interrupt: Interrupt) -> None:
    """Save what the loop handed out.

    Raises
    ------
    StageError
        ArtifactUploadFailed: nothing of this training is stored.
    """
    failure = checkpoints.save_now(state)
    console.event(
        "interrupted",
        f"stopped after step {state.progress.step}; run it again and it goes on"
        if console.interactive and not failure
        else None,
        level="warning",
        step=state.progress.step,
        saved=failure is None,
    )
    if failure is None or interrupt.resumable:
        return
    if isinstance(failure, StageError):
        raise StageError(
            Reason.ARTIFACT_UPLOAD_FAILED,
            f"the process was told to stop and its state could not be stored: {failure.message}",
        ) from failure
    raise RuntimeError("the state of the training could not be stored") from failure
