"""The job's two scores on the sealed test rows: of the untouched model, kept or measured, and of the stored one."""

from __future__ import annotations

from typing import Final

from finetune_api.status import Score
from finetune_trainer.checkpoint.checkpoints import Checkpoints, Settled
from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.evaluation.words import rows_of
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.process.console import Console

__all__ = ["score_after", "score_before", "score_train"]

TRAIN_ROWS: Final = 100
"""Train rows that the stored model is asked, to see whether it learned them by heart."""


def score_before(
    loaded: LoadedModel,
    prepared: Prepared,
    *,
    limit: int | None,
    checkpoints: Checkpoints,
    watcher: TrainingWatcher,
    console: Console,
) -> Evaluation:
    """Score the untouched model, or take the scores that an earlier attempt kept.

    Parameters
    ----------
    limit
        Score at most so many rows, the same ones before and after.
    """
    rows = row_sample(len(prepared.parts["test"]), limit).tolist()
    kept = checkpoints.baseline(precision=loaded.precision, indices=rows)
    if kept is not None:
        _tell("baseline", kept, console, measured=False)
        return kept
    with console.step("baseline", "score the untouched model on the test rows") as progress:
        watcher.evaluating(progress)
        evaluation = _score(loaded, prepared, limit, watcher)
    _tell("baseline", evaluation, console, measured=True)
    branching = loaded.abilities.branching if loaded.abilities else None
    checkpoints.keep_baseline(evaluation, Settled(precision=loaded.precision, branching=branching))
    return evaluation


def score_after(
    loaded: LoadedModel, prepared: Prepared, *, limit: int | None, watcher: TrainingWatcher, console: Console
) -> Evaluation:
    """Score the model that was stored and loaded again."""
    with console.step("test", "score the stored model on the test rows") as progress:
        watcher.evaluating(progress)
        evaluation = _score(loaded, prepared, limit, watcher)
    _tell("test", evaluation, console, measured=True)
    return evaluation


def score_train(loaded: LoadedModel, prepared: Prepared, *, watcher: TrainingWatcher, console: Console) -> Score | None:
    """Score the stored model on a few train rows; None where that isn't the same question as a test row's.

    So it is where a row teaches several answers, and for metrics that need texts, which train rows don't keep.
    """
    several = prepared.summary.train_answers is not None
    if several or prepared.metric not in ("ChoiceAccuracy", "ExactMatch"):
        return None
    part = prepared.parts["train"]
    with console.step("test_train", "score the stored model on some train rows") as progress:
        watcher.evaluating(progress)
        evaluation = evaluate(
            loaded, part, prepared, texts=(), generate=False, limit=TRAIN_ROWS, progress=watcher.on_evaluated
        )
    return evaluation.score()


def _score(loaded: LoadedModel, prepared: Prepared, limit: int | None, watcher: TrainingWatcher) -> Evaluation:
    return evaluate(
        loaded,
        prepared.parts["test"],
        prepared,
        texts=prepared.texts["test"],
        generate=METRICS[prepared.metric].kind == "predict",
        limit=limit,
        progress=watcher.on_evaluated,
    )


def _tell(name: str, evaluation: Evaluation, console: Console, *, measured: bool) -> None:
    score = evaluation.score()
    console.event(
        f"{name}_score",
        f"{name}: {evaluation.metric} {score.score} ({rows_of(score)})" if console.interactive else None,
        **{**score.to_wire(), "measured": measured},
    )
