"""The files for people and tools beside the model: predictions, results, metrics and the model card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_api.status import Score, ValidationPoint
from finetune_trainer.console import Console, Progress, no_progress
from finetune_trainer.observer import LogEntry
from finetune_trainer.outcome import Evaluation
from finetune_trainer.prepared import TextRow

__all__ = ["TrainingWatcher", "model_card", "write_predictions", "write_results"]


class TrainingWatcher:
    """Writes what loop and evaluator tell to ``metrics.jsonl`` and to the console.

    ``progress`` is the running step's; set it to show how far evaluation or training is.
    """

    def __init__(self, console: Console, metrics: TextIO) -> None:
        self._console = console
        self._metrics = metrics
        self.progress: Progress = no_progress
        self._training = False

    def resume(self, metrics: str) -> None:
        """Begin with what an earlier attempt wrote to ``metrics.jsonl`` up to the state that this one goes on from."""
        self._metrics.write(metrics)
        self._metrics.flush()

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
        self._write({"step": entry.step, "epoch": round(entry.epoch, 4), **values})
        if self._console.interactive:
            self.progress(entry.step, entry.total_steps)
        else:
            self._console.event(
                "train", step=entry.step, total_steps=entry.total_steps, epoch=round(entry.epoch, 4), **values
            )

    def on_validation(self, point: ValidationPoint) -> None:
        """An epoch's validation."""
        self._write(
            {
                "step": point.step,
                "epoch": point.epoch,
                "valid_loss": float(point.loss),
                "valid_accuracy": float(point.score),
            }
        )
        self._console.event(
            "validation",
            f"epoch {point.epoch}: validation loss {point.loss}, score {point.score}"
            if self._console.interactive
            else None,
            epoch=point.epoch,
            step=point.step,
            loss=float(point.loss),
            score=float(point.score),
        )

    def on_evaluated(self, done: int, total: int) -> None:
        """Rows scored so far."""
        self._console.alive()
        if not self._training:
            self.progress(done, total)

    def _write(self, values: dict[str, object]) -> None:
        self._metrics.write(json.dumps(values) + "\n")
        self._metrics.flush()


def write_predictions(path: Path, texts: Sequence[TextRow], baseline: Evaluation, test: Evaluation) -> None:
    """Write one line a test row: what was asked, what was expected, and both answers."""
    with path.open("w", encoding="utf-8") as file:
        for before, after in zip(baseline.rows, test.rows, strict=True):
            text = texts[after.index]
            line = {
                "row": after.row,
                "prompt": text.prompt,
                "expected": text.completion,
                "baseline": before.predicted,
                "tuned": after.predicted,
                "baselineCorrect": before.correct,
                "tunedCorrect": after.correct,
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_results(path: Path, report: StageReport) -> None:
    """Write the report's numbers as ``results.json``."""
    path.write_text(json.dumps(report.to_wire(), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def model_card(stage_input: StageInput, report: StageReport, *, chat: bool) -> str:
    """Return README.md: the numbers with their uncertainty, the data, and how to load the result.

    ``chat`` tells whether the model has a chat template, which its callers then have to use.
    """
    spec, results, data, resolved = stage_input.spec, report.results, report.dataset, report.resolved
    if results is None or data is None or resolved is None:
        raise ValueError("a model card needs results, dataset and resolved")
    artifacts = {artifact.name for artifact in report.artifacts or []}
    hub = spec.model.uri.removeprefix("hf://") if spec.model.uri.startswith("hf://") else None
    front = [
        "---",
        "library_name: " + ("transformers" if "model" in artifacts else "peft"),
        "pipeline_tag: text-generation",
    ]
    front += [f"base_model: {hub}"] if hub else []
    rows = "\n".join(
        f"| {name} | {score.score} | {_interval(score)} | {score.correct} of {score.total} | {score.loss or ''} |"
        for name, score in (("before", results.baseline), ("after", results.test))
    )
    source = spec.dataset.uri or (spec.dataset.files.train if spec.dataset.files else "")
    template = spec.dataset.template.name or "inline"
    return f"""{chr(10).join(front)}
---

# {stage_input.job.name}

Fine-tuned from `{spec.model.uri}` (revision `{resolved.model_revision}`) with {resolved.method}.

## Accuracy

{results.metric} on {results.test.total} sealed test rows, which neither training nor validation saw:

| model | score | 95 % interval | correct | loss |
| --- | --- | --- | --- | --- |
{rows}

Gain {results.gain}; the two-sided p-value that the difference is chance is {results.p_value} (exact McNemar test). The
score after training was measured on the exported weights, after they were stored and loaded again. `predictions.jsonl`
has both answers to every test row.

## Data

`{source}`: {data.rows} rows, of which {data.train} were trained on, {data.validation} watched and {data.test} sealed;
{data.dropped} bad rows were left out and {data.duplicates} duplicates. Template: {template}. Fingerprint of the encoded
rows: `{data.fingerprint}`.

## Training

{spec.training.epochs} epochs, {resolved.batch_size} rows a step, peak learning rate {resolved.learning_rate},
{resolved.precision}, seed {spec.training.seed}. `metrics.jsonl` has the curves, `manifest.json` all settings, versions
and digests.

## Loading

{_loading(artifacts, hub or "path/to/the/base/model", chat=chat)}
"""


def _interval(score: Score) -> str:
    return " to ".join(score.ci95 or [])


def _loading(artifacts: set[str], base: str, *, chat: bool) -> str:
    if "model" in artifacts:
        prompt = '[{"role": "user", "content": "..."}]' if chat else '"..."'
        return f"""```python
from transformers import pipeline
generate = pipeline("text-generation", model="model/")
print(generate({prompt}, max_new_tokens=32, do_sample=False))
```"""
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{base}"), "adapter/")
```"""
