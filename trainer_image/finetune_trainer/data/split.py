"""Cuts rows into train, validation and test before anything is tokenised; pure.

The same input never stands in two parts: not in other letters or white space, not with another output, not in another
row of the same group or conversation. Only a row that is the same to the character is left out as a duplicate. What
prepare knows of a row arrives as a :class:`Keyed`: hashes only, so that nothing here depends on templates.

By default a row's part follows from a hash of seed and key alone. Adding rows then moves none (the ratios are met
approximately, as any random cut does). With strata the ratios are exact to one group, and adding rows may move some.
With an order in time the newest rows are tested.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from finetune_api.dataset import Percents, Split
from finetune_trainer.data.moments import Moment
from finetune_trainer.data.parts import PARTS, Part

__all__ = ["Keyed", "RowKeys", "SplitResult", "exact_key", "folded", "input_key", "output_key", "split_rows"]

Ints = NDArray[np.int64]

_SPAN: Final = 2**64


@dataclass(frozen=True, slots=True)
class Keyed:
    """What the split knows of one row.

    Attributes
    ----------
    key
        Of the input, from :func:`input_key`.
    output
        Of the expected output, from :func:`output_key`.
    exact
        Of input and output as they are, from :func:`exact_key`; rows in which it is equal have an equal ``key`` too.
    group
        Value of ``split.groupBy`` as text; None without it or where the row has none.
    stratum
        Value of ``split.stratifyBy`` as text.
    opening
        Key of what the row's conversation begins with, which keeps its cuts on one side; None where it is none.
    moment
        Value of ``split.orderBy``, whatever one where the row's part is given; None for all rows without it.
    """

    key: bytes
    output: bytes
    exact: bytes
    group: str | None = None
    stratum: str | None = None
    opening: bytes | None = None
    moment: Moment | None = None


class RowKeys:
    """What the split knows of all rows, by column: 53 bytes a row, 24 for each group that it is in, 16 for an order."""

    def __init__(self) -> None:
        self.keys, self.outputs, self.exacts, self.given = (bytearray() for _ in range(4))
        self.strata = array("i")
        self.marks: dict[str, int] = {}
        self.grouped, self.groups = array("q"), bytearray()
        self.moments = array("d")
        """Two numbers a row, or none for any."""

    def __len__(self) -> int:
        return len(self.given)

    def add(self, row: Keyed, part: Part = "train") -> None:
        """Append a row; ``part`` is the one that its own file stands for, ``train`` if there is one file."""
        if row.group is not None:
            self.tie(len(self), _digest(row.group))
        if row.opening is not None:
            # Behind nearly all digests of groups, so that a set is named by the user's own group where it has one.
            self.tie(len(self), b"\xff\xff" + row.opening[:14])
        # None and text are told apart by the mark in front.
        mark = "-" if row.stratum is None else f"={row.stratum}"
        self.strata.append(self.marks.setdefault(mark, len(self.marks)))
        self.moments.extend(row.moment or ())
        self.keys += row.key
        self.outputs += row.output
        self.exacts += row.exact
        self.given.append(PARTS.index(part))

    def tie(self, row: int, group: bytes) -> None:
        """Put a row into one more group, named by 16 bytes."""
        self.grouped.append(row)
        self.groups += group


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Where each row went.

    Attributes
    ----------
    sides
        int8 (rows,): index into ``PARTS``, -1 for a row that is left out.
    duplicates
        Rows left out because exactly the same input and output came before.
    conflicts
        Remaining rows whose input, folded as in :func:`input_key`, also stands with another output.
    leaked
        Rows taken out because a given part that is more sealed holds the same input, group or conversation.
    largest
        Remaining rows that the largest set holds which must stay in one part.
    """

    sides: NDArray[np.int8]
    duplicates: int
    conflicts: int
    leaked: int
    largest: int

    def count(self, part: Part) -> int:
        """Rows of a part."""
        return int((self.sides == PARTS.index(part)).sum())


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def folded(value: Any) -> Any:
    """Normalise all text in a JSON value: NFKC, case folded, white space as single blanks."""
    if isinstance(value, str):
        # Folding can make new compositions, hence twice (Unicode Standard, section 3.13, D146).
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
        return " ".join(text.split())
    if isinstance(value, Mapping):
        return {k: folded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [folded(v) for v in value]
    return value


def _trim(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return {k: _trim(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_trim(v) for v in value]
    return value


def input_key(value: Any) -> bytes:
    """Return 16 bytes that are equal for inputs (JSON values) that differ in case, width or white space only."""
    return _digest(folded(value))


def output_key(value: Any) -> bytes:
    """Return 16 bytes that are equal for outputs that differ in white space only; case matters in an answer."""
    return _digest(_trim(value))


def exact_key(value: Any) -> bytes:
    """Return 16 bytes that are equal for JSON values without any difference."""
    return _digest(value)


def split_rows(rows: RowKeys, split: Split, percents: Percents) -> SplitResult:
    """Give every row a part.

    Parameters
    ----------
    rows
        All rows, in the order of their files. Those of a file that stands for ``train`` are cut by the percents, all
        others keep their part.
    split
        Seed, and whether there are strata.
    percents
        Those of given parts are 0 (a rule of the API).

    Returns
    -------
    SplitResult
        Parts may be empty; the caller knows which may be.
    """
    given = np.frombuffer(rows.given, dtype=np.int8)
    key, first = _ranks(rows.keys)
    kept = _first_of_each(given, _ranks(rows.exacts)[0])
    component, names = _components(rows, key, first)
    # Of two given parts that share a component the more sealed one keeps it: test wins, then validation.
    most_sealed = np.full(len(names), -1, dtype=np.int8)
    np.maximum.at(most_sealed, component[kept], given[kept])
    clean = kept[given[kept] == most_sealed[component[kept]]]
    outputs = _distinct_outputs(key[clean], _ranks(rows.outputs)[0][clean], len(first))
    sides = np.full(len(rows), -1, dtype=np.int8)
    sides[clean] = given[clean]
    train = clean[given[clean] == 0]
    sides[train] = _cut(rows, train, component[train], names, split=split, percents=percents)
    return SplitResult(
        sides,
        duplicates=len(rows) - len(kept),
        conflicts=int((outputs[key[clean]] > 1).sum()),
        leaked=len(kept) - len(clean),
        largest=int(np.bincount(component[clean]).max(initial=0)),
    )


def _ranks(digests: bytearray) -> tuple[Ints, Ints]:
    """Number 16-byte digests by their order: (number of each, place of the first of each number)."""
    words = np.array(memoryview(digests).cast("B"), dtype=np.uint8).view(">u8").astype(np.uint64).reshape(-1, 2)
    order = np.lexsort((words[:, 1], words[:, 0]))
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (words[order[1:]] != words[order[:-1]]).any(axis=1)
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.cumsum(new) - 1
    return ranks, order[new]


def _first_of_each(given: NDArray[np.int8], exact: Ints) -> Ints:
    """Places of the first of equal rows in each given part; between parts it is a leak instead.

    Rows that are equal but for their spelling all stay: 5 m and 5 M may be two questions, and of a given test file no
    question is dropped.
    """
    order = np.lexsort((exact, given))  # stable: of equal rows the first stays first
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = np.logical_or.reduce([c[order[1:]] != c[order[:-1]] for c in (given, exact)])
    return np.sort(order[new])


def _distinct_outputs(key: Ints, output: Ints, keys: int) -> Ints:
    """How many different outputs stand with each key."""
    of_key, _ = _pairs(key, output, int(output.max(initial=0)) + 1)
    return np.bincount(of_key, minlength=keys)


class _Names:
    """Names of components by number; in the order of the numbers they are in order too."""

    def __init__(self, rows: RowKeys, groups: Ints, keys: Ints) -> None:
        self._rows, self._groups, self._keys = rows, groups, keys

    def __len__(self) -> int:
        return len(self._groups) + len(self._keys)

    def __getitem__(self, number: int) -> bytes:
        # The first byte keeps groups apart from keys and sorts them before.
        if number < len(self._groups):
            at = 16 * int(self._groups[number])
            return b"g" + self._rows.groups[at : at + 16]
        at = 16 * int(self._keys[number - len(self._groups)])
        return b"k" + self._rows.keys[at : at + 16]


def _components(rows: RowKeys, key: Ints, first: Ints) -> tuple[Ints, _Names]:
    """Join rows that share an input or a group: (number of each row's set, names by number).

    The name is the least group digest in a set, or its key without groups: rows added to a set leave its name as it is,
    so that the set stays in its part. Duplicates count here though they are left out: they tie their group to their
    input, and the result doesn't depend on which of them came first.
    """
    group, first_of_group = _ranks(rows.groups)
    names = _Names(rows, first_of_group, first)
    key = key + len(first_of_group)
    least = np.arange(len(names), dtype=np.int64)
    ties = _pairs(key[np.array(rows.grouped, dtype=np.int64)], group, len(first_of_group))
    while True:
        before = least.copy()
        lower = np.minimum(before[ties[0]], before[ties[1]])
        for end in ties:
            np.minimum.at(least, end, lower)
        least = least[least]
        if (least == before).all():
            return least[key], names


def _pairs(one: Ints, other: Ints, others: int) -> tuple[Ints, Ints]:
    """Distinct pairs, ``others`` being above any number of the second."""
    distinct = np.unique(one * others + other)
    return distinct // max(1, others), distinct % max(1, others)


def _point(seed: int, name: bytes) -> int:
    """A number below 2^64 that stands for a component under a seed."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8, salt=seed.to_bytes(16, "big")).digest(), "big")


def _cut(
    rows: RowKeys, train: Ints, component: Ints, names: _Names, *, split: Split, percents: Percents
) -> NDArray[np.int8]:
    """Cut rows, ``component`` being that of each; test first, so that it stays when validation changes."""
    numbers, member = np.unique(component, return_inverse=True)
    if split.order_by is not None:
        return _cut_in_order(rows, train, member, percents)[member]
    points = np.fromiter((_point(split.seed, names[n]) for n in numbers), dtype=np.uint64, count=len(numbers))
    if split.stratify_by is None:
        sides = np.zeros(len(numbers), dtype=np.int8)
        for part, percent in (
            ("validation", percents.test + percents.validation),
            ("test", percents.test),
        ):
            # In whole numbers: point x 100 < percent x 2^64.
            bound = -(-percent * _SPAN // 100) - 1
            if bound >= 0:
                sides[points <= np.uint64(bound)] = PARTS.index(part)
        return sides[member]
    return _cut_strata(_majority(rows, train, member), points, np.bincount(member), percents)[member]


def _cut_in_order(rows: RowKeys, train: Ints, member: Ints, percents: Percents) -> NDArray[np.int8]:
    """Give every component a side: the newest to test, those before them to validation.

    A component goes by its newest row, so that train holds nothing of the time that is tested. Components of one moment
    stay together: nothing says which of them came first.
    """
    if not len(train):
        return np.zeros(0, dtype=np.int8)
    moments = np.frombuffer(rows.moments, dtype=np.float64).reshape(-1, 2)[train]
    _, moment = np.unique(moments, axis=0, return_inverse=True)  # ordered by the first number, then by the second
    newest = np.full(int(member.max(initial=-1)) + 1, -1, dtype=np.int64)
    np.maximum.at(newest, member, moment.reshape(-1))
    _, newest = np.unique(newest, return_inverse=True)
    sizes = np.bincount(newest, weights=np.bincount(member)).astype(np.int64)
    cut = np.cumsum(sizes[::-1])  # rows of the newest moment, of the two newest, ...
    sides = np.zeros(len(sizes), dtype=np.int8)
    begin, share = 0, 0
    for part, percent in (("test", percents.test), ("validation", percents.validation)):
        share += percent
        # One moment at least is left to learn from, and one is taken wherever a part is asked for.
        ends = np.arange(begin + 1, len(sizes)) if percent else np.arange(0)
        if not len(ends):
            continue
        end = int(ends[np.argmin(np.abs(100 * cut[ends - 1] - share * len(train)))])
        sides[len(sizes) - end : len(sizes) - begin] = PARTS.index(part)
        begin = end
    result: NDArray[np.int8] = sides[newest]
    return result


def _majority(rows: RowKeys, train: Ints, member: Ints) -> Ints:
    """Number of each component's most frequent stratum, in the order of the strata's names; the least of equals."""
    order = {mark: number for number, mark in enumerate(sorted(rows.marks))}
    ranks = np.array([order[mark] for mark in rows.marks], dtype=np.int64)
    strata = ranks[np.frombuffer(rows.strata, dtype=np.int32)[train]]
    distinct, counts = np.unique(member * len(ranks) + strata, return_counts=True)
    component, stratum = distinct // len(ranks), distinct % len(ranks)
    best = np.lexsort((stratum, -counts, component))
    _, first = np.unique(component[best], return_index=True)
    result: Ints = stratum[best][first]
    return result


def _cut_strata(strata: Ints, points: NDArray[np.uint64], sizes: Ints, percents: Percents) -> NDArray[np.int8]:
    """Give every component a side: exact to one component in each stratum."""
    sides = np.zeros(len(strata), dtype=np.int8)
    order = np.lexsort((points, strata))
    starts = np.flatnonzero(np.diff(strata[order], prepend=-1))
    owed = {"test": 0, "validation": 0}
    shares: dict[Part, int] = {"test": percents.test, "validation": percents.validation}
    for members in np.split(order, starts[1:]):
        size, at = int(sizes[members].sum()), 0
        for part, percent in shares.items():
            # In hundredths of a row; what one stratum could not give exactly, the next makes up for, so that many
            # small strata don't all round down to nothing; no stratum gives more than its share and one group.
            owed[part] += size * percent
            share = size * percent
            while at < len(members) and min(owed[part], share) > 0:
                rows = int(sizes[members[at]])
                if 2 * owed[part] < 100 * rows:
                    break
                sides[members[at]] = PARTS.index(part)
                owed[part] -= 100 * rows
                share -= 100 * rows
                at += 1
    return sides
