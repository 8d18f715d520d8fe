"""A URI that ends with '/' is all files of rows below it, of one format, in the order of their keys."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetune_api.dataset import Dataset
from finetune_api.digest import digest_of
from finetune_api.reasons import Reason
from finetune_trainer.data.bad_rows import BadRowLog
from finetune_trainer.data.table import read_table
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rowfiles import RowFile, content_digests
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.fetch_kit import failure
from tests.support.s3server import S3Server


def dataset(uri: str, **fields: object) -> Dataset:
    about = {"template": {"name": "topic"}, "badRows": {"maxPercent": 100}, **fields}
    return Dataset.model_validate({"uri": uri, **about}, context={"local": True})


def put(s3: S3Server, bucket: str, **files: bytes) -> None:
    for key, data in files.items():
        s3.client().put_object(Bucket=bucket, Key=key, Body=data)


def row(text: str) -> bytes:
    return json.dumps({"text": text}).encode() + b"\n"


def fetched(access: Access, about: Dataset, folder: Path) -> list[RowFile]:
    return fetch_dataset(about, access=access, folder=folder / "fetched", progress=no_progress)


def read(access: Access, about: Dataset, folder: Path) -> list[tuple[str, object]]:
    """Where each row stands, and its text."""
    table = read_table(fetched(access, about, folder), about, BadRowLog(about))
    return [(record.where, record.values["text"]) for _, record in table.records()]


def local(folder: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        (folder / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "there" / name).write_bytes(data)
    return f"file://{folder}/there/"


def test_all_files_below_a_prefix_are_read_in_the_order_of_their_keys(
    access: Access, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    files = {"in/b/part-1.jsonl": row("3"), "in/a.jsonl": row("1") + row("2"), "in/c.jsonl": row("4")}
    put(s3, bucket, **files, **{"other/d.jsonl": row("5"), "in2/e.jsonl": row("6")})
    assert read(access, dataset(f"s3://{bucket}/in/"), tmp_path) == [
        ("a.jsonl line 1", "1"),
        ("a.jsonl line 2", "2"),
        ("b/part-1.jsonl line 1", "3"),
        ("c.jsonl line 1", "4"),
    ]


def test_what_tools_leave_beside_rows_is_passed_over(access: Access, s3: S3Server, bucket: str, tmp_path: Path) -> None:
    names = ["_SUCCESS", "_metadata", ".part-0.jsonl.crc", "_temporary/0/part-9.jsonl", ".hidden/x.csv", "marker/"]
    put(s3, bucket, **{f"in/{name}": b"" for name in names}, **{"in/part-0.jsonl": row("1")})
    assert read(access, dataset(f"s3://{bucket}/in/"), tmp_path) == [("part-0.jsonl line 1", "1")]


def test_packed_and_plain_files_of_one_format_go_together(access: Access, tmp_path: Path) -> None:
    import gzip

    uri = local(tmp_path, {"a.jsonl.gz": gzip.compress(row("1")), "b.ndjson": row("2")})
    assert [text for _, text in read(access, dataset(uri), tmp_path)] == ["1", "2"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.jsonl", "b.jsonl", "c.csv"], "several formats (2 Jsonl, 1 Csv; Csv: c.csv)"),
        (["a.jsonl", "README.md"], "lies README.md, whose ending tells no format"),
        (["a.json", "b.jsonl"], "several formats (1 Json, 1 Jsonl; Json: a.json)"),
    ],
)
def test_files_of_several_formats_are_refused_before_any_is_fetched(
    names: list[str], words: str, access: Access, tmp_path: Path
) -> None:
    uri = local(tmp_path, {name: row("1") for name in names})
    error = failure(lambda: fetched(access, dataset(uri), tmp_path))
    assert (error.reason, words in error.message) == (Reason.DATASET_INVALID, True)
    assert "dataset.uri" in error.message
    assert not [path for path in (tmp_path / "fetched").rglob("*") if path.is_file()]


def test_a_declared_format_stands_for_endings_that_say_nothing_and_not_for_others(
    access: Access, tmp_path: Path
) -> None:
    uri = local(tmp_path, {"part-00000": row("1"), "part-00001": row("2")})
    assert [text for _, text in read(access, dataset(uri, format="Jsonl"), tmp_path / "a")] == ["1", "2"]
    (tmp_path / "there/part-2.csv").write_bytes(b"text\n3\n")
    error = failure(lambda: fetched(access, dataset(uri, format="Jsonl"), tmp_path / "b"))
    assert "several formats (2 Jsonl, 1 Csv; Csv: part-2.csv)" in error.message


def test_a_declared_format_that_no_file_of_the_folder_has_is_told(access: Access, tmp_path: Path) -> None:
    uri = local(tmp_path, {"a.csv": b"text\n1\n"})
    assert (
        "(1 Csv, 0 Jsonl; Csv: a.csv)"
        in failure(lambda: fetched(access, dataset(uri, format="Jsonl"), tmp_path)).message
    )


@pytest.mark.parametrize(
    ("names", "words"), [([], "there are no files below"), (["_SUCCESS"], "but 1 whose names begin with '_' or '.'")]
)
def test_a_folder_without_rows_is_not_found(names: list[str], words: str, access: Access, tmp_path: Path) -> None:
    uri = local(tmp_path, dict.fromkeys(names, b""))
    error = failure(lambda: fetched(access, dataset(uri), tmp_path))
    assert (error.reason, words in error.message) == (Reason.DATASET_NOT_FOUND, True)


def test_empty_files_among_others_are_passed_over(access: Access, tmp_path: Path) -> None:
    files = {"a.csv": b"", "b.csv": b"text\n", "c.csv": b"text\n1\n"}
    assert read(access, dataset(local(tmp_path, files)), tmp_path) == [("c.csv line 2", "1")]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.csv": b"", "b.csv": b""}, "all 2 files below"),
        ({"a.csv": b"text\n", "b.csv": b"text\n"}, "none of the 2 files of"),
    ],
)
def test_nothing_but_empty_files_is_no_dataset(
    files: dict[str, bytes], words: str, access: Access, tmp_path: Path
) -> None:
    error = failure(lambda: read(access, dataset(local(tmp_path, files)), tmp_path))
    assert (error.reason, words in error.message) == (Reason.DATASET_INVALID, True)


def test_a_file_without_header_among_those_with_one_is_told(access: Access, tmp_path: Path) -> None:
    files = {"a.csv": b"text,label\nx,y\n", "b.csv": b"first,row\nx,y\n"}
    error = failure(lambda: read(access, dataset(local(tmp_path, files)), tmp_path))
    assert error.reason is Reason.DATASET_INVALID
    assert "b.csv has another header than a.csv" in error.message
    assert "'first', 'label', 'row', 'text'" in error.message


def test_headers_in_another_order_are_the_same(access: Access, tmp_path: Path) -> None:
    files = {"a.csv": b"text,label\n1,x\n", "b.csv": b"label,text\nx,2\n"}
    assert [text for _, text in read(access, dataset(local(tmp_path, files)), tmp_path)] == ["1", "2"]


def test_a_part_may_be_a_folder(access: Access, tmp_path: Path) -> None:
    base = local(tmp_path, {"train/a.jsonl": row("1"), "train/b.jsonl": row("2"), "test/a.jsonl": row("3")})
    about = Dataset.model_validate(
        {"files": {"train": base + "train/", "test": base + "test/"}, "template": {"name": "topic"}},
        context={"local": True},
    )
    table = read_table(fetched(access, about, tmp_path), about, BadRowLog(about))
    assert [(record.part, record.where, record.values["text"]) for _, record in table.records()] == [
        ("train", "train a.jsonl line 1", "1"),
        ("train", "b.jsonl line 1", "2"),
        ("test", "test a.jsonl line 1", "3"),
    ]


def test_a_file_that_grows_while_the_folder_is_read_is_told(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = local(tmp_path, {"a.jsonl": row("1")})
    listed = access.open("dataset", uri).list()
    (tmp_path / "there/a.jsonl").write_bytes(row("1") * 2)
    monkeypatch.setattr("finetune_trainer.storage.local.LocalStore.list", lambda self, limit=None: listed)
    error = failure(lambda: fetched(access, dataset(uri), tmp_path))
    assert isinstance(error, StageError)
    assert error.reason is Reason.VERIFICATION_FAILED
    assert "start the job anew when nobody writes there" in error.message


def test_more_files_than_are_read_name_the_bound(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_trainer.storage.rowfiles._MOST_FILES", 2)
    uri = local(tmp_path, {f"{n}.jsonl": row("1") for n in range(3)})
    assert "there are 3 files below" in failure(lambda: fetched(access, dataset(uri), tmp_path)).message


def test_the_digest_of_a_file_in_a_storage_is_compared_too(access: Access, tmp_path: Path) -> None:
    uri = local(tmp_path, {"a.jsonl": row("1")}) + "a.jsonl"
    error = failure(lambda: fetched(access, dataset(uri, digest="sha256:" + "0" * 64), tmp_path))
    assert (error.reason, "dataset.digest says sha256:000" in error.message) == (Reason.VERIFICATION_FAILED, True)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def test_what_was_read_has_a_digest_for_each_field_of_the_spec(access: Access, tmp_path: Path) -> None:
    place = local(tmp_path, {"in/a.jsonl": row("1"), "in/b.jsonl": row("2"), "c.jsonl": row("3")})
    one, folder = sha256(row("3")), digest_of([sha256(row("1")), sha256(row("2"))])

    def told(**where: object) -> dict[str, str]:
        about = {"template": {"name": "topic"}, **where}
        spec = Dataset.model_validate(about, context={"local": True})
        return content_digests(fetched(access, spec, tmp_path / str(len(where) + len(str(where)))), spec)

    assert told(uri=f"{place}c.jsonl") == {"dataset.uri": one}
    assert told(uri=f"{place}in/") == {"dataset.uri": folder}
    files = {"train": f"{place}in/", "test": f"{place}c.jsonl"}
    assert told(files=files) == {"dataset.files.train": folder, "dataset.files.test": one}
    sources = [{"uri": f"{place}c.jsonl"}, {"uri": f"{place}in/"}]
    assert told(sources=sources) == {"dataset.sources[0].uri": one, "dataset.sources[1].uri": folder}
