"""Checkpoints as files below output.uri: how they are written, found, trusted and removed.

    checkpoints/000000620-002-1f0c9a3e/masters.safetensors     32-bit weights
                                       exp_avg.safetensors     the optimizer's moments, a file a kind; AdamW's here
                                       exp_avg_sq.safetensors
                                       metrics.jsonl           the curve so far
                                       manifest.json           the rest of the state, and every file's digest; last
    checkpoints/best/000000600-001-77ab03d1.safetensors        the best validation's weights, while a state names them
    checkpoints/baseline.json                                  see kept_baseline.py

A folder without manifest is none. Folders are named by step, attempt and pod, so a pod that lives on after it was given
up never writes where its successor does. The highest step wins. What is damaged is skipped with a warning, what belongs
to another training is ignored; neither fails a job.
"""

from __future__ import annotations

import logging
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from finetune_api.reasons import Reason
from finetune_trainer.checkpoint.format import (
    CHECKPOINTS,
    Found,
    Identity,
    Manifest,
    Restored,
    encode,
    parse,
    read_files,
    write_files,
)
from finetune_trainer.errors import StageError
from finetune_trainer.model.device import Precision
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.storage.files import FileEntry, publish, read_back
from finetune_trainer.storage.store import Store
from finetune_trainer.training.state import TrainingState

__all__ = ["Catalog", "clear_checkpoints"]

KEPT: Final = 2
"""Newest checkpoints that are kept, with the best weights that they name."""
_BEST: Final = CHECKPOINTS + "best/"
_NAME: Final = re.compile(CHECKPOINTS + r"(\d{9,})-(\d{3,})-([0-9a-z]{1,8})/")
_ANY_ATTEMPT: Final = re.compile(CHECKPOINTS + r"(?:best/)?\d{9,}-(\d{3,})-[0-9a-z]{1,8}[./]")
_MANIFEST: Final = "manifest.json"
_NOT_THE_CHECKPOINTS_FAULT: Final = {
    Reason.ACCESS_DENIED,
    Reason.CREDENTIALS_NOT_FOUND,
    Reason.STORAGE_UNAVAILABLE,
}
"""Reading fails for these reasons whatever was written; the job can't go on without its storage either way."""

log = logging.getLogger(__name__)


