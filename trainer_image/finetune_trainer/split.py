"""Cuts rows into train, validation and test before anything is rendered; pure.

The same input never stands in two parts: not as a duplicate, not with another output, not in another row of the same
group. What prepare knows of a row arrives as a :class:`Keyed`: hashes only, so that nothing here depends on templates.

By default a row's part follows from a hash of seed and key alone. Adding rows then moves none (the ratios are met
approximately, as any random cut does). With strata the ratios are exact to one group, and adding rows may move some.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_api.job import Split
from finetune_trainer.prepared import PARTS, Part

__all__ = ["Keyed", "SplitResult", "exact_key", "input_key", "split_rows"]

_SPAN = 2**64


@dataclass(frozen=True, slots=True)
class Keyed:
    """What the split knows of one row.

    Attributes
    ----------
    key
        Of the input, from :func:`input_key`.
    output
        Of the expected output, from :func:`exact_key`.
    group
        Value of ``split.groupBy`` as text; None without it or where the row has none.
    stratum
        Value of ``split.stratifyBy`` as text.
    """

    key: bytes
    output: bytes
    group: str | None = None
    stratum: str | None = None


@dataclass(frozen=True, slots=True)
class SplitResult:
    """Where each row went.

    Attributes
    ----------
    parts
        Part to the indices of its rows in the given sequence, ascending.
    duplicates
        Rows left out because the same input and output came before.
    conflicts
        Remaining rows whose input also stands with another output.
    leaked
        Rows taken out because a given part that is more sealed holds the same input or group.
    """

    parts: dict[Part, list[int]]
    duplicates: int
    conflicts: int
    leaked: int


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _fold(value: Any) -> Any:
    """Normalise all text in a JSON value: NFKC, case folded, white space as single blanks."""
    if isinstance(value, str):
        # Folding can make new compositions, hence twice (Unicode Standard, section 3.13, D146).
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
        return " ".join(folded.split())
    if isinstance(value, Mapping):
        return {k: _fold(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_fold(v) for v in value]
    return value


def _trim(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return {k: _trim(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_trim(v) for v in value]
    return value


def input_key(columns: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that are equal for inputs that differ in case, width or white space only."""
    return _digest(_fold(dict(columns)))


def exact_key(columns: Mapping[str, Any]) -> bytes:
    """Return 16 bytes that are equal for outputs that differ in white space only; case matters in an answer."""
    return _digest(_trim(dict(columns)))


def split_rows(rows: Sequence[Keyed], split: Split, *, given: Sequence[Part] | None = None) -> SplitResult:
    """Give every row a part.

    Parameters
    ----------
    rows
        All rows, in the order of their files.
    split
        Percents, seed, and whether there are strata. Percents of given parts are 0 (a rule of the API).
    given
        The part that each row's own file stands for; None for one file. Rows of ``train`` are cut by the percents, all
        others keep their part.

    Returns
    -------
    SplitResult
        Parts may be empty; the caller knows which may be.
    """
    given = given if given is not None else ["train"] * len(rows)
    kept, duplicates = _drop_duplicates(rows, given)
    component = _components(rows)
    kept, leaked = _drop_leaks(kept, given, component)
    outputs: dict[bytes, set[bytes]] = {}
    for i in kept:
        outputs.setdefault(rows[i].key, set()).add(rows[i].output)
    conflicts = sum(len(outputs[rows[i].key]) > 1 for i in kept)
    parts = _cut([i for i in kept if given[i] == "train"], rows, component, split)
    for i in kept:
        if given[i] != "train":
            parts[given[i]].append(i)
    return SplitResult({p: sorted(parts[p]) for p in PARTS}, duplicates, conflicts, leaked)


