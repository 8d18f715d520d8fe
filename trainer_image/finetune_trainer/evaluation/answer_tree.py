"""Answers as a tree of tokens: what is common to several answers is computed once. Pure, no torch.

All choices of a row and its expected completion start after the same prompt. As a tree, a token that several answers
share is fed once, and an answer's last token is not fed at all: its probability comes from the node before. Answers of
one token cost no more than the prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["ROOT", "Tree", "build_tree"]

ROOT = -1
"""The node that stands for the prompt's last token."""


@dataclass(frozen=True)
class Tree:
    """A tree of answers; only nodes that predict something are fed to the model.

    Attributes
    ----------
    tokens
        Token of every fed node, parents before children.
    parents
        Index of every fed node's parent, :data:`ROOT` for the first tokens of answers.
    depths
        1 for the first token of an answer.
    sequences
        For every answer, for every token of it: (the node that predicts it, the token).
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    sequences: tuple[tuple[tuple[int, int], ...], ...]
    children: dict[tuple[int, int], int] = field(repr=False)

    @property
    def is_chain(self) -> bool:
        """Whether no node has two children that are fed: the plain causal order then serves."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    @cached_property
    def ancestors(self) -> NDArray[np.bool_]:
        """bool (nodes, nodes): whether a node's path, itself included, goes through another one."""
        seen = np.eye(len(self.tokens), dtype=np.bool_)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                seen[node] |= seen[parent]
        return seen

    def path(self, node: int) -> list[int]:
        """Fed nodes from the first token down to ``node``."""
        nodes: list[int] = []
        while node != ROOT:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]


def build_tree(answers: Sequence[Sequence[int]]) -> Tree:
    """Merge answers by their common beginnings.

    Parameters
    ----------
    answers
        Token ids of each answer, none empty.
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    children: dict[tuple[int, int], int] = {}
    sequences = []
    for answer in answers:
        node, sequence = ROOT, []
        for position, token in enumerate(answer):
            sequence.append((node, token))
            if position == len(answer) - 1:
                break
            child = children.get((node, token))
            if child is None:
                child = len(tokens)
                children[node, token] = child
                tokens.append(token)
                parents.append(node)
                depths.append(position + 1)
            node = child
        sequences.append(tuple(sequence))
    return Tree(tuple(tokens), tuple(parents), tuple(depths), tuple(sequences), children)
