"""The model card: README.md beside the exported model, for people and for the Hub."""

from __future__ import annotations

from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_api.status import Score
from finetune_trainer.output.data_words import left_out, shares

__all__ = ["model_card"]


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

`{source}`: {data.rows} rows, of which {data.train} were trained on, {data.validation} watched and {data.test} sealed
{shares(resolved)}. Template: {template}. Fingerprint of the encoded rows: `{data.fingerprint}`.

{left_out(data)}

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
