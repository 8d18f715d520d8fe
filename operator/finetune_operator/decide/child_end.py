"""Reads a child and its pods as a person would: how it ended, why it failed, what was reported.

Pure. A stage has ended when the trainer's container has, whatever else runs in its pod: an injected proxy would keep
the pod Running for ever, and the Job would know of no end. A report of success is looked for before any failure is
told. The order of evidence for a failure: the Job's deadline, what kubelet says about the pod, the trainer's own
report, its exit code, and the Job's condition where the pods are gone. Foreign wording is matched loosely; a text that
isn't known is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.names import StageName
from finetune_api.reasons import BY_EXIT_CODE, EXIT_RESUMABLE, REASONS, Reason
from finetune_api.report import StageReport, parse_report
from finetune_api.status import Failure, StageStatus
from finetune_operator.decide.plan import ChildView, PodView
from finetune_operator.decide.stages import counted_failures, ended_by_deletion, given_up
from finetune_operator.decide.text import bare, clean, last_line, sanitise

__all__ = ["ChildEnd", "EndedBadly", "EndedSilently", "EndedWell", "Interrupted", "cause_of", "how_it_ended"]

_EXIT_CODE: Final = re.compile(r"exit code (\d{1,3})\b")
_DISK: Final = re.compile(r"emptydir|ephemeral[- ](?:local )?storage", re.IGNORECASE)
_MAX_INT: Final = 2**63 - 1
_PODS_ENDS: Final = {
    "UnexpectedAdmissionError": "the node did not admit its pod",
    "OutOfcpu": "the node had no processor left for its pod",
    "OutOfmemory": "the node had no memory left for its pod",
    "OutOfpods": "the node had no room left for its pod",
    "NodeAffinity": "the node no longer suits its pod",
    "NodeLost": "its node was lost",
    "NodeShutdown": "its node was shut down",
    "Shutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "Preempting": "its pod made room for a more urgent one",
    "Evicted": "its pod was evicted",
}
"""By ``status.reason`` of a pod, what became of it: ends that say nothing about the trainer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedWell:
    """The trainer ended well and said all that the stage must say."""

    report: StageReport


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedSilently:
    """The trainer ended well, and there is no report that answers this spec."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedBadly:
    """The child has failed for good; the report is there if it answers this spec."""

    failure: Failure
    report: StageReport | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """The trainer's container ended in a way that calls for another try, and the Job can't see it."""

    pod: str
    counts: bool
    """Whether it is a failure against backoffLimit; one that saved its state is not."""
    why: str = ""
    """A sentence about what ended it, where it was not the trainer."""


ChildEnd = EndedWell | EndedSilently | EndedBadly | Interrupted


def how_it_ended(
    child: ChildView,
    pods: tuple[PodView, ...],
    *,
    stage: StageStatus,
    spec_digest: str,
    limit: int,
    backoff_limit: int,
) -> ChildEnd | None:
    """Tell how a child ended; None if it has not, or only because it was taken away.

    Parameters
    ----------
    stage
        As it stands in status.
    spec_digest
        What a report must answer.
    limit
        The job's running seconds, for the message about its deadline.
    backoff_limit
        How many failures the stage may have over all its children.
    """
    report = _success_report(pods, stage=stage.name, spec_digest=spec_digest)
    if report is not None and (child.ended is not None or any(map(_ended_alone, pods))):
        return EndedWell(report=report)
    going = child.deleting or given_up(stage, child)
    if child.ended == "Complete":
        return None if going else EndedSilently()
    if child.ended == "Failed" and not ended_by_deletion(child):
        if away := _for_nothing_of_its_own(child, pods, left=backoff_limit - stage.failures):
            return None if going else away
        return _badly(child, pods, stage=stage.name, spec_digest=spec_digest, limit=limit)
    pod = None if going else _ended_unseen(pods)
    if pod is None:
        return None
    tries_left = backoff_limit - stage.failures - counted_failures(child, pods)
    again = _as_the_job_would(pod, tries_left=tries_left)
    return again or _badly(child, (pod,), stage=stage.name, spec_digest=spec_digest, limit=limit)


def _ended_alone(pod: PodView) -> bool:
    """Tell whether the trainer ended well in a pod that does not say so: another container runs on, or has failed."""
    return pod.outlived or (pod.phase == "Failed" and pod.exit_code == 0)


def _for_nothing_of_its_own(child: ChildView, pods: tuple[PodView, ...], *, left: int) -> Interrupted | None:
    """Tell whether the Job gave up on pods that nodes turned away, which is no failure of the trainer."""
    away = _newest([pod for pod in pods if pod.turned_away])
    if child.failed_reason != "BackoffLimitExceeded" or away is None or counted_failures(child, pods) > left:
        return None
    return Interrupted(pod=away.name, counts=False, why=_end_of_pod(away) or _turned_away(away))


def _turned_away(pod: PodView) -> str:
    """What a node says of a pod that it lacks something for (``OutOf…``)."""
    words = f": {bare(pod.message)}" if pod.message else ""
    return f"The node turned pod {pod.name} away ({sanitise(pod.reason or 'no reason given', 64)}){words}."


def _ended_unseen(pods: Iterable[PodView]) -> PodView | None:
    """Return the pod of whose end the Job draws no conclusion, if there is one.

    One that filled its disk: the trainer saves its state when kubelet evicts it, so the Job would try for ever. And one
    that another container keeps.
    """
    full = _newest([pod for pod in pods if _filled_its_disk(pod)])
    return full or _newest([pod for pod in pods if pod.outlived and not pod.deleting])


def _as_the_job_would(pod: PodView, *, tries_left: int) -> EndedSilently | Interrupted | None:
    """Tell what the Job would make of the end, could it see it; None if the Job would fail."""
    if _filled_its_disk(pod):
        return None
    if pod.exit_code == 0:
        return EndedSilently()
    if pod.exit_code == EXIT_RESUMABLE:
        return Interrupted(pod=pod.name, counts=False)
    reason = BY_EXIT_CODE.get(pod.exit_code) if pod.exit_code is not None else None
    retried = reason is None or REASONS[reason].retried
    return Interrupted(pod=pod.name, counts=True) if retried and tries_left > 0 else None


def _success_report(pods: Iterable[PodView], *, stage: StageName, spec_digest: str) -> StageReport | None:
    """Return the report of a pod that ended well, if it answers this spec and says all that the stage must say."""
    for pod in sorted(pods, key=_age, reverse=True):
        if pod.phase != "Succeeded" and pod.exit_code != 0:
            continue
        report = _report(pod)
        if report is None or not _answers(report, stage, spec_digest):
            continue
        if report.failure is not None or report.digest is None:
            continue
        if report.results is not None or (stage == "prepare" and not report.reused):
            return report
    return None


def _badly(child: ChildView, pods: Iterable[PodView], *, stage: StageName, spec_digest: str, limit: int) -> EndedBadly:
    """Tell why a child failed, and what its last pod reported about this spec.

    A failure is believed whatever spec it names: the pod is the child's own, and a trainer that could not read what it
    was told has no digest to name.
    """
    pod = _last_failed(pods)
    report = _report(pod) if pod else None
    code = pod.exit_code if pod else _code_of(child)
    cause, words = _cause(pod, report, code)
    if child.failed_reason == "DeadlineExceeded":
        message = f"Stage {stage} was stopped: the job's {limit} s (activeDeadlineSeconds) are used up."
        if cause is not None or (pod is not None and pod.reason is not None):
            message += f" Last attempt: {words}"
        cause, words = Reason.DEADLINE_EXCEEDED, f"{message} {REASONS[Reason.DEADLINE_EXCEEDED].mend}"
    elif cause is None:
        cause = Reason.BACKOFF_LIMIT_EXCEEDED
        words = words or f"{bare(child.failed_message) or f'Stage {stage} failed, and its pods are gone'}."
        words = f"{words} {REASONS[cause].mend}"
    failure = Failure(
        reason=cause.value,
        message=sanitise(words),
        stage=stage,
        exit_code=code,
        pod=sanitise(pod.name, 253) if pod else None,
        log=report.failure.log if report and report.failure else None,
    )
    return EndedBadly(failure=failure, report=report if report and _answers(report, stage, spec_digest) else None)


def cause_of(pod: PodView) -> tuple[Reason | None, str]:
    """Tell why a pod failed: a reason of the table, if it is known, and a sentence."""
    return _cause(pod, _report(pod), pod.exit_code)


def _cause(pod: PodView | None, report: StageReport | None, code: int | None) -> tuple[Reason | None, str]:
    """What one pod's end says: a reason of the table, if it is known, and a sentence."""
    if pod is not None and _filled_its_disk(pod):
        mend = REASONS[Reason.DISK_FULL].mend
        return Reason.DISK_FULL, f"The pod was evicted: {bare(pod.message)}. {mend}"
    reported = report.failure if report else None
    known = reported.reason if reported else BY_EXIT_CODE.get(code) if code is not None else None
    # A worker that the kernel killed makes the trainer end with its general exit code.
    if pod is not None and pod.terminated_reason == "OOMKilled" and known in (None, Reason.TRAINER_ERROR):
        mend = REASONS[Reason.OUT_OF_MEMORY].mend
        return Reason.OUT_OF_MEMORY, f"The trainer used more memory than its limit (exit code {code}). {mend}"
    if reported:
        return known, reported.message
    if pod is not None and known in (None, Reason.TRAINER_ERROR) and (end := _end_of_pod(pod)):
        return None, end
    if code is None:
        return None, ""
    said = _last_words(pod) if pod else ""
    words = f"The trainer ended with exit code {code}" + (f": {said}." if said else ".")
    return known, f"{words} {REASONS[known].mend}" if known is not None else words


