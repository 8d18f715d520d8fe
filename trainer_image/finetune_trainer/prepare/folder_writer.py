"""Writes a prepared folder row by row, holding none of them; the other half of ``folder.py``."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.prepare.arrayfile import GrowingColumn
from finetune_trainer.prepare.folder import (
    ARRAYS,
    CHOICES,
    TEXTS,
    Rest,
    choice_line,
    fingerprint,
    load_choices,
    store_arrays,
    store_rest,
    text_line,
)
from finetune_trainer.prepare.linefile import LineFile
from finetune_trainer.prepare.prepared import TextRow
from finetune_trainer.text.choices import ChoiceSet, score_end_tokens
from finetune_trainer.text.encode import Encoded
from finetune_trainer.text.stop import is_single_line

__all__ = ["PreparedWriter"]

_PREVIEW_ROWS: Final = 3


class PreparedWriter:
    """Takes encoded rows in the order of their files; a context manager.

    Parameters
    ----------
    folder
        To be written; made if it is not there.

    Attributes
    ----------
    counts
        Rows of each part so far.
    answers
        Answers that are learned from the train rows so far; a conversation may have several.
    tokens
        Tokens of each part so far.
    truncated
        Rows so far whose prompt was cut.
    single_lines
        Whether every expected answer of train so far is a single line.
    unanswerable
        Rows of each part so far that no answer can be right for.
    shortened
        Rows so far in which a field was shortened, by its name.
    control_tokens
        Rows so far whose text spells control tokens.
    longest
        Tokens of the longest completion, end tokens included.
    score_end_tokens
        Whether some choice's tokens begin another's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self.tokens: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self.unanswerable: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self.answers = self._encoded = 0
        self.truncated = self.control_tokens = self.longest = self.choice_sets = 0
        self.shortened: Counter[str] = Counter()
        self.score_end_tokens = False
        self.single_lines = True
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(
            self._open.enter_context(tempfile.TemporaryDirectory(dir=self.folder.parent, prefix=".columns-"))
        )
        self._columns = {
            f"{p}.{n}": GrowingColumn(scratch / f"{p}.{n}", kind) for p in PARTS for n, kind in ARRAYS.items()
        }
        for part in PARTS:
            self._columns[f"{part}.offsets"].append(0)
        self._lines: dict[str, IO[bytes]] = {
            key: self._open.enter_context((self.folder / name).open("wb"))
            for key, name in [*TEXTS.items(), ("choices", CHOICES)]
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def add_choices(self, choices: ChoiceSet) -> int:
        """Append a choice set that is not there yet and return its number."""
        self._lines["choices"].write(choice_line(choices))
        self.score_end_tokens = self.score_end_tokens or score_end_tokens([choices])
        self.choice_sets += 1
        return self.choice_sets - 1

    def add(
        self, part: Part, row: Encoded, text: TextRow, *, choice_set: int, answer: int, unanswerable: int = 0
    ) -> None:
        """Append a row; ``choice_set`` and ``answer`` are -1 without choices.

        A conversation that takes several encoded rows counts as one row.
        """
        for earlier in row.before:
            self._append(part, earlier, text.row, choice_set=-1, answer=-1, unanswerable=0)
        self._append(part, row, text.row, choice_set=choice_set, answer=answer, unanswerable=unanswerable)
        if part != "train" or self.counts[part] < _PREVIEW_ROWS:
            self._lines[part].write(text_line(text))
        self.counts[part] += 1
        self.unanswerable[part] += unanswerable != 0
        self.truncated += row.truncated
        self.shortened.update(row.shortened)
        self.control_tokens += row.control_tokens
        if part == "train" and self.single_lines:
            self.single_lines = is_single_line(text.completion)

    def _append(
        self, part: Part, row: Encoded, number: int, *, choice_set: int, answer: int, unanswerable: int
    ) -> None:
        self.tokens[part] += len(row.prompt) + len(row.completion)
        values = {
            "offsets": self.tokens[part],
            "prompt_lengths": len(row.prompt),
            "rows": number,
            "choice_set": choice_set,
            "answer": answer,
            "unanswerable": unanswerable,
        }
        if row.called:
            self._columns[f"{part}.called"].append(len(self._columns[f"{part}.rows"]))
        tokens = self._columns[f"{part}.tokens"]
        tokens.extend(row.prompt)
        tokens.extend(row.completion)
        for name, value in values.items():
            self._columns[f"{part}.{name}"].append(value)
        for start, end in row.gaps:
            at = len(row.prompt)
            self._columns[f"{part}.gaps"].extend((self._encoded, at + start, at + end))
        self.longest = max(self.longest, *row.answers)
        if part == "train":
            self._encoded += 1
            self.answers += len(row.answers)

    def finish(self, end_ids: tuple[int, ...]) -> str:
        """Write the arrays and return the fingerprint; what is left is :meth:`describe`."""
        for file in self._lines.values():
            file.flush()
        self._order_choices()
        digest = fingerprint(self._columns, load_choices(self.folder), end_ids)
        store_arrays(self.folder, self._columns)
        return digest

    def describe(self, rest: Rest) -> None:
        """Write what is known when all rows are there."""
        store_rest(self.folder, rest)

    def _order_choices(self) -> None:
        """Number choice sets in the order of train, validation and test rows, whatever order the file has."""
        if self.choice_sets < 2:
            return
        seen = np.concatenate(
            [np.frombuffer(b"".join(self._columns[f"{p}.choice_set"].chunks()), dtype=np.int32) for p in PARTS]
        )
        numbers, first = np.unique(seen[seen >= 0], return_index=True)
        order: NDArray[np.int64] = numbers[np.argsort(first)].astype(np.int64)
        change = np.zeros(self.choice_sets, dtype=np.int64)
        change[order] = np.arange(len(order))
        for part in PARTS:
            self._columns[f"{part}.choice_set"].map_values(change)
        path = self.folder / CHOICES
        before: LineFile[ChoiceSet] = load_choices(self.folder)
        with path.with_name(f".{CHOICES}").open("wb") as file:
            file.writelines(choice_line(before[int(number)]) for number in order)
        path.with_name(f".{CHOICES}").replace(path)
