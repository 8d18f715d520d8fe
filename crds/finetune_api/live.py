"""The live report: how far a pod is, posted to the operator while it works, the answer, and what status keeps of it.

It only informs. Results travel by the termination message (``report.py``); a live report never ends a job, and one
that is lost is followed by the next. Everything in it is bounded here, because what the operator takes from it stands
in ``status``, and the API server must accept that.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError

from finetune_api.base import ApiModel, DecimalString, Timestamp

__all__ = [
    "MAX_LIVE_BYTES",
    "NEWEST_POINTS",
    "LivePhase",
    "LivePoint",
    "LiveReply",
    "LiveReport",
    "Progress",
    "ValidationPoint",
    "parse_live_report",
]

MAX_LIVE_BYTES: Final = 8192
"""Bytes of a live report, several times what the longest one needs."""

NEWEST_POINTS: Final = 10
"""Validation points that status holds."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number that JSON and int64 hold exactly."""

LivePhase = Literal["Preparing", "Baseline", "Training", "Uploading", "Evaluating"]
"""What a pod does, in the order in which it does it: the model is stored before what was stored is scored."""


class ValidationPoint(ApiModel):
    """Loss and score on the validation rows, after an epoch or so many steps."""

    epoch: int = Field(ge=0, description="Epochs done.")
    step: int = Field(ge=0, description="Optimizer steps done.")
    loss: DecimalString = Field(description="Mean cross-entropy of a completion token.")
    score: DecimalString = Field(description="resolved.metric on the validation rows.")


class Progress(ApiModel):
    """How far the job is, by the newest live report of its pod."""

    phase: LivePhase | None = Field(
        None, description="The furthest that the job has come; a new attempt doesn't set it back."
    )
    percent: int | None = Field(
        None,
        ge=0,
        le=100,
        description="Share of the planned optimizer steps that is done, and 99 once training is over; 100 is for a job "
        "that has succeeded. A new attempt goes on from a checkpoint, which may be earlier.",
    )
    step: int | None = Field(None, ge=0, description="Optimizer steps done.")
    total_steps: int | None = Field(None, ge=0, description="Optimizer steps planned; early stopping ends before.")
    epoch: DecimalString | None = Field(None, description="Passes over the rows so far.")
    eta_seconds: int | None = Field(
        None,
        ge=0,
        description="Estimated seconds from lastReportTime until training, and the scoring after it, are over; absent "
        "while nothing is known.",
    )
    tokens_per_second: int | None = Field(None, ge=0, description="Training tokens a second, padding not counted.")
    loss: DecimalString | None = Field(
        None, description="Mean cross-entropy of a completion token over the newest steps of training."
    )
    last_report_time: Timestamp | None = Field(None, description="When the report came that these numbers are from.")


class LivePoint(ValidationPoint):
    """A validation point whose numbers the API server holds."""

    epoch: Count = Field(description="Epochs done.")
    step: Count = Field(description="Optimizer steps done.")


class LiveReport(ApiModel):
    """How far a pod is."""

    v: Literal[1] = Field(1, description="Version of this document.")
    sequence: Count = Field(description="Grows with every report of a pod; an earlier one that comes late is ignored.")
    phase: LivePhase = Field(description="What the pod does.")
    percent: Annotated[int, Field(ge=0, le=99)] | None = Field(
        None, description="Share of the planned optimizer steps that is done; absent while it isn't known."
    )
    step: Count | None = Field(None, description="Optimizer steps done.")
    total_steps: Count | None = Field(None, description="Optimizer steps planned.")
    epoch: DecimalString | None = Field(None, description="Passes over the rows so far.")
    eta_seconds: Count | None = Field(None, description="Estimated seconds until training and scoring are over.")
    tokens_per_second: Count | None = Field(None, description="Training tokens a second, padding not counted.")
    loss: DecimalString | None = Field(None, description="Mean cross-entropy of a completion token, newest steps.")
    validation: Annotated[list[LivePoint], Field(max_length=NEWEST_POINTS)] | None = Field(
        None, description="Newest validation points of this attempt, in their order."
    )


class LiveReply(ApiModel):
    """What the operator answers to a live report."""

    next_seconds: Annotated[int, Field(ge=1, le=3600)] = Field(description="Seconds until the next report is wanted.")


def parse_live_report(text: bytes) -> LiveReport | None:
    """Parse a live report; None if it isn't one, or one of a version that this one doesn't know."""
    try:
        return LiveReport.model_validate_json(text)
    except ValidationError:
        return None
