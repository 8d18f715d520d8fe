"""Whole jobs by templates that the library does not hold as one text: PromptSource, several wordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.templates import RuntimeTemplate
from finetune_trainer.__main__ import main
from tests.support.stage_run import run
from tests.support.tiny_job import job_document, make_stage_input, topic_rows
from tests.support.tiny_model import WORDS

LABELS = sorted(WORDS.values())
PROMPTS = {
    "templates": {
        "1": {
            "name": "topic",
            "jinja": "{% if label != -1 %}{{ text }} Topic: ||| {{ answer_choices[label] }}{% endif %}",
            "answer_choices": " ||| ".join(LABELS),
        }
    }
}


def numbered(folder: Path) -> tuple[Path, Path]:
    """Rows whose labels are numbers, every tenth of them unknown, and the file with the prompt."""
    rows = [
        {"text": row["text"], "label": -1 if i % 10 == 0 else LABELS.index(row["label"])}
        for i, row in enumerate(topic_rows())
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "templates.yaml").write_text(json.dumps(PROMPTS))
    return folder / "rows.jsonl", folder / "templates.yaml"


def asked(cheap: dict[str, Any], folder: Path) -> dict[str, Any]:
    rows, prompts = numbered(folder)
    template = {"promptsource": {"uri": f"file://{prompts}", "name": "topic"}}
    split = {"trainPercent": 60, "validationPercent": 10, "testPercent": 30}
    dataset = {**cheap["dataset"], "uri": f"file://{rows}", "template": template, "split": split}
    return {**cheap, "dataset": dataset}


def test_a_job_by_a_prompt_of_promptsource_runs_to_its_scores(cheap: dict[str, Any], tmp_path: Path) -> None:
    stage_input = make_stage_input("train", asked(cheap, tmp_path), includes_prepare=True)
    report, _ = run(stage_input, tmp_path)
    assert report.failure is None
    assert report.dataset is not None
    assert (report.dataset.skipped, report.dataset.dropped) == (24, 0)
    assert report.results is not None
    assert report.results.metric == "ChoiceAccuracy"
    assert report.results.test.total == report.dataset.test
    output = Path(stage_input.output_uri.removeprefix("file://"))
    card = (output / "README.md").read_text()
    assert "template `topic` of PromptSource" in card
    assert "24 that the template renders to nothing for" in card
    first = json.loads((output / "predictions.jsonl").read_text().splitlines()[0])
    assert first["prompt"].endswith(" Topic:")
    assert first["expected"] in LABELS


def test_render_shows_what_a_prompt_of_promptsource_makes_of_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, prompts = numbered(tmp_path)
    document = job_document(model="file:///nowhere/", rows=f"file://{rows}", output=f"file://{tmp_path}/out/")
    document["spec"]["dataset"]["template"] = {"promptsource": {"uri": f"file://{prompts}", "name": "topic"}}
    document["spec"]["dataset"]["split"].pop("stratifyBy")
    (tmp_path / "job.yaml").write_text(json.dumps(document))
    assert main(["render", str(tmp_path / "job.yaml"), "--rows", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("--- prompt") == 2
    assert " Topic:\n--- completion\n" in shown


def test_a_job_in_several_wordings_tells_their_counts(cheap: dict[str, Any], tmp_path: Path) -> None:
    template = {**cheap["dataset"]["template"], "paraphrases": "All"}
    spec = {**cheap, "dataset": {**cheap["dataset"], "template": template}}
    stage_input = make_stage_input("train", spec, includes_prepare=True)
    report, _ = run(stage_input, tmp_path)
    assert report.failure is None
    assert report.dataset is not None
    output = Path(stage_input.output_uri.removeprefix("file://"))
    counts = json.loads((output / "results.json").read_text())["trainRowsByWording"]
    assert set(counts) == {"default", "about", "shelf"}
    assert sum(counts.values()) == report.dataset.train
    told = ", ".join(f"{name} {counts[name]}" for name in ("about", "default", "shelf"))
    assert f"Train rows by wording of the prompt: {told}." in (output / "README.md").read_text()


URGENCY = """
name: shelf
description: Which shelf a text belongs to.
fields: {text: {description: The text.}, label: {description: The shelf.}}
answer: label
choices: labels
prompt: "Shelf? {{ choices | listed }} {{ text }}"
completion: "{{ label }}"
"""


def test_a_job_by_a_template_of_its_runtime_is_known_by_the_text_which_its_manifest_keeps(
    cheap: dict[str, Any], tmp_path: Path
) -> None:
    spec = {**cheap, "dataset": {**cheap["dataset"], "template": {"name": "shelf"}}}
    own = RuntimeTemplate(name="shelf", document=URGENCY)
    stage_input = make_stage_input("train", spec, includes_prepare=True).model_copy(update={"template": own})
    report, _ = run(stage_input, tmp_path)
    assert report.failure is None
    output = Path(stage_input.output_uri.removeprefix("file://"))
    assert json.loads((output / "manifest.json").read_text())["template"] == own.to_wire()
    first = json.loads((output / "predictions.jsonl").read_text().splitlines()[0])
    assert first["prompt"].startswith(f"Shelf? {', '.join(LABELS)} ")
    assert "template shelf" in (output / "README.md").read_text()

    other = RuntimeTemplate(name="shelf", document=URGENCY.replace("Shelf?", "Which shelf?"))
    job = stage_input.job.model_copy(update={"uid": "uid-2"})
    report, _ = run(stage_input.model_copy(update={"template": other, "job": job}), tmp_path)
    assert report.failure is not None
    assert report.failure.reason == "OutputExists"
    assert "of another spec, or of another text of template shelf;" in report.failure.message
    report, _ = run(stage_input.model_copy(update={"job": job}), tmp_path)
    assert report.reused
