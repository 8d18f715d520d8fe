"""A whole job on a dataset of the hub: one commit from prepare to the manifest, though its branch moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from tests.support.hubserver import HubServer
from tests.support.stage_run import run
from tests.support.tiny_job import make_stage_input, topic_rows

HUB = "hf://datasets/org/rows"


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def spec(cheap: dict[str, Any], hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    rows = topic_rows()
    hub.repos["datasets/org/rows"] = {"train.jsonl": lines(rows[:160]), "test.jsonl": lines(rows[160:])}
    cheap["dataset"] |= {"uri": HUB, "split": {}}
    return cheap


def moved(hub: HubServer) -> None:
    """The branch has gone on to other rows."""
    rows = topic_rows()
    hub.commits["main"] = "f" * 40
    hub.repos["datasets/org/rows"] = {"train.jsonl": lines(rows[:100]), "test.jsonl": lines(rows[100:])}


def test_the_commit_that_prepare_read_is_that_of_the_result(
    spec: dict[str, Any], hub: HubServer, tmp_path: Path
) -> None:
    commit = hub.commits["main"]
    first, _ = run(make_stage_input("prepare", spec), tmp_path)
    moved(hub)
    stage = make_stage_input("train", spec, prepared_digest=first.digest)
    report, _ = run(stage, tmp_path)
    for one in (first, report):
        assert one.failure is None
        assert one.dataset is not None
        assert (one.dataset.revision, one.dataset.test) == (commit, 80)
    output = tmp_path / "out"
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["datasetRevision"] == manifest["report"]["dataset"]["revision"] == commit
    card = next(output.rglob("README.md")).read_text()
    assert f"`{HUB}` (revision `{commit}`)" in card
    assert "datasets:\n- org/rows\n" in card
    assert f"Commit of the dataset: <code>{commit}</code>" in (output / "report/index.html").read_text()


def test_a_second_attempt_takes_the_rows_that_the_first_one_stored(
    spec: dict[str, Any], hub: HubServer, tmp_path: Path
) -> None:
    first, _ = run(make_stage_input("prepare", spec), tmp_path)
    moved(hub)
    again, _ = run(make_stage_input("prepare", spec), tmp_path)
    assert again == first


def test_a_result_of_rows_that_have_changed_since_is_not_reused(
    spec: dict[str, Any], hub: HubServer, tmp_path: Path
) -> None:
    def whole(uid: str) -> StageReport:
        return run(make_stage_input("train", spec, uid=uid, includes_prepare=True), tmp_path)[0]

    assert whole("uid-1").failure is None
    same = whole("uid-2")
    assert (same.failure, same.reused) == (None, True)
    moved(hub)
    refused = whole("uid-3").failure
    assert refused is not None
    assert refused.reason is Reason.OUTPUT_EXISTS
    assert "the rows of dataset have changed since" in refused.message
