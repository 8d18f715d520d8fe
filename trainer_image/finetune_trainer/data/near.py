"""Rows of train that nearly repeat a sealed one, by MinHash over word 5-grams; pure but for its scratch file.

Beside the split, which only ties rows of the same input together. Broder, "On the resemblance and containment of
documents" (1997), and the banding of Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", chapter 3. A row
takes half a kibibyte on the disk, and in memory a sealed one 170 bytes.

What many rows share (an instruction that stands in each of them) says nothing of any, and is left out: else all rows of
such data would be near duplicates.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.split import folded

__all__ = ["NEAR", "Near", "NearRows", "estimate", "shingles", "signature", "text_of"]

NEAR: Final = 0.8
"""From this share of common 5-grams (Jaccard) on, two texts count as near duplicates; the estimate is good to 0.04."""

_GRAM: Final = 5
_BANDS: Final = 21
_ROWS: Final = 6
_HASHES: Final = _BANDS * _ROWS
"""Two texts with 0.8 in common share a band in 99.8 of 100 cases."""

_SAMPLE: Final = 1000
_COMMON_SHARE: Final = 0.1
_COMMON_ROWS: Final = 20
_BLOCK: Final = 1024
_PAIRS: Final = 16384
_SAME_BAND: Final = 16
"""Sealed rows of one band that a row is compared with: a bound for data in which thousands are alike."""

# Scripts without blanks between words go by the character.
_WORD: Final = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\w+")

Words = NDArray[np.uint64]
Hashes = NDArray[np.uint32]

_random: Words = np.random.Philox(key=20240501).random_raw(2 * _HASHES).astype(np.uint64)
_FACTORS: Final[Words] = _random[:_HASHES] | np.uint64(1)
_OFFSETS: Final[Words] = _random[_HASHES:]
_POWERS: Final[Words] = np.array([pow(6364136223846793005, n, 2**64) for n in range(_GRAM)], dtype=np.uint64)


def text_of(value: Any) -> Iterator[str]:
    """All text in a JSON value, in its order; numbers and booleans count, since rows may differ in nothing else."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, bool | int | float):
        yield str(value)
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from text_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from text_of(inner)


def shingles(text: str) -> Words:
    """Hash each run of five words; a shorter text is one run, and a text without words none."""
    words = _WORD.findall(folded(text))
    if not words:
        return np.zeros(0, dtype=np.uint64)
    hashed = _mixed(np.array([zlib.crc32(word.encode()) for word in words], dtype=np.uint64))
    runs = max(1, len(words) - _GRAM + 1)
    grams = np.zeros(runs, dtype=np.uint64)
    for n in range(min(_GRAM, len(words))):
        grams += hashed[n : n + runs] * _POWERS[n]
    return np.unique(_mixed(grams))


