"""Whole jobs with a few-shot baseline: what status, files, card and page tell, and what happens without room for it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import FineTuneJobSpec
from finetune_trainer.__main__ import _summarise
from finetune_trainer.evaluation.stats import mcnemar
from finetune_trainer.job import score as score_module
from finetune_trainer.process.console import Console
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input, topic_rows, write_rows


def finish(folder: Path, tiny: Path, evaluation: dict[str, Any], **training: Any) -> Finished:
    spec = job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{write_rows(folder / 'rows.jsonl', topic_rows(120))}",
        output=f"file://{folder}/out/",
        **{"epochs": 3, **training},
    )
    spec["evaluation"] = evaluation
    report, log = run(make_stage_input("train", spec, includes_prepare=True), folder)
    return Finished(spec, None, report, log, folder / "out")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Finished:
    return finish(tmp_path_factory.mktemp("few"), tiny, {"fewShot": 4})


def test_status_has_the_score_beside_zero_shot_with_its_cost_and_its_paired_test(done: Finished) -> None:
    results = done.report.results
    assert results is not None
    shown = results.few_shot
    assert shown is not None
    rows = lines(done.output / "predictions.jsonl")
    assert (shown.examples, shown.fewer, shown.total) == (4, 0, len(rows))
    assert shown.correct == sum(row["fewShotCorrect"] for row in rows)
    assert shown.score == f"{sum(row['fewShotCorrect'] for row in rows) / len(rows):.4f}"
    gained = sum(row["tunedCorrect"] and not row["fewShotCorrect"] for row in rows)
    lost = sum(row["fewShotCorrect"] and not row["tunedCorrect"] for row in rows)
    assert shown.p_value == str(mcnemar(gained=gained, lost=lost))
    assert float(shown.gain or 0) == pytest.approx((gained - lost) / len(rows), abs=1e-4)
    assert shown.context_tokens is not None
    assert shown.context_tokens > 4 * 10
    assert shown.ci95 is not None


def test_files_card_page_and_table_tell_it_between_before_and_after(done: Finished) -> None:
    results = done.report.results
    assert results is not None
    assert results.few_shot is not None
    told = results.few_shot.score
    card, page = ((done.output / name).read_text() for name in ("README.md", "report/index.html"))
    table = [line.split("|")[1:3] for line in card.splitlines() if line.startswith(("| before", "| after"))]
    assert [cell.strip() for line in table for cell in line] == [
        "before",
        results.baseline.score,
        "before, 4-shot",
        told,
        "after",
        results.test.score,
    ]
    assert f"before, 4-shot {told}, interval" in page
    for text in (card, page):
        assert f"{results.few_shot.context_tokens} tokens a row" in text
    stored = json.loads((done.output / "results.json").read_text())
    assert stored["results"]["fewShot"]["score"] == told
    stream = io.StringIO()
    _summarise(Console(job="tiny", stage=None, stream=stream, interactive=True), done.report, "file:///out/")
    assert "before, 4-shot" in stream.getvalue()
    assert "over few-shot" in stream.getvalue()


def test_zero_shot_and_tuned_scores_are_those_of_the_job_without_it(done: Finished, tmp_path: Path, tiny: Path) -> None:
    plain = finish(tmp_path, tiny, {}).report.results
    results = done.report.results
    assert results is not None
    assert plain is not None
    assert plain.few_shot is None
    assert results.model_copy(update={"few_shot": None, "warnings": None}) == plain.model_copy(
        update={"warnings": None}
    )


def test_without_room_there_is_no_score_and_a_warning_that_can_end_the_job(tmp_path: Path, tiny: Path) -> None:
    done = finish(tmp_path, tiny, {"fewShot": 2, "failOn": ["NoFewShot"]}, maxLength=64)
    results = done.report.results
    assert results is not None
    assert results.few_shot is None
    told = {warning.type: warning.message for warning in results.warnings or []}
    assert told["NoFewShot"] == "no example fits beside a test row in training.maxLength 64; raise it"
    assert done.report.failure is not None
    assert done.report.failure.reason == "NotAccepted"
    assert "fewShot" not in lines(done.output / "predictions.jsonl")[0]


def test_only_the_rows_of_the_limit_are_asked(tmp_path: Path, tiny: Path) -> None:
    results = finish(tmp_path, tiny, {"fewShot": 2, "limit": 10}).report.results
    assert results is not None
    assert results.few_shot is not None
    assert (results.few_shot.total, results.few_shot.examples) == (10, 2)


def test_an_attempt_that_goes_on_takes_the_kept_score(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the pod is gone")

    with monkeypatch.context() as broken:
        broken.setattr("finetune_trainer.job.tune.train_resumably", stop)
        first = finish(tmp_path, tiny, {"fewShot": 3})
    assert first.report.failure is not None
    assert (first.output / "checkpoints/few_shot.json").is_file()
    asked: list[int] = []
    evaluate = score_module.evaluate

    def counted(*args: Any, **more: Any) -> Any:
        asked.append(1)
        return evaluate(*args, **more)

    monkeypatch.setattr(score_module, "evaluate", counted)
    second = finish(tmp_path, tiny, {"fewShot": 3})
    (kept,) = [event for event in second.log if event["event"] == "few_shot_score"]
    (measured,) = [event for event in first.log if event["event"] == "few_shot_score"]
    assert (kept["measured"], measured["measured"]) == (False, True)
    assert kept["score"] == measured["score"]
    assert len(asked) == 2  # the stored model on test and on train rows
    assert not (second.output / "checkpoints").exists()


@pytest.mark.parametrize(
    "template", [{"name": "topic"}, {"inline": {"prompt": "{{ text }}", "completion": "{{ label }}"}}]
)
def test_conversations_are_refused_and_nothing_else(template: dict[str, Any]) -> None:
    spec = {
        "model": {"uri": "s3://models/m/"},
        "dataset": {"uri": "s3://data/rows.jsonl", "template": template},
        "evaluation": {"fewShot": 4},
    }
    assert FineTuneJobSpec.model_validate(spec).evaluation.few_shot == 4
    spec["dataset"] = {"uri": "s3://data/rows.jsonl", "template": {"name": "messages"}}
    with pytest.raises(ValueError, match="not for template messages, whose rows are conversations already"):
        FineTuneJobSpec.model_validate(spec)
