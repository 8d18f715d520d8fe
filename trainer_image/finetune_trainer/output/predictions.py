"""Every test row with both answers, and the report's numbers, as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune_api.report import StageReport
from finetune_trainer.evaluation.metrics.over_choices import ConfidenceBin
from finetune_trainer.evaluation.results import Evaluation, RowResult
from finetune_trainer.model.shape import AdaptedLayers
from finetune_trainer.prepare.prepared import Prepared, TextRow
from finetune_trainer.text.template.conversation import as_dicts, turn_of

__all__ = ["write_predictions", "write_results"]


def write_predictions(
    path: Path,
    prepared: Prepared,
    baseline: Evaluation,
    test: Evaluation,
    *,
    few_shot: Evaluation | None = None,
    examples: Sequence[int] = (),
) -> None:
    """Write one line a test row.

    What was asked, as it was encoded, and expected, both answers as the stop rule leaves them, their verdicts, and why
    none can be right. Where models think first, the thoughts stand beside the answers. Where rows have
    choices of their own, these stand there too; where they are neither right nor
    wrong under the metric, each one's own score stands in place of the verdicts. Where the answer is the chosen label,
    the generated text stands beside it if it is another one: the exact match speaks of that.

    Parameters
    ----------
    few_shot, examples
        What the untouched model answered with examples in its prompt, and how many each row got.
    """
    texts, sets = prepared.texts["test"], prepared.parts["test"].choice_set
    graded = test.measure.verdict is None
    values = zip(baseline.row_values, test.row_values, strict=True) if graded else None
    own = len(prepared.choice_sets) > 1
    with path.open("w", encoding="utf-8") as file:
        for at, (before, after) in enumerate(zip(baseline.rows, test.rows, strict=True)):
            text = texts[after.index]
            turns, tools = as_dicts([turn_of(turn) for turn in text.turns])
            line: dict[str, Any] = {
                **({"file": text.file} if text.file else {}),
                "row": after.row,
                "prompt": text.prompt,
                **({"messages": turns} if turns else {}),
                **({"tools": tools} if tools else {}),
                **({"shortened": True} if text.shortened else {}),
                **(
                    {"choices": prepared.choice_sets[sets[after.index]].texts} if own and sets[after.index] >= 0 else {}
                ),
                "expected": text.completion,
                "baseline": before.predicted,
                "tuned": after.predicted,
                **_judged(before, after, None if values is None else next(values)),
                "baselineExactMatch": before.exact_match,
                "tunedExactMatch": after.exact_match,
                **_generated("baseline", before),
                **_generated("tuned", after),
                **_exact_tokens(before, after),
                **_thoughts(text, before, after),
            }
            if few_shot is not None:
                line |= _shown(few_shot, at, examples[at], graded=graded)
            if text.unanswerable:
                line["unanswerable"] = text.unanswerable
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _exact_tokens(before: RowResult, after: RowResult) -> dict[str, Any]:
    if after.unclosed is not None:  # tokens of thoughts are no verdict on an answer
        return {}
    return {
        "baselineExactMatchTokens": before.exact_match_tokens,
        "tunedExactMatchTokens": after.exact_match_tokens,
    }


def _generated(name: str, row: RowResult) -> dict[str, Any]:
    """The text beside a chosen label, where the two differ; its beginning where no more was needed for the verdict."""
    if row.generated is None or (row.generated == row.predicted and not row.partial):
        return {}
    return {f"{name}Generated": row.generated, **({f"{name}GeneratedCut": True} if row.partial else {})}


def _thoughts(text: TextRow, before: RowResult, after: RowResult) -> dict[str, Any]:
    """What was thought, as the row has it and by both models, and whether a model came to no end of it."""
    if after.unclosed is None:
        return {}
    told: dict[str, Any] = {"thought": text.thought} if text.thought else {}
    for name, row in (("baseline", before), ("tuned", after)):
        told |= {f"{name}Thought": row.thought} if row.thought else {}
        told |= {f"{name}Unfinished": True} if row.unclosed else {}
    return told


def _judged(before: RowResult, after: RowResult, values: tuple[float, float] | None) -> dict[str, Any]:
    if values is None:
        return {"baselineCorrect": before.correct, "tunedCorrect": after.correct}
    return {"baselineScore": round(values[0], 6), "tunedScore": round(values[1], 6)}


def _shown(few_shot: Evaluation, at: int, examples: int, *, graded: bool) -> dict[str, Any]:
    row = few_shot.rows[at]
    verdict = {"fewShotScore": round(few_shot.row_values[at], 6)} if graded else {"fewShotCorrect": row.correct}
    return {
        "fewShot": row.predicted,
        **verdict,
        "fewShotExactMatch": row.exact_match,
        **_generated("fewShot", row),
        "fewShotExamples": examples,
    }


def write_results(
    path: Path,
    report: StageReport,
    layers: AdaptedLayers | None = None,
    *,
    wordings: Mapping[str, int] | None = None,
    calibration: Mapping[str, Sequence[ConfidenceBin]] | None = None,
    acceptance: Mapping[str, Any] | None = None,
    definitions: Mapping[str, str] | None = None,
) -> None:
    """Write the report's numbers as ``results.json``.

    Beside them stand what each metric is, what the job asked of its result and whether it accepts it, the layers that
    carry adapters and those that don't, the train rows by wording of the prompt, and by model how sure it was against
    how often it was right.
    """
    content = report.to_wire()
    if definitions:
        content["definitions"] = dict(definitions)
    if acceptance is not None:
        content["acceptance"] = dict(acceptance)
    if wordings:
        content["trainRowsByWording"] = dict(wordings)
    if calibration:
        content["calibration"] = {
            model: [{name: round(value, 6) for name, value in asdict(one).items()} for one in bins]
            for model, bins in calibration.items()
        }
    if layers is not None:
        carrying, bare = layers
        content["adapters"] = {"layers": carrying, "withoutAdapters": bare}
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
