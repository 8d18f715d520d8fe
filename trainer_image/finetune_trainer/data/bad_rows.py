"""Counts the rows that can't be used, and ends the stage when there are more than the spec allows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_api.status import DroppedRows
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.errors import StageError

__all__ = ["BadRowLog"]

_NAMED: Final = 5
"""Different reasons that are told; of each the first row."""
_ALL_CHARS: Final = 800
"""All of them together: a status has room for 1,024."""


class BadRowLog:
    """The bad rows of one dataset, by part; the first few reasons are kept, each with its first row and a count.

    A row that falls out before the split has a part only if its file, or its column ``split.by``, stands for one that
    isn't cut.

    Attributes
    ----------
    percents
        By which the rows of train are cut; those of the spec until more is known.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._policy, self.percents = dataset.bad_rows, dataset.percents
        self._any_part = dataset.split.by is not None
        self._named = _Named()
        self._named_of: dict[Part | None, _Named] = defaultdict(_Named)
        self._before: Counter[Part | None] = Counter()
        self._after: Counter[Part] = Counter()

    @property
    def count(self) -> int:
        """How many there are in all."""
        return self._before.total() + self._after.total()

    def add_unsplit(self, where: str, why: str, file: Part | None) -> None:
        """Note a row that falls out before the split; ``file`` is the part that its file or its column stands for.

        Raises
        ------
        StageError
            DatasetInvalid: the policy is Fail.
        """
        part = None if file == "train" and self.percents.train < 100 else file
        self._before[part] += 1
        self._note(where, why, part)

    def add(self, where: str, why: str, part: Part) -> None:
        """Note a row that falls out of its part.

        Raises
        ------
        StageError
            DatasetInvalid: the policy is Fail.
        """
        self._after[part] += 1
        self._note(where, why, part)

    def _note(self, where: str, why: str, part: Part | None) -> None:
        for named in (self._named, self._named_of[part]):
            named.add(where, why)
        if self._policy.policy == "Fail":
            raise StageError(
                Reason.DATASET_INVALID,
                f"{self._named.told()} (dataset.badRows.policy Fail ends the job at the first); correct the row, or "
                "set the policy to Drop",
                tells_mend=True,
            )

    def check(self, rows: int) -> None:
        """Compare with ``badRows.maxPercent`` of all rows read.

        Raises
        ------
        StageError
            DatasetInvalid: there are more; names the first few.
        """
        self._compare(self.count, rows, "", self.examples())

    def check_parts(self, fell: Mapping[Part, int]) -> None:
        """Compare with ``badRows.maxPercent`` part by part, so that no part is quietly hollowed out.

        Parameters
        ----------
        fell
            Rows that the split gave to each part.

        Raises
        ------
        StageError
            DatasetInvalid: in some part there are more; names the first few of it.
        """
        for part in PARTS:
            bad = self._before[part] + self._after[part]
            self._compare(bad, fell[part] + self._before[part], f"{part} ", self._named_of[part].told())
        # What might have fallen into any part is compared with all that was cut.
        unsplit = self._before[None]
        cut = sum(fell[part] for part in PARTS if self._any_part or getattr(self.percents, part))
        self._compare(unsplit, cut + unsplit, "", self._named_of[None].told())

    def dropped_by(self) -> DroppedRows | None:
        """Return the counts for the status; None if there are none."""
        if not self.count:
            return None
        parts = {part: self._before[part] + self._after[part] for part in PARTS}
        return DroppedRows(unsplit=self._before[None], **parts)

    def _compare(self, bad: int, rows: int, of: str, examples: str) -> None:
        if bad * 100 > self._policy.max_percent * rows:
            raise StageError(
                Reason.DATASET_INVALID,
                f"{bad} of {rows} {of}rows can't be used, more than dataset.badRows.maxPercent "
                f"{self._policy.max_percent}: {examples}",
            )

    def examples(self) -> str:
        """The first few reasons with their first rows, as one line."""
        return self._named.told()


class _Named:
    """The first few reasons of bad rows, each with its first row and how many have it; of the others a count."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}
        self._rows: Counter[str] = Counter()
        self._others = 0

    def add(self, where: str, why: str) -> None:
        if why not in self._first and len(self._first) == _NAMED:
            self._others += 1
            return
        self._first.setdefault(why, where)
        self._rows[why] += 1

    def told(self) -> str:
        room = _ALL_CHARS // max(1, len(self._first))
        told = []
        for why, where in self._first.items():
            rows = self._rows[why]
            told.append(f"{f'{rows} rows, the first ' if rows > 1 else ''}{where}: {_fitting(why, room)}")
        return "; ".join(told) + (f"; and {self._others} more" if self._others else "")


def _fitting(why: str, room: int) -> str:
    """Cut a reason in its middle: what mends it stands at its end."""
    return why if len(why) <= room else f"{why[: room // 2 - 5]} ... {why[-(room - room // 2) :]}"
