"""Stores what prepare hands to train, and reads it back; the same bytes for the same content.

``rows.safetensors`` holds the arrays, ``prepared.json`` the rest, ``choices.jsonl`` the choice sets, ``texts.*.jsonl``
validation and test rows as text, ``preview.jsonl`` the first train rows as they were rendered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from finetune_api.digest import canonical_json, digest_of, sha256_digest
from finetune_api.reasons import Reason
from finetune_api.status import DatasetSummary, MetricName
from finetune_trainer.errors import StageError
from finetune_trainer.prepared import PARTS, ChoiceSet, EncodedPart, Part, Prepared, TextRow

__all__ = ["PREPARED_FILES", "fingerprint", "load_prepared", "prepared_digest", "save_prepared"]

_ARRAYS: Final[Mapping[str, str]] = {
    "tokens": "<i4",
    "offsets": "<i8",
    "prompt_lengths": "<i4",
    "rows": "<i8",
    "choice_set": "<i4",
    "answer": "<i4",
}
_ROWS: Final = "rows.safetensors"
_REST: Final = "prepared.json"
_CHOICES: Final = "choices.jsonl"
_TEXTS: Final[Mapping[Part, str]] = {
    "train": "preview.jsonl",
    "validation": "texts.validation.jsonl",
    "test": "texts.test.jsonl",
}
PREPARED_FILES: Final = (_CHOICES, _REST, *_TEXTS.values(), _ROWS)
"""Names of all files of a prepared folder."""


class _Rest(BaseModel):
    """``prepared.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    score_end_tokens: bool
    end_ids: tuple[int, ...]
    pad_id: int
    max_new_tokens: int
    metric: MetricName
    template_digest: str
    tokenizer_digest: str
    summary: dict[str, Any]


def save_prepared(prepared: Prepared, folder: Path) -> list[Path]:
    """Write the files of :data:`PREPARED_FILES` to ``folder`` and return their paths."""
    rest = _Rest(
        score_end_tokens=prepared.score_end_tokens,
        end_ids=prepared.end_ids,
        pad_id=prepared.pad_id,
        max_new_tokens=prepared.max_new_tokens,
        metric=prepared.metric,
        template_digest=prepared.template_digest,
        tokenizer_digest=prepared.tokenizer_digest,
        summary=prepared.summary.to_wire(),
    )
    arrays = {f"{part}.{name}": _array(rows, name) for part, rows in prepared.parts.items() for name in _ARRAYS}
    content = {
        _ROWS: save_tensors(arrays),
        _REST: canonical_json(rest.model_dump(mode="json")) + b"\n",
        _CHOICES: _lines([{"texts": c.texts, "ids": c.ids} for c in prepared.choice_sets]),
    }
    for part, name in _TEXTS.items():
        texts = prepared.texts.get(part, ())
        content[name] = _lines([{"row": t.row, "prompt": t.prompt, "completion": t.completion} for t in texts])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in PREPARED_FILES]


def load_prepared(folder: Path) -> Prepared:
    """Read what :func:`save_prepared` wrote.

    Raises
    ------
    StageError
        VerificationFailed: a file is missing or not what was written.
    """
    try:
        arrays = load_tensors((folder / _ROWS).read_bytes())
        rest = _Rest.model_validate_json((folder / _REST).read_bytes())
        return Prepared(
            parts={part: EncodedPart(**{n: arrays[f"{part}.{n}"] for n in _ARRAYS}) for part in PARTS},
            texts={
                part: tuple(TextRow(**line) for line in _read_lines(folder / name)) for part, name in _TEXTS.items()
            },
            choice_sets=tuple(
                ChoiceSet(tuple(line["texts"]), tuple(tuple(ids) for ids in line["ids"]))
                for line in _read_lines(folder / _CHOICES)
            ),
            score_end_tokens=rest.score_end_tokens,
            end_ids=rest.end_ids,
            pad_id=rest.pad_id,
            max_new_tokens=rest.max_new_tokens,
            metric=rest.metric,
            template_digest=rest.template_digest,
            tokenizer_digest=rest.tokenizer_digest,
            summary=DatasetSummary.model_validate(rest.summary),
        )
    except (OSError, KeyError, TypeError, ValueError, ValidationError, SafetensorError) as e:
        raise StageError(Reason.VERIFICATION_FAILED, f"the prepared rows can't be read back: {e}") from e


def prepared_digest(folder: Path) -> str:
    """Digest over the names and contents of a prepared folder's files.

    Raises
    ------
    StageError
        VerificationFailed: a file is missing.
    """
    digests = {}
    for name in PREPARED_FILES:
        try:
            digests[name] = sha256_digest((folder / name).read_bytes())
        except OSError as e:
            raise StageError(Reason.VERIFICATION_FAILED, f"the prepared rows can't be read back: {e}") from e
    return digest_of(digests)


def fingerprint(parts: Mapping[Part, EncodedPart], choice_sets: tuple[ChoiceSet, ...], end_ids: tuple[int, ...]) -> str:
    """Digest over everything that training and scoring see of the data."""
    sha = hashlib.sha256()
    for part in PARTS:
        for name in _ARRAYS:
            array = _array(parts[part], name)
            sha.update(f"{part}.{name}.{array.shape[0]}\n".encode())
            sha.update(array.tobytes())
    sha.update(canonical_json({"choices": [[c.texts, c.ids] for c in choice_sets], "end": end_ids}))
    return f"sha256:{sha.hexdigest()}"


def _array(part: EncodedPart, name: str) -> NDArray[np.generic]:
    """The array in the byte order of the file, whatever the machine's."""
    return np.ascontiguousarray(getattr(part, name), dtype=_ARRAYS[name])


def _lines(values: list[dict[str, Any]]) -> bytes:
    return b"".join(canonical_json(v) + b"\n" for v in values)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    # Not splitlines(): JSON leaves U+2028 and its like unescaped, which are no line ends of this format.
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
