"""Chooses the examples of the few-shot baseline (``evaluation.fewShot``) from the train rows.

Beside ``prepare.py``: candidates are drawn by number once the sides are known, and the first that are fit for it become
the examples. The draw goes by the seed of the split and a row's own prompt, so neither the order of the files nor
``training.seed`` decides. Labels take turns, so that the first few of the examples are balanced too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.parts import PARTS
from finetune_trainer.data.split import SplitResult
from finetune_trainer.prepare.encode_rows import RowEncoder
from finetune_trainer.prepare.keys import KeyedTable
from finetune_trainer.prepare.prepared import Shot
from finetune_trainer.prepare.rendering import TemplateRow
from finetune_trainer.text.encode import Encoded

__all__ = ["candidates", "choose"]

MOST_CANDIDATES: Final = 512
"""Rows that are held for it; of most data the first few are fit already."""

T = TypeVar("T")


def candidates(
    keyed: KeyedTable, split: SplitResult, copies: NDArray[np.int32], near: NDArray[np.bool_], *, seed: int
) -> list[int]:
    """Return numbers of train rows, the first to be taken first; one row of each input.

    Parameters
    ----------
    copies
        How often each row is trained on; one that is not is no example either.
    near
        Rows that nearly repeat a sealed one: never shown beside it.
    """
    train = np.flatnonzero((split.sides == PARTS.index("train")) & (copies > 0) & ~near)
    keys, drawn = keyed.keys.keys, dict[bytes, int]()
    for row in train.tolist():
        drawn.setdefault(_draw(seed, bytes(keys[16 * row : 16 * row + 16])), row)
    labels = keyed.answers
    ordered = _in_turns(
        [drawn[number] for number in sorted(drawn)], lambda row: str(labels[row]) if len(labels) else "", seed
    )
    return ordered[:MOST_CANDIDATES]


def choose(
    numbers: Sequence[int], rows: Mapping[int, TemplateRow | None], encoder: RowEncoder, *, count: int, seed: int
) -> tuple[Shot, ...]:
    """Return the first candidates that are whole: rendered, answered by one of their choices, and not shortened.

    Parameters
    ----------
    rows
        The candidates by their number.
    encoder
        Renders them in the wording in which the sealed rows are asked.
    """
    found = [row for number in numbers if (row := rows[number]) is not None]
    examples = [example for example in encoder.default_examples(found) if example is not None]
    whole = [
        example
        for example, encoded in zip(examples, encoder.encoder.encode(examples), strict=True)
        if isinstance(encoded, Encoded)
        and not encoded.shortened
        and (not example.choices or example.completion in example.choices)
    ]
    # Where each row has choices of its own, its answer is no label.
    labelled = encoder.choices is not None
    ordered = _in_turns(whole, lambda example: example.completion if labelled else "", seed)
    return tuple(Shot(prompt=str(e.prompt), completion=e.completion, where=e.where) for e in ordered[:count])


def _in_turns(items: Iterable[T], label: Callable[[T], str], seed: int) -> list[T]:
    """Order items so that labels take turns, each turn in a seeded order; items of one label stay in theirs."""
    of_label: dict[str, list[T]] = {}
    for item in items:
        of_label.setdefault(label(item), []).append(item)
    turns = [
        (turn, _draw(seed, f"{turn} {name}".encode()), item)
        for name, mine in of_label.items()
        for turn, item in enumerate(mine)
    ]
    return [item for _, _, item in sorted(turns, key=lambda taken: taken[:2])]


def _draw(seed: int, what: bytes) -> bytes:
    return hashlib.blake2b(what, digest_size=16, salt=seed.to_bytes(16, "big")).digest()
