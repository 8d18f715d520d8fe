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
from finetune_api.status import StageStatus
from finetune_operator.decide.plan import JobView, PodView
from finetune_operator.decide.text import parse_time, rfc3339

__all__ = [
    "ended",
    "ended_by_deletion",
    "given_up",
    "replace_stage",
    "running",
    "seconds_of",
    "seconds_spent",
    "set_back",
    "stage_is_done",
    "stage_list",
    "stage_names",
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


def replace_stage(stages: Iterable[StageStatus], changed: StageStatus) -> list[StageStatus]:
    """Return the stages with one of them replaced."""
    return [changed if stage.name == changed.name else stage for stage in stages]


def seconds_spent(stages: Iterable[StageStatus]) -> int:
    """Running seconds of all children that have ended."""
    return sum(stage.run_seconds for stage in stages)


def seconds_of(child: JobView, now: datetime) -> int:
    """Running seconds of one child, by the API server's times; never negative, whatever the clocks say."""
    if child.start_time is None:
        return 0
    end = child.completion_time or child.finished_at or now
    return max(0, int((end - child.start_time).total_seconds()))


def given_up(stage: StageStatus, child: JobView) -> bool:
    """Tell whether this child was given up and its seconds are counted; the next one has another uid."""
    return stage.state == "Pending" and stage.job_uid == child.uid


def ended_by_deletion(child: JobView) -> bool:
    """Tell whether a child failed because its pods were taken away; a child that is cleaned up had failed before."""
    if child.outcome != "Failed" or not child.deleting:
        return False
    return child.deleted_at is not None and child.finished_at is not None and child.deleted_at <= child.finished_at


def running(stage: StageStatus, child: JobView, pods: Iterable[PodView]) -> StageStatus:
    """Record that a pod of the child has started."""
    return stage.model_copy(update={"state": "Running", **_facts(stage, child, pods)})


def ended(
    stage: StageStatus, child: JobView, pods: Iterable[PodView], *, now: datetime, digest: str | None, succeeded: bool
) -> StageStatus:
    """Record the end of a stage."""
    counted = given_up(stage, child)
    end = child.completion_time or child.finished_at or now
    return stage.model_copy(
        update={
            "state": "Succeeded" if succeeded else "Failed",
            **_facts(stage, child, pods),
            "completion_time": rfc3339(end),
            "run_seconds": stage.run_seconds + (0 if counted else seconds_of(child, now)),
            "digest": digest,
        }
    )


def set_back(stage: StageStatus, child: JobView | None, *, now: datetime, report_lost: bool = False) -> StageStatus:
    """Record that the stage needs a new child; what the old one has used is kept.

    ``child`` is the one to give up, or None when somebody deleted it and only our record is left.
    """
    if child is not None:
        used = seconds_of(child, now)
        update: dict[str, Any] = {"job_name": child.name, "job_uid": child.uid}
        if report_lost:
            update["recreated"] = 1
    else:
        start = parse_time(stage.start_time)
        used = max(0, int((now - start).total_seconds())) if start else 0
        update = {}
    return stage.model_copy(
        update={**update, "state": "Pending", "start_time": None, "run_seconds": stage.run_seconds + used}
    )


def _facts(stage: StageStatus, child: JobView, pods: Iterable[PodView]) -> dict[str, Any]:
    created = sorted(pod.created for pod in pods)
    return {
        "job_name": child.name,
        "job_uid": child.uid,
        "attempts": _attempts(stage, child, created),
        "last_attempt_time": rfc3339(created[-1]) if created else stage.last_attempt_time,
        "start_time": rfc3339(child.start_time) if child.start_time else stage.start_time,
    }


def _attempts(stage: StageStatus, child: JobView, created: list[datetime]) -> int:
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
    return max(stage.attempts + fresh, counted if child.outcome else 0)
