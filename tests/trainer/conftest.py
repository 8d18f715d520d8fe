"""Fixtures of the trainer's tests: a real S3 server, a small model hub, rows."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.storage.access import Access
from tests.support.hubserver import HubServer, running_hub
from tests.support.result_copy import ResultCopy
from tests.support.s3server import S3Server, running_s3
from tests.support.stage_run import Finished, run
from tests.support.tiny_job import job_spec, make_stage_input, write_rows
from tests.support.tiny_model import make_model

# Threads that spin while they wait cost a busy machine most of its time; read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """A fresh bucket."""
    return s3.make_bucket(f"bucket-{next(_numbers)}")


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running_hub() as server:
        yield server


@pytest.fixture
def credentials(tmp_path: Path, s3: S3Server) -> Path:
    """Credentials for all three roles, as kubelet mounts them."""
    folder = tmp_path / "credentials"
    for role in ("model", "dataset", "output"):
        write_keys(folder / role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    return folder


@pytest.fixture
def storage(s3: S3Server) -> ResolvedStorage:
    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    return ResolvedStorage(model=one, dataset=one, output=one)


@pytest.fixture
def access(storage: ResolvedStorage, credentials: Path, tmp_path: Path) -> Access:
    return Access(storage=storage, credentials_dir=credentials, scratch=tmp_path, max_attempts=2)


def write_keys(folder: Path, **keys: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in keys.items():
        (folder / name).write_text(value)


def make_certificate(folder: Path) -> Path:
    """A key and a self-signed certificate for 127.0.0.1 in one file."""
    path = folder / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test -addext subjectAltName=IP:127.0.0.1"
    done = subprocess.run(
        [*command.split(), "-keyout", "-", "-out", "-"], capture_output=True, check=True, text=True, cwd=folder
    )
    path.write_text(done.stdout)
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder and a file of rows."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model(folder / "model")
    write_rows(folder / "rows.jsonl")
    return folder


@pytest.fixture(scope="session")
def full_on_s3(tiny: Path, s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two stages, as with a GPU: everything in S3, a Full fine-tune."""
    folder = tmp_path_factory.mktemp("full")
    bucket = s3.make_bucket("full-job")
    client = s3.client()
    for path in (tiny / "model").iterdir():
        client.upload_file(str(path), bucket, f"model/{path.name}")
    client.upload_file(str(tiny / "rows.jsonl"), bucket, "rows.jsonl")
    for role in ("model", "dataset", "output"):
        write_keys(folder / "keys" / role, AWS_ACCESS_KEY_ID=s3.access_key, AWS_SECRET_ACCESS_KEY=s3.secret_key)
    one = Storage(prefix="s3://", endpoint=s3.endpoint)
    storage = ResolvedStorage(model=one, dataset=one, output=one)
    spec = job_spec(model=f"s3://{bucket}/model/", rows=f"s3://{bucket}/rows.jsonl", output=f"s3://{bucket}/out/")
    first, log = run(make_stage_input("prepare", spec, storage=storage), folder, credentials=folder / "keys")
    assert first.failure is None, first.failure
    second, more = run(
        make_stage_input("train", spec, storage=storage, prepared_digest=first.digest),
        folder,
        credentials=folder / "keys",
    )
    assert second.failure is None, second.failure
    return Finished(spec, first, second, log + more, s3.folder / bucket / "out")


@pytest.fixture
def copy(full_on_s3: Finished, s3: S3Server, bucket: str, tmp_path: Path, credentials: Path) -> ResultCopy:
    """The result of that job in a bucket of its own."""
    return ResultCopy(full_on_s3, s3, bucket, tmp_path, credentials)


@pytest.fixture(scope="session")
def lora_on_disk(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One stage, as without a GPU: everything on disk, adapters and the merged model."""
    folder = tmp_path_factory.mktemp("lora")
    spec = job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{tiny}/rows.jsonl",
        output=f"file://{folder}/out/",
        method="LoRA",
        lora={"rank": 16, "alpha": 32},
        learningRate="5e-3",
        batchSize=8,
        epochs=10,
    )
    spec["output"]["export"] = "Both"
    report, log = run(make_stage_input("train", spec, includes_prepare=True), folder)
    assert report.failure is None, report.failure
    return Finished(spec, None, report, log, folder / "out")


@pytest.fixture
def cheap(tiny: Path, tmp_path: Path) -> dict[str, Any]:
    """The spec of a job whose training takes no time."""
    return job_spec(
        model=f"file://{tiny}/model/",
        rows=f"file://{tiny}/rows.jsonl",
        output=f"file://{tmp_path}/out/",
        epochs=1,
    )
