"""When a message in status is written anew although its reason stays.

Pure. The words of kubelet, the scheduler and policies vary from look to look while the cause stays (numbers, names that
are made up, the order), and each change would be a write. A cause that has changed has to be told all the same; where
two take turns, that is done once in a while.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["RENEWAL_SECONDS", "renewal_in", "says_the_same"]

RENEWAL_SECONDS: Final = 180
"""How often another message may take the place of one with the same reason."""

_WINDOW_SECONDS: Final = 10
"""How long after each such moment it may: status has no room for when that was done last."""

_VARYING: Final = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"  # a uid
    r"|\b[0-9a-f]{8,}\b"  # a hash
    r"|-[bcdfghjklmnpqrstvwxz2456789]{5}\b"  # the end of a name that the API server has made up
    r"|(?:[0-9.]+[hmsn\u00b5]{1,2})+\b"  # a length of time
    r"|[0-9]+"
)


def says_the_same(one: str, other: str) -> bool:
    """Tell whether two messages differ in nothing but numbers, made-up names and the order of words."""
    return _words(one) == _words(other)


def renewal_in(seconds: float) -> float:
    """In how many seconds another message may be told, ``seconds`` after the wait began; 0 for now."""
    into = seconds % RENEWAL_SECONDS
    return 0.0 if seconds >= RENEWAL_SECONDS and into < _WINDOW_SECONDS else RENEWAL_SECONDS - into


def _words(text: str) -> frozenset[str]:
    return frozenset(word for raw in _VARYING.sub("", text).split() if (word := raw.strip(".,;:")))
