"""The three parts of a dataset, in the order that arrays and files name them by."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["PARTS", "Part"]

Part = Literal["train", "validation", "test"]
PARTS: Final[tuple[Part, ...]] = ("train", "validation", "test")
