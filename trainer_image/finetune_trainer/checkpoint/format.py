"""What a checkpoint's files hold, and how they become a state again; ``catalog.py`` says where they lie.

Tensors are safetensors, one file for each kind so that they travel at once; everything else is in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor

from finetune_trainer.checkpoint.sealed import seal, unseal
from finetune_trainer.model.device import Precision
from finetune_trainer.storage.files import FileEntry
from finetune_trainer.storage.store import checked_key
from finetune_trainer.training.optimizer import OptimizerState
from finetune_trainer.training.state import TrainingProgress, TrainingState

__all__ = ["CHECKPOINTS", "Found", "Identity", "Manifest", "Restored", "encode", "parse", "read_files", "write_files"]

CHECKPOINTS: Final = "checkpoints/"
_METRICS: Final = "metrics.jsonl"
_MASTERS: Final = "masters"
_TENSORS: Final = ".safetensors"


class Identity(BaseModel):
    """What a training is a training of; state of another one is of no use.

    Attributes
    ----------
    fingerprint
        Digest of the encoded rows.
    device
        Kind of device; its arithmetic is another one's only in name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec_digest: str
    fingerprint: str | None
    model_revision: str
    method: str
    device: str
    adapter_revision: str | None = None

    def difference(self, other: Identity) -> str:
        """Name the first field that differs, empty when none does."""
        return next((n for n in type(self).model_fields if getattr(self, n) != getattr(other, n)), "")


class Manifest(BaseModel):
    """``manifest.json`` of a checkpoint.

    Attributes
    ----------
    settings
        The training with nothing left open; a later version of the trainer may choose otherwise.
    machine
        What the bits of the arithmetic depend on besides: threads, instruction set, torch.
    steps
        Steps that each parameter with moments has taken.
    files
        Everything that belongs to it, by key below output.uri.
    best
        Key of the best validation's weights; None before the first validation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    identity: Identity
    precision: Precision
    settings: dict[str, Any]
    machine: dict[str, Any]
    attempt: int
    pod: str
    progress: TrainingProgress
    steps: dict[str, int]
    files: tuple[FileEntry, ...]
    best: str | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A complete checkpoint of this training; its files have not been read yet."""

    key: str
    manifest: Manifest


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint that was read whole: its folder's key, the state, and metrics.jsonl as it was."""

    found: Found
    state: TrainingState
    metrics: str


def encode(manifest: Manifest) -> bytes:
    """Return a manifest as it is stored."""
    return seal(manifest.model_dump(mode="json", by_alias=True))


def parse(data: bytes) -> Manifest:
    """Read a manifest.

    Raises
    ------
    ValueError, StageError
        It is damaged, or lists files elsewhere: what it lists is read, and removed some day.
    """
    manifest = Manifest.model_validate(unseal(data))
    for entry in manifest.files:
        if not checked_key(entry.path).startswith(CHECKPOINTS):
            raise ValueError(f"{entry.path[:200]!r} is no key of a checkpoint")
    return manifest


def write_files(
    state: TrainingState, metrics: bytes, folder: Path, *, key: str, best_key: str | None
) -> dict[str, Path]:
    """Write a state below ``folder`` and return the files by the key that they get.

    Parameters
    ----------
    key
        The checkpoint's folder, ending with ``/``.
    best_key
        Where the best weights go; None leaves them out.
    """
    files = {}
    for part, tensors in {_MASTERS: state.optimizer.masters, **state.optimizer.moments}.items():
        files[key + part + _TENSORS] = path = folder / (part + _TENSORS)
        save_file(dict(tensors), path)
    files[key + _METRICS] = folder / _METRICS
    files[key + _METRICS].write_bytes(metrics)
    if state.best is not None and best_key is not None:
        files[best_key] = folder / "best.safetensors"
        save_file(dict(state.best), files[best_key])
    return files


def read_files(found: Found, place: Path, shapes: Mapping[str, Any]) -> Restored:
    """Make a state of the files that were fetched to ``place`` under their keys.

    Raises
    ------
    ValueError, OSError, SafetensorError
        The files don't fit together, or not the parameters of these ``shapes``.
    """
    manifest = found.manifest
    # Copied out of the mapped files, which are about to go.
    masters = _load(place / found.key / (_MASTERS + _TENSORS))
    if {name: tensor.shape for name, tensor in masters.items()} != shapes:
        raise ValueError("its weights are those of another model")
    parts = sorted(kind for entry in manifest.files if (kind := _kind(entry.path, found.key)))
    moments = {kind: _load(place / found.key / (kind + _TENSORS)) for kind in parts if kind != _MASTERS}
    if set(manifest.steps) != {name for tensors in moments.values() for name in tensors}:
        raise ValueError("its moments don't fit its weights")
    return Restored(
        found=found,
        state=TrainingState(
            progress=manifest.progress,
            optimizer=OptimizerState(masters=masters, moments=moments, steps=manifest.steps),
            best=_load(place / manifest.best) if manifest.best else None,
        ),
        metrics=(place / found.key / _METRICS).read_text(encoding="utf-8"),
    )


def _kind(path: str, key: str) -> str | None:
    """Return what kind of tensors a file of a checkpoint's folder holds; None for another file."""
    name = path.removeprefix(key)
    return name.removesuffix(_TENSORS) if path.startswith(key) and name.endswith(_TENSORS) else None


def _load(path: Path) -> dict[str, Tensor]:
    return {name: torch.clone(tensor) for name, tensor in load_file(path).items()}
