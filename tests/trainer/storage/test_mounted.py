"""Volumes and ConfigMaps are read where kubelet has mounted them: not copied, not written to, not left by a link."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.table import read_table
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rowfiles import RowFile, check_unchanged
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.fetch_kit import FILES, WANTED, failure, get

ROWS = b"".join(json.dumps({"text": str(n)}).encode() + b"\n" for n in range(3))


@pytest.fixture
def mounts(tmp_path: Path) -> Path:
    return tmp_path / "mounts"


@pytest.fixture
def access(mounts: Path, tmp_path: Path) -> Access:
    return Access(storage=ResolvedStorage(), credentials_dir=tmp_path, scratch=tmp_path, data_dir=str(mounts))


def dataset(**fields: object) -> Dataset:
    return Dataset.model_validate({"template": {"name": "topic"}, **fields})


def volume(mounts: Path, claim: str = "rows", **files: bytes) -> Path:
    for name, data in files.items():
        (mounts / "pvc" / claim / name).parent.mkdir(parents=True, exist_ok=True)
        (mounts / "pvc" / claim / name).write_bytes(data)
    return mounts / "pvc" / claim


def config_map(mounts: Path, name: str, **keys: bytes) -> Path:
    """As kubelet lays it out: keys are links into a folder that is replaced as a whole."""
    folder = mounts / "configmap" / name
    (folder / "..2024").mkdir(parents=True)
    (folder / "..data").symlink_to("..2024")
    for key, data in keys.items():
        (folder / "..2024" / key).write_bytes(data)
        (folder / key).symlink_to(f"..data/{key}")
    return folder


def fetched(access: Access, folder: Path, **fields: object) -> list[RowFile]:
    return fetch_dataset(dataset(**fields), access=access, folder=folder / "fetched", progress=no_progress)


def texts(access: Access, folder: Path, **fields: object) -> list[object]:
    about = dataset(**fields)
    table = read_table(fetched(access, folder, **fields), about, BadRowLog(about))
    return [record.values["text"] for _, record in table.records()]


def test_a_file_of_a_volume_is_read_where_it_lies(mounts: Path, access: Access, tmp_path: Path) -> None:
    there = volume(mounts, **{"2024/rows.jsonl": ROWS})
    (file,) = fetched(access, tmp_path, uri="pvc://rows/2024/rows.jsonl")
    assert file.path == there / "2024/rows.jsonl"
    assert not [path for path in (tmp_path / "fetched").rglob("*") if path.is_file()]


def test_a_folder_of_a_volume_is_read_in_order(mounts: Path, access: Access, tmp_path: Path) -> None:
    volume(mounts, **{"in/b.jsonl": b'{"text": "b"}', "in/a.jsonl": b'{"text": "a"}', "in/_SUCCESS": b""})
    assert texts(access, tmp_path, uri="pvc://rows/in/") == ["a", "b"]


def test_a_whole_volume_may_be_the_folder(mounts: Path, access: Access, tmp_path: Path) -> None:
    volume(mounts, **{"a.jsonl": ROWS, "lost+found/.keep": b""})
    assert texts(access, tmp_path, uri="pvc://rows/") == ["0", "1", "2"]


def test_a_key_of_a_config_map_is_read_through_the_links_of_kubelet(
    mounts: Path, access: Access, tmp_path: Path
) -> None:
    config_map(mounts, "few", **{"rows.jsonl": ROWS})
    assert texts(access, tmp_path, uri="configmap://few/rows.jsonl") == ["0", "1", "2"]


def test_packed_columns_on_a_volume_are_unpacked_elsewhere(mounts: Path, access: Access, tmp_path: Path) -> None:
    import gzip

    pyarrow.parquet.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "rows.parquet")
    there = volume(mounts, **{"rows.parquet.gz": gzip.compress((tmp_path / "rows.parquet").read_bytes())})
    assert texts(access, tmp_path, uri="pvc://rows/rows.parquet.gz") == ["a", "b"]
    assert [path.name for path in there.iterdir()] == ["rows.parquet.gz"]


@pytest.mark.parametrize("uri", ["pvc://rows/link.jsonl", "pvc://rows/sub/"])
def test_a_link_that_leads_out_of_the_volume_is_refused(uri: str, mounts: Path, access: Access, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_bytes(b'{"text": "canary"}')
    there = volume(mounts, **{"sub/a.jsonl": ROWS})
    for link in (there / "link.jsonl", there / "sub/b.jsonl"):
        link.symlink_to(os.path.relpath(tmp_path / "secret.jsonl", link.parent))
    error = failure(lambda: fetched(access, tmp_path, uri=uri))
    assert (error.reason, "leads out of its volume" in error.message) == (Reason.ACCESS_DENIED, True)
    assert "canary" not in error.message


def test_a_link_within_the_volume_is_followed(mounts: Path, access: Access, tmp_path: Path) -> None:
    there = volume(mounts, **{"blobs/x": ROWS})
    (there / "rows.jsonl").symlink_to("blobs/x")
    assert texts(access, tmp_path, uri="pvc://rows/rows.jsonl") == ["0", "1", "2"]


def test_a_missing_file_names_the_field_and_the_uri(mounts: Path, access: Access, tmp_path: Path) -> None:
    volume(mounts, **{"a.jsonl": ROWS})
    error = failure(lambda: fetched(access, tmp_path, uri="pvc://rows/b.jsonl"))
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert "dataset.uri: there is no file at pvc://rows/b.jsonl" in error.message


def test_a_folder_without_its_slash_is_told_as_one(mounts: Path, access: Access, tmp_path: Path) -> None:
    volume(mounts, **{"in/a.jsonl": ROWS})
    assert (
        "end it with '/' to read all files in it"
        in failure(lambda: fetched(access, tmp_path, uri="pvc://rows/in")).message
    )


def test_a_local_run_is_told_to_use_a_file(access: Access, tmp_path: Path) -> None:
    error = failure(lambda: fetched(access, tmp_path, uri="pvc://rows/a.jsonl"))
    assert (error.reason, "use file:// in a local run" in error.message) == (Reason.INVALID_SPEC, True)


def test_a_file_that_may_not_be_read_names_the_group(
    mounts: Path, access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume(mounts, **{"a.jsonl": ROWS})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    error = failure(lambda: fetched(access, tmp_path, uri="pvc://rows/a.jsonl"))
    assert (error.reason, "user and group 65532" in error.message) == (Reason.ACCESS_DENIED, True)


@pytest.mark.parametrize("change", ["longer", "other", "gone"])
def test_a_file_that_changes_while_it_is_read_ends_the_stage(
    change: str, mounts: Path, access: Access, tmp_path: Path
) -> None:
    path = volume(mounts, **{"a.jsonl": ROWS}) / "a.jsonl"
    files = fetched(access, tmp_path, uri="pvc://rows/a.jsonl")
    check_unchanged(files)
    if change == "gone":
        path.unlink()
    elif change == "longer":
        path.write_bytes(ROWS * 2)
    else:
        (path.parent / "new").write_bytes(ROWS.replace(b"1", b"7"))
        (path.parent / "new").replace(path)
    error = failure(lambda: check_unchanged(files))
    assert (error.reason, "a.jsonl changed while it was read" in error.message) == (Reason.VERIFICATION_FAILED, True)


def test_a_model_on_a_volume_is_used_where_it_lies(mounts: Path, access: Access, tmp_path: Path) -> None:
    there = volume(mounts, "models", **{f"tiny/{name}": FILES[name] for name in WANTED})
    got = get(access, "pvc://models/tiny/", tmp_path / "unused")
    assert (got.folder, got.revision.startswith("sha256:")) == (there / "tiny", True)
    assert get(access, "pvc://models/tiny", tmp_path / "unused").revision == got.revision
    (there / "tiny/tokenizer.json").write_bytes(b"[]")
    assert get(access, "pvc://models/tiny/", tmp_path / "unused").revision != got.revision


def test_a_model_file_that_is_a_link_out_of_the_volume_is_refused(mounts: Path, access: Access, tmp_path: Path) -> None:
    there = volume(mounts, "models", **{f"tiny/{name}": FILES[name] for name in WANTED - {"tokenizer.json"}})
    (tmp_path / "secret").write_bytes(b"{}")
    (there / "tiny/tokenizer.json").symlink_to(tmp_path / "secret")
    assert failure(lambda: get(access, "pvc://models/tiny/", tmp_path)).reason is Reason.ACCESS_DENIED


def test_no_model_on_a_volume_is_not_found(mounts: Path, access: Access, tmp_path: Path) -> None:
    volume(mounts, "models", **{"a.txt": b""})
    error = failure(lambda: get(access, "pvc://models/tiny/", tmp_path))
    assert (error.reason, "there are no files at pvc://models/tiny/" in error.message) == (Reason.MODEL_NOT_FOUND, True)
