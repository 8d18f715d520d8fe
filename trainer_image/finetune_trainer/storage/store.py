"""The narrow interface to storage, and what is the same for every store: parallel transfers and file digests.

A :class:`Store` is one folder (an S3 prefix or a local directory) with keys below it. ``s3.py`` and ``local.py``
implement it, ``access.py`` opens the right one with the right credentials; everything above works with any of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from finetune_api.digest import digest_of
from finetune_api.names import Role
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError

__all__ = [
    "FIELDS",
    "NOT_FOUND",
    "OUTPUT_PREFIX",
    "OnBytes",
    "Store",
    "StoredFile",
    "checked_key",
    "download",
    "in_parallel",
    "revision_of",
    "sha256_file",
    "upload",
    "with_digests",
]

OnBytes = Callable[[int], None]
"""Called from several threads with the number of bytes that were moved since the last call."""

FILES_AT_ONCE: Final = 8

NOT_FOUND: Final[dict[Role, Reason]] = {
    "model": Reason.MODEL_NOT_FOUND,
    "adapter": Reason.MODEL_NOT_FOUND,
    "dataset": Reason.DATASET_NOT_FOUND,
    # What lies below output.uri was written by the job itself; when it is gone, what is read back differs.
    "output": Reason.VERIFICATION_FAILED,
}
"""Reason of a missing file, by what the file is for."""

FIELDS: Final[dict[Role, str]] = {
    "model": "model.uri",
    "adapter": "model.adapter.uri",
    "dataset": "dataset",
    "output": "output.uri",
}
"""The field of the spec that names a role's place, for messages."""

OUTPUT_PREFIX: Final = "outputPrefix of the FineTuneRuntime"
"""What names the output's place where the spec has no output.uri."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a store.

    Attributes
    ----------
    key
        Path below the store's folder, with ``/``.
    size
        Bytes.
    version
        Something that changes when the content does (the ETag); empty where a store has none.
    """

    key: str
    size: int
    version: str = ""


class Store(Protocol):
    """One folder of files.

    Every method raises :class:`StageError`: AccessDenied and CredentialsNotFound, the role's NotFound reason,
    StorageUnavailable after retries, and ArtifactUploadFailed when a write is refused. Messages name the URI and
    never hold a key.
    """

    @property
    def uri(self) -> str:
        """The folder, ending with ``/``."""
        ...

    def list(self, *, limit: int | None = None) -> list[StoredFile]:
        """Return the files below the folder, or some ``limit`` of them, sorted by key; empty when there are none."""
        ...

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, None if there is no such file."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """Read a small file."""
        ...

    def get_range(self, key: str, start: int, count: int) -> bytes:
        """Read ``count`` bytes of a file from byte ``start``; fewer where it ends before."""
        ...

    def get_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Download one file; ``path`` is complete or absent afterwards."""
        ...

    def put_bytes(self, key: str, data: bytes, *, if_none_match: bool = False) -> bool:
        """Write a small file; with ``if_none_match`` only where there is none. Return whether it was written."""
        ...

    def put_file(self, key: str, path: Path, on_bytes: OnBytes | None = None) -> None:
        """Upload one file."""
        ...

    def delete(self, key: str) -> None:
        """Remove a file; it may be gone already."""
        ...

    def abort_uploads(self, ours: Callable[[str], bool]) -> int:
        """Drop what was uploaded of files that never became whole, where ``ours(key)``; return of how many files.

        No list shows such parts, and they take space until somebody aborts the upload.
        """
        ...


def checked_key(key: str) -> str:
    """Return ``key`` if it stays below a folder when it is joined to it, and is no second name of another file there.

    Raises
    ------
    StageError
        VerificationFailed: the key is absolute or climbs up, so whoever wrote it wants to leave the folder; or it has
        an empty segment or a ``.``, which a disk takes for nothing: ``a//b`` would lie where ``a/b`` does.
    """
    if {"", ".", ".."} & set(key.split("/")) or "\\" in key or "\x00" in key:
        raise StageError(Reason.VERIFICATION_FAILED, f"{key[:200]!r} is not a path below a folder")
    return key


def sha256_file(path: Path) -> str:
    """Digest of a file's content in the OCI form ``sha256:<hex>``."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def in_parallel(calls: Iterable[Callable[[], None]]) -> None:
    """Run transfers on a few threads; the first failure stops those that have not begun and is raised."""
    with ThreadPoolExecutor(max_workers=FILES_AT_ONCE, thread_name_prefix="transfer") as pool:
        futures = [pool.submit(call) for call in calls]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        if any(future.exception() for future in done):
            pool.shutdown(cancel_futures=True)
        for future in futures:
            if not future.cancelled():
                future.result()


def download(store: Store, files: Iterable[StoredFile], folder: Path, on_bytes: OnBytes | None = None) -> None:
    """Download ``files`` into ``folder`` under their keys, and check their sizes.

    Raises
    ------
    StageError
        Of the store, or VerificationFailed when a file's size is not the listed one.
    """

    def fetch(file: StoredFile) -> None:
        path = folder / checked_key(file.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(file.key, path, on_bytes)
        if path.stat().st_size != file.size:
            raise StageError(
                Reason.VERIFICATION_FAILED,
                f"{store.uri}{file.key} has {path.stat().st_size} bytes where {file.size} were expected",
            )

    # Largest first: the transfer ends when the largest file does.
    ordered = sorted(files, key=lambda file: -file.size)
    in_parallel([lambda file=file: fetch(file) for file in ordered])  # type: ignore[misc]  # default binds the loop


def upload(store: Store, files: Mapping[str, Path], on_bytes: OnBytes | None = None) -> None:
    """Upload local files to their keys, largest first."""
    ordered = sorted(files.items(), key=lambda item: -item[1].stat().st_size)
    in_parallel(
        [lambda key=key, path=path: store.put_file(key, path, on_bytes) for key, path in ordered]  # type: ignore[misc]
    )


def revision_of(files: Iterable[StoredFile]) -> str:
    """Digest over names, sizes and versions: what stands for a commit where a store has none."""
    return digest_of([[file.key, file.size, file.version] for file in files])


def with_digests(folder: Path, names: Iterable[str]) -> Iterable[StoredFile]:
    """A local disk gives no versions, so the content is hashed."""
    return (StoredFile(name, (folder / name).stat().st_size, sha256_file(folder / name)) for name in names)
