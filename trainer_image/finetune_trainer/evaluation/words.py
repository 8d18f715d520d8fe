"""Scores in words, the same on the console, on the card and on the page. Pure, no torch."""

from __future__ import annotations

from typing import Final

from finetune_api.metrics import LOWER_IS_BETTER, MetricName, SecondaryName
from finetune_api.status import FewShotScore, Results, Score
from finetune_trainer.counted import counted
from finetune_trainer.evaluation.metrics.registry import METRICS
from finetune_trainer.evaluation.references import unbeaten_by

__all__ = [
    "TESTS",
    "definitions",
    "few_shot_facts",
    "few_shot_name",
    "gain_of",
    "meaning_of",
    "reference_facts",
    "rows_of",
    "scores_of",
    "validation_name",
]

TESTS: Final = {"McNemarExact": "exact McNemar test", "PairedBootstrap": "paired bootstrap over rows"}
"""The tests behind a p-value."""
_REFERENCES: Final = {"MajorityClass": "the most frequent label for every row", "BagOfWords": "a bag of words"}


def rows_of(score: Score) -> str:
    """Say on how many rows a score stands: ``90 of 120``, or ``120 rows`` where rows are not right or wrong."""
    return counted(score.total, "row") if score.correct is None else f"{score.correct} of {score.total}"


def meaning_of(name: SecondaryName, *, thoughts: bool = False, calls: bool = False) -> str:
    """Say what a score under a metric is, as a clause without a full stop.

    Parameters
    ----------
    thoughts
        Say that thoughts aren't scored.
    calls
        Say how calls of tools are compared, where the metric compares them.
    """
    metric = METRICS[name]
    told = f"the share of rows in which {metric.meaning}" if metric.counted else metric.meaning
    if calls and name == "ExactMatch":
        told += (
            "; calls of tools are compared as JSON, in order: each has the expected name and equal arguments, whatever "
            "the order of their keys and the white space, and stands beside the expected text or none"
        )
    if thoughts:
        told += "; scored is the answer alone, which follows the thought, and a thought that never ends has none"
    return told


def definitions(results: Results, *, thoughts: bool, calls: bool) -> dict[str, str]:
    """Say what each of the scores is, for who reads the numbers alone; options as of :func:`meaning_of`."""
    names = [results.metric, *(score.name for score in results.test.secondary or [])]
    return {
        name: meaning_of(name, thoughts=thoughts and name == results.metric, calls=calls)
        for name in dict.fromkeys(names)
    }


def gain_of(results: Results) -> str:
    """Tell the gain, and what is better where that is not the usual way round."""
    return f"{results.gain} (lower is better)" if results.metric in LOWER_IS_BETTER else results.gain


def reference_facts(results: Results) -> list[str]:
    """Compare the tuned model with what is reached without one, in a sentence; nothing where that wasn't measured."""
    if not results.references:
        return []
    told = " and ".join(f"{r.score} ({_REFERENCES[r.name]})" for r in results.references)
    unbeaten = [_REFERENCES[r.name] for r in results.references if r.name in unbeaten_by(results)]
    facts = [f"Without a language model the same rows reach {told}."]
    if unbeaten:
        beats = f"does not beat {unbeaten[0]}" if len(unbeaten) == 1 else f"beats neither {' nor '.join(unbeaten)}"
        facts.append(f"The tuned model, at {results.test.score}, {beats}.")
    return facts


def scores_of(results: Results) -> list[tuple[str, Score]]:
    """Return the scores in the order in which they are shown, each with its name."""
    few_shot = [(few_shot_name(results.few_shot), results.few_shot)] if results.few_shot else []
    return [("before", results.baseline), *few_shot, ("after", results.test)]


def few_shot_name(score: FewShotScore) -> str:
    """Name the untouched model with examples in its prompt."""
    return f"before, {score.examples}-shot"


def few_shot_facts(results: Results) -> list[str]:
    """Say what the examples cost and whether the tuned model is better, in two sentences; nothing without a score."""
    shown = results.few_shot
    if shown is None:
        return []
    fewer = f" ({counted(shown.fewer, 'row')} had room for fewer)" if shown.fewer else ""
    examples = counted(shown.examples, "example")
    chance = f" (two-sided p-value {shown.p_value})" if shown.p_value else ""
    return [
        f"With {examples} of the train rows in its prompt{fewer} the untouched model reaches {shown.score}; they take "
        f"{shown.context_tokens} tokens a row.",
        f"Over that the tuned model gains {shown.gain}{chance}.",
    ]


def validation_name(metric: MetricName) -> str:
    """Name the score of a validation in metrics.jsonl: as OpenAI's files do where it is an accuracy."""
    return "valid_accuracy" if METRICS[metric].counted else f"valid_{metric}"
