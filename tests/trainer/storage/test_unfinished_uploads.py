"""Uploads that a killed pod left in parts: no list shows them, they take space, and the next pod drops them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.output.folder import abort_uploads
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.store import Store
from tests.support.result_copy import ResultCopy
from tests.support.s3proxy import Fault, S3Proxy, running_proxy
from tests.support.s3server import S3Server

OURS = (
    "out/checkpoints/000000004-001-dead/masters.safetensors",
    "out/model/model.safetensors",
    "out/predictions.jsonl",
)
THEIRS = ("out/model.bin", "out/deeper/model/model.safetensors", "elsewhere/model/model.safetensors")


@pytest.fixture
def store(access: Access, bucket: str) -> Store:
    return access.open("output", f"s3://{bucket}/out/")


def begin_uploads(s3: S3Server, bucket: str, *keys: str) -> None:
    client = s3.client()
    for key in keys:
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"half of it")


def unfinished(s3: S3Server, bucket: str) -> set[str]:
    return {item["Key"] for item in s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads", [])}


def test_files_of_jobs_are_dropped_and_those_of_others_stay(store: Store, s3: S3Server, bucket: str) -> None:
    begin_uploads(s3, bucket, *OURS, *THEIRS)
    assert unfinished(s3, bucket) == {*OURS, *THEIRS}
    abort_uploads(store)
    assert unfinished(s3, bucket) == set(THEIRS)


def test_where_nothing_was_cut_off_nothing_is_said(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        abort_uploads(store)
    assert caplog.text == ""


@pytest.fixture
def proxied(s3: S3Server, bucket: str, credentials: Path) -> Iterator[tuple[S3Proxy, Store]]:
    """The same folder behind a proxy that can refuse."""
    begin_uploads(s3, bucket, *OURS)
    with running_proxy(s3) as proxy:
        storage = ResolvedStorage(output=Storage(prefix="s3://", endpoint=proxy.endpoint))
        access = Access(storage=storage, credentials_dir=credentials, scratch=credentials.parent, max_attempts=1)
        yield proxy, access.open("output", f"s3://{bucket}/out/")


@pytest.mark.parametrize(("method", "word"), [("GET", "uploads"), ("DELETE", "uploadId=")])
@pytest.mark.parametrize("fault", [Fault(403, "AccessDenied"), Fault(501, "NotImplemented")])
def test_a_store_that_refuses_costs_space_only(
    method: str, word: str, fault: Fault, proxied: tuple[S3Proxy, Store], caplog: pytest.LogCaptureFixture
) -> None:
    proxy, store = proxied
    proxy.refuse = lambda verb, path: fault if verb == method and word in path else None
    with caplog.at_level(logging.INFO):
        abort_uploads(store)
    assert proxy.refused
    assert "left behind" in caplog.text


def test_an_upload_that_ended_meanwhile_is_no_failure(
    proxied: tuple[S3Proxy, Store], s3: S3Server, bucket: str
) -> None:
    proxy, store = proxied
    ended = Fault(404, "NoSuchUpload")
    proxy.refuse = lambda verb, path: ended if verb == "DELETE" and "model/" in path else None
    abort_uploads(store)
    assert unfinished(s3, bucket) == {OURS[1]}


def test_a_local_folder_shows_no_file_that_a_killed_run_left_in_part_and_drops_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib, shutil\n"
        "from finetune_trainer.storage.local import LocalStore\n"
        "shutil.copyfile = lambda *_: os._exit(9)\n"
        "store = LocalStore(role='output', folder=pathlib.Path(sys.argv[1]))\n"
        "store.put_file(sys.argv[2], pathlib.Path(sys.executable))\n"
    )
    store = LocalStore(role="output", folder=tmp_path)
    for key in ("model/model.safetensors", "model.bin"):
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path), key], check=False).returncode == 9
    left = {path.parent.name: path for path in tmp_path.rglob("*.part")}
    assert set(left) == {"model", tmp_path.name}
    assert store.list() == []
    abort_uploads(store)
    assert list(tmp_path.rglob("*.part")) == [left[tmp_path.name]]


def test_prepare_drops_them_once_the_folder_is_its_jobs(copy: ResultCopy, s3: S3Server, bucket: str) -> None:
    begin_uploads(s3, bucket, *OURS)
    report, _ = copy.stage(output={"ifExists": "Overwrite"})
    assert report.failure is None
    assert unfinished(s3, bucket) == set()


def test_train_drops_them(copy: ResultCopy, s3: S3Server, bucket: str) -> None:
    assert copy.full.prepare is not None
    begin_uploads(s3, bucket, *OURS)
    report, _ = copy.stage("train", uid="uid-1", prepared_digest=copy.full.prepare.digest)
    assert report.failure is None
    assert unfinished(s3, bucket) == set()


@pytest.mark.parametrize("includes_prepare", [False, True])
def test_those_of_another_jobs_folder_stay(includes_prepare: bool, copy: ResultCopy, s3: S3Server, bucket: str) -> None:
    begin_uploads(s3, bucket, *OURS)
    if includes_prepare:
        report, _ = copy.stage("train", includes_prepare=True)
        assert report.reused
    else:
        report, _ = copy.stage(output={"ifExists": "Fail"})
        assert report.failure is not None
    assert unfinished(s3, bucket) == set(OURS)
