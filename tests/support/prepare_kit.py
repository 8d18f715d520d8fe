"""What the tests of prepare share: specs, rows, and a data set that is prepared where the test says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from finetune_api.job import FineTuneJobSpec
from finetune_trainer.data.parts import Part
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.prepare import prepare
from finetune_trainer.prepare.prepared import EncodedPart, Prepared

__all__ = ["LABELS", "TURN_END", "Dataset", "intents", "row_ids", "spec_of", "texts_of", "write"]

LABELS = ("billing", "bug", "card arrival")
TURN_END = 4


def intents(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"message number {i}", "label": LABELS[i % 3]} for i in range(start, start + n)]


def spec_of(template: dict[str, Any] | None = None, **blocks: Any) -> FineTuneJobSpec:
    dataset = {"uri": "s3://data/rows.jsonl", "template": template or {"name": "intent"}, **blocks.pop("dataset", {})}
    if "files" in dataset:
        del dataset["uri"]
    return FineTuneJobSpec.model_validate({"model": {"uri": "s3://models/m/"}, "dataset": dataset, **blocks})


def write(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


class Dataset:
    """Runs prepare on rows that the test writes."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.template_source: str | None = None
        self._runs = itertools.count(1)

    def prepare(
        self, rows: Iterable[dict[str, Any] | str] | Mapping[str, Iterable[dict[str, Any] | str]], spec: FineTuneJobSpec
    ) -> Prepared:
        """Prepare into :attr:`out`, a new folder each time."""
        given = rows if isinstance(rows, Mapping) else {"all": rows}
        files = {part: write(self.folder / f"{part}.jsonl", content) for part, content in given.items()}
        self.out = self.folder / f"run{next(self._runs)}" / "prepared"
        return prepare(
            spec=spec, files=files, tokenizer=self.tokenizer, folder=self.out, template_source=self.template_source
        )

    def refused(self, rows: Any, spec: FineTuneJobSpec) -> StageError:
        with pytest.raises(StageError) as caught:
            self.prepare(rows, spec)
        return caught.value


def row_ids(part: EncodedPart, i: int) -> list[int]:
    return [int(t) for t in part.tokens[part.offsets[i] : part.offsets[i + 1]]]


def texts_of(prepared: Prepared, tokenizer: PreTrainedTokenizerFast, part: Part) -> list[tuple[str, str]]:
    rows = prepared.parts[part]
    cut = [(row_ids(rows, i), int(rows.prompt_lengths[i])) for i in range(len(rows))]
    return [(str(tokenizer.decode(ids[:n])), str(tokenizer.decode(ids[n:]))) for ids, n in cut]
