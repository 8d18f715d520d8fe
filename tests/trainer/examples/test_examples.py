"""Every folder below examples/ holds a job that runs as it stands, and says what it shows.

All rows are prepared and all sealed ones scored. Models with random weights learn nothing from more steps, so their
trainings end after a few; ``make examples`` runs them whole. The tiny T5 does learn, and is trained as its job says.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
import yaml

from finetune_api.report import StageReport
from tests.support.examples import EXAMPLES, NAMES, Examples

MODEL_FILES: Final = {"Adapter": "adapter/adapter_model.safetensors", "Model": "model/model.safetensors"}


def _spec(name: str) -> dict[str, dict[str, object]]:
    spec: dict[str, dict[str, object]] = yaml.safe_load((EXAMPLES / name / "job.yaml").read_text())["spec"]
    return spec


def _classification(report: StageReport) -> None:
    assert report.results is not None
    assert report.results.metric == "ChoiceAccuracy"
    assert {one.name for one in report.results.references or []} == {"MajorityClass", "BagOfWords"}


def _encoder_decoder(report: StageReport) -> None:
    results = report.results
    assert results is not None
    assert results.metric == "ChoiceAccuracy"
    assert float(results.test.score) > float(results.baseline.score) + 0.3
    assert float(results.p_value or 1) < 0.001


def _metric(name: str) -> Callable[[StageReport], None]:
    def check(report: StageReport) -> None:
        assert report.results is not None
        assert report.results.metric == name

    return check


def _gate(report: StageReport) -> None:
    assert report.failure is not None
    assert "minScore" in report.failure.message


def _hub(report: StageReport) -> None:
    data = report.dataset
    assert data is not None
    assert (data.revision, data.rows, data.validation) == ("a" * 40, 160, 30)


EXPECTATIONS: Final[dict[str, Callable[[StageReport], None]]] = {
    "classification": _classification,
    "encoder-decoder": _encoder_decoder,
    "extraction": _metric("JSONFieldAccuracy"),
    "hub-parquet": _hub,
    "promptsource": _metric("ChoiceAccuracy"),
    "quality-gate": _gate,
    "summarisation": _metric("ROUGEL"),
}
"""What else holds for the report of a folder's job."""
SHORT: Final = {"training": {"epochs": 1, "maxSteps": 6}}
WHOLE: Final = {"encoder-decoder"}
"""Folders whose training isn't cut short."""
NOT_ACCEPTED: Final = {"quality-gate"}
"""Folders whose job ends as NotAccepted with a model that learns nothing."""


@pytest.mark.parametrize("name", NAMES)
def test_an_example_ends_with_scores_and_a_model(name: str, examples: Examples, tmp_path: Path) -> None:
    report = examples.run(name, tmp_path, change=None if name in WHOLE else SHORT)
    if name in NOT_ACCEPTED:
        assert report.failure is not None
        assert report.failure.reason == "NotAccepted"
    else:
        assert report.failure is None, report.failure
    assert report.results is not None
    assert report.results.baseline.total == report.results.test.total > 0
    assert report.results.test.score is not None
    training, output = _spec(name)["training"], _spec(name)["output"]
    export = output.get("export") or ("Adapter" if training.get("method", "LoRA") == "LoRA" else "Model")
    files = {file for kind, file in MODEL_FILES.items() if export in (kind, "Both")}
    stored = examples.stored(f"{name}/")
    assert files | {"results.json", "predictions.jsonl", "report/index.html", "README.md", "manifest.json"} <= stored
    EXPECTATIONS.get(name, lambda _: None)(report)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_has_a_page_that_the_table_of_examples_links(name: str) -> None:
    assert (EXAMPLES / name / "README.md").read_text(encoding="utf-8").startswith("# ")
    linked = re.findall(r"^\| \[([a-z0-9-]+)\]\(([^)]+)\) \| \S", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert (name, f"{name}/README.md") in linked


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_named_and_placed_alike(name: str) -> None:
    document = yaml.safe_load((EXAMPLES / name / "job.yaml").read_text())
    assert document["metadata"] == {"name": name, "namespace": "team-a"}
    assert document["spec"]["output"]["uri"] == f"s3://demo-results/{name}/"


def test_the_gate_opens_for_a_model_that_reaches_it(examples: Examples, tmp_path: Path) -> None:
    reached = {"minScore": "0.1", "minGain": "-1", "failOn": ["OneLabel"]}
    kept_apart = {"uri": "s3://demo-results/quality-gate-reached/"}
    report = examples.run("quality-gate", tmp_path, change={**SHORT, "evaluation": reached, "output": kept_apart})
    assert report.failure is None
    assert report.results is not None


def test_the_strict_gate_names_all_that_falls_short_and_keeps_the_results(examples: Examples, tmp_path: Path) -> None:
    report = examples.run("quality-gate", tmp_path, file="strict.yaml", change=SHORT)
    assert report.failure is not None
    assert report.failure.reason == "NotAccepted"
    assert all(word in report.failure.message for word in ("minScore", "FewTestRows"))
    assert report.results is not None
    assert "model/model.safetensors" in examples.stored("quality-gate-strict/")
