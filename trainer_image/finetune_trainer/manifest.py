"""``manifest.json``: what a job left behind, from what, and by what; written last, so its presence means complete.

Its digest travels in the report and ends in ``status``, so whoever takes the model can check every byte of it without
trusting the bucket.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pydantic import ValidationError

from finetune_api import __version__
from finetune_api.report import StageReport
from finetune_api.stage import StageInput
from finetune_trainer.errors import StageError
from finetune_trainer.output import FileEntry, parse_entries
from finetune_trainer.prepared import Prepared

__all__ = ["build_manifest", "report_of_manifest", "versions"]

PACKAGES: Final = ("torch", "transformers", "peft", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions that the numbers depend on."""
    found = {"finetune-operator": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def build_manifest(
    *, stage_input: StageInput, prepared: Prepared, report: StageReport, files: Sequence[FileEntry], threads: int
) -> bytes:
    """Return the document as it is stored.

    Parameters
    ----------
    report
        The report without ``digest``, which is the digest of this document.
    files
        All files of the result.
    threads
        Arithmetic threads; sums of floats depend on them.
    """
    document = {
        "version": 1,
        "job": stage_input.job.to_wire(),
        "specDigest": report.spec_digest,
        "spec": stage_input.spec.to_wire(),
        "image": stage_input.image,
        "versions": versions(),
        "machine": {"architecture": platform.machine(), "threads": threads},
        "modelRevision": report.resolved.model_revision if report.resolved else None,
        "seed": stage_input.spec.training.seed,
        "templateDigest": prepared.template_digest,
        "tokenizerDigest": prepared.tokenizer_digest,
        "fingerprint": prepared.summary.fingerprint,
        "report": report.to_wire(),
        "files": [entry.to_wire() for entry in files],
    }
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def report_of_manifest(
    data: bytes, *, stage_input: StageInput, spec_digest: str
) -> tuple[StageReport, list[FileEntry]] | None:
    """Return the report of a manifest that this very job wrote; None for any other document."""
    try:
        document: dict[str, Any] = json.loads(data)
        report = StageReport.model_validate(document["report"])
        same = document["job"]["uid"] == stage_input.job.uid and report.spec_digest == spec_digest
        entries = parse_entries(document["files"], place="manifest.json")
    except (ValueError, KeyError, TypeError, ValidationError, StageError):
        return None
    return (report, entries) if same and report.stage == stage_input.stage and report.failure is None else None
