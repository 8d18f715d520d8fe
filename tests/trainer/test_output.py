"""One job owns a folder, and what is stored there is proven by reading it back."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_api.reasons import Reason
from finetune_api.stage import JobIdentity
from finetune_trainer.access import Access
from finetune_trainer.console import no_progress
from finetune_trainer.errors import StageError
from finetune_trainer.output import (
    MANIFEST,
    OWNER,
    FileEntry,
    artifact_of,
    claim,
    files_of,
    parse_entries,
    publish,
    read_back,
)
from finetune_trainer.store import Store
from tests.support.s3server import S3Server

DIGEST = "sha256:" + "5" * 64


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, access: Access, tmp_path: Path) -> Store:
    if request.param == "s3":
        return access.open("output", f"s3://{request.getfixturevalue('bucket')}/out/")
    return access.open("output", f"file://{tmp_path}/out/")


def job(uid: str = "uid-1") -> JobIdentity:
    return JobIdentity(namespace="team-a", name="mine", uid=uid)


def refusal(store: Store, uid: str = "uid-1") -> str:
    with pytest.raises(StageError) as caught:
        claim(store, job(uid), DIGEST)
    assert caught.value.reason is Reason.OUTPUT_EXISTS
    assert store.uri in caught.value.message
    return caught.value.message


def test_an_empty_folder_is_taken(store: Store) -> None:
    claim(store, job(), DIGEST)
    assert json.loads(store.get_bytes(OWNER)) == {"jobUid": "uid-1", "job": "team-a/mine", "specDigest": DIGEST}


def test_the_same_job_comes_back(store: Store) -> None:
    claim(store, job(), DIGEST)
    store.put_bytes("model/half", b"x")
    claim(store, job(), DIGEST)


def test_another_job_is_refused_and_told_whose_it_is(store: Store) -> None:
    claim(store, job(), DIGEST)
    text = refusal(store, "uid-2")
    assert "files of another job (team-a/mine, uid-1)" in text


def test_a_complete_result_of_another_job_is_called_complete(store: Store) -> None:
    claim(store, job(), DIGEST)
    store.put_bytes(MANIFEST, b"{}")
    assert "the complete result of another job" in refusal(store, "uid-2")


def test_a_folder_with_files_of_nobody_is_not_taken(store: Store) -> None:
    store.put_bytes("model.safetensors", b"precious")
    assert "holds files that no job wrote, such as 'model.safetensors'" in refusal(store)
    assert store.size(OWNER) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"jobUid": "\\u001b[31m"}'])
def test_a_damaged_owner_is_a_stranger_and_not_repeated(content: bytes, store: Store) -> None:
    store.put_bytes(OWNER, content)
    assert "unknown owner" in refusal(store)


def test_of_two_jobs_at_once_one_gets_the_folder(store: Store) -> None:
    begin = threading.Barrier(4)

    def try_to_claim(number: int) -> Reason | None:
        begin.wait()
        try:
            claim(store, job(f"uid-{number}"), DIGEST)
        except StageError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(try_to_claim, range(4)))
    assert sorted(ends, key=str) == [None, *[Reason.OUTPUT_EXISTS] * 3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "made/deep").mkdir(parents=True)
    (tmp_path / "made/a").write_bytes(b"a" * 10)
    (tmp_path / "made/deep/b").write_bytes(b"b" * 20)
    return tmp_path / "made"


def test_what_is_stored_is_listed_with_digest_and_size(store: Store, folder: Path) -> None:
    entries = publish(store, files_of(folder, "model/"), no_progress)
    assert [(entry.path, entry.bytes) for entry in entries] == [("model/a", 10), ("model/deep/b", 20)]
    assert entries[0].sha256 == "sha256:bf2cb58a68f684d95a3b78ef8f661c9a4e5b09e82cc8f9cc88cce90528caeb27"


def test_what_was_stored_is_read_back(store: Store, folder: Path, tmp_path: Path) -> None:
    entries = publish(store, files_of(folder), no_progress)
    read_back(store, entries, tmp_path / "back", no_progress)
    assert (tmp_path / "back/deep/b").read_bytes() == b"b" * 20


def test_one_flipped_bit_in_storage_is_found(
    access: Access, s3: S3Server, bucket: str, folder: Path, tmp_path: Path
) -> None:
    store = access.open("output", f"s3://{bucket}/out/")
    entries = publish(store, files_of(folder), no_progress)
    stored = s3.folder / bucket / "out/deep/b"
    data = bytearray(stored.read_bytes())
    data[7] ^= 1
    stored.write_bytes(data)
    with pytest.raises(StageError) as caught:
        read_back(store, entries, tmp_path / "back", no_progress)
    assert caught.value.reason is Reason.VERIFICATION_FAILED
    assert f"s3://{bucket}/out/deep/b" in caught.value.message


def test_a_file_that_is_gone_from_storage_is_found(store: Store, folder: Path, tmp_path: Path) -> None:
    entries = publish(store, files_of(folder), no_progress)
    store.delete("a")
    with pytest.raises(StageError) as caught:
        read_back(store, entries, tmp_path / "back", no_progress)
    assert caught.value.reason is Reason.VERIFICATION_FAILED


@pytest.mark.parametrize(
    "value", [None, {}, [1], [{"path": "a"}], [{"path": "../a", "sha256": "x", "bytes": 1}], [{"path": 1}]]
)
def test_a_list_of_files_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(StageError) as caught:
        parse_entries(value, place="s3://b/manifest.json")
    assert caught.value.reason is Reason.VERIFICATION_FAILED


def test_an_artifact_sums_up_its_own_files() -> None:
    entries = [FileEntry("model/a", "x", 1), FileEntry("model/b", "y", 2), FileEntry("models", "z", 4)]
    artifact = artifact_of("model", "model/", entries)
    assert artifact.bytes == 3
    assert artifact.digest != artifact_of("model", "model/", entries[:1]).digest


def test_deleting_what_is_gone_is_no_error(store: Store) -> None:
    store.delete("gone")
