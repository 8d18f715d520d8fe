"""Prepare: its memory does not grow with the length of the rows, and how it cuts its work changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.data import readers as data
from finetune_trainer.data import table as records
from finetune_trainer.data.parts import PARTS
from finetune_trainer.errors import StageError
from finetune_trainer.prepare import prepare
from finetune_trainer.text import encode
from tests.support.prepare_kit import Dataset, intents, spec_of, write

ROOT = Path(__file__).resolve().parents[3]
WORDS = 250
ROWS = 16_000
SCRIPT = """
import resource, sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from finetune_api.job import FineTuneJobSpec
from finetune_trainer.prepare.prepare import prepare
words = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "word": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>", unk_token="<unk>")
path, out, spec = Path(sys.argv[1]), Path(sys.argv[2]), FineTuneJobSpec.model_validate_json(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
prepared = prepare(spec=spec, files={"all": path}, tokenizer=tokenizer, folder=out)
print(prepared.summary.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak_kib(path: Path, out: Path) -> int:
    """Memory that preparing adds to the process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(out), spec_of({"name": "raw"}).model_dump_json(by_alias=True)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / p) for p in ("crds", "trainer_image"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows, peak = done.stdout.split()
    assert int(rows) > 0
    return int(peak)


def test_the_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} " + "word " * WORDS, "completion": f"{i} " + "word " * WORDS} for i in range(ROWS)]
    few, many = write(tmp_path / "few.jsonl", rows[: ROWS // 8]), write(tmp_path / "many.jsonl", rows)
    grown = peak_kib(many, tmp_path / "2" / "prepared") - peak_kib(few, tmp_path / "1" / "prepared")
    added = (many.stat().st_size - few.stat().st_size) / 1024
    assert added > 30_000
    # Rows as Python objects take three times their size in the file; keys and the split some 200 bytes each.
    assert grown < added / 4


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [(prepare, "_CHUNK_ROWS", 7), (prepare, "_CHUNK_BYTES", 100), (encode, "_CACHED_TOKENS", 3)],
)
def test_the_size_of_a_chunk_changes_nothing(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, module: Any, name: str, value: int
) -> None:
    rows: list[dict[str, Any] | str] = [*intents(60), "bad", *intents(60, 100)]
    before = dataset.prepare(rows, spec_of()).summary
    monkeypatch.setattr(module, name, value)
    assert dataset.prepare(rows, spec_of()).summary == before


def test_choice_sets_are_numbered_by_parts_whatever_the_order_of_the_file(dataset: Dataset) -> None:
    rows = [{"question": f"q {i}", "choices": [f"one {i}", "two"], "answer": i % 2} for i in range(60)]
    prepared = dataset.prepare(rows, spec_of({"name": "multiple-choice"}))
    numbers = [int(n) for part in PARTS for n in prepared.parts[part].choice_set]
    assert numbers == list(range(60))
    lines = [int(n) for part in PARTS for n in prepared.parts[part].rows]
    assert lines != sorted(lines)
    assert [prepared.choice_sets[n].texts[0] for n in numbers] == [f"one {line - 1}" for line in lines]


def test_a_row_that_fails_while_it_is_tokenised_does_not_stop_the_next_chunk(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_CHUNK_ROWS", 10)
    rows = [{"prompt": f"p {i}", "completion": "long " * 100 if i == 9 else "c"} for i in range(60)]
    prepared = dataset.prepare(rows, spec_of({"name": "raw"}, training={"maxLength": 40}))
    assert prepared.summary.dropped == 1
    assert sum(len(prepared.parts[part]) for part in PARTS) == 59


def test_a_failure_while_tokenising_ends_the_run_and_leaves_no_scratch_files(dataset: Dataset) -> None:
    strict = spec_of({"name": "raw"}, training={"maxLength": 40}, dataset={"badRows": {"policy": "Fail"}})
    rows = [{"prompt": f"p {i}", "completion": "long " * 100 if i == 50 else "c"} for i in range(60)]
    with pytest.raises(StageError, match="line 51: its completion"):
        dataset.prepare(rows, strict)
    assert [path.name for path in dataset.out.parent.iterdir()] == ["prepared"]


def test_labels_are_read_no_further_than_their_first_rows(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counted(*arguments: Any) -> Any:
        for row in data.read_rows(*arguments):
            read.append(row.number)
            yield row

    monkeypatch.setattr(records, "read_rows", counted)
    dataset.prepare(intents(300), spec_of())
    # Three passes, and a look at the rows that hold the three labels for the first time.
    assert 900 < len(read) < 950
    assert json.loads((dataset.out / "choices.jsonl").read_text())["texts"] == ["billing", "bug", "card arrival"]
