"""Results that exist already: another job's, which may stand for this one's, and this job's own of an earlier attempt.

A run by hand that comes again meets what it completed before like another job's.

Another job's is taken if asking again would give the same: the spec, the revision of the model and the encoded rows are
compared. The rows are prepared for that in the scratch folder; nothing is written at output.uri, which is the other
job's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.digest import sha256_digest, spec_content
from finetune_api.job import FineTuneJobSpec
from finetune_api.reasons import Reason
from finetune_api.report import StageReport
from finetune_trainer.errors import StageError
from finetune_trainer.job.context import Work
from finetune_trainer.job.dataset import bring_adapter, fetch_tokenizer, prepare_rows
from finetune_trainer.output.folder import MANIFEST, damage
from finetune_trainer.output.manifest import read_manifest
from finetune_trainer.output.ownership import EarlierResult, claim, describe_job

__all__ = ["own_result", "spec_differences", "take_or_reuse"]

_NAMED: Final = 5
"""Fields that a message names at most."""

_FIELD: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")


def take_or_reuse(work: Work) -> StageReport | None:
    """Take the folder for this job, or end the job with the result that fills it.

    Returns
    -------
    StageReport | None
        The report of the other job as this job's own, ``reused``; None: the folder is ours, go on.

    Raises
    ------
    StageError
        OutputExists, naming the folder, its owner, what differs or is missing, and the mend; any reason of reading
        the rows.
    """
    earlier = claim(
        work.output,
        work.stage_input.job,
        spec_digest=work.spec_digest,
        if_exists=work.spec.output.if_exists,
        again=work.fresh,
    )
    return None if earlier is None else _reuse(work, earlier)


def _reuse(work: Work, earlier: EarlierResult) -> StageReport:
    manifest = earlier.manifest
    if manifest.report.spec_digest != work.spec_digest:
        fields = spec_differences(work.spec, manifest.spec)
        own = work.stage_input.template
        # Whatever text a runtime's template had then: the specs say its name alone.
        unsaid = f"of another spec, or of another text of template {own.name}" if own else "of another spec"
        raise _unlike(work, earlier, f"of another spec: {_listed(fields)}" if fields else unsaid)
    with work.console.step("check_result", "check the earlier result"):
        broken = damage(work.output, manifest.files)
    if broken is not None:
        raise _unlike(work, earlier, f"that is no longer complete: {broken}")
    model = fetch_tokenizer(work)
    if model.revision != manifest.model_revision:
        raise _unlike(work, earlier, "of another model: what lies at model.uri has changed since")
    adapter = bring_adapter(work)
    if (adapter.revision if adapter else None) != manifest.adapter_revision:
        raise _unlike(work, earlier, "of another adapter: what lies at model.adapter.uri has changed since")
    fingerprint = prepare_rows(work, model).summary.fingerprint
    if fingerprint is None or fingerprint != manifest.fingerprint:
        raise _unlike(work, earlier, "of other rows: the rows of dataset have changed since")
    # Reading rows takes a while, in which somebody may have taken the folder.
    if work.output.size(MANIFEST) is None or sha256_digest(work.output.get_bytes(MANIFEST)) != manifest.digest:
        raise _unlike(work, earlier, "that was replaced a moment ago")
    name = describe_job(manifest.job)
    work.console.event(
        "reused",
        f"reused the complete result of {name}; nothing was trained: {work.output.uri}",
        reused_job=name,
        digest=manifest.digest,
    )
    return manifest.report.model_copy(
        update={"stage": work.stage_input.stage, "spec_digest": work.spec_digest, "reused": True}
    )


def _unlike(work: Work, earlier: EarlierResult, what: str) -> StageError:
    return StageError(
        Reason.OUTPUT_EXISTS,
        f"output.uri: {work.output.uri} holds a result of {earlier.owner} {what}; set output.ifExists: "
        "Overwrite to replace it",
    )


def own_result(work: Work) -> StageReport | None:
    """Return the report of an attempt that had completed the result, so that a lost report costs no second training.

    Without one the folder counts as incomplete from here on. What a run by hand finds was looked at when the folder was
    claimed.
    """
    if work.output.size(MANIFEST) is None:
        return None
    manifest = read_manifest(work.output.get_bytes(MANIFEST))
    mine = (
        manifest is not None
        and manifest.job.uid == work.stage_input.job.uid
        and manifest.report.spec_digest == work.spec_digest
    )
    if manifest is not None and mine:
        broken = damage(work.output, manifest.files)
        if broken is None:
            work.console.event("already_complete", f"the result is complete already: {work.output.uri}")
            return manifest.report
        work.console.event("result_damaged", f"{broken}; the result is made anew", level="warning")
    work.output.delete(MANIFEST)
    return None


def spec_differences(ours: FineTuneJobSpec, theirs: Mapping[str, Any]) -> list[str]:
    """Name the fields that ask for another result, such as ``training.seed``, sorted.

    Parameters
    ----------
    theirs
        A spec in the wire's form that somebody else stored. Empty is returned when it is none, or differs in nothing
        that this version knows.
    """
    try:
        other = FineTuneJobSpec.model_validate(dict(theirs), context={"local": True})
    except ValidationError:
        return []
    return sorted(set(_differing(spec_content(ours), spec_content(other), "")))


def _differing(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in ours.keys() | theirs.keys():
            # Names of columns are the user's words; only plain ones are repeated.
            below = f"{path}.{key}".lstrip(".") if _FIELD.fullmatch(str(key)) else path
            yield from _differing(ours.get(key), theirs.get(key), below)
    elif ours != theirs:
        yield "output.export" if path == "export" else path


def _listed(fields: list[str]) -> str:
    more = f" and {len(fields) - _NAMED} more" if len(fields) > _NAMED else ""
    return ", ".join(fields[:_NAMED]) + more + (" differ" if len(fields) > 1 else " differs")
