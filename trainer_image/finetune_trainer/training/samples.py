"""What the model writes to a few validation rows as it learns: before the first step, and where epochs end.

``loop.py`` asks :class:`Samples` where it looks up anyway; what was taken is part of the training's state
(``state.py``), so that a training that goes on has the samples of one that was never stopped. They come from the one
evaluator, which decodes greedily and draws nothing: a training with samples ends with the bits of one without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.training.plan import Hyperparameters

__all__ = ["SAMPLED_ROWS", "Sample", "Samples"]

SAMPLED_ROWS: Final = 10
SHARE: Final = 0.02
"""Of an epoch's tokens: so many are decoded for its samples at most, whatever evaluation.maxNewTokens allows."""
LEAST, MOST = 16, 128
"""Bounds of a sampled answer in tokens: of a tiny epoch's share nothing could be read, and long ones aren't read."""
MOST_TIMES: Final = 20
"""Of more epochs every second, third, … one is sampled, and the last."""
SHOWN: Final = 2000
"""Characters of an answer that are kept."""


class Sample(BaseModel):
    """An answer to one row at one moment.

    Attributes
    ----------
    step, epoch
        Optimizer steps done, and passes over the rows.
    index
        Of the row in the validation part.
    completion
        What greedy decoding writes, as the stop rule leaves it.
    choice
        The answer under a metric over choices: the most likely one; None under any other metric.
    cut
        The model may have gone on: the answer was cut to what samples may cost, or to what is kept of one.
    correct
        Whether it counts as right; None where that can't be told of a cut answer, or rows are neither right nor wrong.
    score
        The row's own score where rows are neither right nor wrong; else None, and where it can't be told.
    thought, thought_cut
        What the model thinks before it answers, and whether it is longer than what is kept of one; None where models
        answer at once.
    unfinished
        It came to no end of it, so there is no answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int = Field(ge=0)
    epoch: float = Field(ge=0)
    index: int = Field(ge=0)
    completion: str
    choice: str | None = None
    cut: bool = False
    correct: bool | None = None
    score: float | None = None
    thought: str | None = None
    thought_cut: bool = False
    unfinished: bool = False


class Samples:
    """Takes the samples of one training.

    Parameters
    ----------
    rows
        Validation rows to ask, the same ones each time: as :func:`~finetune_trainer.data.sample.row_sample` draws them
        from those that fit into maxLength. 0 asks none.

    Attributes
    ----------
    taken
        All so far, in the order of their steps.
    """

    def __init__(self, prepared: Prepared, parameters: Hyperparameters, *, rows: int) -> None:
        part, train = prepared.parts["validation"], prepared.parts["train"]
        fitting = np.flatnonzero(part.unanswerable != NO_ROOM)
        self._rows = fitting[row_sample(len(fitting), rows)]
        self._part, self._metric = _only(part, self._rows), prepared.metric
        self._texts = [prepared.texts["validation"][int(at)] for at in self._rows] if len(self._rows) else []
        self._limit = _limit(prepared.max_new_tokens, int(train.lengths.sum()), len(self._rows))
        self._whole = self._limit == prepared.max_new_tokens
        self._prepared = dataclasses.replace(prepared, max_new_tokens=self._limit)
        self._per_epoch = parameters.steps_per_epoch(len(train))
        self._each = -(-parameters.epochs // MOST_TIMES)
        self.taken: list[Sample] = []

    def restore(self, taken: Sequence[Sample]) -> None:
        """Go on from what an earlier run took."""
        self.taken = list(taken)

    def due(self, step: int, *, last: bool) -> bool:
        """Whether the weights after so many steps are to be asked and haven't been."""
        if not len(self._rows) or (self.taken and self.taken[-1].step >= step):
            return False
        epochs, inside = divmod(step, self._per_epoch)
        return last or (not inside and epochs % self._each == 0)

    def take(self, loaded: LoadedModel, step: int, progress: Progress = no_progress) -> Sequence[Sample]:
        """Ask the model as it is; returns the samples of this moment.

        Raises
        ------
        StageError
            GPUOutOfMemory.
        """
        asked = evaluate(
            loaded, self._part, self._prepared, texts=self._texts, generate=True, quiet=True, progress=progress
        )
        new = [self._sample(asked, at, step) for at in range(len(self._rows))]
        self.taken += new
        return new

    def _sample(self, asked: Evaluation, at: int, step: int) -> Sample:
        row, graded = asked.rows[at], asked.measure.verdict is None
        said, thought, cut = row.generated or "", row.thought or "", at in asked.cut
        # The evaluation would have read on.
        told = self._whole or not cut or asked.measure.kind != "predict"
        return Sample(
            step=step,
            epoch=round(step / self._per_epoch, 4),
            index=int(self._rows[at]),
            completion=said[:SHOWN],
            choice=row.predicted if asked.measure.needs != "nothing" else None,
            cut=cut or len(said) > SHOWN,
            correct=row.correct if told and not graded else None,
            score=round(asked.row_values[at], 6) if told and graded else None,
            thought=None if row.thought is None else thought[:SHOWN],
            thought_cut=len(thought) > SHOWN,
            unfinished=bool(row.unclosed),
        )


def _limit(most: int, epoch_tokens: int, rows: int) -> int:
    """Return the tokens that an answer may have."""
    return min(most, max(LEAST, min(MOST, int(SHARE * epoch_tokens) // max(1, rows))))


def _only(part: EncodedPart, rows: NDArray[np.int64]) -> EncodedPart:
    """Return a part with some rows of one that has no gaps."""
    tokens = [part.tokens[part.offsets[row] : part.offsets[row + 1]] for row in rows]
    return EncodedPart(
        tokens=np.concatenate(tokens) if tokens else part.tokens[:0],
        offsets=np.concatenate([[0], np.cumsum(part.lengths[rows])]).astype(np.int64),
        prompt_lengths=part.prompt_lengths[rows],
        rows=part.rows[rows],
        choice_set=part.choice_set[rows],
        answer=part.answer[rows],
        unanswerable=part.unanswerable[rows],
        called=np.flatnonzero(np.isin(rows, part.called)).astype(np.int32),
    )
