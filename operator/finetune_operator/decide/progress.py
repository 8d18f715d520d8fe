"""What live reports change in status, and which of them are worth a write.

Pure. A report only informs: it never ends a job, it counts only from the newest pod of the stage that runs, and
``progress.phase`` never runs backwards. ``run.py`` calls this for a child that works; ``process/reports.py`` asks
which report is to be shown.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, get_args

from finetune_api.live import NEWEST_POINTS, LivePhase, LivePoint, LiveReport, Progress, ValidationPoint
from finetune_api.status import FineTuneJobStatus
from finetune_operator.decide.plan import PodReport, PodView
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.status import at_rest, read_status
from finetune_operator.decide.text import parse_time, rfc3339

__all__ = ["SILENT_SECONDS", "seconds_of_silence_left", "silence_note", "wait_of", "with_progress"]

SILENT_SECONDS: Final = 300.0
"""So long without a report and a pod that runs counts as silent; it reports many times as often."""

PERCENT_SECONDS: Final = 60.0
"""Between two writes where nothing but the percent has changed by less than a tenth of the whole."""

OTHER_SECONDS: Final = 300.0
"""Between two writes where even that has not."""

_ORDER: Final[tuple[LivePhase, ...]] = get_args(LivePhase)


# --- which reports are shown ------------------------------------------------------------------------------------------


def wait_of(shown: LiveReport | None, newest: LiveReport) -> float | None:
    """Return how many seconds after the last one a report is to be shown, beyond the pace of all; None: it isn't.

    ``kubectl get -w`` prints a line for each write, so that only what people look for is written at once: another
    phase, a validation, a whole tenth.
    """
    if shown is None or shown.phase != newest.phase or shown.validation != newest.validation:
        return 0.0
    if shown.percent != newest.percent:
        return 0.0 if (shown.percent or 0) // 10 != (newest.percent or 0) // 10 else PERCENT_SECONDS
    same = shown.model_copy(update={"sequence": newest.sequence}) == newest
    return None if same else OTHER_SECONDS


# --- what they change -------------------------------------------------------------------------------------------------


def with_progress(s: Situation, status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Return the status of a stage that has started with what its pod last told."""
    if not _reports(s):
        return status
    before, told = _before(s), _told(s)
    if told is not None:
        points = _points(status.validation or [], told.report.validation or [])
        progress = at_rest(_progress(before, told)) if _is_silent(s) else _progress(before, told)
        return status.model_copy(update={"progress": progress, "validation": points or None})
    newest = _newest(s)
    last = parse_time(before.last_report_time)
    if _is_silent(s) or (newest is not None and last is not None and newest.created > last):
        before = at_rest(before)
    if _is_silent(s) and last is None:
        before = Progress(phase="Training")  # all that is known without reports
    return status.model_copy(update={"progress": before})


def silence_note(s: Situation) -> str:
    """Say that reports are missing, with since when; empty while they are not."""
    if not (_reports(s) and _is_silent(s)):
        return ""
    since = _heard(s)
    assert since is not None  # noqa: S101 - it is silent since then
    return f" No live report has come since {rfc3339(since)}; phase and progress may be old."


def seconds_of_silence_left(s: Situation) -> float | None:
    """Return in how many seconds the pod will count as silent if no report comes; None where it can't, or does."""
    heard = _heard(s) if _reports(s) else None
    left = None if heard is None else SILENT_SECONDS - (s.now - heard).total_seconds()
    return left if left is not None and left > 0 else None


def _reports(s: Situation) -> bool:
    """Tell whether the pods of the stage report: the stage that trains, where the runtime lets it."""
    wanted = s.snapshot is not None and s.snapshot.progress == "Enabled"
    return wanted and s.observed.endpoint is not None and s.current_stage.name == "train"


def _before(s: Situation) -> Progress:
    """Return what stands in status, or how a stage begins that has only now started."""
    stored = read_status({"progress": s.stored.get("progress")}).progress
    if stored is not None:
        return stored
    stage = s.current_stage
    if stage.state != "Pending" or stage.attempts > 0:
        return Progress(phase="Training")  # an operator without live reports has told of it
    both = s.spec is not None and s.spec.resources.gpus_per_node == 0
    return Progress(phase="Preparing" if both else "Baseline", percent=0)


def _newest(s: Situation) -> PodView | None:
    return max(s.pods, key=lambda pod: (pod.created, pod.name), default=None)


def _told(s: Situation) -> PodReport | None:
    """Return the report to show, if it is from the newest pod and that has not ended."""
    told, newest = s.observed.report, _newest(s)
    if told is None or newest is None or newest.uid != told.pod_uid:
        return None
    return None if newest.phase in ("Succeeded", "Failed") else told


def _progress(before: Progress, told: PodReport) -> Progress:
    report = told.report
    phases = [phase for phase in (before.phase, report.phase) if phase is not None]
    # A new attempt doesn't know how far it is before it has fetched its state; till then the last word holds.
    known = before if report.percent is None else report
    return Progress(
        phase=max(phases, key=_ORDER.index),
        percent=known.percent,
        step=known.step,
        total_steps=known.total_steps,
        epoch=known.epoch,
        loss=known.loss,
        eta_seconds=report.eta_seconds,
        tokens_per_second=report.tokens_per_second,
        last_report_time=rfc3339(told.received),
    )


def _points(before: list[ValidationPoint], new: list[LivePoint]) -> list[ValidationPoint]:
    """Return the newest points: those of this attempt, and before them those of earlier ones that it goes on from."""
    own = [ValidationPoint.model_validate(point.model_dump()) for point in new]
    earlier = [point for point in before if not own or point.step < own[0].step]
    return [*earlier, *own][-NEWEST_POINTS:]


def _heard(s: Situation) -> datetime | None:
    """Return since when a pod that runs has told nothing; None where none runs.

    Nobody can be heard before the endpoint stands, so an operator that was away finds nobody silent.
    """
    newest, endpoint = _newest(s), s.observed.endpoint
    if newest is None or endpoint is None or newest.phase != "Running" or newest.deleting:
        return None
    moments = [newest.created, endpoint.since]
    report = s.observed.report
    if report is not None and report.pod_uid == newest.uid:
        moments.append(report.heard)
    return max(moments)


def _is_silent(s: Situation) -> bool:
    heard = _heard(s)
    return heard is not None and s.now - heard >= timedelta(seconds=SILENT_SECONDS)
