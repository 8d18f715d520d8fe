"""What a person should know about the rows behind the scores, as sentences; for the card and the page. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from finetune_api.job import Template
from finetune_api.status import DatasetSummary, Resolved, Results
from finetune_trainer.output.data_words import left_out, shares

__all__ = ["data_facts", "refusal", "scored_rows", "thought_facts", "warning_facts", "wording_facts"]


def scored_rows(results: Results, data: DatasetSummary | None) -> str:
    """Say on how many of the sealed rows the scores stand."""
    scored = results.test.total
    if data is None or scored == data.test:
        return f"{scored} sealed test rows"
    return f"{scored} of {data.test} sealed test rows (evaluation.limit)"


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
    parts = f"{data.rows} rows read: {data.train} trained on, {data.validation} watched, {data.test} sealed"
    facts = [f"{parts} {shares(data, resolved)}".rstrip() + ".", left_out(data)]
    if data.train_answers is not None:
        facts.append(f"The conversations trained on have {data.train_answers} answers to learn.")
    if resolved.choices:
        facts.append(f"There are {resolved.choices} choices.")
    if data.conflicts:
        facts.append(f"{data.conflicts} rows have an input that also stands with another output.")
    if data.truncated:
        fields = ", ".join(f"{field.name} in {field.rows}" for field in data.truncated_fields or [])
        facts.append(f"{data.truncated} rows were shortened to fit maxLength{f' ({fields})' if fields else ''}.")
    if data.folded_labels:
        facts.append(
            f"{data.folded_labels} labels differed from their choice in case, white space, Unicode form or type and "
            "were taken for it."
        )
    if data.control_tokens:
        facts.append(
            f"{data.control_tokens} rows spell control tokens of the model in their text; these were encoded as plain "
            "characters."
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
    have = "1 of the rows read has" if rows == 1 else f"{rows} of the rows read have"
    return [f"{have} a thought before an answer, which is learned with it; scored is the answer alone."]


def wording_facts(wordings: Mapping[str, int]) -> list[str]:
    """Say how many train rows were asked in which words; nothing where all were asked in the same ones."""
    if not wordings:
        return []
    told = ", ".join(f"{name} {rows}" for name, rows in wordings.items())
    return [f"Train rows by wording of the prompt: {told}. Validation and test rows all have the wording default."]
