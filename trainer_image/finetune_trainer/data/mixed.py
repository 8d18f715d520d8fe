"""Several datasets in one (``dataset.sources``): common names of their columns, and how often their rows are taken.

Beside ``table.py``, which reads them, and the split, which knows nothing of them: a weight counts after the cut, so
that no row of train is repeated in a sealed part and no sealed part is weighted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_trainer.data.sample import permutation
from finetune_trainer.data.source import BadRow, Row, Source
from finetune_trainer.errors import StageError

__all__ = ["SourceCounts", "copies_of_rows", "renamed"]


def renamed(row: Row | BadRow, columns: Sequence[tuple[str, str]]) -> Row | BadRow:
    """Give columns their new names; a row that has one of these already is a bad one, since either may be meant."""
    if not columns or isinstance(row, BadRow):
        return row
    own = {name for _, name in columns}
    values = {name: value for name, value in row.values.items() if name not in own}
    for new, name in columns:
        if new in values:
            return BadRow(row.number, f"has the column {new!r}, which sources[].columns makes of {name!r}")
        if name in row.values:
            values[new] = row.values[name]
    return Row(row.number, values, row.size)


class SourceCounts:
    """Counts the rows of each source, and knows at the end which renamed columns none of them had."""

    def __init__(self) -> None:
        self._rows: Counter[int] = Counter()
        self._missing: dict[int, set[str]] = {}

    def count(self, source: Source, row: Row | BadRow) -> None:
        """Take a row, renamed already."""
        self._rows[source.entry] += 1
        missing = self._missing.setdefault(source.entry, {new for new, _ in source.columns})
        if missing and isinstance(row, Row):
            missing.difference_update(row.values)

    def check(self, sources: Sequence[Source]) -> None:
        """Make sure that each renamed column was there.

        Raises
        ------
        StageError
            InvalidSpec, naming the first that no row of its source has.
        """
        for source in sources:
            for new, name in source.columns:
                if new in self._missing.get(source.entry, ()):
                    raise StageError(
                        Reason.INVALID_SPEC,
                        f"dataset.sources[{source.entry}].columns makes {new!r} of {name!r}, which no row of that "
                        "source has; correct the name behind the colon",
                        tells_mend=True,
                    )

    def rows(self, dataset: Dataset) -> tuple[int, ...]:
        """Rows of each source in their order."""
        return tuple(self._rows[number] for number in range(len(dataset.sources or ())))


def copies_of_rows(sides: NDArray[np.int8], sources: NDArray[np.uint8], dataset: Dataset) -> NDArray[np.int32]:
    """Return how often each row is taken: 0 for one that is left out, the weight of its source for one of train.

    Of ``n`` rows and a weight of 2.5 each is taken twice, and a seeded half of them once more.
    """
    copies = (sides >= 0).astype(np.int32)
    for number, source in enumerate(dataset.sources or ()):
        if source.weight is None:
            continue
        weight = Fraction(Decimal(source.weight))
        train = np.flatnonzero((sides == 0) & (sources == number))
        copies[train] = int(weight)
        some = round((weight - int(weight)) * len(train))
        copies[train[permutation(len(train), dataset.split.seed, number)[:some]]] += 1
    return copies
