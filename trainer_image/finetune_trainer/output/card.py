"""The model card: README.md beside the exported model, for people and for the Hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import yaml

from finetune_api.job import Adapter, FineTuneJobSpec, LoRA, Template
from finetune_api.metrics import SecondaryName
from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_api.status import DatasetSummary, Resolved, Results, Score
from finetune_trainer.counted import counted
from finetune_trainer.evaluation.words import (
    TESTS,
    few_shot_facts,
    gain_of,
    meaning_of,
    reference_facts,
    rows_of,
    scores_of,
)
from finetune_trainer.output.facts import (
    data_facts,
    refusal,
    scored_rows,
    thought_facts,
    warning_facts,
    watched_rows,
    wording_facts,
)
from finetune_trainer.output.serving import Serving
from finetune_trainer.output.snippet import base_name, hub_id, snippet
from finetune_trainer.prepare.prepared import Prepared

__all__ = ["adapter_facts", "base_name", "model_card"]

_HUB_METRICS: Final[dict[SecondaryName, str]] = {
    "ChoiceAccuracy": "accuracy",
    "ChoiceAccuracyNorm": "accuracy",
    "MacroF1": "f1",
    "BalancedAccuracy": "balanced_accuracy",
    "ExactMatch": "exact_match",
    "ExactMatchTokens": "exact_match",
    "TokenF1": "f1",
    "ROUGE1": "rouge",
    "ROUGE2": "rouge",
    "ROUGEL": "rouge",
    "BLEU": "bleu",
    "ChrF": "chrf",
    "Perplexity": "perplexity",
}
"""The Hub's names; others go by our own."""


def model_card(
    stage_input: StageInput,
    report: StageReport,
    *,
    serving: Serving,
    prepared: Prepared,
    lora: LoRA | None = None,
    sampled: int = 0,
    objections: Sequence[str] = (),
) -> str:
    """Return README.md: the numbers with their uncertainty, the data, and how to load the result.

    Parameters
    ----------
    lora
        The settings of the adapters that were trained, whoever chose them; None without.
    sampled
        Validation rows whose answers by epoch are in ``samples.jsonl``.
    objections
        Why the job doesn't accept its result.

    Raises
    ------
    ValueError
        The report lacks results, dataset or resolved.
    """
    spec, results, data, resolved = stage_input.spec, report.results, report.dataset, report.resolved
    if results is None or data is None or resolved is None:
        raise ValueError("a model card needs results, dataset and resolved")
    kind = "text2text-generation" if serving.decoder_start else "text-generation"
    front = yaml.safe_dump(_front_matter(stage_input, report, results, kind), sort_keys=False, allow_unicode=True)
    template = _template_name(spec.dataset.template)
    thoughts = thought_facts(prepared.thought_rows, spec.dataset.template)
    told = [*data_facts(data, resolved), *thoughts, *wording_facts(prepared.wordings)]
    more = _adapter(spec.model.adapter, resolved)
    facts = "\n".join(f"- {fact}" for fact in told)
    return f"""---
{front}---

# {stage_input.job.name}

Fine-tuned from {_code(spec.model.uri)} (revision {_code(resolved.model_revision or "")}) with {resolved.method}.{more}
{_refusal(stage_input.job.name, objections)}
## Accuracy

{results.metric} on {scored_rows(results, data)}, which neither training nor validation saw:
{meaning_of(results.metric, thoughts=prepared.thoughts is not None, calls=prepared.scores_calls)}.

| model | score | 95 % interval | rows | loss |
| --- | --- | --- | --- | --- |
{_score_rows(results)}
{_secondary(results, calls=prepared.scores_calls)}{_few_shot(results)}{_references(results)}
Gain {gain_of(results)}; the two-sided p-value that the difference is chance is {results.p_value}
({TESTS[results.paired_test or "McNemarExact"]}). The score after training was measured on
the exported weights, after they were stored and loaded again. `predictions.jsonl` has both answers to every test row.
{_warnings(results)}
## Data

{", ".join(map(_code, _sources(stage_input)))}{_commit(data.revision)}, template {template}.
Fingerprint of the encoded rows: `{data.fingerprint}`.

{facts}

## Training

{counted(spec.training.epochs, "epoch")}, {counted(resolved.batch_size or 0, "row")} a step,
peak learning rate {resolved.learning_rate},
{resolved.precision}, seed {spec.training.seed}.{_line(adapter_facts(lora, resolved))}{_line(_watched(data, spec))}
`metrics.jsonl` has the curves, `manifest.json` all settings, versions and digests.{_sampled(sampled)}

## Loading

{snippet(stage_input, report, serving=serving, prepared=prepared)}
{_settings(serving, prepared)}
"""


