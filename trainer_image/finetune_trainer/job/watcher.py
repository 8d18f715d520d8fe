"""Shows what loop and evaluator tell: on the console, in live reports, as ``metrics.jsonl`` and ``samples.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from finetune_api.metrics import MetricName
from finetune_api.status import ValidationPoint
from finetune_trainer.counted import counted
from finetune_trainer.evaluation.words import validation_name
from finetune_trainer.output.samples import SampleFile
from finetune_trainer.process.console import Console, Progress, no_progress
from finetune_trainer.training.observer import LogEntry
from finetune_trainer.training.samples import Sample

__all__ = ["TrainingWatcher"]


class TrainingWatcher:
    """Writes what loop and evaluator tell to ``metrics.jsonl``, to ``samples.jsonl`` and to the console.

    ``progress`` is the running step's; set it to show how far evaluation or training is.

    Parameters
    ----------
    watched
        Rows of each validation.
    """

    def __init__(
        self, console: Console, metrics: TextIO, metric: MetricName, samples: SampleFile, *, watched: int
    ) -> None:
        self._console = console
        self._metrics, self._samples = metrics, samples
        self._score, self._watched = validation_name(metric), watched
        self.progress: Progress = no_progress
        self._training = False

    def resume(self, metrics: str, samples: Sequence[Sample]) -> None:
        """Begin with what an earlier attempt wrote to both files up to the state that this one goes on from."""
        self._metrics.write(metrics)
        self._metrics.flush()
        self._samples.add(samples)

    def training(self, progress: Progress) -> None:
        """Show optimizer steps from now on; evaluations during training don't move the bar."""
        self.progress, self._training = progress, True

    def evaluating(self, progress: Progress) -> None:
        """Show scored rows from now on."""
        self.progress, self._training = progress, False

    def on_log(self, entry: LogEntry) -> None:
        """Training metrics."""
        values: dict[str, Any] = {
            "train_loss": round(entry.loss, 6),
            "train_mean_token_accuracy": round(entry.token_accuracy, 6),
            "learning_rate": entry.learning_rate,
            "grad_norm": round(entry.grad_norm, 6),
            "tokens_per_second": round(entry.tokens_per_second, 1),
        }
        # The file has every bit, by which a rerun is compared.
        exact = {"train_loss": entry.loss, "grad_norm": entry.grad_norm}
        self._write({"step": entry.step, "epoch": round(entry.epoch, 4), **values, **exact})
        self._console.live.trained(
            step=entry.step,
            total=entry.total_steps,
            epoch=entry.epoch,
            loss=entry.loss,
            tokens_per_second=entry.tokens_per_second,
        )
        if self._console.interactive:
            self.progress(entry.step, entry.total_steps)
        else:
            self._console.event(
                "train", step=entry.step, total_steps=entry.total_steps, epoch=round(entry.epoch, 4), **values
            )

    def on_validation(self, point: ValidationPoint) -> None:
        """A validation."""
        self._console.live.validated(point)
        self._write(
            {
                "step": point.step,
                "epoch": point.epoch,
                "valid_loss": float(point.loss),
                self._score: float(point.score),
            }
        )
        self._console.event(
            "validation",
            f"step {point.step}, epoch {point.epoch}: validation loss {point.loss}, score {point.score} on "
            f"{counted(self._watched, 'row')}"
            if self._console.interactive
            else None,
            epoch=point.epoch,
            step=point.step,
            loss=float(point.loss),
            score=float(point.score),
            rows=self._watched,
        )

    def on_samples(self, samples: Sequence[Sample]) -> None:
        """Answers to a few validation rows; no text of them goes to the log."""
        self._samples.add(samples)
        verdicts = [sample.correct for sample in samples if sample.correct is not None]
        values: dict[str, Any] = {"correct": sum(verdicts)} if verdicts else {}
        self._console.event(
            "samples", epoch=samples[0].epoch, step=samples[0].step, rows=len(samples), judged=len(verdicts), **values
        )

    def on_evaluated(self, done: int, total: int) -> None:
        """Rows scored so far."""
        self._console.alive()
        if not self._training:
            self.progress(done, total)
            self._console.live.scored(done, total)

    def _write(self, values: dict[str, object]) -> None:
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()
