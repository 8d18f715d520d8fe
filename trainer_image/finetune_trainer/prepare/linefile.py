"""A file of JSON lines as a sequence whose items are read when they are asked for.

For what grows with the dataset and is needed a row at a time: the texts of test rows, the choices of each row.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from typing_extensions import override

from finetune_trainer.data.lazy import LazySequence

__all__ = ["LineFile"]

T = TypeVar("T")
_CHUNK: Final = 2**20


class LineFile(LazySequence[T]):
    """Lines of a file, parsed one by one; equal to any sequence of the same items.

    The file is mapped: it must not be changed meanwhile, and may be removed.

    Parameters
    ----------
    path
        UTF-8, one JSON value a line, each ended by a line end.
    parse
        Makes an item of a value.

    Raises
    ------
    OSError
        The file can't be read.
    ValueError
        Its last line has no end.
    """

    def __init__(self, path: Path, parse: Callable[[Any], T]) -> None:
        self._parse = parse
        self._data: mmap.mmap | bytes = b""  # an empty file can't be mapped
        with path.open("rb") as file:
            if path.stat().st_size:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # By byte 10 alone: JSON leaves U+2028 and its like unescaped, which are no line ends of this format.
            ends, at = [np.zeros(1, dtype=np.int64)], 0
            while chunk := file.read(_CHUNK):
                ends.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 10) + at + 1)
                at += len(chunk)
        self._ends = np.concatenate(ends)
        if int(self._ends[-1]) != at:
            raise ValueError(f"{path.name} does not end with a line end")

    @override
    def __len__(self) -> int:
        return len(self._ends) - 1

    @override
    def _item(self, index: int) -> T:
        return self._parse(json.loads(self._data[int(self._ends[index]) : int(self._ends[index + 1])]))

    @override
    def __iter__(self) -> Iterator[T]:
        return (self._item(i) for i in range(len(self)))
