"""Reads Jobs and pods as a person would: why nothing runs yet, why it failed, what was reported.

Pure. The order of evidence for a failure: the Job's deadline, the trainer's own report, its exit code, the kernel's
out-of-memory kill, and the Job's condition where the pods are gone. kubelet's and the scheduler's wording is matched
loosely; a text that isn't known is shown as it is.
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
from finetune_api.status import Failure
from finetune_operator.decide.plan import JobView, PodView
from finetune_operator.decide.text import clean, last_line, sanitise

__all__ = ["SCHEDULING_GRACE_SECONDS", "Hold", "failure_of", "hold_of", "hold_of_refusal", "success_report"]

SCHEDULING_GRACE_SECONDS: Final = 10
"""A pod that finds no node this soon may only wait for the one before it to go; saying so would cost two writes."""

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
_CONTAINER_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_NAME: Final = r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?"
_SECRET_MISSING: Final = re.compile(rf'secrets? "(?P<name>{_NAME})" not found', re.IGNORECASE)
_KEY_MISSING: Final = re.compile(
    rf"couldn't find key (?P<key>[-._A-Za-z0-9]+) in Secret (?:{_NAME}/)?(?P<name>{_NAME})"
    r"|references non-existent secret key:? (?P<bare>[-._A-Za-z0-9]+)",
    re.IGNORECASE,
)
_ACCOUNT_MISSING: Final = re.compile(rf'serviceaccounts? "(?P<name>{_NAME})" not found', re.IGNORECASE)
_EXIT_CODE: Final = re.compile(r"exit code (\d{1,3})\b")
_KILLED: Final = 137
_MAX_FOREIGN: Final = 600
_MAX_INT: Final = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """What holds a job up.

    ``reason`` is the condition's reason; ``known`` the same out of the reason table, or None where waiting ends with
    the deadline only (no node is free); ``waiting_for`` names the missing object.
    """

    reason: str
    message: str
    known: Reason | None = None
    waiting_for: str | None = None


def hold_of_refusal(message: str) -> Hold:
    """Explain why the API server refused to create a Job or a pod: a quota, an admission policy, a missing account."""
    text = _bare(message)
    if "exceeded quota" in text.lower():
        return _known(Reason.QUOTA_EXCEEDED, f"{text}. {REASONS[Reason.QUOTA_EXCEEDED].mend}")
    if found := _ACCOUNT_MISSING.search(text):
        return _known(
            Reason.CREDENTIALS_NOT_FOUND,
            f'ServiceAccount "{found["name"]}" does not exist in the namespace of the job. Create it, or leave '
            "serviceAccountName out.",
            waiting_for=found["name"],
        )
    return _known(Reason.NOT_PERMITTED, f"The cluster refuses it: {text}")


def hold_of(child: JobView, pods: tuple[PodView, ...], *, now: datetime) -> Hold | None:
    """Tell what keeps an unfinished child from running; None while it runs or is just starting."""
    if any(pod.phase == "Running" and not pod.deleting for pod in pods):
        return None
    waiting = [pod for pod in pods if pod.phase == "Pending" and not pod.deleting]
    if waiting:
        return _hold_of_pod(_newest(waiting), now)
    stuck = [pod for pod in pods if pod.phase not in ("Succeeded", "Failed")]
    if stuck:
        pod = _newest(stuck)
        place = f" on node {pod.node}" if pod.node else ""
        return Hold(
            reason="PodTerminating",
            message=f"A new pod starts when pod {pod.name}{place} has ended; delete the Node if it is lost.",
        )
    if child.pod_create_error and child.active == 0:
        return hold_of_refusal(child.pod_create_error)
    return None


def _hold_of_pod(pod: PodView, now: datetime) -> Hold | None:
    reason, text = pod.waiting_reason or "", _bare(pod.waiting_message)
    mount = _bare(pod.mount_error)
    if reason in _IMAGE_REASONS:
        return _known(Reason.IMAGE_PULL_FAILED, f"{text or reason}. {REASONS[Reason.IMAGE_PULL_FAILED].mend}")
    if hold := _hold_of_secret(mount) or (_hold_of_secret(text) if reason in _CONTAINER_REASONS else None):
        return hold
    if reason in _CONTAINER_REASONS:
        return _known(Reason.TRAINER_ERROR, f"The container can't be created ({reason}): {text}")
    if mount:
        return Hold(reason="MountFailed", message=mount)
    if pod.unschedulable and (now - pod.created).total_seconds() >= SCHEDULING_GRACE_SECONDS:
        return Hold(reason="Unschedulable", message=f"No node takes the pod: {_bare(pod.unschedulable)}")
    return None


def _hold_of_secret(text: str) -> Hold | None:
    """Name the Secret, or the key in it, that kubelet misses."""
    if found := _SECRET_MISSING.search(text):
        message = (
            f'Secret "{found["name"]}" does not exist in the namespace of the job. Create it with the keys that its '
            "role needs."
        )
        return _known(Reason.CREDENTIALS_NOT_FOUND, message, waiting_for=found["name"])
    if found := _KEY_MISSING.search(text):
        secret = f'Secret "{found["name"]}"' if found["name"] else "A Secret of the job"
        message = f"{secret} has no key {found['key'] or found['bare']}. Add the key."
        return _known(Reason.CREDENTIALS_NOT_FOUND, message, waiting_for=found["name"])
    return None


def _bare(text: str | None) -> str:
    """Sanitise foreign text that a sentence of ours goes on after."""
    return sanitise(text or "", _MAX_FOREIGN).rstrip(". ")


def _known(reason: Reason, message: str, *, waiting_for: str | None = None) -> Hold:
    return Hold(reason=reason.value, known=reason, message=message, waiting_for=waiting_for)


def success_report(pods: Iterable[PodView], *, stage: StageName, spec_digest: str) -> StageReport | None:
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


def failure_of(
    child: JobView, pods: Iterable[PodView], *, stage: StageName, spec_digest: str, deadline: int
) -> tuple[Failure, StageReport | None]:
    """Tell why a child failed, and what its last pod reported about this spec.

    A failure is believed whatever spec it names: the pod is the child's own, and a trainer that could not read what it
    was told has no digest to name.
    """
    pod = _last_failed(pods)
    report = _report(pod) if pod else None
    code = pod.exit_code if pod else _code_of(child)
    cause, words = _cause(pod, report, code)
    if child.failed_reason == "DeadlineExceeded":
        message = f"Stage {stage} was stopped: the job's {deadline} s (activeDeadlineSeconds) are used up."
        if cause is not None:
            message += f" Last attempt: {words}"
        cause, words = Reason.DEADLINE_EXCEEDED, f"{message} {REASONS[Reason.DEADLINE_EXCEEDED].mend}"
    elif cause is None:
        cause = Reason.BACKOFF_LIMIT_EXCEEDED
        words = words or f"{_bare(child.failed_message) or f'Stage {stage} failed, and its pods are gone'}."
        words = f"{words} {REASONS[cause].mend}"
    return (
        Failure(
            reason=cause.value,
            message=sanitise(words),
            stage=stage,
            exit_code=code,
            pod=sanitise(pod.name, 253) if pod else None,
        ),
        report if report and _answers(report, stage, spec_digest) else None,
    )


def _cause(pod: PodView | None, report: StageReport | None, code: int | None) -> tuple[Reason | None, str]:
    """What one pod's end says: a reason of the table, if it is known, and a sentence."""
    reported = report.failure if report else None
    known = reported.reason if reported else BY_EXIT_CODE.get(code) if code is not None else None
    killed = pod is not None and pod.terminated_reason == "OOMKilled"
    # A worker that the kernel killed makes the trainer end with its general exit code.
    if (killed and known in (None, Reason.TRAINER_ERROR)) or (known is None and code == _KILLED):
        sure = "used more memory than its limit" if killed else "was killed, most likely for its memory"
        mend = REASONS[Reason.OUT_OF_MEMORY].mend
        return Reason.OUT_OF_MEMORY, f"The trainer {sure} (exit code {code}). {mend}"
    if reported:
        return known, reported.message
    said = _last_words(pod) if pod else ""
    if known is not None:
        words = f"The trainer ended with exit code {code}"
        return known, f"{words}: {said}. {REASONS[known].mend}" if said else f"{words}. {REASONS[known].mend}"
    if code is not None:
        return None, f"The trainer ended with exit code {code}" + (f": {said}." if said else ".")
    return None, ""


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
        return StageReport.model_validate(clean(wire))
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
    counted = [pod for pod in failed if pod.exit_code not in (None, EXIT_RESUMABLE)]
    return _newest(counted or failed) if failed else None


def _code_of(child: JobView) -> int | None:
    """The exit code that the job controller names when podFailurePolicy ended the Job."""
    found = _EXIT_CODE.search(child.failed_message or "")
    return int(found[1]) if found else None


def _newest(pods: Iterable[PodView]) -> PodView:
    return max(pods, key=_age)


def _age(pod: PodView) -> tuple[datetime, str]:
    return pod.created, pod.name