def _sampled(rows: int) -> str:
    """Say where a reader sees the model learn."""
    told = f" `samples.jsonl` has what it wrote to the same {counted(rows, 'validation row')} as it learned."
    return told if rows else ""


def adapter_facts(lora: LoRA | None, resolved: Resolved) -> str:
    """Say how large the adapters are and where they lie; empty without any."""
    if lora is None:
        return ""
    more = [
        *([f"dropout {lora.dropout}"] if float(lora.dropout) else []),
        *(["rank-stabilized scaling"] if lora.use_rslora else []),
        *(["weight decomposition (DoRA)"] if lora.use_dora else []),
    ]
    on = f" on {', '.join(map(_code, resolved.target_modules))}" if resolved.target_modules else ""
    return f"The adapters have {', '.join([f'rank {lora.rank}', f'alpha {lora.alpha}', *more])}{on}."


def _line(fact: str) -> str:
    return f"\n{fact}" if fact else ""


def _watched(data: DatasetSummary, spec: FineTuneJobSpec) -> str:
    """Say on how many rows a loss and a score of the validation stand."""
    rows = watched_rows(data, spec.training)
    return f"Loss and score of each validation are those of {rows}." if rows else ""


def _refusal(job: str, objections: Sequence[str]) -> str:
    """Say at the top what a person who fetches the model alone would not know."""
    told = refusal(_code(job), objections)
    return f"\n**Not accepted.** {told}\n" if told else ""


def _adapter(adapter: Adapter | None, resolved: Resolved) -> str:
    """Say what the model had on it from the start."""
    if adapter is None:
        return ""
    went = "was merged into it first" if resolved.method == "Full" else "was trained on and is part of the result"
    return (
        f" The adapter {_code(adapter.uri)} (revision {_code(resolved.adapter_revision or '')}) {went}: every score "
        "before fine-tuning is that of the model with it."
    )


def _warnings(results: Results) -> str:
    told = "\n".join(f"- {fact}" for fact in warning_facts(results))
    return f"\nWhen not to trust these numbers:\n\n{told}\n" if told else ""


def _front_matter(stage_input: StageInput, report: StageReport, results: Results, kind: str) -> dict[str, Any]:
    """The Hub's metadata; nothing in it that isn't known, such as a licence."""
    spec, resolved = stage_input.spec, report.resolved
    merged = "model" in {artifact.name for artifact in report.artifacts or []}
    base = hub_id(spec.model.uri, "hf://")
    datasets = [name for uri in _sources(stage_input) if (name := hub_id(uri, "hf://datasets/")) is not None]
    front: dict[str, Any] = {"library_name": "transformers" if merged else "peft", "pipeline_tag": kind}
    if base is not None:
        front["base_model"] = base
        front["base_model_relation"] = "finetune" if merged else "adapter"
    if datasets:
        front["datasets"] = list(dict.fromkeys(datasets))
    lora = resolved is not None and resolved.method != "Full"
    front["tags"] = ["finetune-operator", *(["lora"] if lora else [])]
    front["model-index"] = [
        {
            "name": stage_input.job.name,
            "results": [
                {
                    "task": {"type": kind, "name": _template_name(spec.dataset.template)},
                    "dataset": {
                        "type": datasets[0] if datasets else "private",
                        "name": "sealed test rows",
                        "split": "test",
                    },
                    "metrics": _hub_metrics(results),
                }
            ],
        }
    ]
    return front


