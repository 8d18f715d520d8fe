"""Each trouble with S3 is told as what it is, with the field and the person that mend it, and under its own reason."""

from __future__ import annotations

import dataclasses
import email.utils
import io
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_api.names import Role
from finetune_api.reasons import REASONS, Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.job.run import failure_of
from finetune_trainer.process.console import Console
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import Store
from tests.support.s3server import S3Server, free_port
from tests.support.s3stub import Answer, S3Stub, error_answer, running_stub
from tests.trainer.conftest import make_certificate, write_keys

HTML = Answer(200, b"<html>Welcome</html>", {"Content-Type": "text/html; charset=utf-8"})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for role in ("model", "adapter", "dataset", "output"):
        write_keys(tmp_path / "keys" / role, AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret")
    return tmp_path / "keys"


@pytest.fixture
def stub() -> Iterator[S3Stub]:
    with running_stub() as store:
        yield store


def access(keys: Path, endpoint: str, *, attempts: int = 1, **settings: object) -> Access:
    one = Storage.model_validate({"prefix": "s3://", "endpoint": endpoint, **settings})
    return Access(
        storage=ResolvedStorage(model=one, adapter=one, dataset=one, output=one),
        credentials_dir=keys,
        scratch=keys.parent,
        max_attempts=attempts,
    )


def failure(call: Callable[[], object]) -> StageError:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value


def ways(store: Store, folder: Path) -> dict[str, Callable[[], object]]:
    """Every request that a job makes."""
    (folder / "file").write_bytes(b"x")
    return {
        "list": store.list,
        "size": lambda: store.size("f"),
        "get": lambda: store.get_bytes("f"),
        "download": lambda: store.get_file("f", folder / "got"),
        "put": lambda: store.put_bytes("f", b"x"),
        "upload": lambda: store.put_file("f", folder / "file"),
    }


def test_https_to_a_server_without_tls_is_told_as_the_scheme(stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    endpoint = stub.endpoint.replace("http:", "https:")
    store = access(keys, endpoint, attempts=6).open("dataset", "s3://bucket/x/")
    begun = time.monotonic()
    for call in ways(store, tmp_path).values():
        error = failure(call)
        assert error.reason is Reason.STORAGE_UNAVAILABLE
        assert f"{endpoint} speaks no TLS, use http://" in error.message
        assert "storage.endpoint of the FineTuneRuntime" in error.message
        assert "caBundle" not in error.message
    # Another try an instant later is of no use, so none was waited for.
    assert time.monotonic() - begun < 6
    assert stub.asked == []


def test_http_to_a_server_with_tls_is_told_as_the_scheme(keys: Path, tmp_path: Path) -> None:
    with running_stub(make_certificate(tmp_path)) as stub:
        endpoint = stub.endpoint.replace("https:", "http:")
        store = access(keys, endpoint).open("dataset", "s3://bucket/x/")
        for call in ways(store, tmp_path).values():
            error = failure(call)
            assert error.reason is Reason.STORAGE_UNAVAILABLE
            assert f"{endpoint} expects TLS, use https://" in error.message
            assert "storage.endpoint of the FineTuneRuntime" in error.message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_server_that_sends_plain_requests_on_to_https_is_told_as_the_scheme(
    status: int, stub: S3Stub, keys: Path, tmp_path: Path
) -> None:
    moved = Answer(status, b"<html>Moved</html>", {"Location": "https://127.0.0.1/", "Content-Type": "text/html"})
    stub.answer = lambda _method, _path: moved
    store = access(keys, stub.endpoint).open("model", "s3://bucket/x/")
    for call in ways(store, tmp_path).values():
        error = failure(call)
        assert error.reason is Reason.STORAGE_UNAVAILABLE
        assert "expects TLS, use https://" in error.message
    assert len(stub.asked) < 25


def signed(folder: Path, *, days: int = 1, names: str = "IP:127.0.0.1") -> Path:
    """A key and its self-signed certificate; with negative days it has expired."""
    (folder / "names").write_text(f"subjectAltName={names}\n")
    for command in (
        "openssl req -newkey rsa:2048 -nodes -subj /CN=test -keyout key.pem -out request.pem",
        f"openssl x509 -req -days {days} -in request.pem -signkey key.pem -extfile names -out certificate.pem",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    both = folder / "signed.pem"
    both.write_text((folder / "key.pem").read_text() + (folder / "certificate.pem").read_text())
    return both


@pytest.mark.parametrize(
    ("days", "names", "trusted", "words", "mend"),
    [
        (1, "IP:127.0.0.1", False, "self-signed, or of an authority that is not trusted", "storage.caBundle"),
        (-1, "IP:127.0.0.1", True, "has expired", "Whoever runs the storage renews it"),
        (1, "DNS:storage.example", True, "is for another name than 127.0.0.1", "storage.endpoint"),
    ],
)
def test_a_certificate_that_is_not_accepted_is_told_by_its_fault(  # noqa: PLR0917 - a table
    days: int, names: str, trusted: bool, words: str, mend: str, keys: Path, tmp_path: Path
) -> None:
    certificate = signed(tmp_path, days=days, names=names)
    bundle = {"caBundle": (tmp_path / "certificate.pem").read_text()} if trusted else {}
    with running_stub(certificate) as stub:
        error = failure(access(keys, stub.endpoint, attempts=6, **bundle).open("model", "s3://bucket/x/").list)
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert words in error.message
    assert mend in error.message


def test_a_bundle_without_a_certificate_is_told_before_anything_is_asked(stub: S3Stub, keys: Path) -> None:
    bundle = "-----BEGIN CERTIFICATE-----\ncut off"
    error = failure(lambda: access(keys, stub.endpoint, caBundle=bundle).open("model", "s3://bucket/x/"))
    assert (error.reason, "storage.caBundle" in error.message) == (Reason.INVALID_SPEC, True)
    assert stub.asked == []


@pytest.mark.parametrize("role", ["dataset", "model", "output"])
@pytest.mark.parametrize("way", ["list", "size", "get", "download", "put", "upload"])
@pytest.mark.parametrize(
    "answer",
    [
        error_answer(
            301,
            "PermanentRedirect",
            "<Endpoint>s3.eu-central-1.amazonaws.com</Endpoint>",
            x_amz_bucket_region="eu-central-1",
        ),
        error_answer(301, "PermanentRedirect", "<Endpoint>s3.eu-central-1.amazonaws.com</Endpoint>"),
        error_answer(400, "AuthorizationHeaderMalformed", "<Region>eu-central-1</Region>"),
        error_answer(400, "IllegalLocationConstraintException", x_amz_bucket_region="eu-central-1"),
    ],
    ids=["301-header", "301-endpoint", "400-region", "400-location"],
)
def test_another_region_is_named(  # noqa: PLR0917 - fixtures
    answer: Answer, way: str, role: Role, stub: S3Stub, keys: Path, tmp_path: Path
) -> None:
    stub.answer = lambda _method, _path: answer
    store = access(keys, stub.endpoint, region="us-east-1").open(role, "s3://bucket/x/")
    error = failure(ways(store, tmp_path)[way])
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert "in another region, eu-central-1, and was looked for in us-east-1" in error.message
    assert "sets storage.region to eu-central-1 of the FineTuneRuntime" in error.message
    assert "canary" not in error.message


def test_a_region_that_only_the_message_of_the_answer_names_is_found(stub: S3Stub, keys: Path) -> None:
    body = (
        b"<Error><Code>AuthorizationHeaderMalformed</Code>"
        b"<Message>the region 'us-east-1' is wrong; expecting 'garage'</Message></Error>"
    )
    stub.answer = lambda _method, _path: Answer(400, body)
    error = failure(access(keys, stub.endpoint).open("model", "s3://bucket/x/").list)
    assert "sets storage.region to garage" in error.message


def test_a_wrong_clock_is_told_with_the_difference(stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    theirs = email.utils.formatdate(time.time() + 3 * 3600, usegmt=True)
    stub.dated = theirs
    stub.answer = lambda _method, _path: error_answer(403, "RequestTimeTooSkewed")
    store = access(keys, stub.endpoint).open("dataset", "s3://bucket/x/")
    for call in ways(store, tmp_path).values():
        error = failure(call)
        assert error.reason is Reason.ACCESS_DENIED
        assert "RequestTimeTooSkewed, the clock of the pod's node is " in error.message
        assert "behind the storage's" in error.message
        assert "2:59:" in error.message or "3:00:" in error.message
        assert "Give the identity" not in error.message


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("InvalidAccessKeyId", "Correct AWS_ACCESS_KEY_ID in the Secret of dataset.credentialsRef"),
        ("SignatureDoesNotMatch", "Correct AWS_SECRET_ACCESS_KEY in the Secret of dataset.credentialsRef"),
        ("ExpiredToken", "AWS_SESSION_TOKEN into the Secret of dataset.credentialsRef"),
        ("InvalidToken", "Correct AWS_SESSION_TOKEN in the Secret of dataset.credentialsRef"),
        ("AccessDenied", "Give the identity of dataset.credentialsRef the right"),
        ("InvalidObjectState", "Restore it"),
        ("UserProjectMissing", "Copy the files to a bucket of your own"),
    ],
)
def test_a_refusal_names_what_the_tenant_mends(code: str, words: str, stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(403, code)
    store = access(keys, stub.endpoint).open("dataset", "s3://bucket/x/")
    for call in ways(store, tmp_path).values():
        error = failure(call)
        assert error.reason is Reason.ACCESS_DENIED
        assert f"(dataset) was refused: {code}" in error.message
        assert words in error.message
        assert "FineTuneRuntime" not in error.message
        assert "canary" not in error.message


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "AccessDenied"])
def test_a_refusal_of_an_adapter_names_the_credentials_of_the_adapter(code: str, stub: S3Stub, keys: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(403, code)
    message = failure(access(keys, stub.endpoint).open("adapter", "s3://bucket/x/").list).message
    assert " of model.adapter.credentialsRef" in message


@pytest.mark.parametrize(
    ("way", "right"), [("list", "s3:ListBucket"), ("get", "s3:GetObject"), ("put", "s3:PutObject")]
)
def test_a_policy_that_denies_one_thing_is_told_with_the_right_that_is_missing(
    way: str, right: str, stub: S3Stub, keys: Path, tmp_path: Path
) -> None:
    stub.answer = lambda _method, _path: error_answer(403, "AccessDenied")
    store = access(keys, stub.endpoint).open("output", "s3://bucket/x/")
    assert right in failure(ways(store, tmp_path)[way]).message


def test_a_missing_file_that_is_hidden_behind_a_refusal_is_hinted_at(stub: S3Stub, keys: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(403, "AccessDenied")
    error = failure(lambda: access(keys, stub.endpoint).open("dataset", "s3://bucket/x/").size("f"))
    assert error.reason is Reason.ACCESS_DENIED
    assert "a missing file is refused like this too" in error.message


@pytest.mark.parametrize("page", [HTML, Answer(403, HTML.body, HTML.headers), Answer(502, HTML.body, HTML.headers)])
def test_a_web_page_is_never_taken_for_an_answer_of_s3(page: Answer, stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    stub.answer = lambda _method, _path: page
    store = access(keys, stub.endpoint).open("dataset", "s3://bucket/x/")
    for call in ways(store, tmp_path).values():
        error = failure(call)
        assert error.reason is Reason.STORAGE_UNAVAILABLE
        assert f"came from {stub.endpoint} where S3 was expected" in error.message
    assert not (tmp_path / "got").exists()


def test_an_object_that_is_a_web_page_is_read(stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    stub.answer = lambda _method, _path: Answer(200, HTML.body, {**HTML.headers, "ETag": '"1"'})
    assert access(keys, stub.endpoint).open("dataset", "s3://bucket/x/").get_bytes("f") == HTML.body


def test_an_unknown_name_is_told_as_dns(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = failure(access(keys, "http://no-such-host.example:9000").open("model", "s3://bucket/x/").list)
    assert (error.reason, "(DNS)" in error.message) == (Reason.STORAGE_UNAVAILABLE, True)
    assert "storage.endpoint of the FineTuneRuntime" in error.message


def test_a_refused_connection_is_told_as_one(keys: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    error = failure(access(keys, endpoint).open("model", "s3://bucket/x/").list)
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert f"nothing listens at {endpoint}" in error.message


def test_a_proxy_that_is_down_is_told_as_the_proxy(stub: S3Stub, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    endpoint = stub.endpoint.replace("127.0.0.1", "storage.example")
    error = failure(access(keys, endpoint).open("model", "s3://bucket/x/").list)
    assert (error.reason, "the proxy between" in error.message) == (Reason.STORAGE_UNAVAILABLE, True)


def test_a_connection_that_is_closed_without_a_word_is_told_as_one(stub: S3Stub, keys: Path) -> None:
    stub.answer = lambda _method, _path: Answer(-1)
    error = failure(access(keys, stub.endpoint).open("model", "s3://bucket/x/").list)
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert "closed the connection without an answer" in error.message


def test_an_endpoint_that_names_the_bucket_is_told_so(stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    endpoint = stub.endpoint.replace("127.0.0.1", "localhost")
    store = access(keys, endpoint).open("dataset", "s3://bucket/x/")
    object.__setattr__(store, "_place", _named(store, endpoint.replace("localhost", "bucket.storage.example")))
    for way in ("size", "get", "download"):
        error = failure(ways(store, tmp_path)[way])
        assert error.reason is Reason.STORAGE_UNAVAILABLE
        assert "names the bucket already" in error.message


def _named(store: Store, endpoint: str) -> object:
    return dataclasses.replace(vars(store)["_place"], endpoint=endpoint)


@pytest.mark.parametrize("code", ["PathStyleRequestNotAllowed", "SecondLevelDomainForbidden"])
def test_a_store_that_wants_the_bucket_in_the_host_is_told_so(code: str, stub: S3Stub, keys: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(403, code)
    error = failure(access(keys, stub.endpoint).open("model", "s3://bucket/x/").list)
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert "storage.addressingStyle to Virtual" in error.message


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "ServiceUnavailable"])
def test_a_fault_of_the_storage_itself_is_tried_again_and_then_told(code: str, stub: S3Stub, keys: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(503, code)
    error = failure(access(keys, stub.endpoint, attempts=2).open("model", "s3://bucket/x/").list)
    assert (error.reason, code in error.message, len(stub.asked)) == (Reason.STORAGE_UNAVAILABLE, True, 2)
    assert REASONS[error.reason].retried


def test_a_missing_bucket_is_told_as_one_by_each_request(stub: S3Stub, keys: Path, tmp_path: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(404, "NoSuchBucket")
    store = access(keys, stub.endpoint).open("dataset", "s3://bucket/x/")
    for call in ways(store, tmp_path).values():
        error = failure(call)
        assert (error.reason, "no bucket 'bucket'" in error.message) == (Reason.DATASET_NOT_FOUND, True)


def test_the_real_server_tells_a_wrong_secret_from_an_unknown_key(s3: S3Server, bucket: str, keys: Path) -> None:
    write_keys(keys / "dataset", AWS_ACCESS_KEY_ID=s3.access_key)
    store = access(keys, s3.endpoint).open("dataset", f"s3://{bucket}/")
    assert "Correct AWS_SECRET_ACCESS_KEY" in failure(lambda: store.size("f")).message
    store = access(keys, s3.endpoint).open("model", f"s3://{bucket}/")
    assert "Correct AWS_ACCESS_KEY_ID in the Secret of model.credentialsRef" in failure(store.list).message


def test_the_report_has_the_nearer_mend_alone(stub: S3Stub, keys: Path) -> None:
    stub.answer = lambda _method, _path: error_answer(403, "RequestTimeTooSkewed")
    error = failure(access(keys, stub.endpoint).open("model", "s3://bucket/x/").list)
    reported = failure_of(error, Console(job="j", stage="prepare", stream=io.StringIO(), interactive=False))
    assert reported.reason is Reason.ACCESS_DENIED
    assert reported.message.endswith(
        "The platform team sets the clock of the pod's node, or of the storage, right; the keys may be good."
    )
    assert REASONS[error.reason].mend not in reported.message


@pytest.mark.parametrize("value", ["two words", "line\nend", "schlüssel", "\x07"])
def test_a_key_that_can_be_none_is_named(value: str, stub: S3Stub, keys: Path) -> None:
    write_keys(keys / "dataset", AWS_ACCESS_KEY_ID=value)
    error = failure(lambda: access(keys, stub.endpoint).open("dataset", "s3://bucket/x/"))
    assert (error.reason, "AWS_ACCESS_KEY_ID" in error.message) == (Reason.CREDENTIALS_NOT_FOUND, True)
    assert value not in error.message


@pytest.mark.parametrize("endpoint", ["http://host:99999", "http://a_b..c"])
def test_an_endpoint_that_is_no_address_is_told_as_one(endpoint: str, keys: Path) -> None:
    error = failure(lambda: access(keys, endpoint).open("model", "s3://bucket/x/").list())
    assert "is no address" in error.message
    assert "storage.endpoint of the FineTuneRuntime" in error.message
