"""The memory benchmark's second half: a large test part with many choices a row, and its evaluation.

    python -m benchmarks.memory_bench.evaluation make FOLDER ROWS
    python -m benchmarks.memory_bench.evaluation score FOLDER

Two processes, so that the one that is measured has never held the rows. The model is a made-up one of two layers: what
is measured is what grows with the rows and with the choices, not the weights.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Final

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from benchmarks.memory_bench.rows import make_tokenizer, rows
from finetune_api.status import DatasetSummary
from finetune_trainer.evaluation.evaluate import evaluate
from finetune_trainer.model.load import load_model
from finetune_trainer.prepare.folder import Rest, load_prepared
from finetune_trainer.prepare.folder_writer import PreparedWriter
from finetune_trainer.prepare.prepared import TextRow
from finetune_trainer.text.encode import Encoded, Encoder, Example

__all__ = ["CHOICES", "make", "score"]

CHOICES: Final = 77
_CHUNK: Final = 1000
_LONGEST_TEXT: Final = 120


def make(folder: Path, count: int) -> None:
    """Write ``model/`` and ``prepared/`` with ``count`` test rows, and as few others as there may be."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    encoder = Encoder(tokenizer, max_length=512)
    choices = tuple(f"{row['label']} {i}" for i, row in enumerate(islice(rows(), CHOICES)))
    with PreparedWriter(folder / "prepared") as writer:
        writer.add_choices(encoder.choices(choices))
        source = rows()
        for start in range(0, count, _CHUNK):
            chunk = list(islice(source, min(_CHUNK, count - start)))
            examples = [
                Example(
                    row["id"], f"Which topic? {row['text'][:_LONGEST_TEXT]}", choices[(start + i) % CHOICES], choices
                )
                for i, row in enumerate(chunk)
            ]
            for i, (example, encoded) in enumerate(zip(examples, encoder.encode(examples), strict=True)):
                assert isinstance(encoded, Encoded), encoded  # noqa: S101  # all rows fit
                text = TextRow(start + i + 1, str(example.prompt), example.completion)
                writer.add("test", encoded, text, choice_set=0, answer=(start + i) % CHOICES)
        fingerprint = writer.finish(encoder.end_ids)
        writer.describe(
            Rest(
                score_end_tokens=writer.score_end_tokens,
                end_ids=encoder.end_ids,
                pad_id=encoder.pad_id,
                stop=("\n",),
                max_new_tokens=writer.longest + 8,
                metric="ChoiceAccuracy",
                template_digest=fingerprint,
                tokenizer_digest=fingerprint,
                summary=DatasetSummary(rows=count, test=count).to_wire(),
            )
        )


def score(folder: Path) -> None:
    """Evaluate, and print the peak of resident memory before and after as JSON lines."""
    prepared = load_prepared(folder / "prepared")
    loaded = load_model(folder / "model", device=torch.device("cpu"), precision="Float32")
    _print(event="loaded", peak_mib=_peak_mib())
    start = time.monotonic()
    evaluation = evaluate(loaded, prepared.parts["test"], prepared, texts=prepared.texts["test"], generate=False)
    _print(
        event="evaluated",
        peak_mib=_peak_mib(),
        rows=evaluation.total,
        score=evaluation.score().to_wire(),
        seconds=round(time.monotonic() - start, 1),
    )


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _print(**entry: object) -> None:
    print(json.dumps(entry), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        score(Path(sys.argv[2]))