def _hub_metrics(results: Results) -> list[dict[str, Any]]:
    metrics = []
    told = [("", results.test), (" before fine-tuning", results.baseline)]
    if results.few_shot is not None:
        told.append((f" before fine-tuning, {results.few_shot.examples}-shot", results.few_shot))
    for when, score in told:
        scores: list[tuple[SecondaryName, str]] = [(results.metric, score.score)]
        scores += [(other.name, other.score) for other in score.secondary or []]
        metrics += [
            {"type": _HUB_METRICS.get(n, n.lower()), "name": n + when, "value": float(value)} for n, value in scores
        ]
    return metrics


def _template_name(template: Template) -> str:
    if template.promptsource is not None:
        return f"{_code(template.promptsource.name)} of PromptSource"
    if template.config_map_ref is not None:
        return f"{_code(template.config_map_ref.key)} of ConfigMap {_code(template.config_map_ref.name)}"
    return template.name or "inline"


def _sources(stage_input: StageInput) -> list[str]:
    """Where the rows to learn from came from."""
    dataset = stage_input.spec.dataset
    if dataset.sources:
        return [source.uri for source in dataset.sources]
    return [dataset.uri or (dataset.files.train if dataset.files else "") or ""]


def _commit(revision: str | None) -> str:
    return f" (revision {_code(revision)})" if revision else ""


def _score_rows(results: Results) -> str:
    return "\n".join(_score_row(name, score) for name, score in scores_of(results))


def _score_row(name: str, score: Score) -> str:
    interval = " to ".join(score.ci95 or [])
    return f"| {name} | {score.score} | {interval} | {rows_of(score)} | {score.loss or ''} |"


def _secondary(results: Results, *, calls: bool) -> str:
    """The other metrics on the same rows, each by its own name."""
    before = {other.name: other.score for other in results.baseline.secondary or []}
    after = {other.name: other.score for other in results.test.secondary or []}
    lines = [
        f"{name} on the same rows ({meaning_of(name, calls=calls)}): {before[name]} before, {after[name]} after."
        for name in after
        if name in before
    ]
    return "\n" + "\n\n".join(lines) + "\n" if lines else ""


def _few_shot(results: Results) -> str:
    """What the untouched model reaches with examples in its prompt."""
    facts = few_shot_facts(results)
    return f"\n{' '.join(facts)}\n" if facts else ""


def _references(results: Results) -> str:
    """What is reached without a language model."""
    facts = reference_facts(results)
    return f"\n{' '.join(facts)}\n" if facts else ""


def _settings(serving: Serving, prepared: Prepared) -> str:
    had = ", ".join(f"{name} {json.dumps(value)}" for name, value in sorted(serving.left_out.items()))
    text = (
        "\n`generation_config.json` holds what the scores were taken with: greedy decoding, the end tokens "
        f"{list(serving.end_ids)}, at most {prepared.max_new_tokens} new tokens."
    )
    if had:
        text += f" The base had settings that change answers; they were left out: {_code(had)}."
    if serving.appended:
        text += (
            f" The base's tokenizer put {_code(' '.join(serving.appended))} behind every text, which would end a "
            "prompt before its answer; the exported one doesn't, as in training and scoring."
        )
    if serving.chat:
        text += (
            "\nThe chat template is that of the base with its switches and its date fixed, so that a plain "
            "`apply_chat_template` gives the tokens that were trained and scored."
        )
    return text


def _code(text: str) -> str:
    """A text as Markdown code, whatever it holds."""
    plain = " ".join(text.replace("`", "'").split())
    return f"`{plain}`" if plain else "``"
