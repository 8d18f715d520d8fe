"""The split, row by row and by the words of its rules: slow, large, and what the real one is compared with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_api.dataset import Percents, Split
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.data.split import Keyed, RowKeys, split_rows

__all__ = ["Cut", "plain_cut", "real_cut"]


@dataclass(frozen=True)
class Cut:
    """Places of the rows of each part, and what was left out."""

    parts: dict[Part, list[int]]
    duplicates: int
    conflicts: int
    leaked: int


def real_cut(rows: Sequence[Keyed], split: Split, *, given: Sequence[Part] | None = None) -> Cut:
    """The trainer's own split."""
    keys = RowKeys()
    for i, row in enumerate(rows):
        keys.add(row, given[i] if given else "train")
    result = split_rows(keys, split, Percents(*split.given_percents))
    parts: dict[Part, list[int]] = {
        p: [i for i, side in enumerate(result.sides) if PARTS[side] == p and side >= 0] for p in PARTS
    }
    assert {p: len(parts[p]) for p in PARTS} == {p: result.count(p) for p in PARTS}
    return Cut(parts, result.duplicates, result.conflicts, result.leaked)


def plain_cut(rows: Sequence[Keyed], split: Split, *, given: Sequence[Part]) -> Cut:
    """The same by dictionaries and loops."""
    kept: list[int] = []
    seen = set()
    for i, row in enumerate(rows):
        if (given[i], row.exact) not in seen:
            seen.add((given[i], row.exact))
            kept.append(i)
    name = _names(rows)
    sealed = {n: max(PARTS.index(given[i]) for i in kept if name[i] == n) for n in {name[i] for i in kept}}
    clean = [i for i in kept if PARTS.index(given[i]) == sealed[name[i]]]
    answers = {i: {rows[j].output for j in clean if rows[j].key == rows[i].key} for i in clean}
    members: dict[bytes, list[int]] = {}
    for i in clean:
        if given[i] == "train":
            members.setdefault(name[i], []).append(i)
    side = _strata(rows, members, split) if split.stratify_by else {n: _side(n, split) for n in members}
    parts: dict[Part, list[int]] = {p: [] for p in PARTS}
    for i in clean:
        parts[side[name[i]] if given[i] == "train" else given[i]].append(i)
    conflicts = sum(len(outputs) > 1 for outputs in answers.values())
    return Cut(parts, len(rows) - len(kept), conflicts, len(kept) - len(clean))


def _names(rows: Sequence[Keyed]) -> list[bytes]:
    """For each row the least group digest, or else the key, of all rows that it is tied to."""
    nodes = [{b"k" + r.key} | ({b"g" + _digest(r.group)} if r.group is not None else set()) for r in rows]
    sets: list[set[bytes]] = []
    for one in nodes:
        tied = [s for s in sets if s & one]
        sets = [s for s in sets if not s & one] + [one.union(*tied)]
    return [min(next(s for s in sets if one & s)) for one in nodes]


def _digest(text: str) -> bytes:
    """Digest of a group's name."""
    return hashlib.blake2b(f'"{text}"'.encode(), digest_size=16).digest()


def _point(name: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8, salt=seed.to_bytes(16, "big")).digest(), "big")


def _side(name: bytes, split: Split) -> Part:
    share = 100 * _point(name, split.seed)
    _, validation, test = split.given_percents
    if share < test * 2**64:
        return "test"
    return "validation" if share < (test + validation) * 2**64 else "train"


def _strata(rows: Sequence[Keyed], members: dict[bytes, list[int]], split: Split) -> dict[bytes, Part]:
    strata: dict[str, list[bytes]] = {}
    for name, places in members.items():
        counts = Counter("-" if rows[i].stratum is None else f"={rows[i].stratum}" for i in places)
        strata.setdefault(min(counts, key=lambda s: (-counts[s], s)), []).append(name)
    owed: dict[Part, int] = {"test": 0, "validation": 0}
    percents: dict[Part, int] = {"test": split.given_percents[2], "validation": split.given_percents[1]}
    sides: dict[bytes, Part] = {}
    for stratum in sorted(strata):
        names = sorted(strata[stratum], key=lambda name: (_point(name, split.seed), name))
        size = sum(len(members[name]) for name in names)
        for part, percent in percents.items():
            owed[part] += size * percent
            share = size * percent
            while names and 2 * owed[part] >= 100 * len(members[names[0]]) and min(owed[part], share) > 0:
                sides[names[0]] = part
                taken = 100 * len(members[names.pop(0)])
                owed[part] -= taken
                share -= taken
        sides.update(dict.fromkeys(names, "train"))
    return sides
