"""The part of a row by a column of its own (``split.by``), and the percents that are left to cut; pure.

Between ``table.py``, which reads the column, and the split. What no spelling is known of ends the job: a part that was
guessed would move sealed rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from finetune_api.dataset import Dataset, Percents
from finetune_api.reasons import Reason
from finetune_api.uris import hub_rows
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.errors import StageError

__all__ = ["PartColumn", "giver", "part_named", "resolved_percents"]

_SPELLINGS: Final[Mapping[str, Part]] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing", "holdout", "hold-out", "hold_out", "heldout", "held-out", "held_out"), "test"),
}
_SHOWN: Final = 8
_MOST_VALUES: Final = 1000


def part_named(value: object) -> Part | None:
    """The part that a value of the column says, in whatever case; None if it says none."""
    return _SPELLINGS.get(value.strip().casefold()) if isinstance(value, str) else None


class PartColumn:
    """Reads the column row by row, and knows at the end which parts it gives."""

    def __init__(self, column: str) -> None:
        self.column = column
        self._counts: Counter[Part] = Counter()
        self._others: Counter[str] = Counter()

    def look(self, values: Mapping[str, Any]) -> str | None:
        """Take a row; return why it is a bad one, if the column is empty there."""
        value = values.get(self.column)
        if value is None or (isinstance(value, str) and not value.strip()):
            return f"column {self.column!r} is empty, so its part is unknown"
        part = part_named(value)
        if part is not None:
            self._counts[part] += 1
        elif len(self._others) < _MOST_VALUES:
            self._others[str(value)[:40]] += 1
        return None

    def given(self) -> frozenset[Part]:
        """Return the parts that the column gives.

        Raises
        ------
        StageError
            DatasetInvalid: a value that names no part, or no row to learn from.
        """
        if self._others:
            more = f" and {len(self._others) - _SHOWN} more" if len(self._others) > _SHOWN else ""
            odd = ", ".join(f"{value!r} ({count})" for value, count in self._others.most_common(_SHOWN))
            raise StageError(
                Reason.DATASET_INVALID,
                f"dataset.split.by: column {self.column!r} has values that name no part: {odd}{more}; beside them: "
                f"{self._found()}; write train, validation (valid, val, dev, eval) or test (holdout) there, or leave "
                "these rows out",
                tells_mend=True,
            )
        if not self._counts["train"]:
            raise StageError(
                Reason.DATASET_INVALID,
                f"dataset.split.by: column {self.column!r} has no row for train ({self._found()}); write train there",
                tells_mend=True,
            )
        return frozenset(self._counts)

    def _found(self) -> str:
        return ", ".join(f"{part} {self._counts[part]}" for part in PARTS if self._counts[part]) or "nothing"


def resolved_percents(dataset: Dataset, given: Collection[Part]) -> Percents:
    """Return how the rows of train are cut, once it is known which parts are given.

    Raises
    ------
    StageError
        InvalidSpec: percents for a part that a column or the hub gives, or none for test though it gives none.
    """
    split = dataset.split
    if split.by is None and not dataset.has_own_parts:
        return dataset.percents
    who, mend = giver(dataset)
    if not split.has_percents:
        validation, test = (0 if part in given else 10 for part in ("validation", "test"))
        return Percents(100 - validation - test, validation, test)
    percents = Percents(*split.given_percents)
    for part in ("validation", "test"):
        if part in given and getattr(percents, part):
            raise StageError(
                Reason.INVALID_SPEC,
                f"dataset.split.{part}Percent is {getattr(percents, part)}, and {who} gives the {part} rows; leave it "
                f"out{mend}",
                tells_mend=True,
            )
    if "test" not in given and not percents.test:
        raise StageError(
            Reason.INVALID_SPEC,
            f"dataset.split.testPercent must be above 0: {who} gives no test row",
            tells_mend=True,
        )
    return percents


def giver(dataset: Dataset) -> tuple[str, str]:
    """Say what gives the parts of the rows where no files do, and how else to have it cut, as the end of a sentence."""
    if dataset.split.by is not None:
        return f"column {dataset.split.by!r} (dataset.split.by)", ""
    uris = {f"dataset.sources[{number}].uri": one.uri for number, one in enumerate(dataset.sources or ())}
    field, uri = next((f, uri) for f, uri in {"dataset.uri": dataset.uri or "", **uris}.items() if hub_rows(uri))
    return f"{uri} ({field})", f", or name the split to cut, such as {uri}#train"
