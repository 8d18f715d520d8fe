"""The stages of a job and their bookkeeping: which come, which is next, how many seconds they have used.

Pure. A stage is one child Job. With GPUs there are two, so that no GPU is requested before the rows are known to be
good; without, one child does both. A stage recorded Succeeded is never run again. A child is given up (its report is
lost, or the job is suspended) by recording its uid in a stage that is Pending again: that one write counts its seconds,
and whoever finds the child later knows that it has to go.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName
from finetune_api.reasons import EXIT_RESUMABLE
from finetune_api.status import StageStatus
from finetune_operator.decide.plan import ChildView, PodView
from finetune_operator.decide.text import parse_time, rfc3339

__all__ = [
    "counted_failures",
    "ended",
    "ended_by_deletion",
    "given_up",
    "has_begun",
    "has_started",
    "next_stage",
    "pods_have_started",
    "replace_stage",
    "running",
    "seconds_of",
    "seconds_spent",
    "set_back",
    "stage_is_done",
    "stage_list",
    "stage_names",
    "stood_still",
]


def stage_names(spec: FineTuneJobSpec) -> tuple[StageName, ...]:
    """Return the stages of a job in their order."""
    return ("prepare", "train") if spec.resources.gpus_per_node > 0 else ("train",)


def stage_list(spec: FineTuneJobSpec, stored: Iterable[StageStatus]) -> list[StageStatus]:
    """Return every stage of the job, as recorded or else as not begun."""
    recorded = {stage.name: stage for stage in stored}
    return [recorded.get(name) or StageStatus(name=name, state="Pending") for name in stage_names(spec)]


def stage_is_done(stage: StageStatus) -> bool:
    """Tell whether a stage needs no child any more; prepare counts only with the digest that train checks."""
    if stage.state == "Skipped":
        return True
    return stage.state == "Succeeded" and (stage.name == "train" or stage.digest is not None)


def next_stage(stages: Iterable[StageStatus]) -> StageStatus | None:
    """Return the first stage that isn't done."""
    return next((stage for stage in stages if not stage_is_done(stage)), None)


def has_begun(stages: Iterable[StageStatus]) -> bool:
    """Tell whether a pod of any stage has ever started."""
    return any(stage.attempts > 0 or stage.state not in ("Pending", "Skipped") for stage in stages)


def has_started(stage: StageStatus, child: ChildView, pods: Iterable[PodView]) -> bool:
    """Tell whether a pod of the stage's child has ever started."""
    return stage.state == "Running" or pods_have_started(child, pods)


def pods_have_started(child: ChildView, pods: Iterable[PodView]) -> bool:
    """Tell from the cluster alone whether a container of the child has ever run."""
    pods = tuple(pods)
    # The Job counts pods that it has removed by now; what the node turned away has run nothing.
    seen = sum(1 for pod in pods if pod.turned_away)
    return child.succeeded > 0 or child.failed > seen or any(pod.started for pod in pods)


def replace_stage(stages: Iterable[StageStatus], changed: StageStatus) -> list[StageStatus]:
    """Return the stages with one of them replaced."""
    return [changed if stage.name == changed.name else stage for stage in stages]


def seconds_spent(stages: Iterable[StageStatus]) -> int:
    """Running seconds of all children that have ended."""
    return sum(stage.run_seconds for stage in stages)


def seconds_of(child: ChildView, now: datetime) -> int:
    """Running seconds of one child, by the API server's times.

    Never negative, and never more than its deadline, at which it would have been ended: so clocks that disagree by
    hours, and an operator that was away, change nothing that matters.
    """
    if child.start_time is None:
        return 0
    end = child.completion_time or child.finished_at or (child.suspended_at if child.suspended else None) or now
    return _within((end - child.start_time).total_seconds(), child.active_deadline_seconds)


def _within(seconds: float, most: int | None) -> int:
    return max(0, int(seconds) if most is None else min(int(seconds), most))


def counted_failures(child: ChildView, pods: Iterable[PodView]) -> int:
    """Failures of a child against backoffLimit; what a node turned away, or its deletion ended, does not count."""
    pods = tuple(pods)
    if not child.deleting:
        return max(0, child.failed - sum(1 for pod in pods if pod.turned_away))
    before = [pod for pod in pods if pod.phase == "Failed" and pod.exit_code not in (None, 0, EXIT_RESUMABLE)]
    asked = child.deleted_at
    return sum(1 for pod in before if asked and pod.finished_at and pod.finished_at < asked)


def given_up(stage: StageStatus, child: ChildView) -> bool:
    """Tell whether this child was given up and its seconds are counted; the next one has another uid."""
    return stage.state == "Pending" and stage.job_uid == child.uid


