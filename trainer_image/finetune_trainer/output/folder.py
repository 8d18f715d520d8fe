"""The folder of the results: what lies in it, what of it is whole, and what goes when a job takes it over.

Two stages and all their attempts share one folder. ``owner.json`` is written first and decides who may write
(``ownership.py``); ``manifest.json`` is written last, so a folder with one is complete.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Final

from finetune_api.digest import digest_of, sha256_digest
from finetune_api.status import Artifact
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.folder import PREPARED
from finetune_trainer.storage.files import FileEntry
from finetune_trainer.storage.store import Store

__all__ = [
    "JOB_FILES",
    "JOB_FOLDERS",
    "LOGS",
    "MANIFEST",
    "OWNER",
    "abort_uploads",
    "artifact_of",
    "changed",
    "clear",
    "damage",
    "is_log",
    "missing",
]

OWNER: Final = "owner.json"
MANIFEST: Final = "manifest.json"

JOB_FOLDERS: Final = (PREPARED, "checkpoints/", "model/", "adapter/", "report/")
JOB_FILES: Final = (MANIFEST, "results.json", "metrics.jsonl", "samples.jsonl", "predictions.jsonl", "README.md")
"""With :data:`JOB_FOLDERS` all that jobs write besides ``owner.json``; what else lies in the folder is not theirs."""

LOGS: Final = "logs/"
"""Logs are no results: they stay when a folder is given back or taken over, and ``logs.py`` bounds their number."""

_LOG: Final = re.compile(r"logs/(prepare|train)-\d{1,9}\.jsonl")

_SMALL: Final = 4 * 1024 * 1024

log = logging.getLogger(__name__)


def clear(store: Store) -> None:
    """Remove what jobs write, ``manifest.json`` first; files with other names stay."""
    store.delete(MANIFEST)
    for file in store.list():
        if _written_by_jobs(file.key):
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


def is_log(key: str) -> bool:
    """Tell whether a file is the log of an attempt."""
    return _LOG.fullmatch(key) is not None


def _written_by_jobs(key: str) -> bool:
    return key in JOB_FILES or key.startswith(JOB_FOLDERS)


def damage(store: Store, entries: Iterable[FileEntry]) -> str | None:
    """Say what is wrong with stored files without downloading a model: the first that is, or None.

    Every file has to be there with its size. The content is compared up to 4 MiB a file; larger ones, such as weights,
    go by their size only, and status carries their digests for whoever loads them.
    """
    entries = list(entries)
    gone = missing(store, entries)
    return f"{gone[0]} is gone" if gone else changed(store, entries)


def missing(store: Store, entries: Iterable[FileEntry]) -> list[str]:
    """Return the paths of files that are no longer there."""
    stored = {file.key for file in store.list()}
    return [entry.path for entry in entries if entry.path not in stored]


def changed(store: Store, entries: Iterable[FileEntry]) -> str | None:
    """Say which of the files that are still there is the first that isn't what was written, or None."""
    stored = {file.key: file.size for file in store.list()}
    entries = [entry for entry in entries if entry.path in stored]
    for entry in entries:
        if stored[entry.path] != entry.bytes:
            return f"{entry.path} has {stored[entry.path]} bytes where {entry.bytes} were written"
    for entry in entries:
        if entry.bytes <= _SMALL and sha256_digest(store.get_bytes(entry.path)) != entry.sha256:
            return f"{entry.path} is not what was written there"
    return None


def artifact_of(name: str, path: str, entries: Iterable[FileEntry]) -> Artifact:
    """Sum up the entries at or below ``path``; the digest covers their paths and digests."""
    own = [entry for entry in entries if entry.path == path or (path.endswith("/") and entry.path.startswith(path))]
    return Artifact(
        name=name,
        path=path,
        digest=digest_of([[entry.path, entry.sha256] for entry in own]),
        bytes=sum(entry.bytes for entry in own),
    )
