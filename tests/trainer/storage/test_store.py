"""Both stores keep one contract, and every failure of storage has its reason and names the URI."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_api.names import Role
from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.errors import StageError
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import Store, StoredFile, checked_key, download, sha256_file, upload
from tests.support.s3fake import requests_to_a_fake_store
from tests.support.s3server import S3Server, free_port
from tests.trainer.conftest import make_certificate, write_keys


@pytest.fixture(params=["s3", "file"])
def store(request: pytest.FixtureRequest, access: Access, tmp_path: Path) -> Store:
    if request.param == "s3":
        return access.open("output", f"s3://{request.getfixturevalue('bucket')}/deep/er/")
    return access.open("output", f"file://{tmp_path}/deep/er/")


def failure(call: Callable[[], object]) -> StageError:
    with pytest.raises(StageError) as caught:
        call()
    return caught.value


def test_what_is_put_comes_back(store: Store) -> None:
    assert store.put_bytes("a/b.json", b"{}")
    assert store.get_bytes("a/b.json") == b"{}"
    assert store.size("a/b.json") == 2


def test_a_second_put_replaces_the_first(store: Store) -> None:
    store.put_bytes("a", b"one")
    assert store.put_bytes("a", b"two")
    assert store.get_bytes("a") == b"two"


def test_the_size_of_nothing_is_none(store: Store) -> None:
    assert store.size("nothing") is None


def test_a_store_lists_all_files_below_it_by_key(store: Store) -> None:
    for key in ("b", "a/z", "a/b/c"):
        store.put_bytes(key, key.encode())
    assert [(file.key, file.size) for file in store.list()] == [("a/b/c", 5), ("a/z", 3), ("b", 1)]


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.list() == []


def test_a_list_longer_than_a_page_is_complete(access: Access, s3: S3Server, bucket: str) -> None:
    folder = s3.folder / bucket / "many"
    folder.mkdir()
    for number in range(1005):
        (folder / f"{number:04}").touch()
    assert len(access.open("output", f"s3://{bucket}/many/").list()) == 1005


def test_a_conditional_put_writes_where_there_is_nothing(store: Store) -> None:
    assert store.put_bytes("owner", b"me", if_none_match=True)
    assert store.get_bytes("owner") == b"me"


def test_a_conditional_put_leaves_what_is_there(store: Store) -> None:
    store.put_bytes("owner", b"first")
    assert not store.put_bytes("owner", b"second", if_none_match=True)
    assert store.get_bytes("owner") == b"first"


def test_of_many_conditional_puts_at_once_exactly_one_wins(store: Store) -> None:
    store.put_bytes("warm", b"")  # the folder exists and connections are open
    begin = threading.Barrier(8)

    def put(number: int) -> bool:
        begin.wait()
        return store.put_bytes("owner", str(number).encode(), if_none_match=True)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(put, range(8)))
    assert won.count(True) == 1
    assert store.get_bytes("owner") == str(won.index(True)).encode()


def test_a_list_of_a_local_folder_while_others_write_and_delete_shows_whole_files_only(
    access: Access, tmp_path: Path
) -> None:
    store = access.open("output", f"file://{tmp_path}/out/")
    end = threading.Event()

    def come_and_go(number: int) -> None:
        while not end.is_set():
            store.put_bytes(f"file-{number}", b"whole")
            store.delete(f"file-{number}")

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(come_and_go, number) for number in range(3)]
        try:
            seen = {(file.key, file.size) for _ in range(300) for file in store.list()}
        finally:
            end.set()
        assert [done.exception() for done in busy] == [None] * 3
    assert seen <= {(f"file-{number}", 5) for number in range(3)}


def test_a_local_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = access.open("output", f"file://{tmp_path}/out/")
    store.put_bytes("deep/file", b"x")

    def broken(_path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.scandir", broken)
    assert failure(store.list).reason is Reason.STORAGE_UNAVAILABLE


def test_files_travel_both_ways_and_every_byte_is_reported(store: Store, tmp_path: Path) -> None:
    files = {f"d{number}/f": tmp_path / f"source{number}" for number in range(12)}
    for number, path in enumerate(files.values()):
        path.write_bytes(bytes([number]) * 1000 * (number + 1))
    total = sum(path.stat().st_size for path in files.values())
    sent: list[int] = []
    received: list[int] = []
    upload(store, files, sent.append)
    download(store, store.list(), tmp_path / "back", received.append)
    assert sum(sent) == sum(received) == total
    assert {key: sha256_file(tmp_path / "back" / key) for key in files} == {
        key: sha256_file(path) for key, path in files.items()
    }


def test_a_file_of_several_parts_comes_back_unchanged(access: Access, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        for number in range(130):
            file.write(bytes([number]) * 1024 * 1024)
    store = access.open("output", f"s3://{bucket}/x/")
    store.put_file("large", source)
    store.get_file("large", tmp_path / "back")
    assert sha256_file(tmp_path / "back") == sha256_file(source)


def test_a_file_of_another_size_than_listed_is_refused(store: Store, tmp_path: Path) -> None:
    store.put_bytes("short", b"123")
    error = failure(lambda: download(store, [StoredFile("short", 4)], tmp_path / "back"))
    assert (error.reason, "short has 3 bytes where 4" in error.message) == (Reason.VERIFICATION_FAILED, True)


def test_the_first_failed_transfer_is_raised(store: Store, tmp_path: Path) -> None:
    store.put_bytes("there", b"1")
    error = failure(lambda: download(store, [StoredFile("there", 1), StoredFile("gone", 1)], tmp_path / "back"))
    assert "gone" in error.message


@pytest.mark.parametrize("key", ["../up", "/abs", "a/../../up", "", "a\\b", "nul\x00"])
def test_a_key_that_leaves_the_folder_is_refused(key: str) -> None:
    assert failure(lambda: checked_key(key)).reason is Reason.VERIFICATION_FAILED


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        ("model", Reason.MODEL_NOT_FOUND),
        ("dataset", Reason.DATASET_NOT_FOUND),
        ("output", Reason.VERIFICATION_FAILED),
    ],
)
@pytest.mark.parametrize("scheme", ["s3", "file"])
def test_a_missing_file_has_the_reason_of_its_role(  # noqa: PLR0917 - fixtures
    scheme: str, role: Role, reason: Reason, access: Access, bucket: str, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/x/" if scheme == "s3" else f"file://{tmp_path}/x/"
    store = access.open(role, uri)
    for call in (lambda: store.get_bytes("gone"), lambda: store.get_file("gone", tmp_path / "file")):
        error = failure(call)
        assert error.reason is reason
        assert f"{uri}gone" in error.message
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        ("model", Reason.MODEL_NOT_FOUND),
        ("dataset", Reason.DATASET_NOT_FOUND),
        ("output", Reason.OUTPUT_NOT_FOUND),
    ],
)
def test_a_missing_bucket_is_named(role: Role, reason: Reason, access: Access) -> None:
    error = failure(access.open(role, "s3://no-such-bucket/x/").list)
    assert error.reason is reason
    assert "'no-such-bucket'" in error.message


def test_writing_to_a_missing_bucket_is_no_failed_upload(access: Access, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    store = access.open("output", "s3://no-such-bucket/x/")
    assert failure(lambda: store.put_file("f", tmp_path / "f")).reason is Reason.OUTPUT_NOT_FOUND
    assert failure(lambda: store.put_bytes("f", b"x")).reason is Reason.OUTPUT_NOT_FOUND


CANARY = "canary-that-must-not-appear"


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"AWS_SECRET_ACCESS_KEY": CANARY}, "SignatureDoesNotMatch"),
        ({"AWS_ACCESS_KEY_ID": CANARY}, "XAdminUserNotFound"),
    ],
)
def test_a_wrong_key_is_access_denied_and_never_printed(  # noqa: PLR0917 - fixtures
    keys: dict[str, str], code: str, access: Access, credentials: Path, bucket: str, tmp_path: Path
) -> None:
    write_keys(credentials / "output", **keys)
    (tmp_path / "f").write_text("x")
    store = access.open("output", f"s3://{bucket}/x/")
    calls: list[Callable[[], object]] = [
        store.list,
        lambda: store.get_bytes("f"),
        lambda: store.put_bytes("f", b""),
        lambda: store.put_file("f", tmp_path / "f"),
    ]
    for call in calls:
        error = failure(call)
        assert (error.reason, code in error.message) == (Reason.ACCESS_DENIED, True)
        assert f"s3://{bucket}/x/" in error.message
        assert CANARY not in error.message + str(error)
    # Whether the answer to HEAD is a 403 or a 404, it is not taken for a missing file.
    assert failure(lambda: store.size("f")).reason is Reason.ACCESS_DENIED


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("how", ["absent", "empty"])
def test_a_secret_without_a_key_names_the_key(missing: str, how: str, access: Access, credentials: Path) -> None:
    if how == "absent":
        (credentials / "dataset" / missing).unlink()
    else:
        (credentials / "dataset" / missing).write_text("\n")
    error = failure(lambda: access.open("dataset", "s3://bucket/x/"))
    assert error.reason is Reason.CREDENTIALS_NOT_FOUND
    assert missing in error.message
    assert "dataset.credentialsRef" in error.message


def test_a_trailing_newline_in_a_secret_is_no_part_of_the_key(
    access: Access, credentials: Path, bucket: str, s3: S3Server
) -> None:
    write_keys(credentials / "output", AWS_ACCESS_KEY_ID=s3.access_key + "\n")
    assert access.open("output", f"s3://{bucket}/").list() == []


def test_each_role_has_its_own_credentials(access: Access, credentials: Path, bucket: str) -> None:
    write_keys(credentials / "dataset", AWS_SECRET_ACCESS_KEY="another")
    assert access.open("output", f"s3://{bucket}/").list() == []
    assert failure(access.open("dataset", f"s3://{bucket}/").list).reason is Reason.ACCESS_DENIED


def test_a_session_token_is_sent(access: Access, credentials: Path) -> None:
    write_keys(credentials / "output", AWS_SESSION_TOKEN="token-of-the-session")
    seen = requests_to_a_fake_store(access, credentials)
    assert seen[0]["x-amz-security-token"] == "token-of-the-session"


def test_without_a_folder_the_environments_identity_is_used(
    storage: ResolvedStorage, bucket: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    access = Access(storage=storage, credentials_dir=tmp_path / "none", scratch=tmp_path)
    assert access.open("output", f"s3://{bucket}/").list() == []


def test_without_any_identity_the_message_says_where_to_name_one(
    storage: ResolvedStorage, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    access = Access(storage=storage, credentials_dir=tmp_path / "none", scratch=tmp_path)
    error = failure(access.open("model", f"s3://{bucket}/").list)
    assert error.reason is Reason.CREDENTIALS_NOT_FOUND
    assert "model.credentialsRef" in error.message


def test_an_endpoint_that_is_down_is_unavailable(access: Access, credentials: Path, tmp_path: Path) -> None:
    down = Storage(prefix="s3://", endpoint=f"http://127.0.0.1:{free_port()}")
    store = Access(
        storage=ResolvedStorage(output=down), credentials_dir=credentials, scratch=tmp_path, max_attempts=1
    ).open("output", "s3://bucket/x/")
    (tmp_path / "f").write_text("x")
    for call in (store.list, lambda: store.put_bytes("f", b""), lambda: store.put_file("f", tmp_path / "f")):
        error = failure(call)
        assert (error.reason, "s3://bucket/x/" in error.message) == (Reason.STORAGE_UNAVAILABLE, True)


@pytest.mark.parametrize(("fails", "attempts", "works"), [(1, 2, True), (2, 2, False)])
def test_server_errors_are_retried(fails: int, attempts: int, works: bool, access: Access, credentials: Path) -> None:
    def call() -> list[dict[str, str]]:
        return requests_to_a_fake_store(access, credentials, fails=fails, attempts=attempts)

    if works:
        assert len(call()) == fails + 1
    else:
        assert failure(call).reason is Reason.STORAGE_UNAVAILABLE


def test_a_server_error_while_writing_is_a_failed_upload(access: Access, credentials: Path) -> None:
    error = failure(
        lambda: requests_to_a_fake_store(access, credentials, fails=9, attempts=1, use=lambda s: s.put_bytes("f", b""))
    )
    assert error.reason is Reason.ARTIFACT_UPLOAD_FAILED


def test_requests_to_an_endpoint_carry_the_bucket_in_the_path_and_no_checksum(
    access: Access, credentials: Path
) -> None:
    seen = requests_to_a_fake_store(access, credentials, use=lambda store: store.put_bytes("f", b"x"))
    assert seen[0]["path"] == "/bucket/x/f"
    assert not [name for name in seen[0] if name.startswith(("x-amz-checksum", "x-amz-sdk-checksum", "x-amz-trailer"))]


def test_a_store_without_conditional_writes_is_looked_at_first(access: Access, credentials: Path) -> None:
    written: list[bool] = []
    seen = requests_to_a_fake_store(
        access,
        credentials,
        refuse_conditions=True,
        use=lambda store: written.append(store.put_bytes("f", b"x", if_none_match=True)),
    )
    assert written == [True]
    assert [line["method"] for line in seen] == ["PUT", "HEAD", "GET", "PUT"]


def test_a_certificate_authority_of_the_runtime_is_trusted(access: Access, credentials: Path, tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    assert len(requests_to_a_fake_store(access, credentials, certificate=certificate, trusted=True)) == 1


def test_an_unknown_certificate_is_refused_and_the_mend_named(
    access: Access, credentials: Path, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path)
    error = failure(lambda: requests_to_a_fake_store(access, credentials, certificate=certificate, attempts=1))
    assert error.reason is Reason.STORAGE_UNAVAILABLE
    assert "caBundle" in error.message


@pytest.mark.parametrize("uri", ["s3://x", "gs://bucket/x/", "s3://bucket/../x/", "/tmp/x", "hf://org/name"])
def test_a_uri_that_names_no_folder_is_an_invalid_spec(uri: str, access: Access) -> None:
    error = failure(lambda: access.open("output", uri))
    assert (error.reason, "output.uri" in error.message) == (Reason.INVALID_SPEC, True)


def test_a_folder_where_one_file_is_wanted_is_an_invalid_spec(access: Access) -> None:
    error = failure(lambda: access.open_file("dataset", "s3://bucket/rows/"))
    assert (error.reason, "name one file" in error.message) == (Reason.INVALID_SPEC, True)
