"""Rows from the web: by https and digest alone, without secrets, wherever bounded redirects lead."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_api.dataset import Dataset
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import no_progress
from finetune_trainer.storage import web as web_module
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.rowfiles import RowFile
from finetune_trainer.storage.rows import fetch_dataset
from tests.support.fetch_kit import failure
from tests.support.webserver import WebServer, running_web
from tests.trainer.conftest import make_certificate, write_keys

ROWS = b'{"text": "a"}\n'


@pytest.fixture
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def web(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(web_module.time, "sleep", lambda _: None)
    with running_web(certificate) as server:
        server.files["/rows.jsonl"] = ROWS
        yield server


@pytest.fixture
def web_access(certificate: Path, web: WebServer, tmp_path: Path) -> Access:
    pem = certificate.read_text()
    bundle = pem[pem.index("-----BEGIN CERTIFICATE") :]
    write_keys(tmp_path / "keys/dataset", AWS_ACCESS_KEY_ID="canary", AWS_SECRET_ACCESS_KEY="canary", HF_TOKEN="canary")
    storage = ResolvedStorage(dataset=Storage(prefix="https://127.0.0.1", ca_bundle=bundle))
    return Access(storage=storage, credentials_dir=tmp_path / "keys", scratch=tmp_path)


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def fetched(access: Access, uri: str, folder: Path, data: bytes = ROWS) -> list[RowFile]:
    dataset = Dataset(uri=uri, digest=digest_of(data), template={"name": "topic"})  # type: ignore[arg-type]
    return fetch_dataset(dataset, access=access, folder=folder / "rows", progress=no_progress)


def refused(access: Access, uri: str, folder: Path, data: bytes = ROWS) -> StageError:
    return failure(lambda: fetched(access, uri, folder, data))


def test_a_file_is_read_with_the_certificates_of_the_runtime(
    web: WebServer, web_access: Access, tmp_path: Path
) -> None:
    (file,) = fetched(web_access, f"{web.address}/rows.jsonl", tmp_path)
    assert (file.name, file.path.read_bytes()) == ("rows.jsonl", ROWS)


def test_a_server_that_is_not_trusted_is_told_with_the_field_that_mends_it(web: WebServer, tmp_path: Path) -> None:
    access = Access(storage=ResolvedStorage(), credentials_dir=tmp_path, scratch=tmp_path)
    error = refused(access, f"{web.address}/rows.jsonl", tmp_path)
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert f"as caBundle of prefix {web.address}/" in error.message
    assert web.requests == []


def test_another_content_than_the_digest_says_is_refused_with_both(
    web: WebServer, web_access: Access, tmp_path: Path
) -> None:
    error = refused(web_access, f"{web.address}/rows.jsonl", tmp_path, b"other")
    assert error.reason is Reason.VERIFICATION_FAILED
    assert f"has the digest {digest_of(ROWS)}, and dataset.digest says {digest_of(b'other')}" in error.message


def test_no_secret_and_no_cookie_is_sent(web: WebServer, web_access: Access, tmp_path: Path) -> None:
    web.redirects["/start.jsonl"] = "/rows.jsonl"
    fetched(web_access, f"{web.address}/start.jsonl", tmp_path)
    assert [path for path, _ in web.requests] == ["/start.jsonl", "/rows.jsonl"]
    assert all({"authorization", "cookie"}.isdisjoint(headers) for _, headers in web.requests)
    assert "canary" not in str(web.requests)


def test_five_redirects_are_followed_and_a_sixth_is_not(web: WebServer, web_access: Access, tmp_path: Path) -> None:
    web.redirects = {f"/{n}": f"/{n - 1}" for n in range(1, 7)} | {"/0": "/rows.jsonl"}
    assert fetched(web_access, f"{web.address}/4", tmp_path)[0].path.read_bytes() == ROWS
    error = refused(web_access, f"{web.address}/5", tmp_path)
    assert (error.reason, "leads on more than 5 times" in error.message) == (Reason.DATASET_NOT_FOUND, True)


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x", "file:///etc/passwd", "ftp://h/x"])
def test_a_redirect_to_another_scheme_is_not_followed(
    target: str, web: WebServer, web_access: Access, tmp_path: Path
) -> None:
    web.redirects["/start.jsonl"] = target
    error = refused(web_access, f"{web.address}/start.jsonl", tmp_path)
    assert error.reason is Reason.ACCESS_DENIED
    assert "only https:// is followed" in error.message
    assert len(web.requests) == 1


def test_names_and_passwords_of_a_redirect_are_not_sent(web: WebServer, web_access: Access, tmp_path: Path) -> None:
    web.redirects["/start.jsonl"] = web.address.replace("https://", "https://user:word@") + "/rows.jsonl"
    fetched(web_access, f"{web.address}/start.jsonl", tmp_path)
    assert all("authorization" not in headers for _, headers in web.requests)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (404, Reason.DATASET_NOT_FOUND, "there is no file at"),
        (410, Reason.DATASET_NOT_FOUND, "there is no file at"),
        (401, Reason.ACCESS_DENIED, "read without credentials"),
        (403, Reason.ACCESS_DENIED, "put the file into S3"),
        (204, Reason.DATASET_NOT_FOUND, "(204)"),
    ],
)
def test_an_answer_without_a_file_has_its_reason(  # noqa: PLR0917 - fixtures
    status: int, reason: Reason, words: str, web: WebServer, web_access: Access, tmp_path: Path
) -> None:
    web.statuses["/rows.jsonl"] = [status]
    error = refused(web_access, f"{web.address}/rows.jsonl", tmp_path)
    assert (error.reason, words in error.message) == (reason, True)
    assert len(web.requests) == 1


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_stumbles_is_asked_again(status: int, web: WebServer, web_access: Access, tmp_path: Path) -> None:
    web.statuses["/rows.jsonl"] = [status, status]
    fetched(web_access, f"{web.address}/rows.jsonl", tmp_path)
    assert len(web.requests) == 3


def test_a_server_that_stays_down_is_unavailable(web: WebServer, web_access: Access, tmp_path: Path) -> None:
    web.statuses["/rows.jsonl"] = [503] * 9
    error = refused(web_access, f"{web.address}/rows.jsonl", tmp_path)
    assert (error.reason, "the server answered 503" in error.message) == (Reason.STORAGE_UNAVAILABLE, True)
    assert len(web.requests) == 5


def test_an_answer_that_was_cut_off_is_fetched_anew(web: WebServer, web_access: Access, tmp_path: Path) -> None:
    web.cut["/rows.jsonl"] = 1
    (file,) = fetched(web_access, f"{web.address}/rows.jsonl", tmp_path)
    assert file.path.read_bytes() == ROWS
    assert [path.name for path in file.path.parent.iterdir()] == ["rows.jsonl"]


def test_the_digest_is_that_of_the_stored_bytes_though_the_server_calls_them_packed(
    web: WebServer, web_access: Access, tmp_path: Path
) -> None:
    data = gzip.compress(ROWS)
    web.files["/rows.jsonl.gz"] = data
    web.packed.add("/rows.jsonl.gz")
    (file,) = fetched(web_access, f"{web.address}/rows.jsonl.gz", tmp_path, data)
    assert file.path.read_bytes() == data
    assert web.requests[0][1]["accept-encoding"] == "identity"


def test_a_server_without_tls_is_told_in_words(tmp_path: Path) -> None:
    access = Access(storage=ResolvedStorage(), credentials_dir=tmp_path, scratch=tmp_path)
    with running_web(None) as plain:
        error = refused(access, plain.address.replace("http://", "https://") + "/rows.jsonl", tmp_path)
    assert (error.reason, "speaks no TLS" in error.message) == (Reason.STORAGE_UNAVAILABLE, True)
