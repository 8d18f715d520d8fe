"""The one evaluator: baseline, validation and test go through it, so their numbers can be compared.

ChoiceAccuracy is the arg-max over the summed log-probabilities of the choices' tokens, without end token, ties to the
first (``acc`` of lm-evaluation-harness). ExactMatch asks whether the text that greedy decoding writes is the expected
one, both cut by the stop rule of ``text/stop.py``; ExactMatchTokens whether it yields the expected tokens, end tokens
included. Loss is the training loss. All come from one forward pass a row; only rows that miss are decoded, and only as
far as the verdict needs where their text is not asked for.

A row that no answer can be right for (``EncodedPart.unanswerable``) counts as wrong under every metric. One that
does not fit into maxLength is never fed to the model, and the loss leaves it out.

A row is a question while its batch is scored and a line of a table afterwards, so memory holds one batch of them.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.answering import Answerer, answerer_for
from finetune_trainer.evaluation.answers import Answers
from finetune_trainer.evaluation.batches import Budget, budget_of
from finetune_trainer.evaluation.decode import known
from finetune_trainer.evaluation.questions import Question, Questions
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.evaluation.rows import RowResult, Rows
from finetune_trainer.evaluation.score import Scored
from finetune_trainer.model.device import gpu_memory_errors
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared, TextRow
from finetune_trainer.process.console import Progress, no_progress

__all__ = ["evaluate"]

log = logging.getLogger(__name__)


def evaluate(
    loaded: LoadedModel,
    part: EncodedPart,
    prepared: Prepared,
    *,
    texts: Sequence[TextRow],
    generate: bool,
    limit: int | None = None,
    progress: Progress = no_progress,
    token_budget: int | None = None,
) -> Evaluation:
    """Score a model on a part.

    Parameters
    ----------
    texts
        The part's rows as text, in its order; empty where only numbers are wanted (``expected`` is then empty).
    generate
        Decode every row that teacher forcing got wrong to its end, for its text. No verdict depends on it.
    limit
        Score at most so many rows: the same ones for every model.
    progress
        Called with the rows scored so far, and all.
    token_budget
        Tokens in a batch; changes speed and memory, not results.

    Raises
    ------
    StageError
        GPUOutOfMemory.
    ValueError
        For a row that ChoiceAccuracy can't score because it has no choices, or that has nothing to score.
    """
    start = time.monotonic()
    sample = row_sample(len(part), limit)
    fits = part.unanswerable[sample] != NO_ROOM
    places = np.flatnonzero(fits)
    questions = Questions(part, prepared, sample[places])
    answers = Answers(loaded.tokenizer, prepared, loaded.eos_ids, whole=generate)
    judge = _Judge(part, prepared, texts, whole=generate)
    rows = Rows(len(sample))
    for at in np.flatnonzero(~fits).tolist():
        rows.put(at, judge.unasked(int(sample[at])))
    with gpu_memory_errors("evaluation"), _evaluating(loaded):
        budget = budget_of(loaded.device.type, token_budget)
        done = len(sample) - len(places)
        for batch, replies in _ask(questions, loaded, answers, prepared, budget):
            for at, answer in zip(places[batch].tolist(), replies, strict=True):
                rows.put(at, judge.row(int(sample[at]), answer))
            done += len(batch)
            progress(done, len(rows))
    judge.warn()
    return Evaluation(metric=prepared.metric, rows=rows, seconds=time.monotonic() - start)


@contextlib.contextmanager
def _evaluating(loaded: LoadedModel) -> Iterator[None]:
    """Switch dropout and its like off meanwhile."""
    was_training = loaded.model.training
    loaded.model.eval()
    try:
        yield
    finally:
        loaded.model.train(was_training)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """How a model took a question: likelihoods, which expected tokens it would have said, and what it says."""

    scored: Scored
    right: tuple[bool, ...]
    said: str
    reference: str | None


def _ask(
    questions: Questions, loaded: LoadedModel, answers: Answers, prepared: Prepared, budget: Budget
) -> Iterator[tuple[NDArray[np.int64], list[_Answer]]]:
    """Put all questions to the model; yields batches of their places with the answers."""
    if not len(questions):
        return
    answerer = answerer_for(
        loaded, questions, budget, stops=answers.stops, pad_id=prepared.pad_id, limit=prepared.max_new_tokens
    )
    for batch in answerer.batches(questions.sizes):
        yield batch, list(_answer([questions[int(at)] for at in batch], answerer, answers))


def _answer(questions: Sequence[Question], answerer: Answerer, answers: Answers) -> Iterator[_Answer]:
    """Put a batch to the model: score all answers, and decode what teacher forcing doesn't know already."""
    scored = answerer.likelihoods(questions)
    expected = [[token for _, token in q.tree.sequences[0]] for q in questions]
    references = [answers.reference(completion) for completion in expected]
    right = [
        tuple(bool(s.greedy[node + 1] == token) for node, token in q.tree.sequences[0])
        for q, s in zip(questions, scored, strict=True)
    ]

    def finished(i: int, tokens: Sequence[int]) -> bool:
        return answers.finished(tokens, references[i])

    said: dict[int, Sequence[int]] = {i: expected[i] for i in range(len(questions)) if all(right[i])}
    missed = []
    for i in range(len(questions)):
        if i in said:
            continue
        said[i], _ = known(questions[i], scored[i].greedy, partial(finished, i), answerer.limit)
        if len(said[i]) < answerer.limit and not finished(i, said[i]):
            missed.append(i)
    if missed:
        said.update(zip(missed, answerer.complete(missed, finished), strict=True))
    for i, row in enumerate(scored):
        yield _Answer(scored=row, right=right[i], said=answers.said(said[i]), reference=references[i])


