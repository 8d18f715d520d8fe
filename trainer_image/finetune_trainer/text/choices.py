"""What a row may be answered with, as text and as tokens; made by the encoder, scored by the evaluator."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ChoiceSet", "score_end_tokens"]


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


def score_end_tokens(sets: Iterable[ChoiceSet]) -> bool:
    """Tell whether in some set one choice's tokens begin another's, so that their ends must be scored too."""
    for choices in sets:
        # Sorted, a sequence stands directly before those that it begins.
        ordered = sorted(choices.ids)
        if any(b[: len(a)] == a for a, b in itertools.pairwise(ordered)):
            return True
    return False
