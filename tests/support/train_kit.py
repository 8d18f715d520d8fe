"""What tests of the training loop share: settings, a model on the CPU, an observer that keeps what it is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from finetune_api.status import ValidationPoint
from finetune_trainer.model.device import Precision
from finetune_trainer.model.load import LoadedModel, load_model
from finetune_trainer.prepare.prepared import EncodedPart, Prepared
from finetune_trainer.training.observer import LogEntry
from finetune_trainer.training.plan import Hyperparameters
from finetune_trainer.training.samples import Sample

__all__ = ["CPU", "FULL", "Recorder", "load", "without_validation"]

CPU = torch.device("cpu")
FULL = Hyperparameters(method="Full", epochs=2, batch_size=16, learning_rate="1e-2", seed=7)


def load(folder: Path, precision: Precision = "Float32") -> LoadedModel:
    """A model folder on the CPU."""
    return load_model(folder, device=CPU, precision=precision)


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[LogEntry] = []
        self.points: list[ValidationPoint] = []
        self.samples: list[Sample] = []

    def on_log(self, entry: LogEntry) -> None:
        self.entries.append(entry)

    def on_validation(self, point: ValidationPoint) -> None:
        self.points.append(point)

    def on_samples(self, samples: Sequence[Sample]) -> None:
        self.samples += samples

    def on_evaluated(self, done: int, total: int) -> None: ...


def without_validation(prepared: Prepared) -> Prepared:
    """The same rows, with none in validation."""
    part = prepared.parts["validation"]
    none = EncodedPart(
        tokens=part.tokens[:0],
        offsets=part.offsets[:1],
        prompt_lengths=part.prompt_lengths[:0],
        rows=part.rows[:0],
        choice_set=part.choice_set[:0],
        answer=part.answer[:0],
        unanswerable=part.unanswerable[:0],
    )
    return dataclasses.replace(prepared, parts={**prepared.parts, "validation": none})