class _Judge:
    """Compares answers with what was expected."""

    def __init__(self, part: EncodedPart, prepared: Prepared, texts: Sequence[TextRow], *, whole: bool) -> None:
        self.part, self.prepared, self.texts, self.whole = part, prepared, texts, whole
        self.seen = self.unmatchable = 0

    def row(self, index: int, answer: _Answer) -> RowResult:
        """Return the outcome of a row."""
        part, metric, answerable = self.part, self.prepared.metric, not self.part.unanswerable[index]
        self.seen += 1
        self.unmatchable += answerable and answer.reference is None
        exact = answerable and answer.said == answer.reference
        generated = answer.said if self.whole else None
        chosen = right_choice = None
        predicted = generated
        choices = int(part.choice_set[index])
        if choices >= 0:
            chosen = int(np.argmax([logprobs.sum() for logprobs in answer.scored.logprobs[1:]]))  # the first of equals
            right_choice = answerable and chosen == int(part.answer[index])
            if metric == "ChoiceAccuracy":
                predicted = self.prepared.choice_sets[choices].texts[chosen]
        return RowResult(
            index=index,
            row=int(part.rows[index]),
            chosen=chosen,
            right_choice=right_choice,
            exact_match=exact,
            exact_match_tokens=answerable and all(answer.right),
            loss=-float(answer.scored.logprobs[0].sum()),
            tokens=len(answer.right),
            tokens_correct=sum(answer.right),
            predicted=predicted,
            generated=generated,
            expected=self._expected(index),
            correct=bool(right_choice) if metric == "ChoiceAccuracy" else exact,
        )

    def unasked(self, index: int) -> RowResult:
        """Return the outcome of a row that does not fit: wrong, without a loss."""
        return RowResult(
            index=index,
            row=int(self.part.rows[index]),
            chosen=None,
            right_choice=False if self.prepared.choice_sets else None,
            exact_match=False,
            exact_match_tokens=False,
            loss=0.0,
            tokens=0,
            tokens_correct=0,
            predicted=None,
            generated=None,
            expected=self._expected(index),
            correct=False,
        )

    def _expected(self, index: int) -> str:
        return self.texts[index].completion if self.texts else ""

    def warn(self) -> None:
        """Say how many rows no text can match, where that is the score."""
        if self.unmatchable and self.prepared.metric == "ExactMatch":
            log.warning(
                "%d of %d expected answers go on after a text that ends answers (%s), or have characters that the "
                "tokenizer doesn't know; no answer matches them, and they count as wrong; see evaluation.stop",
                self.unmatchable,
                self.seen,
                ", ".join(map(repr, self.prepared.stop)) or "none",
            )