def _filled_its_disk(pod: PodView) -> bool:
    """Tell whether kubelet evicted a pod for its own local disk; a node that is low on disk says otherwise."""
    return pod.reason == "Evicted" and pod.disruption is None and _DISK.search(pod.message or "") is not None


def _end_of_pod(pod: PodView) -> str:
    """What the node says about a pod that did not end by itself."""
    words = bare(pod.message)
    if pod.reason in _PODS_ENDS:
        return f"The last attempt ended because {_PODS_ENDS[pod.reason]} ({pod.reason})" + (
            f": {words}." if words else "."
        )
    if pod.terminated_reason == "ContainerStatusUnknown":
        return "The node does not know how the trainer ended (ContainerStatusUnknown); most likely the pod was evicted."
    if pod.disruption is not None:
        return f"The pod was disrupted ({sanitise(pod.disruption, 64)})" + (f": {words}." if words else ".")
    return ""


def _last_words(pod: PodView) -> str:
    """The last line of the container's log, which kubelet hands over where there is no report."""
    text = pod.termination_message or ""
    return "" if parse_report(text) else last_line(text).rstrip(". ")


def _report(pod: PodView) -> StageReport | None:
    """Parse and sanitise a pod's report; None if there is none that an API server would store."""
    report = parse_report(pod.termination_message or "")
    wire = report.to_wire() if report else None
    if wire is None or not _fits(wire):
        return None
    try:
        return StageReport.model_validate(clean(wire, verbatim=("stop",)))
    except ValidationError:
        return None