class Catalog:
    """The checkpoints of one training, as one attempt sees them.

    Parameters
    ----------
    store
        The folder at output.uri.
    folder
        Scratch folder; must exist.
    pod
        UID of the pod; random without one.
    """

    def __init__(self, store: Store, identity: Identity, *, folder: Path, pod: str | None = None) -> None:
        self._store, self._identity, self._folder = store, identity, folder
        self._pod = re.sub("[^0-9a-z]", "", (pod or "").lower())[:8] or secrets.token_hex(4)
        keys = [file.key for file in store.list() if file.key.startswith(CHECKPOINTS)]
        attempts = [int(match[1]) for key in keys if (match := _ANY_ATTEMPT.match(key))]
        self.attempt = 1 + max(attempts, default=0)
        # Of earlier attempts: whatever is neither good nor another training's goes once there is something newer.
        self._inherited = keys
        self._good: dict[str, Manifest] = {}
        self._foreign: list[str] = []
        self._best: tuple[Mapping[str, Tensor], FileEntry] | None = None
        self.found = self._find()

    def _find(self) -> list[Found]:
        """Return the complete checkpoints of this training, newest first; their files may still be damaged."""
        complete = [(int(match[1]), int(match[2]), match[0]) for key in self._inherited if (match := _complete(key))]
        found = []
        for _, _, key in sorted(complete, reverse=True):
            try:
                manifest = parse(self._store.get_bytes(key + _MANIFEST))
            except (ValueError, StageError) as error:
                _skip(self._store, key, error)
                continue
            if difference := self._identity.difference(manifest.identity):
                log.info("%s%s belongs to another training (%s differs); ignored", self._store.uri, key, difference)
                self._foreign += [key, *(entry.path for entry in manifest.files)]
                continue
            found.append(Found(key=key, manifest=manifest))
            self._good[key] = manifest
        return found

    @property
    def precision(self) -> Precision | None:
        """Precision of this training, None if there is no checkpoint of it."""
        return self.found[0].manifest.precision if self.found else None

    @property
    def branching(self) -> bool | None:
        """Whether answers share a prompt's forward pass in this training; None where nothing says so."""
        return self.found[0].manifest.progress.branching if self.found else None

    def restore(
        self, *, precision: Precision, settings: Mapping[str, Any], shapes: Mapping[str, Any], progress: Progress
    ) -> Restored | None:
        """Read the newest checkpoint that is whole and fits.

        Parameters
        ----------
        precision, settings
            What a checkpoint must have been made with.
        shapes
            Shape of every trained parameter.

        Raises
        ------
        StageError
            AccessDenied, CredentialsNotFound, StorageUnavailable.
        """
        for found in self.found:
            manifest = found.manifest
            if manifest.precision != precision or manifest.settings != settings:
                log.info("%s%s was made with other settings; ignored", self._store.uri, found.key)
                del self._good[found.key]
                continue
            place = self._folder / "restored"
            try:
                read_back(self._store, manifest.files, place, progress)
                restored = read_files(found, place, shapes)
            except (OSError, KeyError, ValueError, SafetensorError, StageError) as error:
                _skip(self._store, found.key, error)
                del self._good[found.key]
                continue
            finally:
                shutil.rmtree(place, ignore_errors=True)
            if manifest.best is not None and restored.state.best is not None:
                entry = next(entry for entry in manifest.files if entry.path == manifest.best)
                self._best = (restored.state.best, entry)
            return restored
        return None

    def write(
        self,
        state: TrainingState,
        *,
        precision: Precision,
        settings: Mapping[str, Any],
        machine: Mapping[str, Any],
        metrics: bytes,
    ) -> tuple[str, int]:
        """Store a state, its manifest last, and remove what is older than the newest two.

        Returns
        -------
        key, bytes
            The checkpoint's folder below output.uri, and the size of what was uploaded.

        Raises
        ------
        StageError
            Of the store.
        """
        name = f"{state.progress.step:09d}-{self.attempt:03d}-{self._pod}"
        key = f"{CHECKPOINTS}{name}/"
        place = self._folder / "checkpoint"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        try:
            best = self._best[1] if self._best and self._best[0] is state.best else None
            best_key = f"{_BEST}{name}.safetensors"
            files = write_files(state, metrics, place, key=key, best_key=best_key if best is None else None)
            entries = publish(self._store, files, no_progress)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        size = sum(entry.bytes for entry in entries)
        if best is not None:
            entries.append(best)
        elif state.best is not None:
            best = next(entry for entry in entries if entry.path == best_key)
        manifest = Manifest(
            identity=self._identity,
            precision=precision,
            settings=dict(settings),
            machine=dict(machine),
            attempt=self.attempt,
            pod=self._pod,
            progress=state.progress,
            steps=dict(state.optimizer.steps),
            files=tuple(entries),
            best=best.path if best else None,
        )
        self._put_manifest(key + _MANIFEST, manifest)
        if state.best is not None and best is not None:
            self._best = (state.best, best)
        self._good[key] = manifest
        try:
            self._prune()
        except StageError as error:
            log.warning("older checkpoints were left behind: %s", error)
        return key, size

    def _put_manifest(self, key: str, manifest: Manifest) -> None:
        if self._store.put_bytes(key, encode(manifest), if_none_match=True):
            return
        # A request that was answered too late is sent again, and then meets what it wrote itself.
        try:
            same = parse(self._store.get_bytes(key)).files == manifest.files
        except ValueError:
            same = False
        if not same:
            raise StageError(Reason.ARTIFACT_UPLOAD_FAILED, f"{self._store.uri}{key} was written by somebody else")

    def _prune(self) -> None:
        """Remove what the newest checkpoints don't need; of other attempts only what was there at the start."""
        newest = sorted(self._good, key=_order, reverse=True)
        keep = set(self._foreign)
        for key in newest[:KEPT]:
            keep |= {key, *(entry.path for entry in self._good[key].files)}
        old = [entry.path for key in newest[KEPT:] for entry in self._good[key].files]
        known = [*(key + _MANIFEST for key in newest[KEPT:]), *old, *self._inherited]
        # Manifests first: a checkpoint is whole or isn't there.
        for key in sorted(set(known), key=lambda key: (not key.endswith(_MANIFEST), key)):
            folder = _NAME.match(key)
            if key in keep or (folder and folder[0] in keep) or not (folder or key.startswith(_BEST)):
                continue
            self._store.delete(key)
        self._good = {key: self._good[key] for key in newest[:KEPT]}
        self._inherited = [key for key in self._inherited if key in keep]


def clear_checkpoints(store: Store) -> None:
    """Remove every checkpoint: the result is complete. A store that refuses only costs space, so that is a warning."""
    try:
        for file in store.list():
            if file.key.startswith(CHECKPOINTS):
                store.delete(file.key)
    except StageError as error:
        log.warning("checkpoints were left behind: %s", error)


def _complete(key: str) -> re.Match[str] | None:
    match = _NAME.match(key)
    return match if match and key == match[0] + _MANIFEST else None


def _order(key: str) -> tuple[int, int]:
    match = _NAME.match(key)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _skip(store: Store, key: str, error: Exception) -> None:
    """Warn of a damaged checkpoint; raise the error if it says nothing about the checkpoint."""
    if isinstance(error, StageError) and error.reason in _NOT_THE_CHECKPOINTS_FAULT:
        raise error
    if isinstance(error, ValidationError):
        words = "its manifest is damaged"
    else:
        words = " ".join(str(error).split())[:300]
    log.warning("the checkpoint %s%s can't be used and is skipped: %s", store.uri, key, words)
