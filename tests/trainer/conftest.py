"""Fixtures of the trainer's tests: a real S3 server, a small model hub, rows."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.access import Access
from tests.support.hubserver import HubServer, running_hub
from tests.support.s3server import S3Server, running_s3

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
