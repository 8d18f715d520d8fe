"""What is thought before an answer, as the page shows it: its beginning, and whether it came to an end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["Thought", "shown_thought"]

SHOWN: Final = 600
"""Characters that are shown; of a row's and of both models' thoughts a page of 45 rows has room for no more."""


@dataclass(frozen=True, slots=True)
class Thought:
    """``words`` end in an ellipsis where there are more; without an end no answer follows them."""

    words: str
    finished: bool = True


def shown_thought(thought: str | None, *, unfinished: bool | None = False, cut: bool = False) -> Thought | None:
    """Return what is shown; None where nothing was thought.

    Parameters
    ----------
    unfinished
        The model came to no end of it: then that is told, were not a word thought.
    cut
        It had more words than ``thought`` has.
    """
    if not thought and not unfinished:
        return None
    words = thought or ""
    return Thought(words[:SHOWN] + ("…" if cut or len(words) > SHOWN else ""), finished=not unfinished)
