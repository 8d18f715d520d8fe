"""Files that are stored and proven to be stored: described by digest, uploaded, read back, compared.

Above ``store.py``, which moves bytes; below everything that keeps results or checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress
from finetune_trainer.storage.store import OnBytes, Store, StoredFile, checked_key, download, sha256_file, upload

__all__ = ["FileEntry", "bytes_progress", "entries_of", "files_of", "parse_entries", "publish", "read_back"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as the manifest lists it: path below the folder, digest ``sha256:<hex>`` and size in bytes."""

    path: str
    sha256: str
    bytes: int

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes}


def bytes_progress(progress: Progress, total: int) -> OnBytes:
    """Add up what several threads report and pass it on."""
    lock, done = Lock(), 0

    def on_bytes(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            progress(min(done, total), total)

    return on_bytes


def files_of(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return the files below a local folder by the key that they get in the store."""
    return {prefix + path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def entries_of(files: Mapping[str, Path]) -> list[FileEntry]:
    """Describe local files by the key that they get in the store, sorted by path."""
    return [FileEntry(key, sha256_file(path), path.stat().st_size) for key, path in sorted(files.items())]


def publish(store: Store, files: Mapping[str, Path], progress: Progress) -> list[FileEntry]:
    """Upload files and return their entries, sorted by path.

    Raises
    ------
    StageError
        ArtifactUploadFailed, AccessDenied, StorageUnavailable.
    """
    entries = entries_of(files)
    upload(store, files, bytes_progress(progress, sum(entry.bytes for entry in entries)))
    return entries


def read_back(store: Store, entries: Iterable[FileEntry], folder: Path, progress: Progress) -> None:
    """Download what was stored into ``folder`` and compare every file with its entry.

    Raises
    ------
    StageError
        VerificationFailed, naming the first file that differs.
    """
    entries = list(entries)
    wanted = [StoredFile(entry.path, entry.bytes) for entry in entries]
    download(store, wanted, folder, bytes_progress(progress, sum(entry.bytes for entry in entries)))
    for entry in entries:
        if sha256_file(folder / entry.path) != entry.sha256:
            raise StageError(Reason.VERIFICATION_FAILED, f"{store.uri}{entry.path} is not what was written there")


def parse_entries(values: object, *, place: str) -> list[FileEntry]:
    """Read the file list of a manifest.

    Raises
    ------
    StageError
        VerificationFailed: it is none, or has a path that leaves the folder.
    """
    listed: list[Any] = values if isinstance(values, list) else [None]
    try:
        return [FileEntry(checked_key(one["path"]), str(one["sha256"]), int(one["bytes"])) for one in listed]
    except (AttributeError, TypeError, KeyError, ValueError):
        raise StageError(Reason.VERIFICATION_FAILED, f"{place} has no valid list of files") from None