def ended_by_deletion(child: ChildView) -> bool:
    """Tell whether a child failed because its pods were taken away; a child that is cleaned up had failed before."""
    if child.ended != "Failed" or not child.deleting:
        return False
    return child.deleted_at is not None and child.finished_at is not None and child.deleted_at <= child.finished_at


def running(stage: StageStatus, child: ChildView, pods: Iterable[PodView]) -> StageStatus:
    """Record that a pod of the child has started."""
    return stage.model_copy(update={"state": "Running", **_facts(stage, child, pods)})


def ended(
    stage: StageStatus, child: ChildView, pods: Iterable[PodView], *, now: datetime, digest: str | None, succeeded: bool
) -> StageStatus:
    """Record the end of a stage."""
    pods, counted = tuple(pods), given_up(stage, child)
    end = child.completion_time or child.finished_at or now
    return stage.model_copy(
        update={
            "state": "Succeeded" if succeeded else "Failed",
            **(_facts(stage, child, pods) if succeeded or has_started(stage, child, pods) else {}),
            "completion_time": rfc3339(end),
            "run_seconds": stage.run_seconds + (0 if counted else seconds_of(child, now)),
            "digest": digest,
        }
    )


def set_back(
    stage: StageStatus,
    child: ChildView | None,
    pods: Iterable[PodView] = (),
    *,
    now: datetime,
    missed_at: datetime | None = None,
    most: int | None = None,
    report_lost: bool = False,
    failed: bool = False,
) -> StageStatus:
    """Record that the stage needs a new child; the seconds and failures of the old one are kept.

    Parameters
    ----------
    child
        The one to give up, or None when it is gone and only our record is left.
    missed_at
        When this operator missed a child that is gone; None if it has never seen it. Then it counts until its newest
        pod came, which is all that is known: an operator that was away for two days has not run a job for two days.
    most
        Seconds that a child that is gone can have run at most.
    failed
        Whether its end is a failure against backoffLimit that the Job did not see.
    """
    if child is not None:
        update: dict[str, Any] = {
            "job_name": child.name,
            "job_uid": child.uid,
            "run_seconds": stage.run_seconds + (0 if _stands_still(stage, child) else seconds_of(child, now)),
            "failures": stage.failures + counted_failures(child, pods) + int(failed),
        }
        if report_lost:
            update["recreated"] = 1
    else:
        start, last = parse_time(stage.start_time), parse_time(stage.last_attempt_time)
        end = missed_at or last or start
        used = _within((end - start).total_seconds(), most) if start and end else 0
        update = {"run_seconds": stage.run_seconds + used}
    return stage.model_copy(update={**update, "state": "Pending", "start_time": None})


def stood_still(stage: StageStatus, child: ChildView) -> StageStatus:
    """Record that somebody else has suspended the child: it has run until then, and goes on as the same Job."""
    start = parse_time(stage.start_time)
    if stage.state != "Running" or start is None:
        return stage
    if child.suspended_at is None:
        return stage  # its pods still run: the job controller has not acted yet
    used = _within((child.suspended_at - start).total_seconds(), child.active_deadline_seconds)
    # Without a uid it isn't given up: when it runs again, its pods are new ones of the same stage.
    return stage.model_copy(
        update={
            "state": "Pending",
            "start_time": None,
            "job_uid": None,
            "run_seconds": stage.run_seconds + used,
        }
    )


def _stands_still(stage: StageStatus, child: ChildView) -> bool:
    """Tell whether the child is suspended and :func:`stood_still` has counted its seconds."""
    return child.suspended and stage.state != "Running"


def _facts(stage: StageStatus, child: ChildView, pods: Iterable[PodView]) -> dict[str, Any]:
    created = sorted(pod.created for pod in pods)
    return {
        "job_name": child.name,
        "job_uid": child.uid,
        "attempts": _attempts(stage, child, created),
        "last_attempt_time": rfc3339(created[-1]) if created else stage.last_attempt_time,
        "start_time": rfc3339(child.start_time) if child.start_time else stage.start_time,
    }


def _attempts(stage: StageStatus, child: ChildView, created: list[datetime]) -> int:
    """Count the pods; one that saved its state and was deleted is in no list any more, nor in the Job's numbers."""
    counted = child.active + child.succeeded + child.failed
    if stage.job_uid is not None and stage.job_uid != child.uid:
        # A first look at the child that took another one's place: its pods come on top of those of before.
        return stage.attempts + max(1, counted, len(created))
    last = parse_time(stage.last_attempt_time)
    if last is None:
        return max(1, stage.attempts, counted, len(created))
    fresh = sum(1 for moment in created if moment > last)
    # A pod that the Job counts and nobody has seen yet is counted when it is seen.
    return max(stage.attempts + fresh, counted if child.ended else 0)
