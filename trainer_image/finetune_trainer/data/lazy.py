"""A sequence whose items are made when they are asked for, for what is too large to be held as Python objects.

Below the tables and files that grow with the dataset: scored rows, the texts of test rows, the choices of each row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TypeVar, overload

from typing_extensions import override

__all__ = ["LazySequence"]

T = TypeVar("T")


class LazySequence(Sequence[T]):
    """Slices, negative positions and equality for a class that knows its length and :meth:`_item`.

    Equal to any sequence of the same items, and so not hashable, like a list.
    """

    @abstractmethod
    def _item(self, index: int) -> T:
        """Make the item at ``index``, which is from 0 to the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    @override
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._item(index % len(self))

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # equal by content, as a list is
