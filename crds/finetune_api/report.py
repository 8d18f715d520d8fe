"""The report: one JSON document of at most 3,500 bytes that a stage leaves as its container's termination message.

It is the authoritative way of results into status. kubelet cuts a termination message at 4,096 bytes, so a report that
is too long drops validation points first, then secondary scores, compute, what was resolved and the details of the
data; never scores or artifacts.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from finetune_api.base import ApiModel, Digest
from finetune_api.names import StageName
from finetune_api.reasons import Reason
from finetune_api.status import Artifact, Compute, DatasetSummary, Resolved, Results, ValidationPoint

__all__ = ["MAX_REPORT_BYTES", "ReportedFailure", "StageReport", "encode_report", "parse_report"]

MAX_REPORT_BYTES: Final = 3500


class ReportedFailure(ApiModel):
    """Why a stage failed, as the trainer sees it."""

    reason: Reason = Field(description="A reason of the table.")
    message: str = Field(max_length=1024, description="What happened, where, and the mend.")


class StageReport(ApiModel):
    """What a stage reports at its end: results or a failure."""

    v: Literal[1] = Field(1, description="Version of this document.")
    stage: StageName = Field(description="The stage that reports.")
    spec_digest: Digest = Field(description="Digest of the spec that this answers.")
    digest: Digest | None = Field(None, description="Digest of the manifest that the stage left in storage.")
    reused: Literal[True] | None = Field(
        None,
        description="Results and artifacts are those of an earlier job with the same spec, model and rows; digest is "
        "that of its manifest.",
    )
    dataset: DatasetSummary | None = Field(None, description="What was read and how it was cut.")
    resolved: Resolved | None = Field(None, description="What was chosen.")
    validation: Annotated[list[ValidationPoint], Field(max_length=10)] | None = Field(
        None, description="Newest points."
    )
    results: Results | None = Field(None, description="Before and after.")
    compute: Compute | None = Field(None, description="What it cost.")
    artifacts: Annotated[list[Artifact], Field(max_length=8)] | None = Field(None, description="What was stored.")
    failure: ReportedFailure | None = Field(None, description="Why the stage failed.")


def _bytes(report: StageReport) -> bytes:
    return json.dumps(report.to_wire(), ensure_ascii=False, separators=(",", ":")).encode()


def encode_report(report: StageReport) -> bytes:
    """Serialise, dropping the least important parts until the document fits.

    Returns
    -------
    bytes
        At most :data:`MAX_REPORT_BYTES` of UTF-8 JSON on one line.
    """
    validation = list(report.validation or [])
    while len(_bytes(report)) > MAX_REPORT_BYTES and validation:
        validation = validation[1:]
        report = report.model_copy(update={"validation": validation or None})
    if len(_bytes(report)) > MAX_REPORT_BYTES and report.results:
        bare = {
            name: getattr(report.results, name).model_copy(update={"secondary": None}) for name in ("baseline", "test")
        }
        report = report.model_copy(update={"results": report.results.model_copy(update=bare)})
    if len(_bytes(report)) > MAX_REPORT_BYTES:
        report = report.model_copy(update={"compute": None})
    if len(_bytes(report)) > MAX_REPORT_BYTES:
        report = report.model_copy(update={"resolved": None})
    if len(_bytes(report)) > MAX_REPORT_BYTES and report.dataset:
        counts = report.dataset.model_copy(update={"dropped_by": None, "truncated_fields": None})
        report = report.model_copy(update={"dataset": counts})
    while len(_bytes(report)) > MAX_REPORT_BYTES and report.failure and report.failure.message:
        shorter = report.failure.message[: len(report.failure.message) * 3 // 4]
        report = report.model_copy(update={"failure": report.failure.model_copy(update={"message": shorter})})
    return _bytes(report)


def parse_report(text: str) -> StageReport | None:
    """Parse a termination message; None if it isn't a report (a log tail, another program's text, a cut document)."""
    try:
        return StageReport.model_validate_json(text)
    except ValidationError:
        return None
