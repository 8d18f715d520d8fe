"""Lives of jobs that scenario tests play, in memory and on a real API server: what is asked for, and what happens.

A person in them looks at the job as it stands and edits it, so that a life goes the same way whatever becomes of the
operator in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from finetune_api.reasons import EXIT_RESUMABLE, Reason
from finetune_api.report import encode_report
from finetune_api.stage import StageInput
from finetune_operator.cluster.protocol import Raw
from finetune_operator.cluster.views import as_dict, as_list, condition
from tests.support.builders import cpu_spec, failure_report, job_spec
from tests.support.job_simulator import End, report_found, report_success

__all__ = ["FOR_EVER", "LIVES", "Life", "bad_rows", "preempted_once", "second_try"]

FOR_EVER: Final = 10**6
"""Ticks of a pod that ends only when somebody ends it."""


def bad_rows(document: StageInput, _attempt: int) -> End:
    """The stage finds a row that it can't use."""
    report = failure_report(Reason.DATASET_INVALID, "row 3 has no label", stage=document.stage)
    return End(exit_code=11, message=encode_report(report).decode())


def second_try(document: StageInput, attempt: int) -> End:
    """The first pod of a Job crashes."""
    return report_success(document, attempt) if attempt else End(exit_code=1, message="Segmentation fault")


def preempted_once(document: StageInput, attempt: int) -> End:
    """The first pod of a Job is told to go, and saves its state."""
    return report_success(document, attempt) if attempt else End(exit_code=EXIT_RESUMABLE)


def _nobody(_job: Raw) -> Raw | None:
    return None


def _one_tick(_stage: str, _number: int) -> int:
    return 1


def _first_train_pod_never_ends(stage: str, number: int) -> int:
    return FOR_EVER if (stage, number) == ("train", 1) else 1


def _says(job: Raw, kind: str) -> tuple[Any, Any]:
    found = condition(as_dict(job.get("status")), kind)
    return found.get("status"), found.get("reason")


def _trains(job: Raw) -> bool:
    stages = as_list(as_dict(job.get("status")).get("stages"))
    return any(stage["name"] == "train" and stage["state"] == "Running" for stage in stages)


def _suspends_and_resumes(job: Raw) -> Raw | None:
    """Suspend the job once it trains, and resume it when no pod is left."""
    if _trains(job) and _says(job, "Suspended") == ("False", "NotSuspended"):
        return {"suspend": True}
    return {"suspend": False} if _says(job, "Suspended") == ("True", "SpecSuspended") else None


def _changes_his_mind(job: Raw) -> Raw | None:
    """Suspend the job once it trains, and resume it as soon as its pods are told to go."""
    if _trains(job) and _says(job, "Suspended") == ("False", "NotSuspended"):
        return {"suspend": True}
    return {"suspend": False} if _says(job, "Suspended")[1] in ("Suspending", "SpecSuspended") else None


@dataclass(frozen=True, kw_only=True)
class Life:
    """One job's life.

    Attributes
    ----------
    end, lasts
        See :class:`~tests.support.job_simulator.JobSimulator`.
    person
        Looks at the job each time that the control plane has moved; returns the fields of spec to set, if any.
    reason
        Of the Succeeded condition at the end.
    pods
        How many pods of each stage there are in all.
    """

    spec: Raw
    end: Callable[[StageInput, int], End] = report_success
    lasts: Callable[[str, int], int] = _one_tick
    person: Callable[[Raw], Raw | None] = _nobody
    reason: str = "Completed"
    pods: Mapping[str, int] = field(default_factory=lambda: {"prepare": 1, "train": 1})


LIVES: Final[Mapping[str, Life]] = {
    "one stage": Life(spec=cpu_spec(), pods={"train": 1}),
    "two stages": Life(spec=job_spec()),
    "a failure": Life(spec=job_spec(), end=bad_rows, reason="DatasetInvalid", pods={"prepare": 1}),
    "a retry": Life(spec=job_spec(), end=second_try, pods={"prepare": 2, "train": 2}),
    "a preemption": Life(spec=job_spec(backoffLimit=0), end=preempted_once, pods={"prepare": 2, "train": 2}),
    "applied suspended": Life(spec=cpu_spec(suspend=True), person=_suspends_and_resumes, pods={"train": 1}),
    "suspended and resumed": Life(
        spec=job_spec(),
        lasts=_first_train_pod_never_ends,
        person=_suspends_and_resumes,
        pods={"prepare": 1, "train": 2},
    ),
    "resumed at once": Life(
        spec=cpu_spec(), lasts=_first_train_pod_never_ends, person=_changes_his_mind, pods={"train": 2}
    ),
    "an earlier result": Life(spec=job_spec(), end=report_found, reason="ReusedExistingArtifact", pods={"prepare": 1}),
}
