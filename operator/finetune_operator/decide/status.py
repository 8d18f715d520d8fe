"""Reads and writes ``FineTuneJob.status``: the operator's memory, the derived phase, what the reports say.

Pure. What is read back is ``runtime``, ``stages``, ``progress``, ``startTime``, the waiting clock and the conditions;
``phase`` is derived and never read. A stored status may come from anywhere (another version, a restore), so reading
never raises.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.report import StageReport
from finetune_api.status import Condition, FineTuneJobStatus, Phase, Progress, Resolved
from finetune_operator.decide.conditions import Verdict, derive_conditions
from finetune_operator.decide.queued import QUEUE_REASONS

__all__ = [
    "at_rest",
    "condition",
    "is_terminal",
    "phase_of",
    "read_status",
    "to_stored",
    "with_generation",
    "with_report",
]

_MAX_ARTIFACTS: Final = 8


def is_terminal(stored: dict[str, Any]) -> bool:
    """Tell whether the job has ended, from the stored conditions alone and however odd the rest is."""
    conditions = stored.get("conditions")
    return isinstance(conditions, list) and any(
        isinstance(item, dict) and item.get("type") == "Succeeded" and item.get("status") in ("True", "False")
        for item in conditions
    )


def read_status(stored: dict[str, Any]) -> FineTuneJobStatus:
    """Parse a stored status; a part that can't be read counts as absent."""
    try:
        return FineTuneJobStatus.model_validate(stored)
    except ValidationError:
        pass  # read what can be read, below
    readable: dict[str, Any] = {}
    for name, field in FineTuneJobStatus.model_fields.items():
        key = field.alias or name
        value = stored.get(key)
        if isinstance(value, list):
            value = [item for item in value if _readable(key, [item])]
        if value is not None and _readable(key, value):
            readable[key] = value
    return FineTuneJobStatus.model_validate(readable)


def _readable(key: str, value: Any) -> bool:
    try:
        FineTuneJobStatus.model_validate({key: value})
    except ValidationError:
        return False
    return True


def condition(status: FineTuneJobStatus, kind: str) -> Condition | None:
    """Return the condition of a type, if it stands there."""
    return next((item for item in status.conditions or [] if item.type == kind), None)


def at_rest(progress: Progress) -> Progress:
    """Return a progress without what holds for a pod that works only: how fast it is, and when it will be done."""
    return progress.model_copy(update={"eta_seconds": None, "tokens_per_second": None})


def with_generation(stored: dict[str, Any], generation: int) -> dict[str, Any]:
    """Return the stored status with ``observedGeneration`` renewed everywhere and all else as it is.

    A mutable field may be edited after the end; without this kstatus would call the job InProgress for ever.
    """
    conditions = [
        {**item, "observedGeneration": generation} if isinstance(item, dict) else item for item in stored["conditions"]
    ]
    return {**stored, "observedGeneration": generation, "conditions": conditions}


def with_report(status: FineTuneJobStatus, report: StageReport, *, succeeded: bool) -> FineTuneJobStatus:
    """Take over what a stage reported; a later stage completes or replaces what an earlier one said.

    A stage that failed leaves what it had found out, and neither results nor artifacts, unless they are whole and only
    not accepted.
    """
    whole = succeeded or report.not_accepted
    names = ("dataset", "validation", "compute", "results") if whole else ("dataset", "validation", "compute")
    update: dict[str, Any] = {name: value for name in names if (value := getattr(report, name)) is not None}
    if report.resolved is not None:
        earlier = status.resolved.to_wire() if status.resolved else {}
        update["resolved"] = Resolved.model_validate(earlier | report.resolved.to_wire())
    if whole and report.artifacts is not None:
        named = {artifact.name: artifact for artifact in [*(status.artifacts or []), *report.artifacts]}
        update["artifacts"] = list(named.values())[-_MAX_ARTIFACTS:]
    return status.model_copy(update=update)


def phase_of(status: FineTuneJobStatus, verdict: Verdict) -> Phase:
    """Derive the phase from the stages that have started, and the last one's from what its pod told of it.

    But for Suspended and Queued, from which it comes back to where it was, it never runs backwards.
    """
    if verdict.succeeded is not None:
        return "Succeeded" if verdict.succeeded else "Failed"
    if verdict.suspension == "SpecSuspended" or verdict.reason == "ChildSuspended":
        return "Suspended"
    if verdict.reason in QUEUE_REASONS:
        return "Queued"
    idle = ("Pending", "Skipped")
    started = {stage.name for stage in status.stages or [] if stage.attempts > 0 or stage.state not in idle}
    if "train" in started:
        return (status.progress.phase if status.progress else None) or "Training"
    return "Preparing" if "prepare" in started else "Pending"


def to_stored(status: FineTuneJobStatus, verdict: Verdict, *, generation: int, now: datetime) -> dict[str, Any]:
    """Return the whole status to be stored, in wire form.

    ``status`` carries the conditions that stand there now; they are replaced by those of ``verdict``.
    """
    return status.model_copy(
        update={
            "observed_generation": generation,
            "phase": phase_of(status, verdict),
            "progress": Progress(percent=100) if verdict.succeeded else status.progress,
            "conditions": derive_conditions(verdict, prior=status.conditions or [], generation=generation, now=now),
        }
    ).to_wire()
