"""A number with its noun, for sentences that people read: one row, two rows. Pure; any room may use it."""

from __future__ import annotations

__all__ = ["counted", "size_of"]


def counted(number: int, one: str, many: str = "") -> str:
    """Return ``1 row`` or ``2 rows``; ``many`` is the plural where that takes more than an s, such as a verb's."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def size_of(parameters: int) -> str:
    """Return how large a model is: in millions, a tiny one to the parameter."""
    return f"{parameters / 1e6:.1f} million parameters" if parameters >= 10**6 else f"{parameters:,} parameters"
