"""The folder that prepare hands to train: written row by row, mapped when read; the same bytes for the same content.

``rows.safetensors`` holds the arrays, ``prepared.json`` the rest, ``choices.jsonl`` the choice sets, ``texts.*.jsonl``
validation and test rows as text, ``preview.jsonl`` the first train rows as they were rendered. Neither side ever holds
all of it, so that a dataset may be larger than the memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from finetune_api.dataset import Percents
from finetune_api.digest import canonical_json, digest_of
from finetune_api.reasons import Reason
from finetune_api.status import DatasetSummary, MetricName
from finetune_trainer.data.parts import PARTS, Part
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.arrayfile import ArrayColumn, Column, Kind, map_arrays, write_arrays
from finetune_trainer.prepare.linefile import LineFile
from finetune_trainer.prepare.prepared import EncodedPart, Prepared, Shot, TextRow
from finetune_trainer.storage.store import sha256_file
from finetune_trainer.text.call_format import CallFormat
from finetune_trainer.text.choices import ChoiceSet
from finetune_trainer.text.thought_format import Thoughts

__all__ = [
    "ARRAYS",
    "CHOICES",
    "PREPARED",
    "PREPARED_FILES",
    "TEXTS",
    "Rest",
    "choice_line",
    "columns_of",
    "fingerprint",
    "load_choices",
    "load_prepared",
    "prepared_digest",
    "store_arrays",
    "store_rest",
    "text_line",
]

PREPARED: Final = "prepared/"
"""Folder below output.uri by which prepare hands the rows to train."""
ARRAYS: Final[Mapping[str, Kind]] = {
    "tokens": "<i4",
    "offsets": "<i8",
    "prompt_lengths": "<i4",
    "rows": "<i8",
    "choice_set": "<i4",
    "answer": "<i4",
    "unanswerable": "<i4",
    "gaps": "<i4",
    "called": "<i4",
}
"""Arrays of a part with their types, in the order of the fingerprint."""
_WHERE_THERE_ARE: Final = "called"
"""Not written where no row has any: without them the file is what it was before there was such an array."""
_OF_ANY_LENGTH: Final = ("tokens", "offsets", "gaps", "called")
CHOICES: Final = "choices.jsonl"
TEXTS: Final[Mapping[Part, str]] = {
    "train": "preview.jsonl",
    "validation": "texts.validation.jsonl",
    "test": "texts.test.jsonl",
}
_ROWS: Final = "rows.safetensors"
_REST: Final = "prepared.json"
PREPARED_FILES: Final = (CHOICES, _REST, *TEXTS.values(), _ROWS)
"""Names of all files of a prepared folder."""


class Rest(BaseModel):
    """``prepared.json``; its fields are those of :class:`~finetune_trainer.prepare.prepared.Prepared`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    score_end_tokens: bool
    end_ids: tuple[int, ...]
    pad_id: int
    stop: tuple[str, ...]
    max_new_tokens: int
    metric: MetricName
    separator: str = " "
    wordings: dict[str, int] = {}
    few_shot: tuple[Shot, ...] = ()
    thoughts: Thoughts | None = None
    calls: CallFormat | None = None
    thought_rows: int = 0
    percents: Percents | None = None
    inputs: dict[str, str] = {}
    template_source: str | None = None
    template_digest: str
    tokenizer_digest: str
    summary: dict[str, Any]


def store_arrays(folder: Path, columns: Mapping[str, Column]) -> None:
    """Write ``rows.safetensors``; a column's name is ``part.array``."""
    kept = {name: c for name, c in columns.items() if len(c) or not name.endswith(f".{_WHERE_THERE_ARE}")}
    write_arrays(folder / _ROWS, kept)


def store_rest(folder: Path, rest: Rest) -> None:
    """Write ``prepared.json``."""
    (folder / _REST).write_bytes(canonical_json(rest.model_dump(mode="json")) + b"\n")


def choice_line(choices: ChoiceSet) -> bytes:
    """Return a choice set as its line of :data:`CHOICES`."""
    return canonical_json({"texts": choices.texts, "ids": choices.ids}) + b"\n"


def text_line(row: TextRow) -> bytes:
    """Return a row as its line of a file of :data:`TEXTS`."""
    line: dict[str, Any] = {"row": row.row, "prompt": row.prompt, "completion": row.completion}
    if row.unanswerable:
        line["unanswerable"] = row.unanswerable
    if row.turns:
        line["turns"] = row.turns
    if row.shortened:
        line["shortened"] = True
    if row.file:
        line["file"] = row.file
    if row.thought:
        line["thought"] = row.thought
    return canonical_json(line) + b"\n"


def _text_row(line: dict[str, Any]) -> TextRow:
    turns = tuple(tuple(turn) for turn in line.pop("turns", ()))
    return TextRow(**line, turns=turns)


