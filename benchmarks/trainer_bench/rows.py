"""Rows for the trainer benchmark, tokenised once, so that both trainers are given the same numbers.

``topics`` are the demo's: short messages behind one long instruction, with a label to answer. ``instructions`` share no
beginning and are of very different lengths, prompts and answers alike, as instruction data are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["DATASETS", "TokenRows", "instructions", "load_rows", "save_rows", "topics"]

DATASETS: Final = ("topics", "instructions")
LONGEST: Final = 512
"""Most tokens of a row of ``instructions``."""

_ROWS: Final = 1024
_HELD: Final = 64
_SEED: Final = 20261123


@dataclass(frozen=True)
class TokenRows:
    """Rows as tokens: int32 ``tokens``, int64 ``offsets`` (rows + 1,), int32 ``prompt_lengths`` (rows,)."""

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    def row(self, index: int) -> tuple[list[int], list[int]]:
        """Return prompt and completion of a row."""
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        middle = start + int(self.prompt_lengths[index])
        return self.tokens[start:middle].tolist(), self.tokens[middle:end].tolist()

    def take(self, numbers: Sequence[int]) -> TokenRows:
        """Return these rows in this order."""
        return _joined([self.row(number) for number in numbers])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(np.diff(self.offsets).max())


def _joined(rows: list[tuple[list[int], list[int]]]) -> TokenRows:
    return TokenRows(
        np.array([token for prompt, completion in rows for token in prompt + completion], dtype=np.int32),
        np.cumsum([0, *(len(prompt) + len(completion) for prompt, completion in rows)], dtype=np.int64),
        np.array([len(prompt) for prompt, _ in rows], dtype=np.int32),
    )


def topics(rows_file: Path, tokenizer: Any, folder: Path) -> tuple[TokenRows, TokenRows]:
    """Encode the demo's rows the way a job does, for training and for scoring; ``folder`` is scratch."""
    from finetune_api.job import FineTuneJobSpec  # noqa: PLC0415 - not in the other trainer's environment
    from finetune_trainer.prepare.prepare import prepare  # noqa: PLC0415

    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "s3://bucket/model/"},
            "dataset": {
                "uri": "s3://bucket/rows.jsonl",
                "template": {"name": "topic", "columns": {"label": "topic"}},
                "split": {"trainPercent": 90, "validationPercent": 0, "testPercent": 10},
            },
        }
    )
    parts = prepare(spec=spec, files={"all": rows_file}, tokenizer=tokenizer, folder=folder).parts
    train, test = (TokenRows(p.tokens, p.offsets, p.prompt_lengths) for p in (parts["train"], parts["test"]))
    return train, test


def instructions(texts: list[str], tokenizer: Any) -> tuple[TokenRows, TokenRows]:
    """Join sentences to prompts and answers of log-normal length: medians of 60 tokens, a tenth above 150.

    Returns rows for training and for scoring.
    """
    source = random.Random(_SEED)  # noqa: S311  # test data
    ids: list[list[int]] = [tokenizer(f" {text}", add_special_tokens=False)["input_ids"] for text in texts]

    def some(least: int) -> list[int]:
        wanted = min(LONGEST // 2 - 1, max(least, round(source.lognormvariate(math.log(60), 0.75))))
        tokens: list[int] = []
        while len(tokens) < wanted:
            tokens += source.choice(ids)
        return tokens[:wanted]

    made = _joined([(some(8), [*some(4), int(tokenizer.eos_token_id)]) for _ in range(_ROWS)])
    return made.take(range(_ROWS - _HELD)), made.take(range(_ROWS - _HELD, _ROWS))


def save_rows(rows: TokenRows, path: Path) -> None:
    """Write rows for :func:`load_rows`."""
    np.savez(path, tokens=rows.tokens, offsets=rows.offsets, prompt_lengths=rows.prompt_lengths)


def load_rows(path: Path) -> TokenRows:
    """Read rows; needs numpy alone, so both environments can."""
    with np.load(path) as arrays:
        return TokenRows(arrays["tokens"], arrays["offsets"], arrays["prompt_lengths"])
