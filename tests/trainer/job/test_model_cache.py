"""Whole jobs on a runtime with a model cache: the second one has its weights from there, and the same result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_api.runtime import ModelCache, ResolvedStorage, Storage
from tests.support.s3proxy import S3Proxy, running_proxy
from tests.support.s3server import S3Server
from tests.support.stage_run import run
from tests.support.tiny_job import make_stage_input


@dataclass(frozen=True)
class Ran:
    """What a job said of the cache, what it read of the file of weights, and how its model did."""

    told: list[str]
    read: int
    result: tuple[str, str | None]


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with running_proxy(s3) as proxy:
        yield proxy


@pytest.fixture
def model(s3: S3Server, bucket: str, tiny: Path) -> str:
    for path in (tiny / "model").iterdir():
        s3.client().upload_file(str(path), bucket, f"model/{path.name}")
    return f"s3://{bucket}/model/"


@pytest.fixture
def job(cheap: dict[str, Any], model: str, proxy: S3Proxy, credentials: Path, tmp_path: Path) -> Callable[[str], Ran]:
    """Runs a job to its end, with this name of its output."""
    storage = ResolvedStorage(model=Storage(prefix="s3://", endpoint=proxy.endpoint))

    def run_one(output: str) -> Ran:
        spec = {**cheap, "model": {"uri": model}, "output": {"uri": f"file://{tmp_path}/{output}/"}}
        cache = ModelCache(claim_name="models", max_size="1Gi")
        stage_input = make_stage_input("train", spec, storage=storage, includes_prepare=True)
        report, log = run(stage_input.model_copy(update={"model_cache": cache}), tmp_path, credentials=credentials)
        assert report.failure is None, report.failure
        assert report.results is not None
        told = [line["event"] for line in log if line["event"].startswith("model_cache")]
        weights = f"/{model.removeprefix('s3://')}model.safetensors"
        return Ran(told, proxy.sent.pop(weights), (report.results.test.score, report.results.test.loss))

    return run_one


def test_the_second_job_of_a_model_has_the_same_result_without_downloading_it(
    job: Callable[[str], Ran], tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "model-cache").mkdir()
    first, second = job("first"), job("second")
    assert (first.told, second.told) == (["model_cache_stored"], ["model_cache_hit"])
    assert first.result == second.result
    size = (tiny / "model" / "model.safetensors").stat().st_size
    assert first.read > size
    assert second.read < size / 10  # the head alone, for prepare and for train


def test_a_cache_that_is_no_folder_fails_no_job(job: Callable[[str], Ran], tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "model-cache").write_text("no folder")
    ran = job("only")
    assert ran.told == ["model_cache_unusable"]
    assert ran.read > (tiny / "model" / "model.safetensors").stat().st_size
