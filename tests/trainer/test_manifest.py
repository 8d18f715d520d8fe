"""Only a manifest that this very job wrote stands for its result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_api.report import StageReport
from finetune_trainer.manifest import build_manifest, report_of_manifest
from finetune_trainer.output import FileEntry
from finetune_trainer.prepared import Prepared
from tests.support.tiny_job import job_spec, make_stage_input
from tests.support.tiny_model import make_prepared
from tests.support.tiny_tokenizer import make_tokenizer

DIGEST = "sha256:" + "d" * 64
INPUT = make_stage_input("train", job_spec(model="s3://abc/m/", rows="s3://abc/r.csv", output="s3://abc/o/"))
REPORT = StageReport(stage="train", spec_digest=DIGEST)
FILES = [FileEntry("model/config.json", DIGEST, 7)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_prepared(make_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def written(prepared: Prepared, change: Callable[[dict[str, Any]], object] = lambda _: None) -> bytes:
    document = json.loads(build_manifest(stage_input=INPUT, prepared=prepared, report=REPORT, files=FILES, threads=2))
    change(document)
    return json.dumps(document).encode()


def test_the_report_and_the_files_come_back(prepared: Prepared) -> None:
    assert report_of_manifest(written(prepared), stage_input=INPUT, spec_digest=DIGEST) == (REPORT, FILES)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["job"].update(uid="uid-2"),
        lambda d: d["report"].update(specDigest="sha256:" + "e" * 64),
        lambda d: d["report"].update(stage="prepare"),
        lambda d: d["report"].update(failure={"reason": "Diverged", "message": "x"}),
        lambda d: d.pop("report"),
        lambda d: d["files"].append({"path": "../up", "sha256": DIGEST, "bytes": 1}),
    ],
)
def test_any_other_manifest_is_not_taken(change: Callable[[dict[str, Any]], object], prepared: Prepared) -> None:
    assert report_of_manifest(written(prepared, change), stage_input=INPUT, spec_digest=DIGEST) is None


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{", b"\xff"])
def test_what_is_no_manifest_is_not_taken(data: bytes) -> None:
    assert report_of_manifest(data, stage_input=INPUT, spec_digest=DIGEST) is None
