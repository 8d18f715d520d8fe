"""Copies of a finished result on disk with something changed in them, as they are read for a comparison."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_trainer.output.finding import Finding, Result
from finetune_trainer.output.manifest import read_manifest
from finetune_trainer.storage.local import LocalStore

__all__ = ["by_subject", "changed_copy", "edit_manifest", "result_at", "rewrite"]


def changed_copy(output: Path, to: Path, change: Callable[[Path], object] = lambda _: None) -> Path:
    """Copy the folder of a result and change the copy."""
    shutil.copytree(output, to)
    change(to)
    return to


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change ``manifest.json``, as somebody with an editor would."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def rewrite(folder: Path, key: str, data: bytes) -> None:
    """Write a file of the result as if the job had: the manifest lists it so."""
    (folder / key).write_bytes(data)

    def listed(document: dict[str, Any]) -> None:
        (entry,) = [entry for entry in document["files"] if entry["path"] == key]
        entry.update(sha256="sha256:" + hashlib.sha256(data).hexdigest(), bytes=len(data))

    edit_manifest(folder, listed)


def result_at(folder: Path) -> Result:
    manifest = read_manifest((folder / "manifest.json").read_bytes())
    assert manifest is not None
    return Result(manifest=manifest, store=LocalStore(role="output", folder=folder))


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    found = {finding.subject: finding for finding in findings}
    assert len(found) == len(findings)
    return found
