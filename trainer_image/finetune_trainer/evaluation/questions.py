"""Rows of a part as questions: their sizes known at once, each one made when it is asked. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_api.metrics import CHOICE_METRICS
from finetune_trainer.evaluation.answer_tree import Tree, build_tree
from finetune_trainer.prepare.prepared import EncodedPart, Prepared

__all__ = ["Question", "Questions", "Sizes"]

Ints = NDArray[np.int64]
_KEPT_NODES = 2**25
"""Rows with the same choices and the same answer have the same tree: so many bits of masks are kept of them."""
_COMPARED_TOKENS = 2**18


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and its possible answers; the first is the expected completion with its end tokens, then the choices.

    ``calls`` is whether that completion calls tools in a way that can be read back out of its text.
    """

    prompt: tuple[int, ...]
    tree: Tree
    calls: bool = False

    @property
    def length(self) -> int:
        """Tokens to feed without a shared prefix."""
        return len(self.prompt) + len(self.tree.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bounds of what each question takes; int64 (n,) each.

    Attributes
    ----------
    prompts
        Tokens of the prompt.
    nodes
        Tokens of the answer tree that are fed.
    answers, longest
        Number of answers, and tokens of the longest.
    """

    prompts: Ints
    nodes: Ints
    answers: Ints
    longest: Ints

    def __len__(self) -> int:
        return len(self.prompts)


class Questions:
    """The questions of some rows.

    Parameters
    ----------
    rows
        Positions in the part.

    Raises
    ------
    ValueError
        For a row that a metric over choices can't score because it has none, or that has nothing to score.
    """

    def __init__(self, part: EncodedPart, prepared: Prepared, rows: Ints) -> None:
        self.part, self.prepared, self.rows = part, prepared, rows
        self._trees: dict[tuple[int, tuple[int, ...]], Tree] = {}
        self._kept = 0
        prompts = part.prompt_lengths[rows].astype(np.int64)
        completions = part.lengths[rows] - prompts
        sets = part.choice_set[rows]
        self._refuse((prompts < 1) | (completions < 1), "has no prompt or no completion tokens")
        if prepared.metric in CHOICE_METRICS:
            self._refuse(sets < 0, "has no choices")
        self.sizes = self._sizes(prompts, completions, sets)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> Question:
        """Make a question."""
        part, index = self.part, int(self.rows[at])
        start, end = int(part.offsets[index]), int(part.offsets[index + 1])
        middle = start + int(part.prompt_lengths[index])
        completion = tuple(part.tokens[middle:end].tolist())
        tree = self._tree(int(part.choice_set[index]), completion)
        return Question(tuple(part.tokens[start:middle].tolist()), tree, part.calls(index))

    def beginning(self) -> tuple[int, ...]:
        """Return the tokens that all prompts begin with, short of the last token of any."""
        starts = self.part.offsets[self.rows]
        length = int(self.sizes.prompts.min()) - 1
        first = self.part.tokens[starts[0] : starts[0] + max(0, length)]
        chunk = max(1, _COMPARED_TOKENS // max(1, length))
        for at in range(0, len(self.rows), chunk):
            if length < 1:
                return ()
            block = self.part.tokens[starts[at : at + chunk, None] + np.arange(length)]
            differ = (block != first[:length]).any(axis=0)
            if differ.any():
                length = int(differ.argmax())
        return tuple(first[:length].tolist())

    def _refuse(self, bad: NDArray[np.bool_], what: str) -> None:
        if bad.any():
            raise ValueError(f"row {self.part.rows[self.rows[int(bad.argmax())]]} {what}")

    def _sizes(self, prompts: Ints, completions: Ints, sets: NDArray[np.int32]) -> Sizes:
        numbers, place = np.unique(sets, return_inverse=True)
        shapes = np.zeros((len(numbers), 3), dtype=np.int64)  # nodes, answers, longest
        for i, number in enumerate(numbers.tolist()):
            if number >= 0:
                choices = self._choices(number)
                shapes[i] = len(build_tree(choices).tokens), len(choices), max(len(ids) for ids in choices)
        nodes, answers, longest = shapes[place].T
        return Sizes(
            prompts=prompts,
            nodes=nodes + completions - 1,
            answers=answers + 1,
            longest=np.maximum(longest, completions),
        )

    def _choices(self, number: int) -> list[tuple[int, ...]]:
        end_ids = self.prepared.end_ids if self.prepared.score_end_tokens else ()
        return [(*ids, *end_ids) for ids in self.prepared.choice_sets[number].ids]

    def _tree(self, number: int, completion: tuple[int, ...]) -> Tree:
        if number < 0:
            return build_tree([completion])
        tree = self._trees.get((number, completion))
        if tree is None:
            answers: list[Sequence[int]] = [completion, *self._choices(number)]
            tree = build_tree(answers)
            self._kept += (len(tree.tokens) + 64) ** 2
            if self._kept > _KEPT_NODES:
                self._trees.clear()
                self._kept = 0
            self._trees[number, completion] = tree
        return tree