def load_choices(folder: Path) -> LineFile[ChoiceSet]:
    """Open the choice sets."""
    return LineFile(
        folder / CHOICES, lambda line: ChoiceSet(tuple(line["texts"]), tuple(tuple(ids) for ids in line["ids"]))
    )


def load_prepared(folder: Path) -> Prepared:
    """Open what prepare wrote; rows are read when they are touched.

    Raises
    ------
    StageError
        VerificationFailed: a file is missing or not what was written.
    """
    try:
        arrays = map_arrays(folder / _ROWS)
        rest = Rest.model_validate_json((folder / _REST).read_bytes())
        prepared = Prepared(
            parts={part: _part(arrays, part) for part in PARTS},
            texts={part: LineFile(folder / name, _text_row) for part, name in TEXTS.items()},
            choice_sets=load_choices(folder),
            score_end_tokens=rest.score_end_tokens,
            end_ids=rest.end_ids,
            pad_id=rest.pad_id,
            stop=rest.stop,
            max_new_tokens=rest.max_new_tokens,
            metric=rest.metric,
            separator=rest.separator,
            wordings=rest.wordings,
            few_shot=rest.few_shot,
            thoughts=rest.thoughts,
            calls=rest.calls,
            thought_rows=rest.thought_rows,
            percents=rest.percents,
            inputs=rest.inputs,
            template_source=rest.template_source,
            template_digest=rest.template_digest,
            tokenizer_digest=rest.tokenizer_digest,
            summary=DatasetSummary.model_validate(rest.summary),
        )
        _check_counts(prepared)
    except (OSError, KeyError, TypeError, ValueError, ValidationError, SafetensorError) as e:
        raise StageError(Reason.VERIFICATION_FAILED, f"the prepared rows can't be read back: {e}") from e
    return prepared


def _part(arrays: Mapping[str, Any], part: Part) -> EncodedPart:
    names = [name for name in ARRAYS if name != _WHERE_THERE_ARE or f"{part}.{name}" in arrays]
    return EncodedPart(**{name: arrays[f"{part}.{name}"] for name in names})


def _check_counts(prepared: Prepared) -> None:
    """Compare the files with each other; what is in a line is read only when it is asked for."""
    for part, rows in prepared.parts.items():
        lengths = {len(getattr(rows, name)) for name in ARRAYS if name not in _OF_ANY_LENGTH}
        if lengths != {len(rows)} or len(rows.offsets) != len(rows) + 1 or int(rows.offsets[-1]) != len(rows.tokens):
            raise ValueError(f"the arrays of {part} are not of one length")
        if len(rows.gaps) % 3:
            raise ValueError(f"the gaps of {part} are not whole")
        if len(rows.called) and (int(rows.called.max()) >= len(rows) or (np.diff(rows.called) < 1).any()):
            raise ValueError(f"the called rows of {part} are none of its rows")
        if part != "train" and len(prepared.texts[part]) != len(rows):
            raise ValueError(f"{TEXTS[part]} has {len(prepared.texts[part])} of {len(rows)} rows")
        if len(rows) and int(rows.choice_set.max()) >= len(prepared.choice_sets):
            raise ValueError(f"{CHOICES} has too few lines")


def prepared_digest(folder: Path) -> str:
    """Digest over the names and contents of a prepared folder's files.

    Raises
    ------
    StageError
        VerificationFailed: a file is missing.
    """
    try:
        return digest_of({name: sha256_file(folder / name) for name in PREPARED_FILES})
    except OSError as e:
        raise StageError(Reason.VERIFICATION_FAILED, f"the prepared rows can't be read back: {e}") from e


def columns_of(parts: Mapping[Part, EncodedPart]) -> dict[str, Column]:
    """Return the arrays of all parts as columns."""
    return {f"{p}.{n}": ArrayColumn(getattr(parts[p], n), kind) for p in PARTS for n, kind in ARRAYS.items()}


def fingerprint(columns: Mapping[str, Column], choice_sets: Iterable[ChoiceSet], end_ids: tuple[int, ...]) -> str:
    """Digest over everything that training and scoring see of the data."""
    sha = hashlib.sha256()
    for part in PARTS:
        for name in ARRAYS:
            column = columns[f"{part}.{name}"]
            if name in ("gaps", "called") and not len(column):
                continue  # rows without any keep the fingerprint that they had before there were such columns
            sha.update(f"{part}.{name}.{len(column)}\n".encode())
            for chunk in column.chunks():
                sha.update(chunk)
    # The canonical JSON of {"choices": [[texts, ids], ...], "end": end_ids}, a set at a time.
    sha.update(b'{"choices":[')
    for i, choices in enumerate(choice_sets):
        sha.update((b"," if i else b"") + canonical_json([choices.texts, choices.ids]))
    sha.update(b'],"end":' + canonical_json(end_ids) + b"}")
    return f"sha256:{sha.hexdigest()}"
