"""The one evaluator: baseline, validation and test go through it, so their numbers can be compared.

A choice's likelihood is the sum of its tokens' log-probabilities, without end token; ties go to the first. Text is what
greedy decoding writes, cut by the stop rule of ``text/stop.py``; of a model that thinks first, what it writes after its
thought. Calls of tools are compared as JSON (:meth:`~finetune_trainer.evaluation.answers.Answers.matches`). Loss is the
training loss. All come from one forward pass a row; only rows that miss are decoded, and only as far as the verdict
needs where neither metric nor reader asks for their text. What is kept of a row, and how a score is made of that, is
the metric's (``metrics/``).

A row that no answer can be right for (``EncodedPart.unanswerable``) counts as wrong under every metric. One that
does not fit into maxLength is never fed to the model, and the loss leaves it out.

A row is a question while its batch is scored and a line of a table afterwards, so memory holds one batch of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.answering import Answerer, answerer_for
from finetune_trainer.evaluation.answers import Answers, Said
from finetune_trainer.evaluation.batches import Budget, budget_of
from finetune_trainer.evaluation.decode import known
from finetune_trainer.evaluation.metrics.metric import TextMetric
from finetune_trainer.evaluation.metrics.registry import METRICS, text_metrics
from finetune_trainer.evaluation.questions import Question, Questions
from finetune_trainer.evaluation.results import Evaluation
from finetune_trainer.evaluation.rows import RowResult, Rows
from finetune_trainer.evaluation.score import Scored
from finetune_trainer.model.device import gpu_memory_errors
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared, TextRow
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.text.stop import plain_line_ends

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
    quiet: bool = False,
) -> Evaluation:
    """Score a model on a part.

    Parameters
    ----------
    texts
        The part's rows as text, in its order; empty where only numbers are wanted (``expected`` is then empty). A
        metric over text needs them, for rows that don't fit.
    generate
        Decode every row that teacher forcing got wrong to its end, for its text and the metrics over text that are told
        beside the job's own. No verdict depends on it.
    limit
        Score at most so many rows: the same ones for every model.
    progress
        Called with the rows scored so far, and all.
    token_budget
        Tokens in a batch; changes speed and memory, not results.
    quiet
        Don't warn of rows that no text can match: for a look at a few rows, of which all are scored elsewhere.

    Raises
    ------
    StageError
        GPUOutOfMemory.
    ValueError
        For a row that a metric over choices can't score because it has none, or that has nothing to score.
    """
    start = time.monotonic()
    sample = row_sample(len(part), limit)
    fits = part.unanswerable[sample] != NO_ROOM
    places = np.flatnonzero(fits)
    questions = Questions(part, prepared, sample[places])
    asked = text_metrics(prepared.metric, beside=generate)
    whole = generate or bool(asked)
    answers = Answers(loaded.tokenizer, prepared, loaded.eos_ids, whole=whole)
    judge = _Judge(part, prepared, texts, whole=whole, asked=asked)
    rows, cut = Rows(len(sample)), set[int]()
    for at in np.flatnonzero(~fits).tolist():
        rows.put(at, judge.unasked(int(sample[at])))
    with gpu_memory_errors("evaluation"), _evaluating(loaded):
        budget = budget_of(loaded.device.type, token_budget)
        done = len(sample) - len(places)
        for batch, replies in _ask(questions, loaded, answers, prepared, budget):
            for at, answer in zip(places[batch].tolist(), replies, strict=True):
                rows.put(at, judge.row(int(sample[at]), answer))
                if answer.cut:
                    cut.add(at)
            done += len(batch)
            progress(done, len(rows))
    if not quiet:
        judge.warn()
    return Evaluation(metric=prepared.metric, rows=rows, seconds=time.monotonic() - start, cut=frozenset(cut))


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
    """How a model took a question: likelihoods, which expected tokens it would have said, and what it says.

    ``matches`` is whether that is the expected answer.
    ``cut`` is whether it would have said more than it may, ``partial`` whether the verdict was clear before its end.
    """

    scored: Scored
    right: tuple[bool, ...]
    said: Said
    matches: bool
    cut: bool
    partial: bool
    reference: str | None
    expected: str


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
        return answers.finished(tokens, references[i], calls=questions[i].calls)

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
        goes_on = not all(right[i]) and not answers.ended(said[i])
        read = answers.said(said[i])
        yield _Answer(
            scored=row,
            right=right[i],
            said=read,
            matches=answers.matches(read.answer, references[i], calls=questions[i].calls),
            cut=goes_on and len(said[i]) >= answerer.limit,
            partial=goes_on and len(said[i]) < answerer.limit,
            reference=references[i],
            expected=answers.expected(expected[i]) if answers.whole else "",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The most likely of a row's choices, by likelihood and by likelihood a character, and the first one's share."""

    most_likely: int
    by_character: int
    confidence: float


