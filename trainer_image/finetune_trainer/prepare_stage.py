"""The prepare stage: rows are read, split, rendered, tokenised and stored for train. No weights, no GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from finetune_api.digest import sha256_digest
from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_api.status import Artifact, Resolved
from finetune_trainer.errors import StageError
from finetune_trainer.fetch import fetch_dataset, fetch_model
from finetune_trainer.modelfiles import check_no_code
from finetune_trainer.output import FileEntry, artifact_of, claim, files_of, parse_entries, publish, read_back
from finetune_trainer.prepare import load_prepared, prepare, save_prepared
from finetune_trainer.prepared import PARTS, Prepared
from finetune_trainer.work import PREPARED, Work

__all__ = ["Received", "prepare_rows", "receive_prepared", "run_prepare", "store_prepared"]

PREPARED_MANIFEST: Final = PREPARED + "manifest.json"


def run_prepare(work: Work) -> StageReport:
    """Do the stage.

    Raises
    ------
    StageError
        Any reason of reading, templating and storing.
    """
    claim(work.output, work.stage_input.job, work.spec_digest)
    with work.console.step("fetch_tokenizer", "fetch the tokenizer") as progress:
        model = fetch_model(
            work.spec.model, access=work.access, folder=work.folder / "model", progress=progress, weights=False
        )
    prepared = prepare_rows(work, model.folder)
    stored = store_prepared(work, prepared, model_revision=model.revision)
    return StageReport(
        stage="prepare",
        spec_digest=work.spec_digest,
        digest=stored.digest,
        dataset=prepared.summary,
        resolved=resolved_of(work, prepared, model_revision=model.revision),
        artifacts=[stored.artifact],
    )


def resolved_of(work: Work, prepared: Prepared, *, model_revision: str) -> Resolved:
    """Return what prepare chose where the spec left a choice."""
    choices = prepared.choice_sets[0].texts if len(prepared.choice_sets) == 1 else None
    return Resolved(
        method=work.spec.training.method,
        metric=prepared.metric,
        choices=len(choices) if choices else None,
        template_digest=prepared.template_digest,
        image=work.stage_input.image,
        model_revision=model_revision,
    )


def prepare_rows(work: Work, model_folder: Path) -> Prepared:
    """Fetch the rows and encode them with the tokenizer in ``model_folder``."""
    with work.console.step("fetch_rows", "fetch the rows") as progress:
        files = fetch_dataset(work.spec.dataset, access=work.access, folder=work.folder / "rows", progress=progress)
    with work.console.step("prepare", "split, render and tokenise the rows") as progress:
        prepared = prepare(
            spec=work.spec, files=files, tokenizer=load_tokenizer(model_folder, work.spec.model.uri), progress=progress
        )
    work.console.event("dataset", **{**prepared.summary.to_wire(), "metric": prepared.metric})
    return prepared


def load_tokenizer(folder: Path, place: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model folder; code that the folder brings along is never run.

    Raises
    ------
    StageError
        UnsafeModel, ModelInvalid.
    """
    check_no_code(folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        raise StageError(
            Reason.MODEL_INVALID,
            f"model.uri: the tokenizer of {place} can't be loaded: {' '.join(str(error).split())[:300]}",
        ) from error
    return tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrepared:
    """What was stored: the digest of its manifest, its files by their key below output.uri, and the sum of them."""

    digest: str
    entries: tuple[FileEntry, ...]
    artifact: Artifact


def store_prepared(work: Work, prepared: Prepared, *, model_revision: str) -> StoredPrepared:
    """Store the encoded rows below output.uri, their manifest last."""
    folder = work.folder / "prepared"
    save_prepared(prepared, folder)
    with work.console.step("upload_prepared", "store the prepared rows") as progress:
        entries = publish(work.output, files_of(folder, PREPARED), progress)
        document: dict[str, Any] = {
            "version": 1,
            "specDigest": work.spec_digest,
            "fingerprint": prepared.summary.fingerprint,
            "modelRevision": model_revision,
            "files": [entry.to_wire() for entry in entries],
        }
        data = (json.dumps(document, indent=1) + "\n").encode()
        work.output.put_bytes(PREPARED_MANIFEST, data)
    entries.append(FileEntry(PREPARED_MANIFEST, sha256_digest(data), len(data)))
    return StoredPrepared(
        digest=sha256_digest(data), entries=tuple(entries), artifact=artifact_of("prepared", PREPARED, entries)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The rows that prepare stored, and the revision of the model whose tokenizer encoded them."""

    prepared: Prepared
    model_revision: str
    stored: StoredPrepared


def receive_prepared(work: Work) -> Received:
    """Download what prepare stored and check that it is just that.

    Raises
    ------
    StageError
        VerificationFailed: something differs from what prepare reported; InvalidSpec: nothing was reported.
    """
    expected = work.stage_input.prepared_digest
    if expected is None:
        raise StageError(Reason.INVALID_SPEC, "the stage input has no preparedDigest, and train doesn't prepare itself")
    place = work.output.uri + PREPARED_MANIFEST
    with work.console.step("fetch_prepared", "fetch the prepared rows") as progress:
        data = work.output.get_bytes(PREPARED_MANIFEST)
        if sha256_digest(data) != expected:
            raise StageError(Reason.VERIFICATION_FAILED, f"{place} is not what the prepare stage wrote there")
        document = json.loads(data)
        entries = parse_entries(document["files"], place=place)
        read_back(work.output, entries, work.folder, progress)
        prepared = load_prepared(work.folder / PREPARED)
    if any(part not in prepared.parts for part in PARTS):
        raise StageError(Reason.VERIFICATION_FAILED, f"{place} lacks a part of the rows")
    entries.append(FileEntry(PREPARED_MANIFEST, expected, len(data)))
    return Received(
        prepared=prepared,
        model_revision=document["modelRevision"],
        stored=StoredPrepared(
            digest=expected, entries=tuple(entries), artifact=artifact_of("prepared", PREPARED, entries)
        ),
    )
