"""A local directory as a store: what ``file://`` URIs name in local runs."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from typing_extensions import override

from finetune_api.names import Role
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.store import FIELDS, NOT_FOUND, OnBytes, Store, StoredFile, checked_key

__all__ = ["LocalStore"]

_PART: Final = ".part"
"""Ends the name of a file that is being written, or that a killed process left; no list shows one."""


class LocalStore(Store):
    """A directory as a :class:`~finetune_trainer.storage.store.Store`; files appear whole or not at all."""

    def __init__(self, *, role: Role, folder: Path, field: str | None = None) -> None:
        self._role: Role = role
        self._field = field or FIELDS[role]
        self.folder = folder

    @property
    @override
    def uri(self) -> str:
        return f"file://{self.folder}/" if str(self.folder) != "/" else "file:///"

    @override
    def list(self, *, limit: int | None = None) -> list[StoredFile]:
        with self._errors("listing", ""):
            return sorted(islice(self._files(), limit), key=lambda file: file.key)

    @override
    def size(self, key: str) -> int | None:
        with self._errors("reading", key):
            path = self._path(key)
            return path.stat().st_size if path.is_file() else None

    @override
    def get_bytes(self, key: str) -> bytes:
        with self._errors("reading", key):
            return self._path(key).read_bytes()

    @override
    def get_range(self, key: str, start: int, count: int) -> bytes:
        with self._errors("reading", key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(count)

    @override
    def get_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        with self._errors("reading", key):
            _copy(self._path(key), path)
        if on_bytes:
            on_bytes(path.stat().st_size)

    @override
    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> bool:
        with self._errors("writing", key):
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = _temporary(path)
            try:
                temporary.write_bytes(data)
                if not if_none_match:
                    temporary.replace(path)
                    return True
                try:
                    os.link(temporary, path)  # the one call that creates a complete file only where there is none
                except FileExistsError:
                    return False
                return True
            finally:
                temporary.unlink(missing_ok=True)

    @override
    def put_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        with self._errors("writing", key):
            target = self._path(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(path, target)
        if on_bytes:
            on_bytes(path.stat().st_size)

    @override
    def delete(self, key: str) -> None:
        with self._errors("writing", key):
            path = self._path(key)
            path.unlink(missing_ok=True)
            # A folder is no more than the beginning of keys, so the last one takes it along.
            for folder in path.relative_to(self.folder).parents[:-1]:
                try:
                    (self.folder / folder).rmdir()
                except OSError:
                    break

    @override
    def abort_uploads(self, ours: Callable[[str], bool]) -> int:
        with self._errors("listing", ""):
            found = [path for path in self._paths() if _is_temporary(path) and ours(self._key(_target(path)))]
        with self._errors("writing", ""):
            for path in found:
                path.unlink(missing_ok=True)
        return len(found)

    def _paths(self) -> Iterator[Path]:
        """Everything below the folder that is no folder; others may write and delete meanwhile."""
        return (Path(parent, name) for parent, _, names in os.walk(self.folder, onerror=_unless_gone) for name in names)

    def _files(self) -> Iterator[StoredFile]:
        for path in self._paths():
            if _is_temporary(path):
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # deleted a moment ago
            if stat.S_ISREG(status.st_mode):
                yield StoredFile(self._key(path), status.st_size)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)

    @contextmanager
    def _errors(self, operation: str, key: str) -> Iterator[None]:
        what = f"{operation} {self.uri}{key} ({self._field})"
        try:
            yield
        except PermissionError as error:
            raise StageError(Reason.ACCESS_DENIED, f"{what} was refused: {error.strerror}") from error
        except OSError as error:
            if operation == "writing":
                raise StageError(Reason.ARTIFACT_UPLOAD_FAILED, f"{what} failed: {error.strerror}") from error
            if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
                raise StageError(NOT_FOUND[self._role], f"{what}: there is no such file") from error
            raise StageError(Reason.STORAGE_UNAVAILABLE, f"{what} failed: {error.strerror}") from error


def _temporary(path: Path) -> Path:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_PART)
    os.close(handle)
    return Path(name)


def _unless_gone(error: OSError) -> None:
    """A folder that is not there, or no longer, is an empty one; with any other error files would be missed."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(_PART)


def _target(temporary: Path) -> Path:
    """What :func:`_temporary` was asked for; the random part of its name has no dot. Others may name a file alike."""
    return temporary.with_name(temporary.name[1:].rsplit(".", 2)[0] or temporary.name)


def _copy(source: Path, target: Path) -> None:
    temporary = _temporary(target)
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
