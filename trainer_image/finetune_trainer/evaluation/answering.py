"""The model's side of an evaluation: two verbs, ``likelihoods`` and ``complete``, and two ways to do them.

:class:`SharedPrompt` runs a prompt once for all of its answers and decodes on from its cache; :class:`Alone` runs each
answer as a row of its own, which every architecture can do. :class:`~finetune_trainer.evaluation.apart.Apart` is for
those with an encoder. All keep within a budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from finetune_trainer.evaluation.abilities import supports_branches
from finetune_trainer.evaluation.apart import Apart
from finetune_trainer.evaluation.batches import Budget, Rows, cut
from finetune_trainer.evaluation.decode import Finished, decode_from_cache, generate_plain, room
from finetune_trainer.evaluation.questions import Question, Questions, Sizes
from finetune_trainer.evaluation.score import Scored, Scores, run_prefix, score, score_alone
from finetune_trainer.model.load import LoadedModel, embedding_rows

__all__ = ["Alone", "Answerer", "SharedPrompt", "answerer_for"]


class Answerer(Protocol):
    """Puts questions to a model, a batch at a time."""

    @property
    def limit(self) -> int:
        """The most tokens of an answer that is decoded."""

    def batches(self, sizes: Sizes) -> list[Rows]:
        """Cut questions of these sizes into batches that it can take at once."""

    def likelihoods(self, questions: Sequence[Question]) -> Sequence[Scored]:
        """Score the answers of a batch."""

    def complete(self, rows: Sequence[int], finished: Finished) -> list[list[int]]:
        """Decode some questions of the batch that was scored last; once a batch."""


def answerer_for(
    loaded: LoadedModel, questions: Questions, budget: Budget, *, stops: frozenset[int], pad_id: int, limit: int
) -> Answerer:
    """Return the fastest way that the model's architecture and the longest question allow.

    Parameters
    ----------
    stops, limit
        Tokens that end an answer, and the most tokens of one.
    """
    if loaded.encoder_decoder:
        return Apart(loaded, budget, stops=stops, pad_id=pad_id, limit=limit)
    sizes = questions.sizes
    # Chains (open answers) need no mask to be scored, but decoding on from their cache does.
    if supports_branches(loaded, int((sizes.prompts + sizes.nodes).max()) + limit):
        return SharedPrompt(loaded, questions.beginning() if len(questions) > 1 else (), budget, limit=limit)
    return Alone(loaded, budget, stops=stops, pad_id=pad_id, limit=limit)


class SharedPrompt:
    """Answers share their prompt's forward pass, and prompts what all of them begin with."""

    def __init__(self, loaded: LoadedModel, beginning: tuple[int, ...], budget: Budget, *, limit: int) -> None:
        self._loaded, self._budget, self.limit = loaded, budget, limit
        self._prefix = run_prefix(loaded, beginning)
        self._questions: Sequence[Question] = ()
        self._scores: Scores | None = None

    def batches(self, sizes: Sizes) -> list[Rows]:
        """Cut by what is fed, by cache (the shared beginning is copied for each row) and by logits."""
        return cut(
            sizes.prompts - self._prefix.length + sizes.nodes,
            1 + sizes.nodes,
            self._budget,
            vocabulary=embedding_rows(self._loaded.model),
            held=self._prefix.length + self.limit,
        )

    def likelihoods(self, questions: Sequence[Question]) -> Sequence[Scored]:
        """Score a batch in one forward pass, and keep its cache until it is decoded or the next one comes."""
        self._scores = None  # two caches at once may not fit
        self._questions, self._scores = questions, score(self._loaded, questions, self._prefix, keep_cache=True)
        return self._scores.rows

    def complete(self, rows: Sequence[int], finished: Finished) -> list[list[int]]:
        """Decode from the cache."""
        scores, self._scores = self._scores, None
        if scores is None:
            raise ValueError("a batch is decoded once, after it was scored")
        return decode_from_cache(self._loaded, self._questions, scores, rows, finished=finished, limit=self.limit)


class Alone:
    """Each answer is a row of its own, and what is decoded starts from its prompt again."""

    def __init__(self, loaded: LoadedModel, budget: Budget, *, stops: frozenset[int], pad_id: int, limit: int) -> None:
        self._loaded, self._budget, self.limit = loaded, budget, limit
        self._stops, self._pad_id = stops, pad_id
        self._questions: Sequence[Question] = ()

    def batches(self, sizes: Sizes) -> list[Rows]:
        """Cut so that the answers of a batch are within the budget, or those of a single question."""
        return self._cut(sizes.answers * (sizes.prompts + sizes.longest), sizes.answers * sizes.longest)

    def likelihoods(self, questions: Sequence[Question]) -> Sequence[Scored]:
        """Score a batch in as many forward passes as the budget asks for."""
        self._questions = questions
        return score_alone(self._loaded, questions, self._budget)

    def complete(self, rows: Sequence[int], finished: Finished) -> list[list[int]]:
        """Generate, in batches within the budget."""
        prompts = [self._questions[row].prompt for row in rows]
        said: list[list[int]] = [[] for _ in rows]
        rooms = np.array([room(self._loaded, prompt, self.limit) for prompt in prompts], dtype=np.int64)
        widths = rooms + np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        for limit, batch in self._cut_by_room(rooms, widths):
            numbers = [rows[i] for i in batch]
            texts = generate_plain(
                self._loaded,
                [prompts[i] for i in batch],
                pad_id=self._pad_id,
                stops=self._stops,
                finished=partial(_finished_by_number, finished, numbers),
                limit=limit,
            )
            for i, tokens in zip(batch, texts, strict=True):
                said[i] = tokens
        return said

    def _cut_by_room(self, rooms: Rows, widths: Rows) -> Iterator[tuple[int, Rows]]:
        """Cut prompts to be generated from; those of a batch have room for equally many tokens."""
        for limit in np.unique(rooms):
            places = np.flatnonzero(rooms == limit)
            for batch in self._cut(widths[places], np.ones_like(places)):
                yield int(limit), places[batch]

    def _cut(self, widths: Rows, labels: Rows) -> list[Rows]:
        return cut(widths, labels, self._budget, vocabulary=embedding_rows(self._loaded.model))


def _finished_by_number(finished: Finished, numbers: Sequence[int], at: int, tokens: Sequence[int]) -> bool:
    return finished(numbers[at], tokens)
