"""The job's scores on the sealed test rows: of the untouched model, kept or measured, and of the stored one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from finetune_api.status import FewShotScore, Score
from finetune_trainer.checkpoint.checkpoints import Checkpoints, Settled
from finetune_trainer.counted import counted
from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.few_shot import FewShotRows, few_shot_rows
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.results import Evaluation, few_shot_score
from finetune_trainer.evaluation.words import rows_of
from finetune_trainer.job.watcher import TrainingWatcher
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.process.console import Console

__all__ = ["FewShot", "score_after", "score_before", "score_few_shot", "score_train"]

TRAIN_ROWS: Final = 100
"""Train rows that the stored model is asked, to see whether it learned them by heart."""


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """The few-shot baseline, or why there is none.

    Attributes
    ----------
    evaluation
        None where no row could be asked with an example.
    examples
        How many each row got.
    missing
        Why there is none; empty where there is one.
    """

    evaluation: Evaluation | None = None
    examples: Sequence[int] = ()
    fewer: int = 0
    context_tokens: int = 0
    missing: str = ""

    def score(self, after: Evaluation) -> FewShotScore | None:
        """Return the form of the status, beside what the tuned model reached."""
        if self.evaluation is None:
            return None
        return few_shot_score(
            self.evaluation, after, examples=max(self.examples), fewer=self.fewer, context=self.context_tokens
        )


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
    checkpoints.keep_baseline(evaluation, _settled(loaded))
    return evaluation


def score_few_shot(
    loaded: LoadedModel,
    prepared: Prepared,
    *,
    limit: int | None,
    max_length: int,
    folder: Path,
    checkpoints: Checkpoints,
    watcher: TrainingWatcher,
    console: Console,
) -> FewShot:
    """Score the untouched model with the examples of :attr:`Prepared.few_shot` in its prompts, or take what was kept.

    Parameters
    ----------
    max_length
        Bound of a prompt with its longest answer; where not all examples fit, fewer are shown.
    folder
        Gets the encoded rows.
    """
    rows = row_sample(len(prepared.parts["test"]), limit)
    with console.step("encode_few_shot", "put examples before the test rows"):
        shown = few_shot_rows(
            prepared,
            loaded.tokenizer,
            rows,
            max_length=max_length,
            folder=folder,
            encoder_decoder=loaded.encoder_decoder,
        )
    if not shown.most:
        missing = _why_none(prepared, shown, max_length)
        console.event("no_few_shot", missing, level="warning")
        return FewShot(missing=missing)
    told = FewShot(examples=shown.of_rows.tolist(), fewer=shown.fewer, context_tokens=shown.context_tokens)
    evaluation = checkpoints.few_shot(precision=loaded.precision, indices=rows.tolist())
    measured = evaluation is None
    if evaluation is None:
        with console.step("few_shot", f"score it with {counted(shown.most, 'example')} in its prompt") as progress:
            watcher.evaluating(progress)
            evaluation = _score(loaded, prepared, limit, watcher, part=shown.part)
        checkpoints.keep_few_shot(evaluation, _settled(loaded))
    _tell("few_shot", evaluation, console, measured=measured)
    if shown.fewer:
        console.event(
            "few_shot_fewer",
            f"{counted(shown.fewer, 'row')} had room for fewer than {shown.most} examples in training.maxLength "
            f"{max_length}",
            level="warning",
            rows=shown.fewer,
        )
    return replace(told, evaluation=evaluation)


def _why_none(prepared: Prepared, shown: FewShotRows, max_length: int) -> str:
    if not prepared.few_shot:
        return "no train row is fit to be an example: each is shortened, or nearly repeats a sealed row"
    if shown.refused:
        return f"the model's chat template takes no examples: {shown.refused}"[:160]
    return f"no example fits beside a test row in training.maxLength {max_length}; raise it"


def _settled(loaded: LoadedModel) -> Settled:
    branching = loaded.abilities.branching if loaded.abilities else None
    return Settled(precision=loaded.precision, branching=branching)


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


def _score(
    loaded: LoadedModel,
    prepared: Prepared,
    limit: int | None,
    watcher: TrainingWatcher,
    part: EncodedPart | None = None,
) -> Evaluation:
    return evaluate(
        loaded,
        prepared.parts["test"] if part is None else part,
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
