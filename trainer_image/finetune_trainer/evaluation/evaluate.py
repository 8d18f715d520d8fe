"""The one evaluator: baseline, validation and test go through it, so their numbers can be compared.

ChoiceAccuracy is the arg-max over the summed log-probabilities of the choices' tokens, without end token, ties to the
first (``acc`` of lm-evaluation-harness). ExactMatch asks whether greedy decoding yields the expected completion, end
tokens included. Loss is the training loss. All three come from one forward pass a row; see ``score.py`` and
``decode.py``.

A row that no answer can be right for (``EncodedPart.unanswerable``) counts as wrong under every metric. One that
does not fit into maxLength is never fed to the model, and the loss leaves it out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.sample import row_sample
from finetune_trainer.evaluation.abilities import supports_branches
from finetune_trainer.evaluation.answer_tree import build_tree
from finetune_trainer.evaluation.batches import length_groups
from finetune_trainer.evaluation.decode import decode_from_cache, generate_plain
from finetune_trainer.evaluation.results import Evaluation, RowResult
from finetune_trainer.evaluation.score import Question, Scored, compute_prefix, score, score_alone
from finetune_trainer.model.device import gpu_memory_errors
from finetune_trainer.model.load import LoadedModel
from finetune_trainer.prepare.prepared import NO_ROOM, EncodedPart, Prepared, TextRow
from finetune_trainer.process.console import Progress, no_progress

__all__ = ["TOKEN_BUDGET", "evaluate"]

TOKEN_BUDGET: Final = {"cpu": 2048, "cuda": 32768}
"""Tokens in an evaluation batch, padding counted, by kind of device."""


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
        Decode the rows that teacher forcing got wrong, for their text, and count those as exact whose text equals the
        expected one after white space is folded. Without it, ExactMatch is by tokens only.
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
    rows = row_sample(len(part), limit)
    was_training = loaded.model.training
    loaded.model.eval()
    try:
        with gpu_memory_errors("evaluation"):
            run = _Run(loaded, part, prepared, texts, generate=generate)
            scored = run.all(rows, token_budget or TOKEN_BUDGET[loaded.device.type], progress)
    finally:
        loaded.model.train(was_training)
    return Evaluation(metric=prepared.metric, rows=tuple(scored), seconds=time.monotonic() - start)


class _Run:
    """One evaluation; holds what every batch needs."""

    def __init__(
        self, loaded: LoadedModel, part: EncodedPart, prepared: Prepared, texts: Sequence[TextRow], *, generate: bool
    ) -> None:
        self.loaded, self.part, self.prepared, self.texts, self.generate = loaded, part, prepared, texts, generate
        self.stops = frozenset({*prepared.end_ids[-1:], *loaded.eos_ids})

    def all(self, rows: NDArray[np.int64], token_budget: int, progress: Progress) -> list[RowResult]:
        fits = self.part.unanswerable[rows] != NO_ROOM
        results = {int(at): self._unasked(int(rows[at])) for at in np.flatnonzero(~fits)}
        if fits.any():
            self._ask(rows, np.flatnonzero(fits), results, token_budget, progress)
        return [results[i] for i in range(len(rows))]

    def _ask(
        self,
        rows: NDArray[np.int64],
        asked: NDArray[np.int64],
        results: dict[int, RowResult],
        token_budget: int,
        progress: Progress,
    ) -> None:
        """Score the rows at the places ``asked`` of ``rows`` into ``results``."""
        questions = [self._question(int(i)) for i in rows[asked]]
        longest = max(q.length for q in questions) + (self.prepared.max_new_tokens if self.generate else 0)
        # Chains (open answers) need no mask to be scored, but decoding on from their cache does.
        shared = supports_branches(self.loaded, longest)
        prefix = compute_prefix(self.loaded, [q.prompt for q in questions]) if shared else None
        lengths = np.array([q.length - (prefix.length if prefix else 0) for q in questions], dtype=np.int64)
        for group in length_groups(lengths, token_budget):
            batch = [questions[i] for i in group]
            if prefix is not None:
                scores = score(self.loaded, batch, prefix, keep_cache=self.generate)
                scored = scores.rows
            else:
                scored = score_alone(self.loaded, batch)
            missed = [i for i, s in enumerate(scored) if not self._greedy_is_expected(batch[i], s)]
            texts: dict[int, str] = {}
            if self.generate and missed:
                stops, most = self.stops, self.prepared.max_new_tokens
                if prefix is not None:
                    tokens = decode_from_cache(self.loaded, batch, scores, missed, stops=stops, limit=most)
                else:
                    prompts = [batch[i].prompt for i in missed]
                    tokens = generate_plain(self.loaded, prompts, pad_id=self.prepared.pad_id, stops=stops, limit=most)
                texts = {i: self._decode(t) for i, t in zip(missed, tokens, strict=True)}
            for i, at in enumerate(asked[group]):
                results[int(at)] = self._result(int(rows[at]), batch[i], scored[i], texts.get(i))
            progress(len(results), len(rows))

    def _question(self, index: int) -> Question:
        """Build the prompt with the expected completion as first answer, then the choices."""
        part = self.part
        start, end = int(part.offsets[index]), int(part.offsets[index + 1])
        middle = start + int(part.prompt_lengths[index])
        prompt, completion = part.tokens[start:middle].tolist(), part.tokens[middle:end].tolist()
        if not prompt or not completion:
            raise ValueError(f"row {part.rows[index]} has no prompt or no completion tokens")
        answers: list[Sequence[int]] = [completion]
        choices = int(part.choice_set[index])
        if choices >= 0:
            end_ids = self.prepared.end_ids if self.prepared.score_end_tokens else ()
            answers += [(*ids, *end_ids) for ids in self.prepared.choice_sets[choices].ids]
        elif self.prepared.metric == "ChoiceAccuracy":
            raise ValueError(f"row {part.rows[index]} has no choices")
        return Question(tuple(prompt), build_tree(answers))

    def _greedy_is_expected(self, question: Question, scored: Scored) -> bool:
        return all(scored.greedy[node + 1] == token for node, token in question.tree.sequences[0])

    def _decode(self, tokens: list[int]) -> str:
        if tokens and tokens[-1] in self.stops:
            tokens = tokens[:-1]
        return str(self.loaded.tokenizer.decode(tokens, skip_special_tokens=True))

    def _result(self, index: int, question: Question, scored: Scored, generated: str | None) -> RowResult:
        completion = question.tree.sequences[0]
        right = [scored.greedy[node + 1] == token for node, token in completion]
        expected = self.texts[index].completion if self.texts else ""
        exact = all(right)
        if exact:
            generated = expected if self.texts else None
        elif generated is not None and self.texts:
            exact = _folded(generated) == _folded(expected)
        exact = exact and not self.part.unanswerable[index]
        chosen = right_choice = None
        predicted = generated
        choices = int(self.part.choice_set[index])
        if choices >= 0:
            chosen = int(np.argmax([logprobs.sum() for logprobs in scored.logprobs[1:]]))  # the first of equals
            right_choice = chosen == int(self.part.answer[index]) and not self.part.unanswerable[index]
            if self.prepared.metric == "ChoiceAccuracy":
                predicted = self.prepared.choice_sets[choices].texts[chosen]
        return RowResult(
            index=index,
            row=int(self.part.rows[index]),
            chosen=chosen,
            right_choice=right_choice,
            exact_match=exact,
            loss=-float(scored.logprobs[0].sum()),
            tokens=len(completion),
            tokens_correct=sum(bool(r) for r in right),
            predicted=predicted,
            generated=generated,
            expected=expected,
            correct=bool(right_choice) if self.prepared.metric == "ChoiceAccuracy" else exact,
        )

    def _unasked(self, index: int) -> RowResult:
        """A row that does not fit: wrong, without a loss."""
        return RowResult(
            index=index,
            row=int(self.part.rows[index]),
            chosen=None,
            right_choice=False if self.prepared.choice_sets else None,
            exact_match=False,
            loss=0.0,
            tokens=0,
            tokens_correct=0,
            predicted=None,
            generated=None,
            expected=self.texts[index].completion if self.texts else "",
            correct=False,
        )


def _folded(text: str) -> str:
    return " ".join(text.split())
