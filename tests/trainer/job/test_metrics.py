"""Whole jobs by other metrics than accuracy: what status, card, page and files tell of them."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.__main__ import _summarise
from finetune_trainer.process.console import Console
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows


def spec_of(folder: Path, tiny: Path, metric: str, template: dict[str, Any], rows: list[dict[str, Any]]) -> Any:
    spec = job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{write_rows(folder / 'rows.jsonl', rows)}",
        output=f"file://{folder}/out/",
        epochs=3,
        selectBy="Score",
    )
    spec["dataset"]["template"] = template
    spec["dataset"]["split"].pop("stratifyBy")
    spec["evaluation"] = {"metric": metric}
    return spec


def finish(folder: Path, tiny: Path, metric: str, template: dict[str, Any], rows: list[dict[str, Any]]) -> Finished:
    spec = spec_of(folder, tiny, metric, template, rows)
    report, log = run(make_stage_input("train", spec, includes_prepare=True), folder)
    assert report.failure is None, report.failure
    return Finished(spec, None, report, log, folder / "out")


def instructions(answer: str = "{} it is") -> list[dict[str, Any]]:
    return [{"instruction": f"say {r['text']}", "output": answer.format(r["label"])} for r in topic_rows(120)]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_job_by_rouge_tells_no_count_of_right_rows(tmp_path: Path, tiny: Path) -> None:
    done = finish(tmp_path, tiny, "ROUGEL", {"name": "instruction"}, instructions())
    results = done.report.results
    assert results is not None
    assert (results.metric, results.paired_test) == ("ROUGEL", "PairedBootstrap")
    assert (results.baseline.correct, results.test.correct) == (None, None)
    assert float(results.gain) == pytest.approx(float(results.test.score) - float(results.baseline.score), abs=2e-4)
    assert float(results.gain) > 0.1
    assert [s.name for s in results.test.secondary or []] == ["ROUGE1", "ROUGE2", "ChrF", "ExactMatch"]
    rows = lines(done.output / "predictions.jsonl")
    assert sum(r["tunedScore"] for r in rows) / len(rows) == pytest.approx(float(results.test.score), abs=1e-4)
    assert not any("tunedCorrect" in r for r in rows)
    card, page = ((done.output / name).read_text() for name in ("README.md", "report/index.html"))
    assert f"| after | {results.test.score} |" in card
    assert "paired bootstrap over rows" in card
    assert "McNemar" not in card + page
    assert "Worst rows (25 of" in page
    points = [p for p in lines(done.output / "metrics.jsonl") if "valid_loss" in p]
    assert all("valid_ROUGEL" in p and "valid_accuracy" not in p for p in points)


def test_a_job_by_perplexity_never_calls_the_worse_model_better(tmp_path: Path, tiny: Path) -> None:
    done = finish(tmp_path, tiny, "Perplexity", {"name": "instruction"}, instructions())
    report, results = done.report, done.report.results
    assert results is not None
    before, after = float(results.baseline.score), float(results.test.score)
    assert before > after > 1
    assert after == pytest.approx(math.exp(float(results.test.loss or "0")), rel=1e-3)
    assert results.gain.startswith("+")
    assert float(results.gain) == pytest.approx(before - after, abs=2e-4)
    assert report.validation is not None
    kept = min(report.validation, key=lambda p: float(p.score))  # selectBy Score
    assert kept == min(report.validation, key=lambda p: float(p.loss))
    page, card = (done.output / "report/index.html").read_text(), (done.output / "README.md").read_text()
    assert "lower is better" in page
    assert "lower is better" in card


def test_a_job_by_macro_f1_has_answers_by_label_and_a_bootstrap(tmp_path: Path, tiny: Path) -> None:
    template = {"name": "topic"}
    done = finish(tmp_path, tiny, "MacroF1", template, topic_rows(120))
    results = done.report.results
    assert results is not None
    assert results.paired_test == "PairedBootstrap"
    assert results.test.correct is None
    assert [s.name for s in results.test.secondary or []] == ["ChoiceAccuracy", "BalancedAccuracy", "ExactMatch", "ECE"]
    assert "By answer" in (done.output / "report/index.html").read_text()
    rows = lines(done.output / "predictions.jsonl")
    accuracy = sum(r["tunedCorrect"] for r in rows) / len(rows)
    assert accuracy == pytest.approx(float((results.test.secondary or [])[0].score), abs=1e-4)


def refused(folder: Path, spec: Any) -> tuple[str | None, str]:
    report, _ = run(make_stage_input("prepare", spec), folder)
    failure = report.failure
    assert failure is not None
    return failure.reason, failure.message


@pytest.mark.parametrize("metric", ["ChoiceAccuracyNorm", "MacroF1", "BalancedAccuracy"])
def test_a_metric_over_choices_without_choices_ends_in_prepare(tmp_path: Path, tiny: Path, metric: str) -> None:
    template = {"inline": {"prompt": "{{ instruction }}", "completion": "{{ output }}"}}
    reason, message = refused(tmp_path, spec_of(tmp_path, tiny, metric, template, instructions()))
    assert reason == Reason.INVALID_SPEC
    assert f"evaluation.metric {metric} needs known choices; set dataset.template.choices" in message


def test_labels_of_each_rows_own_are_no_labels(tmp_path: Path, tiny: Path) -> None:
    rows = [
        {"question": r["text"], "choices": [r["label"], f"other {i}"], "answer": 0}
        for i, r in enumerate(topic_rows(60))
    ]
    reason, message = refused(tmp_path, spec_of(tmp_path, tiny, "MacroF1", {"name": "multiple-choice"}, rows))
    assert reason == Reason.INVALID_SPEC
    assert "evaluation.metric MacroF1 needs labels that all rows share" in message
    assert "use ChoiceAccuracy" in message


@pytest.mark.parametrize(
    ("metric", "why"),
    [("NumericMatch", "has no final number"), ("JSONFieldAccuracy", "is no JSON object or array")],
)
def test_expected_answers_that_a_metric_can_not_score_end_in_prepare(
    tmp_path: Path, tiny: Path, metric: str, why: str
) -> None:
    reason, message = refused(tmp_path, spec_of(tmp_path, tiny, metric, {"name": "instruction"}, instructions()))
    assert reason == Reason.DATASET_INVALID
    assert f"evaluation.metric {metric} can't score: row " in message
    assert why in message
    assert "choose another evaluation.metric" in message


def test_a_few_expected_answers_without_a_number_count_as_wrong_and_are_told(tmp_path: Path, tiny: Path) -> None:
    rows = [
        {"instruction": r["instruction"], "output": "none" if i % 10 == 0 else f"{i}"}
        for i, r in enumerate(instructions())
    ]
    spec = spec_of(tmp_path, tiny, "NumericMatch", {"name": "instruction"}, rows)
    report, log = run(make_stage_input("prepare", spec), tmp_path)
    assert report.failure is None, report.failure
    assert any("evaluation.metric NumericMatch can't score; they count as 0" in str(entry) for entry in log)


def test_the_terminal_tells_a_score_without_count(tmp_path: Path, tiny: Path) -> None:
    done = finish(tmp_path, tiny, "BLEU", {"name": "instruction"}, instructions("{} is the very word that it is"))
    stream = io.StringIO()
    console = Console(job="tiny", stage=None, stream=stream, interactive=True)
    _summarise(console, done.report, "s3://b/")
    told = stream.getvalue()
    assert "None of" not in told
    assert f"{done.report.results and done.report.results.test.score}  (" in told
    assert "paired bootstrap" in told


def test_a_job_tells_what_is_reached_without_a_language_model(tmp_path: Path, tiny: Path) -> None:
    done = finish(tmp_path, tiny, "ChoiceAccuracy", {"name": "topic"}, topic_rows(120))
    results = done.report.results
    assert results is not None
    assert results.references is not None
    majority, bag = results.references
    assert (majority.name, bag.name) == ("MajorityClass", "BagOfWords")
    assert float(majority.score) < 0.6 < float(bag.score)  # one word of the text tells the label
    stored = json.loads((done.output / "results.json").read_text())
    assert stored["results"]["references"][1] == {"name": "BagOfWords", "score": bag.score}
    sentence = f"Without a language model the same rows reach {majority.score} (the most frequent label for every row)"
    assert sentence in " ".join((done.output / "README.md").read_text().split())
    assert sentence in (done.output / "report/index.html").read_text()
