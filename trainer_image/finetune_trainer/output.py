"""The folder of the results: who owns it, and files that are stored and proven to be stored.

Two stages and all their attempts share one folder. ``owner.json`` is written first, with If-None-Match, and decides
who may write; ``manifest.json`` is written last, so a folder with one is complete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.digest import canonical_json, digest_of
from finetune_api.reasons import Reason
from finetune_api.stage import JobIdentity
from finetune_api.status import Artifact
from finetune_trainer.console import Progress
from finetune_trainer.errors import StageError
from finetune_trainer.fetch import bytes_progress
from finetune_trainer.store import Store, StoredFile, checked_key, download, sha256_file, upload

__all__ = [
    "MANIFEST",
    "OWNER",
    "FileEntry",
    "artifact_of",
    "claim",
    "files_of",
    "parse_entries",
    "publish",
    "read_back",
]

OWNER: Final = "owner.json"
MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as the manifest lists it: path below the folder, digest ``sha256:<hex>`` and size in bytes."""

    path: str
    sha256: str
    bytes: int

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"path": self.path, "sha256": self.sha256, "bytes": self.bytes}


def claim(store: Store, job: JobIdentity, spec_digest: str) -> None:
    """Take the folder for this job, or find that it has it already.

    What another attempt of the same job left is overwritten later. A folder with files and without an owner is not
    taken: they may be somebody's model.

    Raises
    ------
    StageError
        OutputExists, naming the folder and its owner; AccessDenied, StorageUnavailable.
    """
    if store.size(OWNER) is None:
        strangers = store.list(limit=1)
        # Another attempt of this job may have come in between; then the owner's name decides below.
        if strangers and store.size(OWNER) is None:
            raise StageError(
                Reason.OUTPUT_EXISTS,
                f"output.uri: {store.uri} holds files that no job wrote, such as {strangers[0].key[:200]!r}",
            )
        name = f"{job.namespace}/{job.name}".strip("/")
        owner = {"jobUid": job.uid, "job": name, "specDigest": spec_digest}
        store.put_bytes(OWNER, canonical_json(owner), if_none_match=True)
    # Read back even after a successful write: not every store honours the condition.
    found = _owner(store.get_bytes(OWNER))
    if found.get("jobUid") != job.uid:
        what = "the complete result" if store.size(MANIFEST) is not None else "files"
        raise StageError(
            Reason.OUTPUT_EXISTS, f"output.uri: {store.uri} holds {what} of another job ({_describe(found)})"
        )


def _owner(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _describe(owner: Mapping[str, Any]) -> str:
    """Name an owner; the file may have been written by anybody, so only plain names are repeated."""
    words = [str(owner.get(key, "")) for key in ("job", "jobUid")]
    return ", ".join(word for word in words if re.fullmatch(r"[A-Za-z0-9./-]{1,128}", word)) or "unknown owner"


def files_of(folder: Path, prefix: str = "") -> dict[str, Path]:
    """Return the files below a local folder by the key that they get in the store."""
    return {prefix + path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def publish(store: Store, files: Mapping[str, Path], progress: Progress) -> list[FileEntry]:
    """Upload files and return their entries, sorted by path.

    Raises
    ------
    StageError
        ArtifactUploadFailed, AccessDenied, StorageUnavailable.
    """
    entries = [FileEntry(key, sha256_file(path), path.stat().st_size) for key, path in sorted(files.items())]
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
