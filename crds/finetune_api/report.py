"""The report: one JSON document of at most 2,000 bytes that a stage leaves as its container's termination message.

It is the authoritative way of results into status. kubelet cuts a termination message at 4,096 bytes, and shares
12 KiB among all containers of a pod, so a pod with injected ones has less for each. A report that is too long drops,
one after the other, what ``results.json`` below output.uri tells as well; never the scores. One that arrives cut is
asked for again with :data:`SHORT_REPORT_BYTES`, which fits into the share of a pod with sixteen containers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from finetune_api.base import ApiModel, Digest
from finetune_api.names import StageName
from finetune_api.reasons import Reason
from finetune_api.status import Artifact, Compute, DatasetSummary, Resolved, Results, Score, ValidationPoint

__all__ = ["MAX_REPORT_BYTES", "SHORT_REPORT_BYTES", "ReportedFailure", "StageReport", "encode_report", "parse_report"]

MAX_REPORT_BYTES: Final = 2000
SHORT_REPORT_BYTES: Final = 700
KEPT_SECONDARIES: Final = 1
"""So many of the other metrics stay where there is no room for all."""


class ReportedFailure(ApiModel):
    """Why a stage failed, as the trainer sees it."""

    reason: Reason = Field(description="A reason of the table.")
    message: str = Field(max_length=1024, description="What happened, where, and the mend.")
    log: str | None = Field(None, max_length=64, description="The attempt's log, as a path below output.uri.")


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

    @property
    def not_accepted(self) -> bool:
        """Whether this is a complete result that the job refuses: results and a failure at once."""
        refused = self.failure is not None and self.failure.reason is Reason.NOT_ACCEPTED
        return refused and self.results is not None


def _bytes(report: StageReport) -> bytes:
    wire = report.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    return json.dumps({"v": report.v, **wire}, ensure_ascii=False, separators=(",", ":")).encode()


def encode_report(report: StageReport, limit: int = MAX_REPORT_BYTES) -> bytes:
    """Serialise, dropping the least important parts until the document fits.

    Parameters
    ----------
    limit
        Bytes that there is room for, at least :data:`SHORT_REPORT_BYTES`.

    Returns
    -------
    bytes
        At most ``limit`` bytes of UTF-8 JSON on one line.
    """
    fitting = (data for shorter in _ever_shorter(report) if len(data := _bytes(shorter)) <= limit)
    return next(fitting)


def _ever_shorter(report: StageReport) -> Iterator[StageReport]:
    """Yield the report, and then the same with less and less of it."""
    yield report
    # The operator knows the image, and the manifest has the digests.
    if report.resolved:
        report = report.model_copy(update={"resolved": report.resolved.model_copy(update={"image": None})})
        yield report
    if report.artifacts:
        bare = [artifact.model_copy(update={"digest": None}) for artifact in report.artifacts]
        report = report.model_copy(update={"artifacts": bare})
        yield report
    report = report.model_copy(update={"results": _first_secondaries(report.results)})
    yield report
    if report.results and report.results.references:
        report = report.model_copy(update={"results": report.results.model_copy(update={"references": None})})
        yield report
    if report.results and report.results.warnings:
        kinds = [warning.model_copy(update={"message": None}) for warning in report.results.warnings]
        report = report.model_copy(update={"results": report.results.model_copy(update={"warnings": kinds})})
        yield report
    for points in range(len(report.validation or []) - 1, -1, -1):
        newest = report.validation[-points:] if report.validation and points else None
        report = report.model_copy(update={"validation": newest})
        yield report
    report = report.model_copy(update={"results": _scores(report.results, without=("secondary",))})
    yield report
    report = report.model_copy(update={"compute": None})
    yield report
    if report.dataset:
        counts = report.dataset.model_copy(
            update={"dropped_by": None, "truncated_fields": None, "near_duplicates": None, "sources": None}
        )
        report = report.model_copy(update={"dataset": counts})
        yield report
    report = report.model_copy(update={"resolved": None})
    yield report
    report = report.model_copy(update={"artifacts": None})
    yield report
    report = report.model_copy(update={"results": _scores(report.results, without=("secondary", "ci95", "loss"))})
    yield report
    report = report.model_copy(update={"dataset": None})
    yield report
    if report.results and report.results.warnings:
        report = report.model_copy(update={"results": report.results.model_copy(update={"warnings": None})})
        yield report
    while report.failure and report.failure.message:
        shorter = report.failure.message[: len(report.failure.message) * 3 // 4]
        report = report.model_copy(update={"failure": report.failure.model_copy(update={"message": shorter})})
        yield report
    if report.results and report.results.few_shot:
        bare_shot = report.results.few_shot.model_copy(update=dict.fromkeys(("context_tokens", "gain", "p_value")))
        for shot in (bare_shot, None):  # the second is for numbers of nineteen digits
            report = report.model_copy(update={"results": report.results.model_copy(update={"few_shot": shot})})
            yield report


def _first_secondaries(results: Results | None) -> Results | None:
    """Keep the most telling ones of the other metrics; results.json has all."""
    if results is None:
        return None

    def fewer(score: Score) -> Score:
        return score.model_copy(update={"secondary": score.secondary and score.secondary[:KEPT_SECONDARIES]})

    return _each_score(results, fewer)


def _scores(results: Results | None, *, without: tuple[str, ...]) -> Results | None:
    if results is None:
        return None

    def bare(score: Score) -> Score:
        return score.model_copy(update=dict.fromkeys(without))

    return _each_score(results, bare)


def _each_score(results: Results, change: Callable[[Score], Score]) -> Results:
    few_shot = results.few_shot and change(results.few_shot)
    return results.model_copy(
        update={"baseline": change(results.baseline), "few_shot": few_shot, "test": change(results.test)}
    )


def parse_report(text: str) -> StageReport | None:
    """Parse a termination message; None if it isn't a report (a log tail, another program's text, a cut document)."""
    try:
        return StageReport.model_validate_json(text)
    except ValidationError:
        return None
