"""Counts the rows that can't be used, and ends the stage when there are more than the spec allows."""

from __future__ import annotations

from typing import Final

from finetune_api.job import BadRows
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["BadRowLog"]

_NAMED: Final = 5
_WHY_CHARS: Final = 160


class BadRowLog:
    """The bad rows of one dataset; the first few are kept by name."""

    def __init__(self, policy: BadRows) -> None:
        self._policy = policy
        self._first: list[str] = []
        self.count = 0

    def add(self, where: str, why: str) -> None:
        """Note a row.

        Raises
        ------
        StageError
            DatasetInvalid: the policy is Fail.
        """
        self.count += 1
        if len(self._first) < _NAMED:
            self._first.append(f"{where}: {why if len(why) <= _WHY_CHARS else why[: _WHY_CHARS - 3] + '...'}")
        if self._policy.policy == "Fail":
            raise StageError(
                Reason.DATASET_INVALID, f"{self._first[0]} (dataset.badRows.policy Fail ends the job at the first)"
            )

    def check(self, rows: int) -> None:
        """Compare with ``badRows.maxPercent`` of all rows read.

        Raises
        ------
        StageError
            DatasetInvalid: there are more; names the first few.
        """
        if self.count * 100 > self._policy.max_percent * rows:
            raise StageError(
                Reason.DATASET_INVALID,
                f"{self.count} of {rows} rows can't be used, more than dataset.badRows.maxPercent "
                f"{self._policy.max_percent}: {self.examples()}",
            )

    def examples(self) -> str:
        """The first few bad rows with their reasons, as one line."""
        more = self.count - len(self._first)
        return "; ".join(self._first) + (f"; and {more} more" if more else "")
