"""The order of rows in time, by a column (``split.orderBy``): numbers or ISO dates, never both; pure.

Below ``prepare/keys.py``, which asks for the moment of each row that the split may cut.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = ["NO_MOMENT", "Moment", "MomentColumn"]

Moment = tuple[float, float]
"""Compared as a pair: a whole number above 2^53, as nanoseconds are, has its rest in the second."""

NO_MOMENT: Final[Moment] = (0.0, 0.0)
"""Of a row whose place does not depend on it."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_Kind = Literal["numbers", "dates"]


class MomentColumn:
    """Reads the column row by row, and refuses one that holds numbers and dates."""

    def __init__(self, column: str) -> None:
        self._column = column
        self._first: dict[_Kind, str] = {}

    def of(self, where: str, values: Mapping[str, Any]) -> Moment | str:
        """The moment of a row, or why it is a bad one.

        Raises
        ------
        StageError
            DatasetInvalid: one row has a number and another one a date, which have no order.
        """
        value = values.get(self._column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"column {self._column!r} of dataset.split.orderBy is empty, so the row has no place in time"
        number = _number(value)
        moment = _date(value) if number is None else number
        if moment is None:
            return (
                f"{str(value)[:40]!r} in column {self._column!r} of dataset.split.orderBy is neither a number nor an "
                "ISO date"
            )
        self._first.setdefault("dates" if number is None else "numbers", f"{str(value)[:40]!r} in {where}")
        if len(self._first) > 1:
            raise StageError(
                Reason.DATASET_INVALID,
                f"dataset.split.orderBy: column {self._column!r} holds numbers ({self._first['numbers']}) and dates "
                f"({self._first['dates']}), which have no common order; write one kind",
                tells_mend=True,
            )
        return moment


def _number(value: object) -> Moment | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        try:
            value = int(text) if text.lstrip("+-").isdigit() else float(text)
        except ValueError:
            return None
    if isinstance(value, float):
        return (value, 0.0) if math.isfinite(value) else None
    if not isinstance(value, int) or abs(value) >= 2**1000:
        return None
    return float(value), float(value - int(float(value)))


def _date(value: object) -> Moment | None:
    """Microseconds since 1970; a date without a zone is one of UTC."""
    if not isinstance(value, str):
        return None
    text = value.strip()
    try:
        if len(text) == len("2024-01-01"):
            day = date.fromisoformat(text)
            at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        else:
            at = datetime.fromisoformat(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return float((at - _EPOCH) // timedelta(microseconds=1)), 0.0
