"""predictions.jsonl: a person understands each verdict from its line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from finetune_trainer.evaluation.results import Evaluation, RowResult
from finetune_trainer.output.predictions import write_predictions
from tests.support.evaluations import answered_row
from tests.support.tiny_model import make_model, make_prepared


def line_of(folder: Path, before: RowResult, after: RowResult) -> dict[str, Any]:
    make_model(folder / "model")
    prepared = make_prepared(AutoTokenizer.from_pretrained(folder / "model"))
    scored = [Evaluation(metric="ChoiceAccuracy", rows=(row,), seconds=1.0) for row in (before, after)]
    write_predictions(folder / "lines", prepared, *scored, few_shot=scored[1], examples=[2])
    line: dict[str, Any] = json.loads((folder / "lines").read_text())
    return line


def test_the_text_stands_beside_a_label_that_is_another_one(tmp_path: Path) -> None:
    row = answered_row(0, expected="card", predicted="account")
    before = dataclasses.replace(row, generated="I", partial=True)
    line = line_of(tmp_path, before, dataclasses.replace(row, exact_match=True, generated="card"))
    assert (line["baselineGenerated"], line["baselineGeneratedCut"]) == ("I", True)
    assert (line["tuned"], line["tunedCorrect"], line["tunedExactMatch"]) == ("account", False, True)
    assert (line["tunedGenerated"], line["fewShotGenerated"]) == ("card", "card")
    assert not {"tunedGeneratedCut", "fewShotGeneratedCut"} & line.keys()


def test_a_text_that_is_the_label_is_told_once(tmp_path: Path) -> None:
    row = dataclasses.replace(answered_row(0, expected="card", predicted="card"), generated="card")
    assert not any("Generated" in key for key in line_of(tmp_path, row, row))


def test_a_text_that_only_begins_as_the_label_does_is_told(tmp_path: Path) -> None:
    row = dataclasses.replace(answered_row(0, expected="x", predicted="card"), generated="card", partial=True)
    assert line_of(tmp_path, row, row)["tunedGeneratedCut"]
