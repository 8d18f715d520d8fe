"""What a row may be answered with, as text and as tokens; made by the encoder, scored by the evaluator."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from dataclasses import dataclass

__all__ = ["ChoiceSet", "score_end_tokens", "shared_beginning"]


@dataclass(frozen=True, slots=True)
class ChoiceSet:
    """Possible answers with their completion tokens.

    Attributes
    ----------
    texts
        The answers as they are written.
    ids
        Token ids of each answer as a completion (same encoder as training), without the end tokens.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]


def shared_beginning(values: Collection[str] | Collection[tuple[int, ...]]) -> int:
    """Count the characters, or the tokens, that all values begin with."""
    first, last = min(values), max(values)  # what these two share, all between them share
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def score_end_tokens(sets: Iterable[ChoiceSet]) -> bool:
    """Tell whether in some set one choice's tokens begin another's, so that their ends must be scored too."""
    for choices in sets:
        # Sorted, a sequence stands directly before those that it begins.
        ordered = sorted(choices.ids)
        if any(b[: len(a)] == a for a, b in itertools.pairwise(ordered)):
            return True
    return False