def _drop_duplicates(keyed: Sequence[Keyed], given: Sequence[Part]) -> tuple[list[int], int]:
    """Keep the first row of the same input and output in each given part; between parts it is a leak instead."""
    seen: set[tuple[Part, bytes, bytes]] = set()
    kept = []
    for i, row in enumerate(keyed):
        mark = (given[i], row.key, row.output)
        if mark not in seen:
            seen.add(mark)
            kept.append(i)
    return kept, len(keyed) - len(kept)


def _components(rows: Sequence[Keyed]) -> list[bytes]:
    """Join rows that share an input or a group, and name each such set.

    The name is the least group digest in it, or the least key without groups: rows added to a set leave its name as it
    is, so that the set stays in its part. Duplicates count here though they are left out: they tie their group to
    their input, and the result doesn't depend on which of them came first.
    """
    parent: dict[bytes, bytes] = {}

    def find(node: bytes) -> bytes:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = parent[above]
            node = parent[node]
        return node

    for row in rows:
        # The first byte keeps groups apart from keys and sorts them before, so that the least node is the name.
        key = b"k" + row.key
        if row.group is not None:
            a, b = find(key), find(b"g" + _digest(row.group))
            if a != b:
                parent[max(a, b)] = min(a, b)
    return [find(b"k" + row.key) for row in rows]


def _drop_leaks(kept: list[int], given: Sequence[Part], component: Sequence[bytes]) -> tuple[list[int], int]:
    """Take rows out of the less sealed of two given parts that share a component: test wins, then validation."""
    most_sealed: dict[bytes, int] = {}
    for i in kept:
        rank = PARTS.index(given[i])
        most_sealed[component[i]] = max(rank, most_sealed.get(component[i], 0))
    clean = [i for i in kept if PARTS.index(given[i]) == most_sealed[component[i]]]
    return clean, len(kept) - len(clean)


def _point(seed: int, name: bytes) -> int:
    """A number below 2^64 that stands for a component under a seed."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8, salt=seed.to_bytes(16, "big")).digest(), "big")


def _cut(
    train: Sequence[int], keyed: Sequence[Keyed], component: Sequence[bytes], split: Split
) -> dict[Part, list[int]]:
    """Cut the rows of the train file by the percents; test first, so that it stays when validation changes."""
    members: dict[bytes, list[int]] = {}
    for i in train:
        members.setdefault(component[i], []).append(i)
    points = {name: _point(split.seed, name) for name in members}
    cut: dict[Part, list[int]] = {p: [] for p in PARTS}
    if split.stratify_by is None:
        for name, rows in members.items():
            cut[_side(points[name], split)].extend(rows)
        return cut
    strata: dict[str, list[bytes]] = {}
    for name, rows in members.items():
        # None and text are told apart by the mark in front.
        counts = Counter("-" if keyed[i].stratum is None else f"={keyed[i].stratum}" for i in rows)
        strata.setdefault(min(counts, key=lambda s: (-counts[s], s)), []).append(name)
    owed = {"test": 0, "validation": 0}
    percents: dict[Part, int] = {"test": split.test_percent, "validation": split.validation_percent}
    for stratum in sorted(strata):
        names = sorted(strata[stratum], key=lambda name: (points[name], name))
        size = sum(len(members[name]) for name in names)
        for part, percent in percents.items():
            # In hundredths of a row; what one stratum could not give exactly, the next makes up for, so that many
            # small strata don't all round down to nothing; no stratum gives more than its share and one group.
            owed[part] += size * percent
            share = size * percent
            while names and 2 * owed[part] >= 100 * len(members[names[0]]) and min(owed[part], share) > 0:
                rows = members[names.pop(0)]
                cut[part].extend(rows)
                owed[part] -= 100 * len(rows)
                share -= 100 * len(rows)
        cut["train"].extend(i for name in names for i in members[name])
    return cut


def _side(point: int, split: Split) -> Part:
    if point * 100 < split.test_percent * _SPAN:
        return "test"
    if point * 100 < (split.test_percent + split.validation_percent) * _SPAN:
        return "validation"
    return "train"
