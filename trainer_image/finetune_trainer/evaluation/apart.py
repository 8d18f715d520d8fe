"""Likelihoods and answers of encoder-decoder models: a prompt goes through the encoder once, its answers follow.

The decoder gets the answers of a prompt as rows of their own, one for each branch of their tree: answers that begin
alike share a row as far as they do, and those of one token need none besides the beginning that all have. No mask is
needed for that, and no cache, so every architecture can do it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, StoppingCriteriaList

from finetune_trainer.evaluation.answer_tree import ROOT, Tree
from finetune_trainer.evaluation.batches import Budget, Rows, cut
from finetune_trainer.evaluation.decode import Finished, Watch
from finetune_trainer.evaluation.questions import Question, Sizes
from finetune_trainer.evaluation.score import COPIED_LOGITS, Scored
from finetune_trainer.model.device import to_device
from finetune_trainer.model.kinds import pad_prompts
from finetune_trainer.model.load import LoadedModel, embedding_rows

__all__ = ["Apart", "branches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """A row for the decoder: whose it is, its tokens after the beginning, and where it is read.

    Attributes
    ----------
    reads
        Pairs of a node of the question's tree and the number of the branch's tokens that stand before it is read.
    """

    question: int
    tokens: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]


def branches(tree: Tree) -> list[tuple[int, ...]]:
    """Return the paths through a tree that hold all of its fed nodes, from the first token down; one that may be empty.

    Each path ends at a node that no other follows.
    """
    inner = set(tree.parents)
    leaves = [node for node in range(len(tree.tokens)) if node not in inner]
    return [tuple(tree.path(leaf)) for leaf in leaves] or [()]


class Apart:
    """Puts questions to an encoder-decoder model; an ``Answerer``."""

    def __init__(self, loaded: LoadedModel, budget: Budget, *, stops: frozenset[int], pad_id: int, limit: int) -> None:
        self._loaded, self._budget = loaded, budget
        self._stops, self._pad_id = stops, pad_id
        start, most = len(loaded.decoder_start), loaded.most_positions
        # The last token is only chosen and never fed, so it needs no position of its own.
        self.limit = limit if most is None else max(1, min(limit, most - start + 1))
        self._questions: Sequence[Question] = ()

    def batches(self, sizes: Sizes) -> list[Rows]:
        """Cut so that the prompts of a batch are within the budget, with the answers of one question."""
        return self._cut(sizes.prompts + sizes.nodes, 1 + sizes.nodes)

    def likelihoods(self, questions: Sequence[Question]) -> Sequence[Scored]:
        """Encode the prompts once, and score the branches in as many passes of the decoder as the budget asks for."""
        self._questions = questions
        found: list[dict[int, Mapping[int, float]]] = [{} for _ in questions]
        greedy = [np.zeros(1 + len(q.tree.tokens), dtype=np.int64) for q in questions]
        wanted = [_wanted(q.tree) for q in questions]
        with torch.no_grad():
            states, mask = self._encode([q.prompt for q in questions])
            rows = [branch for i, q in enumerate(questions) for branch in _branches_of(i, q.tree)]
            start = len(self._loaded.decoder_start)
            widths = [len(questions[row.question].prompt) + start + len(row.tokens) for row in rows]
            labels = [len(row.reads) for row in rows]
            for batch in self._cut(np.array(widths, dtype=np.int64), np.array(labels, dtype=np.int64)):
                some = [rows[i] for i in batch]
                picked, best = self._read(some, wanted, self._decode(some, states, mask))
                for row, node, logprobs, token in zip(*_places(some), picked, best, strict=True):
                    found[row][node] = logprobs
                    greedy[row][node + 1] = token
        return [
            Scored(
                tuple(np.array([at[node][token] for node, token in answer]) for answer in q.tree.sequences), greedy[i]
            )
            for i, (q, at) in enumerate(zip(questions, found, strict=True))
        ]

    def complete(self, rows: Sequence[int], finished: Finished) -> list[list[int]]:
        """Decode greedily by the library's own ``generate``, in batches within the budget."""
        prompts = [self._questions[row].prompt for row in rows]
        said: list[list[int]] = [[] for _ in rows]
        widths = np.array([len(prompt) + self.limit for prompt in prompts], dtype=np.int64)
        for batch in self._cut(widths, np.ones_like(widths)):
            numbers = [rows[i] for i in batch]
            for i, tokens in zip(batch, self._generate([prompts[i] for i in batch], numbers, finished), strict=True):
                said[i] = tokens
        return said

    def _encode(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the encoder makes of prompts, (prompts, longest, width), and which places are real."""
        ids, mask = (to_device(array, self._loaded.device) for array in pad_prompts(prompts, pad_id=self._pad_id))
        encoder: Any = self._loaded.model.get_encoder()
        return encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def _decode(self, rows: Sequence[_Branch], states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return the logits of what the rows are read for, one after the other."""
        start, device = self._loaded.decoder_start, self._loaded.device
        width = len(start) + max(len(row.tokens) for row in rows)
        ids = np.full((len(rows), width), self._pad_id, dtype=np.int64)
        index = []
        for i, row in enumerate(rows):
            ids[i, : len(start)] = start
            ids[i, len(start) : len(start) + len(row.tokens)] = row.tokens
            index += [i * width + len(start) - 1 + fed for _, fed in row.reads]
        of = torch.tensor([row.question for row in rows], device=device)
        longest = self._longest(mask[of])
        logits, _ = self._loaded.head(
            None,
            torch.tensor(index, device=device),
            encoder_outputs=(states[of, :longest],),
            attention_mask=mask[of, :longest],
            decoder_input_ids=to_device(ids, device),
        )
        return logits

    def _longest(self, mask: torch.Tensor) -> int:
        """Return how many places the longest of some prompts takes; those beyond need not be attended to."""
        return int(mask.sum(dim=1).max())

    def _read(
        self, rows: Sequence[_Branch], wanted: Sequence[Mapping[int, tuple[int, ...]]], logits: torch.Tensor
    ) -> tuple[list[Mapping[int, float]], list[int]]:
        """Pick for each line of logits the log-probabilities of the tokens that are wanted, and the likeliest token."""
        sums = torch.cat([c.float().logsumexp(-1) for c in logits.split(max(1, COPIED_LOGITS // logits.shape[-1]))])
        tokens = [wanted[row][node] for row, node in zip(*_places(rows), strict=True)]
        lines = torch.tensor([i for i, some in enumerate(tokens) for _ in some], device=logits.device)
        flat = torch.tensor([token for some in tokens for token in some], device=logits.device)
        picked = iter((logits[lines, flat].float() - sums[lines]).tolist())
        return [{token: next(picked) for token in some} for some in tokens], logits.argmax(-1).tolist()

    def _generate(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], finished: Finished
    ) -> list[list[int]]:
        loaded = self._loaded
        ids, mask = (to_device(array, loaded.device) for array in pad_prompts(prompts, pad_id=self._pad_id))
        start = torch.tensor([loaded.decoder_start] * len(prompts), device=loaded.device)
        config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.limit,
            eos_token_id=sorted(self._stops),
            pad_token_id=self._pad_id,
            decoder_start_token_id=loaded.decoder_start[0],
        )
        watch = Watch(start.shape[1], lambda at, tokens: finished(numbers[at], tokens), len(prompts))
        model: Any = loaded.model  # generate is a mix-in that the base class does not declare
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=start,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([watch]),
        )
        return [row[:n] for row, n in zip(output[:, start.shape[1] :].tolist(), watch.lengths, strict=True)]

    def _cut(self, widths: NDArray[np.int64], labels: NDArray[np.int64]) -> list[Rows]:
        return cut(widths, labels, self._budget, vocabulary=embedding_rows(self._loaded.model))


def _branches_of(question: int, tree: Tree) -> Iterator[_Branch]:
    """Yield a question's rows; each node is read from the first row that goes through it."""
    seen: set[int] = set()
    for path in branches(tree):
        reads = [(node, fed) for fed, node in enumerate((ROOT, *path)) if node not in seen]
        seen.update(node for node, _ in reads)
        yield _Branch(question=question, tokens=tuple(tree.tokens[node] for node in path), reads=tuple(reads))


def _places(rows: Sequence[_Branch]) -> tuple[list[int], list[int]]:
    """Return the question and the node that each line of logits is for."""
    return [row.question for row in rows for _ in row.reads], [node for row in rows for node, _ in row.reads]


def _wanted(tree: Tree) -> Mapping[int, tuple[int, ...]]:
    """Return the tokens whose probability is asked at each node, and at the root."""
    tokens: dict[int, set[int]] = {node: set() for node in range(ROOT, len(tree.tokens))}
    for sequence in tree.sequences:
        for node, token in sequence:
            tokens[node].add(token)
    return {node: tuple(sorted(some)) for node, some in tokens.items()}
