"""``samples.jsonl``: what the model wrote to the same few validation rows before it learned, and after each epoch.

It grows while the training runs (``job/watcher.py``), as ``metrics.jsonl`` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.training.samples import Sample

__all__ = ["SAMPLES", "SampleFile", "sample_line"]

SAMPLES: Final = "samples.jsonl"
PROMPT: Final = 1200
"""Characters of a prompt that are kept: its end, which the answer goes on from."""
EXPECTED: Final = 2000


class SampleFile:
    """The file of one training; it is there from the first sample on."""

    def __init__(self, path: Path, prepared: Prepared) -> None:
        self._path, self._prepared = path, prepared
        path.unlink(missing_ok=True)

    def add(self, samples: Sequence[Sample]) -> None:
        """Append samples, whole and at once, for whoever reads along."""
        if samples:
            lines = [json.dumps(sample_line(sample, self._prepared), ensure_ascii=False) + "\n" for sample in samples]
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))


def sample_line(sample: Sample, prepared: Prepared) -> dict[str, Any]:
    """Return a sample with the row that it answers.

    ``promptCut`` and ``expectedCut`` stand there where only the end of the one or the beginning of the other is told,
    ``cut`` where the model may have written more. The thoughts before both answers stand beside them, where models
    think first, and whether the model's had an end.
    """
    text = prepared.texts["validation"][sample.index]
    return {
        "epoch": int(sample.epoch) if sample.epoch.is_integer() else sample.epoch,
        "step": sample.step,
        **({"file": text.file} if text.file else {}),
        "row": text.row,
        "prompt": text.prompt[-PROMPT:],
        **({"promptCut": True} if len(text.prompt) > PROMPT else {}),
        "expected": text.completion[:EXPECTED],
        **({"expectedCut": True} if len(text.completion) > EXPECTED else {}),
        **_thought("thought", text.thought),
        "completion": sample.completion,
        **_thought("completionThought", sample.thought or "", cut=sample.thought_cut),
        **({"completionUnfinished": True} if sample.unfinished else {}),
        **({"cut": True} if sample.cut else {}),
        **({"choice": sample.choice} if sample.choice is not None else {}),
        **({"correct": sample.correct} if sample.correct is not None else {}),
        **({"score": sample.score} if sample.score is not None else {}),
    }


def _thought(name: str, thought: str, *, cut: bool = False) -> dict[str, Any]:
    """What was thought, and whether only its beginning is told."""
    if not thought:
        return {}
    return {name: thought[:EXPECTED], **({f"{name}Cut": True} if cut or len(thought) > EXPECTED else {})}
