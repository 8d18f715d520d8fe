"""Weights that an earlier job of the namespace has downloaded, kept on the runtime's volume.

Sits beside ``fetch.py``, which proves first that the job may read the model: it lists the source and reads the small
files and the heads of the weights with the job's own credentials. Only the weights come from here. They are copied to
the pod's own disk and hashed on the way, so that nothing which happens to the volume afterwards (another pod that makes
room, or writes) reaches the job. What does not fit what was expected is thrown away and downloaded.

A volume that is full, read-only or broken costs one warning and never the job. ``cacheroom.py`` keeps the volume within
its bound.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final
from uuid import uuid4

from finetune_api.digest import digest_of
from finetune_trainer.process.console import Console
from finetune_trainer.storage.cacheroom import USED, CacheRoom, NoRoomError
from finetune_trainer.storage.store import OnBytes, in_parallel

__all__ = ["ModelCache", "StatedFile", "cache_key"]

_CHUNK: Final = 4 * 2**20
_TOUCH_SECONDS: Final = 60.0
_ENTRY: Final = "entry.json"
"""Written last; without it a folder is no entry."""


@dataclass(frozen=True, slots=True)
class StatedFile:
    """A file of weights as its source states it: name, bytes, and SHA-256 in hex where the source tells that."""

    name: str
    size: int
    sha256: str | None = None


class _DamagedError(Exception):
    """What lies in the cache is not what was expected."""


def cache_key(*source: str) -> str:
    """Name of the entry for a model: where it lies, on which server, at which version."""
    return digest_of(list(source)).removeprefix("sha256:")


class ModelCache:
    """The cache of a namespace.

    Parameters
    ----------
    root
        Where the volume is mounted.
    max_bytes
        What the entries may take together; None is what the volume has.
    console
        Told what came from the cache, and once if it can't be used.
    """

    def __init__(self, root: Path, *, max_bytes: int | None, console: Console) -> None:
        self._root = root
        self._room = CacheRoom(root / "finetune.dev" / "v1", max_bytes=max_bytes)
        self._console = console
        self._warned = False

    def restore(self, key: str, files: Sequence[StatedFile], folder: Path, on_bytes: OnBytes) -> bool:
        """Copy the weights into ``folder``; False where they are not there as they have to be, and nothing is left."""
        entry = self._room.models / key
        try:
            digests = _read_entry(entry)
            if digests is None:
                return False
            restoring = _Restoring(entry, digests, folder, on_bytes, _touching(entry))
            in_parallel([partial(restoring, file) for file in files])
        except (_DamagedError, OSError) as error:
            for file in files:
                (folder / file.name).unlink(missing_ok=True)
            if isinstance(error, _DamagedError):
                self._warn(f"{error}; it is thrown away, and the model is downloaded")
                with suppress(OSError):
                    self._room.discard(entry)
            else:
                self._warn(f"reading it failed ({_said(error)}); the model is downloaded")
            return False
        size = sum(file.size for file in files)
        self._console.event(
            "model_cache_hit", f"{size / 1e6:.1f} MB of weights are from the model cache", bytes=size, key=key
        )
        return True

    def store(self, key: str, place: str, files: Sequence[StatedFile], folder: Path, on_bytes: OnBytes) -> None:
        """Keep the weights in ``folder`` for later jobs; what stands in the way is told, and no failure.

        Parameters
        ----------
        place
            The model's URI, for whoever looks at the volume.
        """
        entry = self._room.models / key
        try:
            if entry.exists() or self._room.is_stored_elsewhere(key):
                return  # another pod was first
            size = sum(file.size for file in files)
            self._room.make(size)
            self._write(entry, place, files, folder, on_bytes)
        except NoRoomError as error:
            self._warn(f"{error}; the model is not kept")
        except _DamagedError as error:
            self._warn(f"{error}; the model is not kept")
        except OSError as error:
            self._warn(f"writing to it failed ({_said(error)}); the model is not kept")
        else:
            self._console.event("model_cache_stored", bytes=size, key=key)

    def _write(self, entry: Path, place: str, files: Sequence[StatedFile], folder: Path, on_bytes: OnBytes) -> None:
        incoming = self._room.incoming / f"{entry.name}.{uuid4().hex}"
        incoming.mkdir()
        digests: dict[str, str] = {}
        try:
            for file in files:  # as long as they will be, so that other pods count them
                with (incoming / file.name).open("wb") as out:
                    out.truncate(file.size)
            storing = _Storing(folder, incoming, digests, on_bytes)
            in_parallel([partial(storing, file) for file in files])
            content = {"version": 1, "model": place, "sha256": dict(sorted(digests.items()))}
            with (incoming / _ENTRY).open("w", encoding="utf-8") as out:
                json.dump(content, out, indent=1)
                _flush(out)
            (incoming / USED).touch()
            incoming.rename(entry)
        except OSError:
            if not entry.exists():  # else another pod was first after all
                raise
        finally:
            self._room.remove(incoming)

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            self._console.event("model_cache_unusable", f"model cache at {self._root}: {what}", level="warning")


def _read_entry(entry: Path) -> dict[str, str] | None:
    """Digests by name; None where there is no such entry."""
    try:
        with _opened(entry / _ENTRY) as file:
            content: Any = json.loads(file.read(2**20))
        digests = content["sha256"] if content["version"] == 1 else None
        if isinstance(digests, dict):
            return {str(name): str(digest) for name, digest in digests.items()}
    except FileNotFoundError:
        if not entry.exists():
            return None
    except NotADirectoryError:
        pass
    except (ValueError, KeyError, TypeError):
        pass
    raise _DamagedError(f"{entry.name}/{_ENTRY} can't be read")


@dataclass(frozen=True, slots=True)
class _Restoring:
    """Brings files of an entry to a folder, each as it was stored."""

    entry: Path
    digests: dict[str, str]
    folder: Path
    on_bytes: OnBytes
    touch: Callable[[], None]

    def __call__(self, file: StatedFile) -> None:
        where = f"{self.entry.name}/{file.name}"
        expected = self.digests.get(file.name)
        if expected is None or (file.sha256 is not None and file.sha256 != expected):
            raise _DamagedError(f"{where} has another digest than the source states")
        try:
            with _opened(self.entry / file.name) as source:
                if os.fstat(source.fileno()).st_size != file.size:
                    raise _DamagedError(f"{where} has another size than at the source")
                with (self.folder / file.name).open("wb") as out:
                    digest = _copy(source, out, self.on_bytes, self.touch)
        except FileNotFoundError:
            raise _DamagedError(f"{where} is missing") from None
        if digest != expected:
            raise _DamagedError(f"{where} is not what was stored there")


@dataclass(frozen=True, slots=True)
class _Storing:
    """Brings files of a folder into an entry that is not there yet, and notes their digests."""

    folder: Path
    incoming: Path
    digests: dict[str, str]
    on_bytes: OnBytes

    def __call__(self, file: StatedFile) -> None:
        with (self.folder / file.name).open("rb") as source, (self.incoming / file.name).open("r+b") as out:
            digest = _copy(source, out, self.on_bytes, lambda: None)
            _flush(out)
        if file.sha256 is not None and file.sha256 != digest:
            raise _DamagedError(f"{file.name} was downloaded with another digest than the source states")
        self.digests[file.name] = digest


def _copy(source: IO[bytes], out: IO[bytes], on_bytes: OnBytes, touch: Callable[[], None]) -> str:
    """Copy to the end; return the SHA-256 of what was copied."""
    hasher = hashlib.sha256()
    while data := source.read(_CHUNK):
        hasher.update(data)
        out.write(data)
        on_bytes(len(data))
        touch()
    return hasher.hexdigest()


def _opened(path: Path) -> IO[bytes]:
    """Open a plain file; whoever may write to the volume could have put a link or a pipe there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise _DamagedError(f"{path.parent.name}/{path.name} is a link") from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _DamagedError(f"{path.parent.name}/{path.name} is no plain file")
    return os.fdopen(handle, "rb")


def _touching(entry: Path) -> Callable[[], None]:
    """Tell other pods now and then that the entry is in use; on a read-only volume nobody can."""
    last = -_TOUCH_SECONDS

    def touch() -> None:
        nonlocal last
        if time.monotonic() - last >= _TOUCH_SECONDS:
            last = time.monotonic()
            with suppress(OSError):
                (entry / USED).touch()

    touch()
    return touch


def _flush(out: IO[Any]) -> None:
    out.flush()
    os.fsync(out.fileno())


def _said(error: OSError) -> str:
    return error.strerror or type(error).__name__