class _Judge:
    """Compares answers with what was expected."""

    def __init__(
        self,
        part: EncodedPart,
        prepared: Prepared,
        texts: Sequence[TextRow],
        *,
        whole: bool,
        asked: Sequence[TextMetric],
    ) -> None:
        self.part, self.prepared, self.texts, self.whole = part, prepared, texts, whole
        self.asked = asked
        self.verdict = METRICS[prepared.metric].verdict
        self.common = len(prepared.choice_sets) == 1
        self.seen = self.unmatchable = self.unclosed = 0

    def row(self, index: int, answer: _Answer) -> RowResult:
        """Return the outcome of a row."""
        part, answerable = self.part, not self.part.unanswerable[index]
        self.seen += 1
        self.unmatchable += answerable and answer.reference is None
        self.unclosed += bool(answer.said.unclosed)
        said = answer.said.answer
        choice = self._choice(index, answer.scored)
        # Beside a choice the text is told however little of it there is: it is what the exact match is about.
        generated = said if self.whole or choice is not None else None
        predicted = said if self.whole else None
        if choice is not None and self.verdict in ("right_choice", "right_norm"):
            chosen = choice.by_character if self.verdict == "right_norm" else choice.most_likely
            predicted = self.prepared.choice_sets[int(part.choice_set[index])].texts[chosen]
        row = RowResult(
            index=index,
            row=int(part.rows[index]),
            chosen=None if choice is None else choice.most_likely,
            right_choice=None if choice is None else answerable and choice.most_likely == int(part.answer[index]),
            exact_match=answerable and answer.matches,
            exact_match_tokens=answerable and all(answer.right),
            loss=-float(answer.scored.logprobs[0].sum()),
            tokens=len(answer.right),
            tokens_correct=sum(answer.right),
            predicted=predicted,
            generated=generated,
            expected=self._expected(index),
            correct=False,
            right_norm=None if choice is None else answerable and choice.by_character == int(part.answer[index]),
            label=self._label(index),
            confidence=None if choice is None else choice.confidence,
            measures=self._measures(said if answerable and not answer.said.unclosed else None, answer.expected),
            thought=answer.said.thought if self.whole else None,
            unclosed=answer.said.unclosed,
            partial=generated is not None and answer.partial,
        )
        return dataclasses.replace(row, correct=self._verdict(row))

    def unasked(self, index: int) -> RowResult:
        """Return the outcome of a row that does not fit: wrong, without a loss."""
        chosen = False if self.prepared.choice_sets else None
        expected = self._expected(index)
        return RowResult(
            index=index,
            row=int(self.part.rows[index]),
            chosen=None,
            right_choice=chosen,
            exact_match=False,
            exact_match_tokens=False,
            loss=0.0,
            tokens=0,
            tokens_correct=0,
            predicted=None,
            generated=None,
            expected=expected,
            correct=False,
            right_norm=chosen,
            label=self._label(index),
            measures=self._measures(None, plain_line_ends(expected).strip()),
            unclosed=None if self.prepared.thoughts is None else False,
        )

    def _choice(self, index: int, scored: Scored) -> _Choice | None:
        """Return which of the row's choices are the most likely; the first of equals."""
        number = int(self.part.choice_set[index])
        if number < 0:
            return None
        sums = np.array([logprobs.sum() for logprobs in scored.logprobs[1:]])
        lengths = np.array([max(1, len(text)) for text in self.prepared.choice_sets[number].texts])
        chosen = int(np.argmax(sums))
        return _Choice(
            most_likely=chosen,
            by_character=int(np.argmax(sums / lengths)),
            confidence=float(1 / np.exp(sums - sums[chosen]).sum()),
        )

    def _label(self, index: int) -> int | None:
        """Return the expected label's number; one more than there are where it is none of them."""
        if not self.common:
            return None
        answer = int(self.part.answer[index])
        return answer if answer >= 0 else len(self.prepared.choice_sets[0].texts)

    def _measures(self, said: str | None, expected: str) -> dict[str, tuple[float, ...]]:
        """What the metrics keep of the row; None was said where no answer can be right."""
        if said is None:
            return {metric.name: metric.without_answer(expected) for metric in self.asked}
        return {metric.name: metric.compare(said, expected) for metric in self.asked}

    def _verdict(self, row: RowResult) -> bool:
        """Whether a row counts as right; where the metric knows no right rows, whether it is an exact match."""
        if self.verdict == "measure":
            return row.measures[self.prepared.metric][0] == 1
        return bool(getattr(row, self.verdict or "exact_match"))

    def _expected(self, index: int) -> str:
        return self.texts[index].completion if self.texts else ""

    def warn(self) -> None:
        """Say how many rows have no answer, and how many no text can match, where that is the score."""
        if self.unclosed:
            log.warning(
                "%d of %d answers don't come to the end of their thought within %d tokens, and count as wrong; raise "
                "evaluation.maxNewTokens",
                self.unclosed,
                self.seen,
                self.prepared.max_new_tokens,
            )
        if self.unmatchable and self.prepared.metric == "ExactMatch":
            log.warning(
                "%d of %d expected answers go on after a text that ends answers (%s), or have characters that the "
                "tokenizer doesn't know; no answer matches them, and they count as wrong; see evaluation.stop",
                self.unmatchable,
                self.seen,
                ", ".join(map(repr, self.prepared.stop)) or "none",
            )
