"""``manifest.json``: what a job left behind, from what, and by what; written last, so its presence means complete.

Its digest travels in the report and ends in ``status``, so whoever takes the model can check every byte of it without
trusting the bucket.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pydantic import ValidationError

from finetune_api import __version__
from finetune_api.digest import sha256_digest
from finetune_api.report import StageReport
from finetune_api.stage import JobIdentity, StageInput
from finetune_api.templates import RuntimeTemplate
from finetune_trainer.errors import StageError
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.storage.files import FileEntry, parse_entries

__all__ = ["Manifest", "build_manifest", "read_manifest", "versions"]

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
    *,
    stage_input: StageInput,
    prepared: Prepared,
    report: StageReport,
    files: Sequence[FileEntry],
    machine: Mapping[str, Any],
) -> bytes:
    """Return the document as it is stored.

    Parameters
    ----------
    report
        The report without ``digest``, which is the digest of this document.
    files
        All files of the result.
    machine
        What the sums of floats depend on: device, capability, threads.
    """
    adapter = report.resolved.adapter_revision if report.resolved else None
    document = {
        "version": 1,
        "job": stage_input.job.to_wire(),
        "specDigest": report.spec_digest,
        "spec": stage_input.spec.to_wire(),
        # The text behind a name that says nothing elsewhere.
        **({"template": stage_input.template.to_wire()} if stage_input.template is not None else {}),
        "image": stage_input.image,
        "versions": versions(),
        "machine": dict(machine),
        "modelRevision": report.resolved.model_revision if report.resolved else None,
        **({"datasetRevision": revision} if (revision := prepared.summary.revision) else {}),
        **({"adapterRevision": adapter} if adapter else {}),
        **({"inputs": dict(prepared.inputs)} if prepared.inputs else {}),
        **({"templateSource": text} if (text := prepared.template_source) is not None else {}),
        "seed": stage_input.spec.training.seed,
        "templateDigest": prepared.template_digest,
        "tokenizerDigest": prepared.tokenizer_digest,
        "fingerprint": prepared.summary.fingerprint,
        "report": report.to_wire(),
        "files": [entry.to_wire() for entry in files],
    }
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest that was read.

    Attributes
    ----------
    digest
        Of the document.
    job
        Who wrote it.
    spec
        The spec as it stood there; unchecked.
    report
        With ``digest``, as it was when the job ended.
    files
        All files of the result.
    versions, machine, image
        By what it was computed, as far as the version that wrote it told.
    inputs
        Digest of the rows that were read, by field of the spec; empty where nothing told.
    template
        The runtime's template that the spec names, as it was then.
    template_source
        Text of the file that ``dataset.template`` names, as it was then.
    """

    digest: str
    job: JobIdentity
    spec: Mapping[str, Any]
    model_revision: str
    fingerprint: str
    report: StageReport
    adapter_revision: str | None
    files: tuple[FileEntry, ...]
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    image: str | None = None
    seed: int | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    template: RuntimeTemplate | None = None
    template_source: str | None = None
    template_digest: str | None = None
    tokenizer_digest: str | None = None


def read_manifest(data: bytes) -> Manifest | None:
    """Read a manifest; None for a document that is none, or not one of a job that succeeded.

    Its words may be anybody's: what is repeated of them has to be looked at first.
    """
    digest = sha256_digest(data)
    try:
        document: dict[str, Any] = json.loads(data)
        report = StageReport.model_validate({**document["report"], "digest": digest})
        manifest = Manifest(
            digest=digest,
            job=JobIdentity.model_validate(document["job"]),
            spec=dict(document["spec"]),
            model_revision=str(document["modelRevision"]),
            fingerprint=str(document["fingerprint"]),
            report=report,
            adapter_revision=document.get("adapterRevision"),
            files=tuple(parse_entries(document["files"], place="manifest.json")),
            versions=dict(document.get("versions") or {}),
            machine=dict(document.get("machine") or {}),
            image=document.get("image"),
            seed=document.get("seed"),
            inputs={str(name): str(digest) for name, digest in (document.get("inputs") or {}).items()},
            template=RuntimeTemplate.model_validate(document["template"]) if document.get("template") else None,
            template_source=document.get("templateSource"),
            template_digest=document.get("templateDigest"),
            tokenizer_digest=document.get("tokenizerDigest"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError, StageError):
        return None
    succeeded = report.stage == "train" and report.results is not None and report.failure is None
    return manifest if succeeded and not report.reused else None
