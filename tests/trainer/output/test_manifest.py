"""Only a manifest of a job that succeeded stands for a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.digest import sha256_digest
from finetune_api.report import StageReport
from finetune_api.status import Results, Score
from finetune_trainer.output.manifest import build_manifest, read_manifest
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.storage.files import FileEntry
from tests.support.tiny_job import job_spec, make_stage_input
from tests.support.tiny_model import make_prepared
from tests.support.tiny_tokenizer import make_tokenizer

DIGEST = "sha256:" + "d" * 64
INPUT = make_stage_input("train", job_spec(model="s3://abc/m/", rows="s3://abc/r.csv", output="s3://abc/o/"))
SCORE = Score(score="0.5", correct=1, total=2)
RESULTS = Results(metric="ChoiceAccuracy", baseline=SCORE, test=SCORE, gain="+0.0")
REPORT = StageReport(stage="train", spec_digest=DIGEST, results=RESULTS)
FILES = [FileEntry("model/config.json", DIGEST, 7)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_prepared(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def written(prepared: Prepared, change: Callable[[dict[str, Any]], object] = lambda _: None) -> bytes:
    data = build_manifest(stage_input=INPUT, prepared=prepared, report=REPORT, files=FILES, machine={"threads": 2})
    document = json.loads(data)
    change(document)
    return json.dumps(document).encode()


def test_the_report_and_the_files_come_back(prepared: Prepared) -> None:
    data = written(prepared)
    manifest = read_manifest(data)
    assert manifest is not None
    assert manifest.report == REPORT.model_copy(update={"digest": sha256_digest(data)})
    assert manifest.files == tuple(FILES)
    assert (manifest.job, manifest.spec) == (INPUT.job, INPUT.spec.to_wire())
    assert manifest.fingerprint == str(prepared.summary.fingerprint)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["report"].update(stage="prepare"),
        lambda d: d["report"].update(failure={"reason": "Diverged", "message": "x"}),
        lambda d: d["report"].update(reused=True),
        lambda d: d["report"].pop("results"),
        lambda d: d.pop("report"),
        lambda d: d.pop("spec"),
        lambda d: d["job"].pop("uid"),
        lambda d: d["files"].append({"path": "../up", "sha256": DIGEST, "bytes": 1}),
    ],
)
def test_any_other_manifest_is_not_taken(change: Callable[[dict[str, Any]], object], prepared: Prepared) -> None:
    assert read_manifest(written(prepared, change)) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff", b'{"report": 1}'])
def test_what_is_no_manifest_is_not_taken(data: bytes) -> None:
    assert read_manifest(data) is None
