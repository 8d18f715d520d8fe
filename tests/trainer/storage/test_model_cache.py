"""The second job of a model downloads no weights, what is in the cache is proven first, and no cache fails a job."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune_api.reasons import Reason
from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.storage import modelcache
from finetune_trainer.storage.access import Access
from tests.support.cache_kit import CacheFolder, unused_since
from tests.support.fetch_kit import FILES, WANTED, failure, names, safetensors
from tests.support.hubserver import HubServer
from tests.support.s3proxy import Fault, S3Proxy, running_proxy
from tests.support.s3server import S3Server

WEIGHTS = sorted(name for name in WANTED if name.endswith(".safetensors"))
FIRST = WEIGHTS[0]
HEADS = sum(8 + int.from_bytes(FILES[name][:8], "little") for name in WEIGHTS)
HIT, STORED, UNUSABLE = "model_cache_hit", "model_cache_stored", "model_cache_unusable"


@pytest.fixture
def cache(tmp_path: Path) -> CacheFolder:
    (tmp_path / "volume").mkdir()
    return CacheFolder(tmp_path / "volume", tmp_path)


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[S3Proxy]:
    with running_proxy(s3) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: S3Proxy, credentials: Path, tmp_path: Path) -> Access:
    storage = ResolvedStorage(model=Storage(prefix="s3://", endpoint=proxy.endpoint))
    return Access(storage=storage, credentials_dir=credentials, scratch=tmp_path, max_attempts=1)


@pytest.fixture
def model(s3: S3Server, bucket: str) -> str:
    for name in WANTED:
        s3.client().put_object(Bucket=bucket, Key=f"m/{name}", Body=FILES[name])
    return f"s3://{bucket}/m/"


def weights_sent(proxy: S3Proxy) -> int:
    """Bytes of weights that were read since the last call."""
    sent = sum(count for path, count in proxy.sent.items() if path.endswith(".safetensors"))
    proxy.sent.clear()
    return sent


def is_whole(folder: Path) -> bool:
    return names(folder) >= WANTED and all((folder / name).read_bytes() == FILES[name] for name in WANTED)


# --- the second job ---------------------------------------------------------------------------------------------------


def test_the_second_job_reads_of_the_weights_in_a_bucket_their_heads_alone(
    model: str, proxy: S3Proxy, through: Access, cache: CacheFolder
) -> None:
    first = cache.fetch(through, model)
    assert cache.told() == [(STORED, "")]
    assert weights_sent(proxy) == HEADS + sum(len(FILES[name]) for name in WEIGHTS)
    second = cache.fetch(through, model)
    assert cache.told() == [(HIT, "")]
    assert weights_sent(proxy) == HEADS
    assert is_whole(first.folder)
    assert is_whole(second.folder)
    assert (second.revision, second.tensors) == (first.revision, first.tensors)


def test_the_second_job_fetches_no_weights_from_a_hub(
    hub_model: HubServer, hub_access: Access, cache: CacheFolder
) -> None:
    cache.fetch(hub_access, "hf://org/tiny")
    assert set(WEIGHTS) <= hub_model.downloaded()
    hub_model.requests.clear()
    got = cache.fetch(hub_access, "hf://org/tiny", revision="main")
    assert not hub_model.downloaded() & set(WEIGHTS)
    assert is_whole(got.folder)
    assert cache.told() == [(STORED, ""), (HIT, "")]


def test_what_a_job_has_of_the_cache_is_its_own_copy(model: str, access: Access, cache: CacheFolder) -> None:
    cache.fetch(access, model)
    got = cache.fetch(access, model)
    shutil.rmtree(cache.entry())
    assert is_whole(got.folder)


def test_prepare_leaves_the_cache_alone(model: str, access: Access, cache: CacheFolder) -> None:
    cache.fetch(access, model, weights=False)
    assert cache.below("models") == []


def test_another_commit_of_a_hub_is_another_entry(hub_model: HubServer, hub_access: Access, cache: CacheFolder) -> None:
    cache.fetch(hub_access, "hf://org/tiny", revision="v1")
    cache.fetch(hub_access, "hf://org/tiny", revision="main")
    assert cache.told() == [(STORED, ""), (STORED, "")]
    assert len(cache.below("models")) == 2


def test_weights_that_were_written_anew_in_the_bucket_are_downloaded(
    model: str, s3: S3Server, bucket: str, access: Access, cache: CacheFolder
) -> None:
    cache.fetch(access, model)
    content = bytearray(FILES[FIRST])
    content[-1] ^= 1
    s3.client().put_object(Bucket=bucket, Key=f"m/{FIRST}", Body=bytes(content))
    assert (cache.fetch(access, model).folder / FIRST).read_bytes() == content
    assert cache.told() == [(STORED, ""), (STORED, "")]


def test_the_same_path_on_another_server_is_another_model(
    model: str, through: Access, access: Access, cache: CacheFolder
) -> None:
    cache.fetch(access, model)
    cache.fetch(through, model)
    assert cache.told() == [(STORED, ""), (STORED, "")]


# --- who may read -----------------------------------------------------------------------------------------------------


def test_a_job_that_may_list_the_bucket_and_not_read_it_gets_nothing_from_the_cache(
    model: str, proxy: S3Proxy, through: Access, cache: CacheFolder
) -> None:
    cache.fetch(through, model)
    proxy.refuse = lambda method, path: Fault(403, "AccessDenied") if method == "GET" and path.endswith(FIRST) else None
    error = failure(lambda: cache.fetch(through, model))
    assert error.reason is Reason.ACCESS_DENIED
    assert cache.told() == [(STORED, "")]


def test_a_model_whose_terms_the_job_has_not_accepted_is_not_taken_from_the_cache(
    hub_model: HubServer, hub_access: Access, cache: CacheFolder
) -> None:
    cache.fetch(hub_access, "hf://org/tiny")
    hub_model.gated.add("org/tiny")
    assert failure(lambda: cache.fetch(hub_access, "hf://org/tiny")).reason is Reason.ACCESS_DENIED
    assert cache.told() == [(STORED, "")]


def test_a_private_model_is_not_taken_from_the_cache_without_its_token(
    hub_model: HubServer, hub_access: Access, access: Access, credentials: Path, cache: CacheFolder
) -> None:
    (credentials / "model" / "HF_TOKEN").write_text("token-1")
    hub_model.tokens.add("token-1")
    assert is_whole(cache.fetch(access, "hf://org/tiny").folder)
    assert failure(lambda: cache.fetch(hub_access, "hf://org/tiny")).reason is Reason.MODEL_NOT_FOUND
    assert cache.told() == [(STORED, "")]


# --- what lies there is not believed ----------------------------------------------------------------------------------


def flipped(entry: Path) -> None:
    content = bytearray((entry / FIRST).read_bytes())
    content[-1] ^= 1
    (entry / FIRST).write_bytes(content)


def cut(entry: Path) -> None:
    os.truncate(entry / FIRST, 10)


def linked(entry: Path) -> None:
    secret = entry.parent / "secret"
    secret.write_bytes((entry / FIRST).read_bytes())
    (entry / FIRST).unlink()
    (entry / FIRST).symlink_to(secret)


def piped(entry: Path) -> None:
    (entry / FIRST).unlink()
    os.mkfifo(entry / FIRST)


def removed(entry: Path) -> None:
    (entry / FIRST).unlink()


def unmarked(entry: Path) -> None:
    (entry / "entry.json").unlink()


def garbled(entry: Path) -> None:
    (entry / "entry.json").write_text('["sha256"]')


def newer(entry: Path) -> None:
    (entry / "entry.json").write_text(json.dumps({"version": 2, "sha256": {}}))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flipped, f"/{FIRST} is not what was stored there"),
        (cut, f"/{FIRST} has another size than at the source"),
        (linked, f"/{FIRST} is a link"),
        (piped, f"/{FIRST} is no plain file"),
        (removed, f"/{FIRST} is missing"),
        (unmarked, "/entry.json can't be read"),
        (garbled, "/entry.json can't be read"),
        (newer, "/entry.json can't be read"),
    ],
)
def test_a_damaged_entry_is_told_once_thrown_away_and_made_anew(
    damage: Callable[[Path], None], told: str, model: str, access: Access, cache: CacheFolder
) -> None:
    cache.fetch(access, model)
    key = cache.entry().name
    damage(cache.entry())
    cache.told()
    assert is_whole(cache.fetch(access, model).folder)
    assert cache.told() == [
        (
            UNUSABLE,
            f"model cache at {cache.root}: {key}{told}; it is thrown away, and the model is downloaded",
        ),
        (STORED, ""),
    ]
    assert is_whole(cache.fetch(access, model).folder)
    assert cache.told() == [(HIT, "")]


def test_weights_that_somebody_has_forged_with_their_digest_are_not_those_of_the_hub(
    hub_model: HubServer, hub_access: Access, cache: CacheFolder
) -> None:
    cache.fetch(hub_access, "hf://org/tiny")
    flipped(cache.entry())
    stated = json.loads((cache.entry() / "entry.json").read_text())
    stated["sha256"][FIRST] = modelcache.hashlib.sha256((cache.entry() / FIRST).read_bytes()).hexdigest()
    (cache.entry() / "entry.json").write_text(json.dumps(stated))
    cache.told()
    assert is_whole(cache.fetch(hub_access, "hf://org/tiny").folder)
    (unusable, told), stored = cache.told()
    assert (unusable, stored) == (UNUSABLE, (STORED, ""))
    assert f"/{FIRST} has another digest than the source states" in told


def test_weights_that_were_written_anew_during_the_download_are_not_kept(
    model: str, s3: S3Server, proxy: S3Proxy, through: Access, cache: CacheFolder
) -> None:
    """They would lie there under the version that was listed before."""

    def write_anew(method: str, path: str) -> Fault | None:
        reads.append(path)
        if method in ("GET", "HEAD") and reads.count(path) == 3 and path.endswith(FIRST):  # the head took two
            proxy.refuse = lambda _method, _path: None
            bucket = model.split("/")[2]
            s3.client().put_object(Bucket=bucket, Key=f"m/{FIRST}", Body=safetensors(250)[:-1] + b"x")
        return None

    reads: list[str] = []
    proxy.refuse = write_anew
    cache.fetch(through, model)
    assert cache.below("models") == []
    assert cache.told() == []


# --- no cache fails a job ---------------------------------------------------------------------------------------------


def test_a_volume_that_cannot_be_written_is_told_once_and_fails_nothing(
    model: str, access: Access, tmp_path: Path
) -> None:
    cache = CacheFolder(Path("/proc"), tmp_path)  # not even root makes folders there
    assert is_whole(cache.fetch(access, model).folder)
    ((event, told),) = cache.told()
    assert event == UNUSABLE
    assert told.startswith("model cache at /proc: writing to it failed (")
    assert told.endswith("); the model is not kept")


def test_a_volume_that_becomes_full_is_told_once_and_leaves_nothing_behind(
    model: str, access: Access, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_out: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(modelcache, "_flush", full)
    assert is_whole(cache.fetch(access, model).folder)
    message = f"model cache at {cache.root}: writing to it failed (No space left on device); the model is not kept"
    assert cache.told() == [(UNUSABLE, message)]
    assert (cache.below("models"), cache.below("incoming")) == ([], [])


def test_a_volume_that_can_no_longer_be_read_is_told_once_and_fails_nothing(
    model: str, access: Access, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.fetch(access, model)
    cache.told()

    def broken(*_: Any) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(modelcache, "_copy", broken)
    assert is_whole(cache.fetch(access, model).folder)
    message = f"model cache at {cache.root}: reading it failed (Input/output error); the model is downloaded"
    assert cache.told() == [(UNUSABLE, message)]
    assert len(cache.below("models")) == 1


def test_a_model_that_is_larger_than_the_cache_is_not_kept_and_nothing_goes_for_it(
    model: str, s3: S3Server, bucket: str, access: Access, cache: CacheFolder
) -> None:
    cache.fetch(access, model)
    unused_since(cache.entry(), 100)
    cache.max_bytes = 2000
    cache.told()
    for name in WANTED:
        s3.client().put_object(Bucket=bucket, Key=f"large/{name}", Body=FILES[name])
    s3.client().put_object(Bucket=bucket, Key=f"large/{FIRST}", Body=safetensors(1000))
    cache.fetch(access, f"s3://{bucket}/large/")
    ((event, told),) = cache.told()
    assert event == UNUSABLE
    assert "modelCache.maxSize allows 2000; the model is not kept" in told
    assert len(cache.below("models")) == 1


# --- several pods -----------------------------------------------------------------------------------------------------


def test_pods_that_fetch_one_model_at_once_leave_one_entry(model: str, access: Access, cache: CacheFolder) -> None:
    access.open("model", model).list()  # makes the client, which threads share
    with ThreadPoolExecutor(4) as pods:
        fetched = list(pods.map(lambda _: cache.fetch(access, model), range(4)))
    assert all(is_whole(one.folder) for one in fetched)
    assert all(event in (HIT, STORED) for event, _ in cache.told())
    assert cache.entry()
    assert cache.below("incoming") == []
    assert is_whole(cache.fetch(access, model).folder)
    assert cache.told() == [(HIT, "")]


def test_a_model_that_another_pod_is_just_storing_is_not_stored_twice(
    model: str, access: Access, cache: CacheFolder
) -> None:
    cache.fetch(access, model)
    entry = cache.entry()
    entry.rename(entry.parent.parent / "incoming" / f"{entry.name}.other")
    cache.told()
    assert is_whole(cache.fetch(access, model).folder)
    assert cache.told() == []
    assert cache.below("models") == []
