"""The line of an example that `make examples` prints, from the results.json that a job leaves."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import table
from hack.examples.outcome import COLUMNS, outcome_of

RESULTS: dict[str, Any] = {
    "dataset": {"train": 96, "test": 48},
    "results": {
        "metric": "ChoiceAccuracy",
        "baseline": {"score": "0.2292", "total": 40},
        "test": {"score": "0.9000", "total": 40, "ci95": ["0.7695", "0.9604"]},
        "pValue": "0.0001",
        "references": [{"name": "MajorityClass", "score": "0.2000"}],
    },
}


def _row(document: dict[str, Any], *, accepted: bool = True) -> dict[str, object]:
    outcome = outcome_of("labels", json.dumps(document), seconds=61.6, accepted=accepted)
    return dict(zip(COLUMNS, outcome.cells(), strict=True))


def test_a_line_has_both_scores_as_the_report_tells_them_and_the_rows_that_were_scored() -> None:
    assert _row(RESULTS) == {
        "example": "labels",
        "metric": "ChoiceAccuracy",
        "before": "0.2292",
        "few-shot": "-",
        "after": "0.9000",
        "p": "0.0001",
        "train": 96,
        "test rows": 40,
        "seconds": 62,
        "end": "Succeeded",
    }


def test_a_few_shot_score_stands_between_the_two() -> None:
    results = {**RESULTS["results"], "fewShot": {"score": "0.5000"}}
    assert _row({**RESULTS, "results": results})["few-shot"] == "0.5000"


def test_a_job_that_a_gate_refused_is_told_so() -> None:
    assert _row(RESULTS, accepted=False)["end"] == "NotAccepted"


def test_every_column_of_the_table_has_a_cell() -> None:
    text = table(COLUMNS, [outcome_of("labels", json.dumps(RESULTS), seconds=1, accepted=True).cells()])
    assert "0.9000" in text


def test_figures_tell_the_interval_and_what_needs_no_model() -> None:
    figures = outcome_of("labels", json.dumps(RESULTS), seconds=1, accepted=True).figures()
    assert figures["after_ci95"] == ("0.7695", "0.9604")
    assert figures["references"] == {"MajorityClass": "0.2000"}
