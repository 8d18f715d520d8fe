"""Which characters of a long text are kept so that its prompt fits: pure, beside the encoder, which counts the tokens.

Texts are cut where one of their tokens ends, never between characters that are shown as one. Of several texts the
longest loses first, until it is as short as the next.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from finetune_trainer.text.template.catalog import Side

__all__ = ["OMITTED", "Cut", "borders", "shorten"]

OMITTED: Final = " ... "
"""Stands where the middle of a text is left out."""

_JOINER: Final = "\u200d"
_GUESSES: Final = 8
"""Estimates from the number of tokens before the search halves what is left."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text that may be shortened.

    Attributes
    ----------
    name
        Of the field, for the report.
    text
        The whole text.
    side
        Where it loses characters.
    borders
        Where it may be cut, from 0 to its length.
    """

    name: str
    text: str
    side: Side
    borders: tuple[int, ...]

    @property
    def units(self) -> int:
        """Pieces between the borders, about one a token."""
        return len(self.borders) - 1

    def keep(self, units: int) -> str:
        """The text with so many pieces left."""
        if units >= self.units:
            return self.text
        if self.side == "end":
            return self.text[: self.borders[units]]
        if self.side == "start":
            return self.text[self.borders[-1 - units] :]
        first, last = (units + 1) // 2, units // 2
        return self.text[: self.borders[first]] + OMITTED + self.text[self.borders[-1 - last] :]


def borders(text: str, ends: Iterable[int]) -> tuple[int, ...]:
    """Places where a text may be cut, of the places where its tokens end."""
    inner = sorted({e for e in ends if 0 < e < len(text) and not _joined(text, e)})
    return (0, *inner, len(text))


def shorten(cuts: Sequence[Cut], over: Callable[[list[str]], int], excess: int) -> list[str] | None:
    """Shorten texts as little as makes them fit.

    Parameters
    ----------
    cuts
        The texts; one piece of each is always kept.
    over
        By how many tokens the prompt made of the texts is too long; negative if there is room left.
    excess
        That of the whole texts.

    Returns
    -------
    list of str or None
        The texts that fit; None if none do.
    """
    if not cuts:
        return None

    def kept(dropped: int) -> list[str]:
        return [c.keep(n) for c, n in zip(cuts, _levelled([c.units for c in cuts], dropped), strict=True)]

    low, most = 0, sum(c.units - 1 for c in cuts)
    high, guess, tries = most + 1, excess, 0
    while high - low > 1:
        tries += 1
        place = guess if tries <= _GUESSES else (low + high) // 2
        place = min(max(place, low + 1), high - 1)
        left = over(kept(place))
        if left <= 0:
            high = place
        else:
            low = place
        guess = place + left if left else place - 1
    return kept(high) if high <= most else None


def _levelled(units: Sequence[int], dropped: int) -> list[int]:
    """How many pieces of each text are left when so many are dropped, always from the longest; one at least."""
    low, high = 1, max(units)
    while low < high:  # the highest level that drops enough
        level = (low + high + 1) // 2
        if sum(max(0, n - level) for n in units) >= dropped:
            low = level
        else:
            high = level - 1
    kept = [min(n, low) for n in units]
    spare = sum(units) - sum(kept) - dropped
    for i, n in enumerate(units):
        if spare > 0 and n > low:
            kept[i] += 1
            spare -= 1
    return kept


def _joined(text: str, place: int) -> bool:
    """Tell whether the characters on both sides of a place are shown as one."""
    before, after = text[place - 1], text[place]
    if unicodedata.category(after)[0] == "M" or _JOINER in (before, after):
        return True
    if "\U0001f3fb" <= after <= "\U0001f3ff" or "\u1160" <= after <= "\u11ff" or before + after == "\r\n":
        return True
    if _is_flag_half(before) and _is_flag_half(after):
        halves = 1
        while halves < place and _is_flag_half(text[place - 1 - halves]):
            halves += 1
        return halves % 2 == 1
    return False


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"
