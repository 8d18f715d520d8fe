"""What is stored is proven by reading it back, and only what jobs write is ever removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.output.folder import JOB_FILES, JOB_FOLDERS, LOGS, MANIFEST, OWNER, artifact_of, clear, damage
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.files import FileEntry, files_of, parse_entries, publish, read_back
from finetune_trainer.storage.store import Store
from tests.support.s3server import S3Server
from tests.support.stage_run import Finished


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, access: Access, tmp_path: Path) -> Store:
    if request.param == "s3":
        return access.open("output", f"s3://{request.getfixturevalue('bucket')}/out/")
    return access.open("output", f"file://{tmp_path}/out/")


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


def keys(store: Store) -> list[str]:
    return [file.key for file in store.list()]


def test_clearing_removes_what_jobs_write_and_nothing_else(store: Store) -> None:
    for key in (
        *JOB_FILES,
        *(folder + "deep/x" for folder in JOB_FOLDERS),
        OWNER,
        LOGS + "x",
        "notes.txt",
        "models/mine",
    ):
        store.put_bytes(key, b"x")
    clear(store)
    assert keys(store) == [LOGS + "x", "models/mine", "notes.txt", OWNER]


def test_while_a_folder_is_cleared_it_is_not_complete(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_bytes(MANIFEST, b"x")

    def crash(**_: object) -> None:
        raise StageError(Reason.STORAGE_UNAVAILABLE, "gone")

    monkeypatch.setattr(store, "list", crash)
    with pytest.raises(StageError):
        clear(store)
    assert store.size(MANIFEST) is None


def test_everything_that_a_job_leaves_is_known_to_be_a_jobs(lora_on_disk: Finished) -> None:
    paths = [path.relative_to(lora_on_disk.output) for path in lora_on_disk.output.rglob("*") if path.is_file()]
    known = (*JOB_FOLDERS, LOGS)
    strangers = [p for p in map(Path.as_posix, paths) if p not in (*JOB_FILES, OWNER) and not p.startswith(known)]
    assert strangers == []


def test_files_as_they_were_written_are_undamaged(store: Store, folder: Path) -> None:
    assert damage(store, publish(store, files_of(folder), no_progress)) is None


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "deep/b is gone"), (b"b", "deep/b has 1 bytes where 20"), (b"c" * 20, "deep/b is not what was written")],
)
def test_a_damaged_file_is_named(content: bytes | None, words: str, store: Store, folder: Path) -> None:
    entries = publish(store, files_of(folder), no_progress)
    store.delete("deep/b")
    if content is not None:
        store.put_bytes("deep/b", content)
    assert words in (damage(store, entries) or "")


def test_a_large_file_goes_by_its_size_and_is_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * 1024 * 1024 + 1
    store.put_bytes("model/weights", b"w" * size)
    read: list[str] = []
    monkeypatch.setattr(store, "get_bytes", read.append)
    assert damage(store, [FileEntry("model/weights", "sha256:other", size)]) is None
    assert "bytes where" in (damage(store, [FileEntry("model/weights", "sha256:other", size + 1)]) or "")
    assert read == []