def signature(grams: Words) -> Hashes:
    """Return the least hash of each of the seeded functions; two sets agree in as many as they have in common."""
    least = np.full(_HASHES, 2**32 - 1, dtype=np.uint32)
    for start in range(0, len(grams), 512):
        hashes = (grams[start : start + 512, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
        least = np.minimum(least, hashes.min(axis=0).astype(np.uint32))
    return least


def estimate(one: Hashes, other: Hashes) -> float:
    """Estimate the share of runs that two texts have in common (Jaccard), of their signatures."""
    return float((one == other).mean())


def _mixed(words: Words) -> Words:
    """Spread hashes over all bits (the finaliser of splitmix64)."""
    mixed = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Words = mixed ^ (mixed >> np.uint64(31))
    return result


@dataclass(frozen=True, slots=True)
class Near:
    """Which rows have a near duplicate on the other side; bool, one for each row that was added.

    ``train`` marks rows of train that nearly repeat a sealed one, ``sealed`` those that are nearly repeated.
    """

    train: NDArray[np.bool_]
    sealed: NDArray[np.bool_]


class NearRows:
    """Takes the text of each row in the order of the split's rows, and compares when the sides are known."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)  # its own, gone at the end
        self._path = folder / "signatures"
        self._file = self._path.open("wb")
        self._first: list[Words] = []
        self._common: Words | None = None
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)
        self._path.parent.rmdir()

    def add(self, text: str) -> None:
        """Take the next row."""
        grams = shingles(text)
        # A row without words is like none.
        grams = grams if len(grams) else _mixed(np.array([self._rows], dtype=np.uint64) ^ np.uint64(2**63))
        self._rows += 1
        if self._common is None:
            self._first.append(grams)
            if len(self._first) < _SAMPLE:
                return
            self._settle()
            return
        self._write(grams)

    def near(self, sides: NDArray[np.int8]) -> Near:
        """Compare the rows of train (side 0) with those of the sealed sides (above 0)."""
        if self._common is None:
            self._settle()
        self._file.flush()
        found = Near(np.zeros(len(sides), dtype=np.bool_), np.zeros(len(sides), dtype=np.bool_))
        sealed, train = np.flatnonzero(sides > 0), np.flatnonzero(sides == 0)
        if not len(sealed) or not len(train):
            return found
        signatures: Hashes = np.memmap(self._path, dtype=np.uint32, mode="r", shape=(len(sides), _HASHES))
        index = _Index(np.concatenate([_bands(signatures[block]) for block in _blocks(sealed)]))
        for block in _blocks(train):
            mine = signatures[block]
            for row, other in index.candidates(_bands(mine)):
                alike = (mine[row] == signatures[sealed[other]]).mean(axis=1) >= NEAR
                found.train[block[row[alike]]] = True
                found.sealed[sealed[other[alike]]] = True
        return found

    def _settle(self) -> None:
        """Find what many of the first rows share, and write them without it."""
        counts = Counter(gram for grams in self._first for gram in grams.tolist())
        least = max(_COMMON_ROWS, _COMMON_SHARE * len(self._first))
        self._common = np.array(sorted(gram for gram, rows in counts.items() if rows > least), dtype=np.uint64)
        for grams in self._first:
            self._write(grams)
        self._first = []

    def _write(self, grams: Words) -> None:
        own = grams if self._common is None else grams[~np.isin(grams, self._common)]
        # Where nothing else stands in it, what it shares with many is all that there is.
        self._file.write(signature(own if len(own) else grams).tobytes())


def _blocks(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), _BLOCK):
        yield rows[start : start + _BLOCK]


def _bands(signatures: Hashes) -> Words:
    """One hash for each band of each signature."""
    parts = signatures.reshape(len(signatures), _BANDS, _ROWS).astype(np.uint64)
    hashes = np.zeros(parts.shape[:2], dtype=np.uint64)
    for n in range(_ROWS):
        hashes = _mixed(hashes * _POWERS[1] + parts[:, :, n])
    return hashes


class _Index:
    """Finds by band the sealed rows that a row may be like."""

    def __init__(self, bands: Words) -> None:
        self._order = np.argsort(bands, axis=0, kind="stable").astype(np.int32)
        self._sorted = np.take_along_axis(bands, self._order, axis=0)

    def candidates(self, bands: Words) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield pairs (row of the block, sealed row), some at a time."""
        pairs = []
        for band in range(_BANDS):
            begin = np.searchsorted(self._sorted[:, band], bands[:, band], side="left")
            end = np.searchsorted(self._sorted[:, band], bands[:, band], side="right")
            counts = np.minimum(end - begin, _SAME_BAND)
            row = np.repeat(np.arange(len(bands)), counts)
            step = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
            pairs.append(row * len(self._order) + self._order[begin[row] + step, band])
        distinct = np.unique(np.concatenate(pairs))
        for start in range(0, len(distinct), _PAIRS):
            some = distinct[start : start + _PAIRS]
            yield some // len(self._order), some % len(self._order)
