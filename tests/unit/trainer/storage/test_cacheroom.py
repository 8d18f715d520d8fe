"""Room in the model cache: the longest unused goes, nothing that is in use, and no more than is needed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from finetune_trainer.storage.cacheroom import STALE_SECONDS, CacheRoom, NoRoomError
from tests.support.cache_kit import unused_since

KIB = 1024


@pytest.fixture
def base(tmp_path: Path) -> Path:
    CacheRoom(tmp_path, max_bytes=None).make(0)
    return tmp_path


def put(base: Path, name: str, size: int, unused: float) -> None:
    """An entry of so many bytes, unused for so many seconds beyond those in which it may be in use."""
    entry = base / "models" / name
    entry.mkdir()
    (entry / "model.safetensors").write_bytes(bytes(size))
    (entry / "used").touch()
    unused_since(entry, unused)


def held(base: Path) -> set[str]:
    return {path.name for path in (base / "models").iterdir()}


def overhead(base: Path) -> int:
    """Bytes of an empty entry on this disk."""
    put(base, "empty", 0, 0)
    entry = base / "models" / "empty"
    size = sum(path.lstat().st_size for path in (entry, *entry.iterdir()))
    CacheRoom(base, max_bytes=None).discard(entry)
    return size


def test_the_longest_unused_goes_first_and_no_more_than_is_needed(base: Path) -> None:
    each = 100 * KIB + overhead(base)
    for name, unused in (("old", 300), ("older", 400), ("new", 100)):
        put(base, name, 100 * KIB, unused)
    CacheRoom(base, max_bytes=3 * each).make(100 * KIB)
    assert held(base) == {"old", "new"}
    CacheRoom(base, max_bytes=3 * each).make(150 * KIB)
    assert held(base) == {"new"}


def test_what_may_be_in_use_stays_and_nothing_goes_in_vain(base: Path) -> None:
    put(base, "free", 10 * KIB, 100)
    put(base, "in-use", 100 * KIB, -30)
    with pytest.raises(NoRoomError, match="in use or too small; a larger volume or"):
        CacheRoom(base, max_bytes=115 * KIB).make(100 * KIB)
    assert held(base) == {"free", "in-use"}


def test_what_other_pods_are_just_writing_counts(base: Path) -> None:
    incoming = base / "incoming" / "key.pod"
    incoming.mkdir()
    with (incoming / "model.safetensors").open("wb") as file:
        file.truncate(100 * KIB)  # planned, not written yet
    with pytest.raises(NoRoomError):
        CacheRoom(base, max_bytes=150 * KIB).make(100 * KIB)
    assert incoming.is_dir()


def test_without_a_bound_the_volume_is_the_bound(base: Path) -> None:
    put(base, "any", 10 * KIB, 100)
    CacheRoom(base, max_bytes=None).make(KIB)
    assert held(base) == {"any"}
    free = os.statvfs(base)
    with pytest.raises(NoRoomError):
        CacheRoom(base, max_bytes=None).make(2 * free.f_blocks * free.f_frsize)
    assert held(base) == {"any"}


def test_what_pods_left_behind_is_swept_and_what_they_are_at_is_not(base: Path) -> None:
    for name, age in (("key.dead", STALE_SECONDS + 1), ("key.alive", STALE_SECONDS - 60)):
        folder = base / "incoming" / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        moment = time.time() - age
        for path in (folder / "model.safetensors", folder):
            os.utime(path, (moment, moment))
    (base / "trash" / "half-deleted").mkdir()
    room = CacheRoom(base, max_bytes=None)
    assert room.is_stored_elsewhere("key")
    room.make(0)
    assert {path.name for path in (base / "incoming").iterdir()} == {"key.alive"}
    assert list((base / "trash").iterdir()) == []


def test_a_file_that_is_no_entry_is_counted_and_goes_as_one(base: Path) -> None:
    stray = base / "models" / "stray"
    stray.write_bytes(bytes(50 * KIB))
    moment = time.time() - 10_000
    os.utime(stray, (moment, moment))
    CacheRoom(base, max_bytes=60 * KIB).make(20 * KIB)
    assert held(base) == set()
