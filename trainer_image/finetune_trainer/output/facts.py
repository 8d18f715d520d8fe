"""What a person should know about the rows behind the scores, as sentences; for the card and the page. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from finetune_api.job import Template, Training
from finetune_api.status import DatasetSummary, Resolved, Results
from finetune_trainer.counted import counted
from finetune_trainer.output.data_words import left_out, shares

__all__ = ["data_facts", "refusal", "scored_rows", "thought_facts", "warning_facts", "watched_rows", "wording_facts"]


def scored_rows(results: Results, data: DatasetSummary | None) -> str:
    """Say on how many of the sealed rows the scores stand."""
    scored = results.test.total
    if data is None or scored == data.test:
        return counted(scored, "sealed test row")
    return f"{scored} of {counted(data.test, 'sealed test row')} (evaluation.limit)"


def watched_rows(data: DatasetSummary | None, training: Training) -> str:
    """Say on how many rows each validation stands; empty without validation rows."""
    if data is None or not data.validation:
        return ""
    limit = training.validation.limit if training.validation is not None else None
    if limit is None or limit >= data.validation:
        return counted(data.validation, "validation row")
    return f"{limit} of {counted(data.validation, 'validation row')} (training.validation.limit)"


def refusal(job: str, objections: Sequence[str]) -> str:
    """Say that the job which made a result doesn't accept it, and why; empty where it does."""
    if not objections:
        return ""
    why = "; ".join(objections).rstrip(". ")
    return (
        f"The job {job} that made this result does not accept it (NotAccepted): {why}. All of it is stored; another "
        "job may ask for less."
    )


def warning_facts(results: Results) -> list[str]:
    """Say what speaks against trusting the results, a sentence each."""
    return [f"{warning.type}: {warning.message}." for warning in results.warnings or []]


def data_facts(data: DatasetSummary, resolved: Resolved) -> list[str]:
    """Return the sentences, plain text; those that have nothing to tell are left out."""
    parts = f"{counted(data.rows, 'row')} read: {data.train} trained on, {data.validation} watched, {data.test} sealed"
    facts = [f"{parts} {shares(data, resolved)}".rstrip() + ".", left_out(data)]
    if data.train_answers is not None:
        facts.append(f"The conversations trained on have {counted(data.train_answers, 'answer')} to learn.")
    if resolved.choices:
        facts.append(f"There {'is' if resolved.choices == 1 else 'are'} {counted(resolved.choices, 'choice')}.")
    if data.conflicts:
        facts.append(
            f"{counted(data.conflicts, 'row has', 'rows have')} an input that also stands with another output."
        )
    if data.truncated:
        fields = ", ".join(f"{field.name} in {field.rows}" for field in data.truncated_fields or [])
        shortened = counted(data.truncated, "row was", "rows were")
        facts.append(f"{shortened} shortened to fit maxLength{f' ({fields})' if fields else ''}.")
    if data.folded_labels:
        facts.append(
            f"{counted(data.folded_labels, 'label')} differed from the choice in case, white space, Unicode form or "
            "type and counted as it."
        )
    if data.control_tokens:
        facts.append(
            f"{counted(data.control_tokens, 'row spells', 'rows spell')} control tokens of the model in the text; "
            "these were encoded as plain characters."
        )
    if resolved.select_by is not None:
        facts.append(f"The kept weights are the best ones by validation {resolved.select_by.lower()}.")
    if resolved.stop:
        stops = ", ".join(json.dumps(text, ensure_ascii=False) for text in resolved.stop)
        facts.append(f"A generated answer ends at an end token or at one of: {stops}.")
    return facts


def thought_facts(rows: int, template: Template) -> list[str]:
    """Say what became of thoughts before answers: learned in so many rows, or taken out; nothing without any."""
    if template.messages is not None and template.messages.thinking == "Drop":
        return [
            "Thoughts before answers were taken out of all rows that have any (dataset.template.messages.thinking: "
            "Drop); the model learns and is asked to answer at once."
        ]
    if not rows:
        return []
    have = counted(rows, "of the rows read has", "of the rows read have")
    return [f"{have} a thought before an answer, which is learned with it; scored is the answer alone."]


def wording_facts(wordings: Mapping[str, int]) -> list[str]:
    """Say how many train rows were asked in which words; nothing where all were asked in the same ones."""
    if not wordings:
        return []
    told = ", ".join(f"{name} {rows}" for name, rows in wordings.items())
    return [f"Train rows by wording of the prompt: {told}. Validation and test rows all have the wording default."]