def _answers(report: StageReport, stage: StageName, spec_digest: str) -> bool:
    return report.stage == stage and report.spec_digest == spec_digest


def _fits(value: Any) -> bool:
    """Tell whether all integers fit into 64 bits; the API server would refuse the whole status for one that doesn't."""
    if isinstance(value, dict):
        return all(_fits(item) for item in value.values())
    if isinstance(value, list):
        return all(_fits(item) for item in value)
    return not isinstance(value, int) or value <= _MAX_INT


def _last_failed(pods: Iterable[PodView]) -> PodView | None:
    """The pod whose failure counted: the newest one, a pod that was merely interrupted only if there is no other."""
    failed = [pod for pod in pods if pod.phase == "Failed" or pod.exit_code not in (None, 0)]
    counted = [pod for pod in failed if pod.reason is not None or pod.exit_code not in (None, EXIT_RESUMABLE)]
    return _newest(counted or failed)


def _code_of(child: ChildView) -> int | None:
    """The exit code that the job controller names when podFailurePolicy ended the Job."""
    found = _EXIT_CODE.search(child.failed_message or "")
    return int(found[1]) if found else None


def _newest(pods: Iterable[PodView]) -> PodView | None:
    return max(pods, key=_age, default=None)


def _age(pod: PodView) -> tuple[datetime, str]:
    return pod.created, pod.name
