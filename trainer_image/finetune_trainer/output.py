"""The folder of the results: what lies in it, and files that are stored and proven to be stored.

Two stages and all their attempts share one folder. ``owner.json`` is written first and decides who may write
(``ownership.py``); ``manifest.json`` is written last, so a folder with one is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.digest import digest_of, sha256_digest
from finetune_api.reasons import Reason
from finetune_api.status import Artifact
from finetune_trainer.console import Progress
from finetune_trainer.errors import StageError
from finetune_trainer.fetch import bytes_progress
from finetune_trainer.store import Store, StoredFile, checked_key, download, sha256_file, upload
from finetune_trainer.work import PREPARED

__all__ = [
    "JOB_FILES",
    "JOB_FOLDERS",
    "MANIFEST",
    "OWNER",
    "FileEntry",
    "abort_uploads",
    "artifact_of",
    "clear",
    "damage",
    "entries_of",
    "files_of",
    "parse_entries",
    "publish",
    "read_back",
]

OWNER: Final = "owner.json"
MANIFEST: Final = "manifest.json"

JOB_FOLDERS: Final = (PREPARED, "checkpoints/", "model/", "adapter/", "report/")
JOB_FILES: Final = (MANIFEST, "results.json", "metrics.jsonl", "predictions.jsonl", "README.md")
"""With :data:`JOB_FOLDERS` all that jobs write besides ``owner.json``; what else lies in the folder is not theirs."""

_SMALL: Final = 4 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as the manifest lists it: path below the folder, digest ``sha256:<hex>`` and size in bytes."""

    path: str
    sha256: str
    bytes: int

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes}


def clear(store: Store, *, keep: str | None = None) -> None:
    """Remove what jobs write, ``manifest.json`` first; files with other names stay.

    Parameters
    ----------
    keep
        One of :data:`JOB_FOLDERS` that stays too.
    """
    store.delete(MANIFEST)
    for file in store.list():
        if _written_by_jobs(file.key) and not (keep is not None and file.key.startswith(keep)):
            store.delete(file.key)


def abort_uploads(store: Store) -> None:
    """Drop what earlier attempts uploaded in part. A store that refuses only costs space, so that is a log line.

    The folder must be this job's; a pod of it that lives on loses an upload that its successor would do again.
    """
    try:
        count = store.abort_uploads(_written_by_jobs)
    except StageError as error:
        log.info("uploads that were cut off may have been left behind: %s", error)
        return
    if count:
        log.info("%d uploads that were cut off were dropped below %s", count, store.uri)


def _written_by_jobs(key: str) -> bool:
    return key in JOB_FILES or key.startswith(JOB_FOLDERS)


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


def damage(store: Store, entries: Iterable[FileEntry]) -> str | None:
    """Say what is wrong with stored files without downloading a model: the first that is, or None.

    Every file has to be there with its size. The content is compared up to 4 MiB a file; larger ones, such as weights,
    go by their size only, and status carries their digests for whoever loads them.
    """
    stored = {file.key: file.size for file in store.list()}
    entries = list(entries)
    for entry in entries:
        if entry.path not in stored:
            return f"{entry.path} is gone"
        if stored[entry.path] != entry.bytes:
            return f"{entry.path} has {stored[entry.path]} bytes where {entry.bytes} were written"
    for entry in entries:
        if entry.bytes <= _SMALL and sha256_digest(store.get_bytes(entry.path)) != entry.sha256:
            return f"{entry.path} is not what was written there"
    return None


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
    except (TypeError, KeyError, ValueError):
        raise StageError(Reason.VERIFICATION_FAILED, f"{place} has no valid list of files") from None


def artifact_of(name: str, path: str, entries: Iterable[FileEntry]) -> Artifact:
    """Sum up the entries at or below ``path``; the digest covers their paths and digests."""
    own = [entry for entry in entries if entry.path == path or (path.endswith("/") and entry.path.startswith(path))]
    return Artifact(
        name=name,
        path=path,
        digest=digest_of([[entry.path, entry.sha256] for entry in own]),
        bytes=sum(entry.bytes for entry in own),
    )
