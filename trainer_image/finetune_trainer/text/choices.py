"""What a row may be answered with, as text and as tokens; made by the encoder, scored by the evaluator."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ChoiceSet"]


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
