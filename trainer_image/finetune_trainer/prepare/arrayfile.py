"""Arrays that may be larger than the memory: grown in scratch files, stored as safetensors, mapped for reading.

The library's own ``save`` wants all arrays in memory and its ``load`` copies them; the format is plain enough to write
and map by hand. What is written is byte for byte what the library writes, and the library checks what is read.
"""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

__all__ = ["ArrayColumn", "Column", "GrowingColumn", "Kind", "map_arrays", "write_arrays"]

Kind = Literal["<i4", "<i8"]
"""Little-endian integers of 32 or 64 bits: the byte order of the file, whatever the machine's."""

_NAMES: Final[Mapping[Kind, str]] = {"<i4": "I32", "<i8": "I64"}
_CODES: Final[Mapping[Kind, str]] = {"<i4": "i", "<i8": "q"}
_CHUNK: Final = 2**18
"""Numbers that are held or moved at once."""


class Column(Protocol):
    """A one-dimensional array that is read front to back."""

    @property
    def kind(self) -> Kind:
        """Type of its numbers."""

    def __len__(self) -> int: ...

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes in the byte order of the file."""


class ArrayColumn:
    """An array as a :class:`Column`."""

    def __init__(self, values: NDArray[np.generic], kind: Kind) -> None:
        self._values, self.kind = values, kind

    def __len__(self) -> int:
        return len(self._values)

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        for start in range(0, len(self), _CHUNK):
            yield np.ascontiguousarray(self._values[start : start + _CHUNK], dtype=self.kind).tobytes()


class GrowingColumn:
    """A :class:`Column` that is appended to and lies in a scratch file, but for its newest numbers."""

    def __init__(self, path: Path, kind: Kind) -> None:
        self.kind = kind
        self._path = path
        self._written = 0
        self._newest = array(_CODES[kind])
        path.write_bytes(b"")

    def __len__(self) -> int:
        return self._written + len(self._newest)

    def append(self, value: int) -> None:
        """Append a number."""
        self.extend((value,))

    def extend(self, values: Iterable[int]) -> None:
        """Append numbers."""
        self._newest.extend(values)
        if len(self._newest) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        with self._path.open("ab") as file:
            file.write(np.array(self._newest, dtype=self.kind).tobytes())
        self._written += len(self._newest)
        self._newest = array(_CODES[self.kind])

    def chunks(self) -> Iterator[bytes]:
        """Yield its bytes."""
        self._flush()
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK * np.dtype(self.kind).itemsize):
                yield chunk

    def map_values(self, change: NDArray[np.int64]) -> None:
        """Replace every number n from 0 on by ``change[n]``; negative ones stay."""
        renewed = GrowingColumn(self._path.with_name(self._path.name + "-renewed"), self.kind)
        for chunk in self.chunks():
            values = np.frombuffer(chunk, dtype=self.kind)
            renewed.extend(np.where(values < 0, values, change[values]).tolist())
        renewed._flush()
        renewed._path.replace(self._path)

    def remove(self) -> None:
        """Remove the scratch file; the column is of no use afterwards."""
        self._path.unlink()


def write_arrays(path: Path, columns: Mapping[str, Column]) -> None:
    """Write columns as a safetensors file (https://huggingface.co/docs/safetensors, section Format)."""
    # Wide numbers first, then by name, as the library orders them: every array is aligned to its numbers.
    order = sorted(columns, key=lambda name: (-np.dtype(columns[name].kind).itemsize, name))
    header, at = {}, 0
    for name in order:
        size = len(columns[name]) * np.dtype(columns[name].kind).itemsize
        header[name] = {
            "dtype": _NAMES[columns[name].kind],
            "shape": [len(columns[name])],
            "data_offsets": [at, at + size],
        }
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            for chunk in columns[name].chunks():
                file.write(chunk)


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Map the arrays of a file that :func:`write_arrays` wrote; they are read-only and take memory only where touched.

    Raises
    ------
    OSError, KeyError, ValueError, SafetensorError
        The file is missing or is no such file.
    """
    with safe_open(path, framework="np"):  # checks header and size
        pass
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    begin = 8 + int.from_bytes(mapping[:8], "little")
    kinds = {name: kind for kind, name in _NAMES.items()}
    arrays = {}
    for name, entry in json.loads(mapping[8:begin]).items():
        (count,) = entry["shape"]
        # In the machine's own name for the type, which is the file's on every machine that torch runs on.
        kind = np.dtype(kinds[entry["dtype"]])
        arrays[name] = np.frombuffer(mapping, dtype=kind, count=count, offset=begin + entry["data_offsets"][0])
    return arrays
