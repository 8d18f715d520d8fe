"""A result that is whole and not good enough: the job ends as NotAccepted, and all of it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.digest import sha256_digest
from finetune_api.job import Evaluation
from finetune_api.reasons import REASONS, Reason
from finetune_api.report import encode_report, parse_report
from finetune_api.status import Results, Score
from finetune_api.trust import ResultWarning
from finetune_trainer.job.gate import acceptance, objections
from finetune_trainer.job.run import exit_code
from tests.support.result_copy import ResultCopy, snapshot
from tests.support.stage_run import run
from tests.support.tiny_job import job_spec, make_stage_input


def results(metric: Any = "ChoiceAccuracy", *, score: str = "0.8000", gain: str = "+0.1000") -> Results:
    return Results(
        metric=metric,
        baseline=Score(score="0.7000", correct=70, total=100),
        test=Score(score=score, correct=80, total=100),
        gain=gain,
        warnings=[ResultWarning(type="FewTestRows", message="99 test rows are few"), ResultWarning(type="NoGain")],
    )


def found(**asked: Any) -> list[str]:
    return list(objections(results(), Evaluation(**asked)))


def test_a_job_that_asks_for_nothing_takes_every_result() -> None:
    assert found() == []


@pytest.mark.parametrize(("least", "taken"), [("0.8", True), ("0.80", True), ("8e-1", True), ("0.8001", False)])
def test_the_score_has_to_reach_what_was_asked_for(least: str, taken: bool) -> None:
    told = [] if taken else [f"evaluation.minScore asks for {least}, and ChoiceAccuracy is 0.8000"]
    assert found(min_score=least) == told


@pytest.mark.parametrize(("least", "taken"), [("0.1", True), ("-0.5", True), ("0.1001", False)])
def test_the_gain_has_to_reach_what_was_asked_for(least: str, taken: bool) -> None:
    assert found(min_gain=least) == ([] if taken else [f"evaluation.minGain asks for {least}, and the gain is +0.1000"])


def test_a_loss_may_be_refused_or_borne() -> None:
    lost = results(gain="-0.0100")
    assert list(objections(lost, Evaluation(min_gain="0"))) == [
        "evaluation.minGain asks for 0, and the gain is -0.0100"
    ]
    assert not list(objections(lost, Evaluation(min_gain="-0.02")))


def test_a_perplexity_may_be_at_most_what_was_asked_for() -> None:
    low = results("Perplexity", score="8.0000", gain="+2.0000")
    assert not list(objections(low, Evaluation(metric="Perplexity", min_score="8", min_gain="2")))
    assert list(objections(low, Evaluation(metric="Perplexity", min_score="7.9"))) == [
        "evaluation.minScore asks for 7.9, and Perplexity is 8.0000"
    ]


def test_only_the_warnings_that_are_named_end_the_job() -> None:
    assert found(fail_on=["OneLabel"]) == []
    assert found(fail_on=["FewTestRows", "OneLabel"]) == ["evaluation.failOn names FewTestRows: 99 test rows are few"]
    assert found(fail_on=["NoGain"]) == ["evaluation.failOn names NoGain"]  # the report had no room for its words


def test_what_was_asked_is_told_of_a_result_that_is_that_too() -> None:
    assert acceptance(results(), Evaluation()) is None
    assert acceptance(results(), Evaluation(min_score="0.8", fail_on=["OneLabel"])) == {
        "accepted": True,
        "asked": {"minScore": "0.8", "failOn": ["OneLabel"]},
    }


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert len(found(min_score="0.9", min_gain="0.2", fail_on=["NoGain", "FewTestRows"])) == 4


def test_a_result_that_is_not_good_enough_is_stored_and_told_and_not_accepted(tiny: Path, tmp_path: Path) -> None:
    spec = job_spec(
        model=f"file://{tiny}/model/", rows=f"file://{tiny}/rows.jsonl", output=f"file://{tmp_path}/out/", epochs=1
    )
    spec["evaluation"] = {"minGain": "1", "failOn": ["FewTestRows", "OneLabel"]}
    report, log = run(make_stage_input("train", spec, includes_prepare=True), tmp_path)
    assert report.failure is not None
    assert (report.failure.reason, exit_code(report)) == (Reason.NOT_ACCEPTED, 24)
    assert report.failure.message.startswith("evaluation.minGain asks for 1, and the gain is ")
    assert "evaluation.failOn names FewTestRows: " in report.failure.message
    assert report.failure.message.endswith(REASONS[Reason.NOT_ACCEPTED].mend)
    assert report.results is not None
    assert "FewTestRows" in [warning.type for warning in report.results.warnings or []]
    # All of it is there, and says of itself that it is whole.
    manifest = (tmp_path / "out/manifest.json").read_bytes()
    assert report.digest == sha256_digest(manifest)
    assert json.loads(manifest)["report"]["results"] == report.results.to_wire()
    assert {artifact.name for artifact in report.artifacts or []} >= {"model", "report", "results"}
    for told in ("report/index.html", "README.md"):
        text = (tmp_path / "out" / told).read_text()
        assert "Not accepted." in text
        assert "evaluation.minGain asks for 1, and the gain is " in text
        assert "evaluation.failOn names FewTestRows: " in text
    stored = json.loads((tmp_path / "out/results.json").read_text())
    objected = stored["acceptance"].pop("objections")
    assert "; ".join(objected).rstrip(". ") in report.failure.message
    assert stored["acceptance"] == {
        "accepted": False,
        "asked": {"minGain": "1", "failOn": ["FewTestRows", "OneLabel"]},
    }
    assert [line["event"] for line in log if line["level"] == "error"] == ["not_accepted"]
    read = parse_report(encode_report(report).decode())
    assert read is not None
    assert read.not_accepted
    # A later attempt of the job trains nothing and says the same.
    before = snapshot(tmp_path / "out")
    again, _ = run(make_stage_input("train", spec, includes_prepare=True), tmp_path)
    assert again.failure is not None
    assert again.failure.model_copy(update={"log": None}) == report.failure.model_copy(update={"log": None})
    assert (again.results, again.digest) == (report.results, report.digest)
    assert snapshot(tmp_path / "out") == before


def test_a_stored_result_is_held_against_what_a_later_job_asks_for(copy: ResultCopy) -> None:
    """Nothing is trained again: what a result has to reach is no part of what made it."""
    before = snapshot(copy.out)
    report, _ = copy.stage(evaluation={"minGain": "1"})
    assert report.failure is not None
    assert (report.failure.reason, report.reused, report.not_accepted) == (Reason.NOT_ACCEPTED, True, True)
    again, _ = copy.stage(uid="uid-3", evaluation={"minGain": "0", "failOn": ["NoGain"]})
    assert (again.failure, again.reused) == (None, True)
    assert snapshot(copy.out) == before  # it tells what the job that made it asked for
