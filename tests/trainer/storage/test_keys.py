"""A key of S3 is bytes: what a URI names is read and written, never a neighbour that a clean path would name."""

from __future__ import annotations

import socket
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_api.job import Dataset, Model
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.fetch import fetch_model
from finetune_trainer.storage.rows import fetch_dataset
from finetune_trainer.storage.store import StoredFile, checked_key, download, upload
from tests.support.fetch_kit import safetensors
from tests.support.s3stub import S3Stub, running_stub
from tests.trainer.conftest import write_keys

MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": safetensors(3)}


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with running_stub() as store:
        yield store


@pytest.fixture
def names_of_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name below localhost is this machine, as the standard has it and not every resolver does."""
    ask = socket.getaddrinfo

    def answer(host: Any, *args: Any, **named: Any) -> Any:
        return ask("127.0.0.1" if str(host).endswith(".localhost") else host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.fixture
def access(stub: S3Stub, tmp_path: Path) -> Access:
    for role in ("model", "dataset", "output"):
        write_keys(tmp_path / "keys" / role, AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret")
    one = Storage(prefix="s3://", endpoint=stub.endpoint)
    storage = ResolvedStorage(model=one, dataset=one, output=one)
    return Access(storage=storage, credentials_dir=tmp_path / "keys", scratch=tmp_path, max_attempts=1)


def failure(call: Callable[[], object]) -> StageError:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value


def rows(access: Access, folder: Path, **fields: object) -> dict[str, Path]:
    dataset = Dataset.model_validate({"template": {"name": "topic"}, **fields}, context={"local": True})
    files = fetch_dataset(dataset, access=access, folder=folder / "rows", progress=no_progress)
    return {file.part or "all": file.path for file in files}


NFC, NFD = (unicodedata.normalize(form, "für.jsonl") for form in ("NFC", "NFD"))
NEIGHBOURS = [
    ("team//rows.jsonl", "team/rows.jsonl"),
    ("team/rows.jsonl", "team//rows.jsonl"),
    ("/rows.jsonl", "rows.jsonl"),
    ("//rows.jsonl", "/rows.jsonl"),
    ("a///b/rows.jsonl", "a/b/rows.jsonl"),
    ("a+b.jsonl", "a b.jsonl"),
    ("a%20b.jsonl", "a b.jsonl"),
    ("a%2Fb.jsonl", "a/b.jsonl"),
    ("100%.jsonl", "100%25.jsonl"),
    (NFC, NFD),
    (NFD, NFC),
    ("...x/rows..jsonl", "x/rows.jsonl"),
    ("data", "data/rows.jsonl"),
    ("a&b=c;d.jsonl", "a"),
    ("~x/(1)'!*.jsonl", "x"),
    ("k/" * 400 + "rows.jsonl", "rows.jsonl"),
]


@pytest.mark.parametrize(("named", "neighbour"), NEIGHBOURS)
@pytest.mark.parametrize("style", ["Path", "Virtual"])
@pytest.mark.usefixtures("names_of_localhost")
def test_rows_are_read_from_the_key_that_the_uri_names(  # noqa: PLR0917 - fixtures
    style: str, named: str, neighbour: str, stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    prefix = "bucket/"
    if style == "Virtual":  # the bucket is in the host's name then, and the path is the key alone
        prefix = ""
        one = Storage.model_validate(
            {
                "prefix": "s3://",
                "endpoint": stub.endpoint.replace("127.0.0.1", "localhost"),
                "addressingStyle": "Virtual",
            }
        )
        access = Access(
            storage=ResolvedStorage(dataset=one), credentials_dir=tmp_path / "keys", scratch=tmp_path, max_attempts=1
        )
    stub.objects = {prefix + named: b"the named", prefix + neighbour: b"the neighbour"}
    assert rows(access, tmp_path, uri=f"s3://bucket/{named}")["all"].read_bytes() == b"the named"


@pytest.mark.parametrize(("named", "neighbour"), NEIGHBOURS)
def test_a_neighbour_is_never_read_in_the_place_of_rows_that_are_not_there(
    named: str, neighbour: str, stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    stub.objects = {"bucket/" + neighbour: b"the neighbour"}
    error = failure(lambda: rows(access, tmp_path, uri=f"s3://bucket/{named}"))
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert f"there is no file at s3://bucket/{named}" in error.message


@pytest.mark.parametrize("folder", ["m/", "m//", "/m/", "//", "m", "a//m", "ü+%20/"])
def test_a_model_is_read_from_the_folder_that_the_uri_names(
    folder: str, stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    below = folder if folder.endswith("/") else folder + "/"
    for other in ("m/", "m//", "/m/", "//", "a//m/", "a/m/", "ü+%20/", "ü  /", ""):
        for name in MODEL:
            stub.objects[f"bucket/{other}{name}"] = b"neighbour"
    for name, content in MODEL.items():
        stub.objects[f"bucket/{below}{name}"] = content
    got = fetch_model(Model(uri=f"s3://bucket/{folder}"), access=access, folder=tmp_path / "m", progress=no_progress)
    assert {path.name: path.read_bytes() for path in got.folder.iterdir()} == MODEL


@pytest.mark.parametrize("folder", ["out/", "out//", "/out/", "//", "out", "a//out"])
def test_output_is_written_below_the_key_that_the_uri_names(
    folder: str, stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    below = folder if folder.endswith("/") else folder + "/"
    (tmp_path / "f").write_bytes(b"a file")
    store = access.open("output", f"s3://bucket/{folder}")
    store.put_bytes("owner.json", b"{}", if_none_match=True)
    upload(store, {"model/f": tmp_path / "f"})
    assert stub.objects == {f"bucket/{below}owner.json": b"{}", f"bucket/{below}model/f": b"a file"}
    assert [(file.key, file.size) for file in store.list()] == [("model/f", 6), ("owner.json", 2)]
    assert store.uri == f"s3://bucket/{below}"


def test_markers_of_folders_are_no_files(stub: S3Stub, access: Access, tmp_path: Path) -> None:
    stub.objects = {f"bucket/m/{name}": content for name, content in MODEL.items()}
    stub.objects |= {"bucket/m/": b"", "bucket/m/sub/": b"", "bucket/m//": b"", "bucket/m/config.json/": b""}
    assert [file.key for file in access.open("model", "s3://bucket/m/").list()] == sorted(MODEL)
    got = fetch_model(Model(uri="s3://bucket/m/"), access=access, folder=tmp_path / "m", progress=no_progress)
    assert {path.name for path in got.folder.iterdir()} == set(MODEL)


def test_a_folder_of_markers_only_holds_no_model(stub: S3Stub, access: Access, tmp_path: Path) -> None:
    stub.objects = {"bucket/m/": b"", "bucket/m/sub/": b""}
    error = failure(
        lambda: fetch_model(Model(uri="s3://bucket/m/"), access=access, folder=tmp_path / "m", progress=no_progress)
    )
    assert (error.reason, "no files" in error.message) == (Reason.MODEL_NOT_FOUND, True)


def test_a_key_that_is_file_and_folder_is_read_as_what_the_field_needs(
    stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    stub.objects = {"bucket/both": b"rows", **{f"bucket/both/{name}": content for name, content in MODEL.items()}}
    assert rows(access, tmp_path, uri="s3://bucket/both")["all"].read_bytes() == b"rows"
    got = fetch_model(Model(uri="s3://bucket/both"), access=access, folder=tmp_path / "m", progress=no_progress)
    assert {path.name for path in got.folder.iterdir()} == set(MODEL)


def test_rows_at_a_folder_are_told_as_a_folder_with_a_file_of_it(stub: S3Stub, access: Access, tmp_path: Path) -> None:
    stub.objects = {"bucket/data/part-0.jsonl": b"{}"}
    error = failure(lambda: rows(access, tmp_path, uri="s3://bucket/data"))
    assert error.reason is Reason.DATASET_NOT_FOUND
    assert (
        "end it with '/' to read all files in it, or name one file in it, such as s3://bucket/data/part-0.jsonl"
        in error.message
    )


def test_a_model_at_a_file_is_told_as_a_file(stub: S3Stub, access: Access, tmp_path: Path) -> None:
    stub.objects = {"bucket/m/model.safetensors": b"x"}
    uri = "s3://bucket/m/model.safetensors"
    error = failure(lambda: fetch_model(Model(uri=uri), access=access, folder=tmp_path, progress=no_progress))
    assert (error.reason, "name the folder that holds it" in error.message) == (Reason.MODEL_NOT_FOUND, True)


@pytest.mark.parametrize(
    ("key", "words"), [("team//rows.jsonl", "'//' is not '/'"), ("my%20rows.jsonl", "%20 is three characters")]
)
def test_a_key_that_may_be_meant_otherwise_is_explained(
    key: str, words: str, stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    assert words in failure(lambda: rows(access, tmp_path, uri=f"s3://bucket/{key}")).message


def test_fetched_rows_keep_the_name_that_the_user_wrote(stub: S3Stub, access: Access, tmp_path: Path) -> None:
    stub.objects = {f"bucket/{part}/intents.v2.jsonl": part.encode() for part in ("a", "b")}
    files = {"train": "s3://bucket/a/intents.v2.jsonl", "test": "s3://bucket/b/intents.v2.jsonl"}
    got = rows(access, tmp_path, files=files)
    assert {part: (path.name, path.read_text()) for part, path in got.items()} == {
        "train": ("intents.v2.jsonl", "a"),
        "test": ("intents.v2.jsonl", "b"),
    }


def test_a_name_too_long_for_a_disk_keeps_its_ending(stub: S3Stub, access: Access, tmp_path: Path) -> None:
    key = "ü" * 400 + ".jsonl"
    stub.objects = {f"bucket/{key}": b"rows"}
    got = rows(access, tmp_path, uri=f"s3://bucket/{key}")["all"]
    assert (got.suffix, got.read_bytes(), len(got.name.encode()) <= 200) == (".jsonl", b"rows", True)


def test_a_model_file_with_a_name_too_long_for_a_disk_is_an_invalid_model(
    stub: S3Stub, access: Access, tmp_path: Path
) -> None:
    stub.objects = {f"bucket/m/{name}": content for name, content in MODEL.items()}
    stub.objects["bucket/m/" + "x" * 300 + ".json"] = b"{}"
    error = failure(
        lambda: fetch_model(Model(uri="s3://bucket/m/"), access=access, folder=tmp_path / "m", progress=no_progress)
    )
    assert (error.reason, "too long for a disk" in error.message) == (Reason.MODEL_INVALID, True)


@pytest.mark.parametrize("key", ["a//b", "a/./b", "./a", "a/", "/", "a/.", "..", "a/..", "//a"])
def test_two_keys_never_become_one_local_file(key: str, access: Access, tmp_path: Path) -> None:
    assert failure(lambda: checked_key(key)).reason is Reason.VERIFICATION_FAILED
    store = access.open("output", "s3://bucket/out/")
    error = failure(lambda: download(store, [StoredFile(key, 1)], tmp_path / "inside" / "folder"))
    assert error.reason is Reason.VERIFICATION_FAILED
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "keys" not in path.parts]
