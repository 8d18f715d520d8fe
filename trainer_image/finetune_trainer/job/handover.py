"""The prepared rows below output.uri: written once for a job, whatever number of attempts it takes.

Who prepares stores them, their manifest last. Train receives them by the digest that prepare reported, and a later
attempt of the preparing stage finds them by the job's uid, so the rows of a job can't change under it. A job that goes
on with a failed one's work prepares its rows anew: if they are the same, all that was computed of them is kept.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.digest import sha256_digest
from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_api.status import Artifact
from finetune_trainer.data.parts import PARTS
from finetune_trainer.errors import StageError
from finetune_trainer.job.context import Work
from finetune_trainer.job.dataset import bring_adapter, check_adapter, fetch_tokenizer, prepare_rows, resolved_of
from finetune_trainer.output.folder import artifact_of, clear
from finetune_trainer.output.ownership import check_owner, predecessors
from finetune_trainer.prepare.folder import PREPARED
from finetune_trainer.prepare.prepare import load_prepared
from finetune_trainer.prepare.prepared import Prepared
from finetune_trainer.storage.files import FileEntry, entries_of, files_of, parse_entries, publish, read_back

__all__ = ["Handover", "StoredPrepared", "prepare_once", "receive_prepared"]

PREPARED_MANIFEST: Final = PREPARED + "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPrepared:
    """What was stored: the digest of its manifest, its files by their key below output.uri, and the sum of them."""

    digest: str
    entries: tuple[FileEntry, ...]
    artifact: Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """The rows, the revision of the model whose tokenizer encoded them, and what prepare reports of them."""

    prepared: Prepared
    model_revision: str
    stored: StoredPrepared
    report: StageReport
    adapter_revision: str | None = None


def prepare_once(work: Work) -> Handover:
    """Return this job's rows: those that an earlier attempt stored, else prepared now and stored.

    A fresh run prepares in any case, and replaces what is stored if it differs.

    Raises
    ------
    StageError
        Any reason of reading, templating and storing.
    """
    stored = _stored_rows(work, (work.stage_input.job.uid,))
    if stored is not None and not work.fresh:
        work.console.event("already_prepared", "the rows were prepared and stored before")
        return stored
    model, adapter = fetch_tokenizer(work), bring_adapter(work)
    check_adapter(work, model, adapter)
    prepared = prepare_rows(work, model)
    files = files_of(work.folder / PREPARED, PREPARED)
    report = StageReport(
        stage="prepare",
        spec_digest=work.spec_digest,
        dataset=prepared.summary,
        resolved=resolved_of(
            work, prepared, model_revision=model.revision, adapter_revision=adapter.revision if adapter else None
        ),
    )
    document = {
        "version": 1,
        "jobUid": work.stage_input.job.uid,
        "specDigest": work.spec_digest,
        "fingerprint": prepared.summary.fingerprint,
        "modelRevision": model.revision,
        **({"adapterRevision": adapter.revision} if adapter else {}),
        "report": report.to_wire(),
        "files": [entry.to_wire() for entry in entries_of(files)],
    }
    data = _document_bytes(document)
    if stored is not None and stored.stored.digest == sha256_digest(data):
        return stored
    if (entries := _inherited(work, document)) is not None:
        check_owner(work.output, work.stage_input.job)
        work.output.put_bytes(PREPARED_MANIFEST, data)
        work.console.event("prepared_inherited", "the rows are those of the failed job before")
        return _handover(prepared, document, data, entries)
    with work.console.step("upload_prepared", "store the prepared rows") as progress:
        # State of other rows must not be continued, nor files of theirs be taken for this job's.
        check_owner(work.output, work.stage_input.job)
        clear(work.output)
        entries = publish(work.output, files, progress)
        back = work.folder / "prepared_back"
        read_back(work.output, entries, back, progress)
        shutil.rmtree(back)
        work.output.put_bytes(PREPARED_MANIFEST, data)
    return _handover(prepared, document, data, entries)


def receive_prepared(work: Work) -> Handover:
    """Download what prepare stored and check that it is just that.

    Raises
    ------
    StageError
        VerificationFailed: something differs from what prepare reported; InvalidSpec: nothing was reported.
    """
    expected = work.stage_input.prepared_digest
    if expected is None:
        raise StageError(Reason.INVALID_SPEC, "the stage input has no preparedDigest, and train doesn't prepare itself")
    data = work.output.get_bytes(PREPARED_MANIFEST)
    if sha256_digest(data) != expected:
        place = work.output.uri + PREPARED_MANIFEST
        raise StageError(Reason.VERIFICATION_FAILED, f"{place} is not what the prepare stage wrote there")
    return _fetch(work, json.loads(data), data)


def _inherited(work: Work, document: dict[str, Any]) -> list[FileEntry] | None:
    """Return the files that a job before this one stored, if they and all that is told of them are the same as ours."""
    uids = predecessors(work.output)
    earlier = _stored_rows(work, uids) if uids else None
    if earlier is None:
        return None
    same = {sha256_digest(_document_bytes({**document, "jobUid": uid})) for uid in uids}
    if earlier.stored.digest not in same:
        return None
    return [entry for entry in earlier.stored.entries if entry.path != PREPARED_MANIFEST]


def _document_bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def _stored_rows(work: Work, uids: Collection[str]) -> Handover | None:
    """Return what an attempt of one of these jobs stored for the same spec, None if it isn't all there."""
    if work.output.size(PREPARED_MANIFEST) is None:
        return None
    data = work.output.get_bytes(PREPARED_MANIFEST)
    try:
        document: dict[str, Any] = json.loads(data)
        if document["jobUid"] not in uids or document["specDigest"] != work.spec_digest:
            return None
        return _fetch(work, document, data)
    except (ValueError, KeyError, TypeError, ValidationError):
        what = f"{work.output.uri}{PREPARED_MANIFEST} can't be read"
    except StageError as error:
        if error.reason is not Reason.VERIFICATION_FAILED:
            raise
        what = error.message
    work.console.event("prepared_damaged", f"{what}; the rows are prepared anew", level="warning")
    return None


def _fetch(work: Work, document: dict[str, Any], data: bytes) -> Handover:
    place = work.output.uri + PREPARED_MANIFEST
    folder = work.folder / "stored"
    with work.console.step("fetch_prepared", "fetch the prepared rows") as progress:
        entries = parse_entries(document["files"], place=place)
        read_back(work.output, entries, folder, progress)
        prepared = load_prepared(folder / PREPARED)
    if any(part not in prepared.parts for part in PARTS):
        raise StageError(Reason.VERIFICATION_FAILED, f"{place} lacks a part of the rows")
    return _handover(prepared, document, data, entries)


def _handover(prepared: Prepared, document: dict[str, Any], data: bytes, entries: list[FileEntry]) -> Handover:
    digest = sha256_digest(data)
    entries = [*entries, FileEntry(PREPARED_MANIFEST, digest, len(data))]
    stored = StoredPrepared(digest=digest, entries=tuple(entries), artifact=artifact_of("prepared", PREPARED, entries))
    # Neither digest nor sum can stand in the document that they are made of.
    report = StageReport.model_validate({**document["report"], "digest": digest})
    return Handover(
        prepared=prepared,
        model_revision=document["modelRevision"],
        adapter_revision=document.get("adapterRevision"),
        stored=stored,
        report=report.model_copy(update={"artifacts": [stored.artifact]}),
    )
