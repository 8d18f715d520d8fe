"""Makes the memory benchmark's inputs: a large file of support messages, and a small tokenizer for it.

    python -m benchmarks.memory_bench.rows FOLDER MEGABYTES [parquet]

Run as a process of its own, so that the measuring process stays small. The same bytes every time: sentences are put
together from a fixed vocabulary, so words repeat as they do in a language, and every row is another one.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Final

import pyarrow as pa
from pyarrow import parquet
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["LABELS", "make_tokenizer", "rows", "write_parquet", "write_rows"]

SEED: Final = 20261123
LABELS: Final = ("billing", "card", "cash", "exchange", "limit", "login", "pin", "refund", "shipping", "top-up")
_WORDS: Final = 6000
_SENTENCES: Final = 20_000
_SYLLABLES: Final = tuple(re.findall("..", "bacadefigohainkalemonaorpequrisotaunvewiyazoexalentherst"))
_VOCABULARY: Final = 4096
_GROUP: Final = 100_000
"""Rows of a row group; some writers make groups of a million, as large as the memory allows."""


def _sentences(source: random.Random) -> list[str]:
    words = ["".join(source.choices(_SYLLABLES, k=source.choice((1, 1, 2, 2, 2, 3)))) for _ in range(_WORDS)]
    # The n-th word is n times as rare as the first (Zipf 1949), as in any language.
    weights = list(accumulate(1 / n for n in range(1, _WORDS + 1)))
    drawn = [source.choices(words, cum_weights=weights, k=source.randint(8, 28)) for _ in range(_SENTENCES)]
    return [f"{' '.join(words).capitalize()}." for words in drawn]


def rows() -> Iterator[dict[str, str]]:
    """Yield rows without end: 700 to 1,000 bytes each as JSON, with a text, its label and a column that nobody uses."""
    source = random.Random(SEED)  # noqa: S311  # test data
    sentences = _sentences(source)
    number = 0
    while True:
        number += 1
        text = f"Message {number}:"
        wanted = source.randint(600, 880)
        while len(text) < wanted:
            text = f"{text} {source.choice(sentences)}"
        yield {"id": f"m-{number:08d}", "text": text[:900], "label": source.choice(LABELS)}


def write_rows(path: Path, *, size: int) -> int:
    """Write rows until the file has ``size`` bytes, and return their number."""
    count = written = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows():
            written += file.write(json.dumps(row) + "\n")
            count += 1
            if written >= size:
                return count
    raise AssertionError("rows never end")


def write_parquet(path: Path, *, size: int) -> None:
    """Write the same rows as Parquet, uncompressed, until their texts have ``size`` bytes."""
    written = 0
    source = rows()
    schema = pa.schema(dict.fromkeys(("id", "text", "label"), pa.string()))
    with parquet.ParquetWriter(path, schema, compression="none") as file:
        while written < size:
            group = list(islice(source, _GROUP))
            written += sum(len(row["text"]) for row in group)
            file.write_table(pa.Table.from_pylist(group), row_group_size=_GROUP)


def make_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE of a few thousand tokens on the first rows; stored as a model folder without weights."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((row["text"] for row in islice(rows(), 2000)), trainer)
    special = {"pad_token": "<pad>", "eos_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=bpe, **special).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": _VOCABULARY}))
    save_file({}, folder / "model.safetensors")  # prepare looks at its head alone


def main() -> None:
    """Write ``rows.jsonl`` or ``rows.parquet``, and ``model/``."""
    folder, size = Path(sys.argv[1]), int(sys.argv[2]) * 10**6
    (folder / "model").mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder / "model")
    if sys.argv[3:] == ["parquet"]:
        write_parquet(folder / "rows.parquet", size=size)
    else:
        write_rows(folder / "rows.jsonl", size=size)


if __name__ == "__main__":
    main()
