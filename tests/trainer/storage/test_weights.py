"""Weights that are not whole are found by their heads, in prepare, without downloading them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_trainer.errors import StageError
from finetune_trainer.storage.access import Access
from tests.support.fetch_kit import FILES, failure, get, safetensors
from tests.support.s3server import S3Server

SECOND = "model-00002-of-00002.safetensors"
WHOLE = FILES[SECOND]
HEADER = 8 + int.from_bytes(WHOLE[:8], "little")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 500\n"

Put = Callable[[bytes], str]


@pytest.fixture(params=["s3", "local"])
def put(request: pytest.FixtureRequest, s3: S3Server, bucket: str, tmp_path: Path) -> Put:
    """Store the model with this content of its second file; returns the URI."""

    def store(content: bytes) -> str:
        files = {**FILES, SECOND: content}
        for name, data in files.items():
            if request.param == "s3":
                s3.client().put_object(Bucket=bucket, Key=f"model/{name}", Body=data)
            else:
                path = tmp_path / "there" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return f"s3://{bucket}/model/" if request.param == "s3" else f"file://{tmp_path}/there/"

    return store


def refusal(put: Put, content: bytes, access: Access, tmp_path: Path) -> StageError:
    return failure(lambda: get(access, put(content), tmp_path / "model", weights=False))


@pytest.mark.parametrize("kept", [len(WHOLE) - 1, HEADER, HEADER - 1, 9])
def test_a_file_that_was_cut_short_is_refused(put: Put, access: Access, tmp_path: Path, kept: int) -> None:
    error = refusal(put, WHOLE[:kept], access, tmp_path)
    assert error.reason == "ModelInvalid"
    assert f"{SECOND} was cut short: it has {kept} bytes" in error.message


def test_a_pointer_of_git_lfs_is_named_as_one(put: Put, access: Access, tmp_path: Path) -> None:
    error = refusal(put, POINTER, access, tmp_path)
    assert error.reason == "ModelInvalid"
    assert "a pointer of Git LFS" in error.message
    assert "git lfs pull" in error.message


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\0" * 8, b"\0" * 20, b"<html>not found</html>", b"\x05" + b"\0" * 20]
)
def test_what_is_no_safetensors_file_is_refused(put: Put, access: Access, tmp_path: Path, content: bytes) -> None:
    error = refusal(put, content, access, tmp_path)
    assert error.reason == "ModelInvalid"
    assert f"{SECOND} is no safetensors file" in error.message


def test_a_file_without_tensors_is_whole(put: Put, access: Access, tmp_path: Path) -> None:
    get(access, put(b"\x02" + b"\0" * 7 + b"{}"), tmp_path / "model", weights=False)


def test_a_whole_file_is_read_at_its_head_alone(access: Access, s3: S3Server, bucket: str) -> None:
    content = safetensors(10_000)
    s3.client().put_object(Bucket=bucket, Key="model/large", Body=content)
    store = access.open("model", f"s3://{bucket}/model/")
    assert store.get_range("large", 8, 16) == content[8:24]
    assert store.get_range("large", len(content) - 3, 16) == content[-3:]
    assert store.get_range("large", len(content), 16) == b""
