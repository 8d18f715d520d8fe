"""Why a job doesn't get on, as kubelet, the scheduler, the job controller and the API server tell it.

Pure. A ``Hold`` that somebody must mend (a missing Secret, a wrong image) has a reason of the table, and before the
job has begun a clock runs for it. Whatever the cluster has to give or suffers itself (room, a node, a webhook that is
down) is waited for, and no clock runs but the deadline. Foreign wording is matched loosely; a text that isn't known is
shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from finetune_api.reasons import REASONS, Reason
from finetune_operator.decide.named import Named, listed
from finetune_operator.decide.plan import ChildView, PodView
from finetune_operator.decide.queued import queue_says
from finetune_operator.decide.runtimes import Refusal
from finetune_operator.decide.text import bare, rfc3339

__all__ = [
    "CONTROL_PLANE_FAULT",
    "MENDABLE",
    "OVERDUE_SECONDS",
    "POD_IN_THE_WAY",
    "POD_START",
    "REFUSALS",
    "SCHEDULING_GRACE_SECONDS",
    "Hold",
    "hold_of",
    "hold_of_refusal",
    "hold_of_runtime",
    "is_denied",
    "orphan",
    "stuck",
]

SCHEDULING_GRACE_SECONDS: Final = 10
"""A pod that finds no node this soon may only wait for the one before it to go; saying so would cost two writes."""

CONTROL_PLANE_FAULT: Final = "ControlPlaneFault"
"""Reason of a hold that the API server, or a webhook that it calls, is to blame for."""

POD_IN_THE_WAY: Final = "PodTerminating"
"""Reason while a pod of before stands where the next one is to run."""

MENDABLE: Final = frozenset(
    {
        Reason.RUNTIME_NOT_FOUND,
        Reason.NOT_PERMITTED,
        Reason.CREDENTIALS_NOT_FOUND,
        Reason.DATASET_NOT_FOUND,
        Reason.MODEL_NOT_FOUND,
        Reason.IMAGE_PULL_FAILED,
        Reason.TRAINER_ERROR,
    }
)
"""Reasons of holds that somebody must mend; their clock is not that of a want of nodes."""

REFUSALS: Final = frozenset(
    {Reason.QUOTA_EXCEEDED, Reason.CREDENTIALS_NOT_FOUND, Reason.NOT_PERMITTED, CONTROL_PLANE_FAULT}
)
"""Reasons that :func:`hold_of_refusal` gives."""

OVERDUE_SECONDS: Final = 30
"""How long after the end of its grace period a pod that doesn't go is told with its node."""

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
_EVENT_HOLDS: Final = {
    "FailedMount": "MountFailed",
    "FailedAttachVolume": "MountFailed",
    "FailedCreatePodSandBox": "SandboxFailed",
    "FailedScheduling": "Unschedulable",
}
"""By the reason of an Event about a pod that doesn't start, the reason of the hold."""
POD_START: Final = frozenset({"MountFailed", "SandboxFailed"})
"""Reasons of holds that a node gives before it gets to a container; a missing Secret can hide behind them."""
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME: Final = rf"(?![-.a-z0-9]{{254}}){_LABEL}(?:\.{_LABEL})*(?![-a-z0-9/]|\.[-.a-z0-9])"
"""A whole name as status takes it; anybody can write an Event that names something else."""
_SECRET_MISSING: Final = re.compile(rf'(?i:secrets?) "(?P<name>{_NAME})" (?i:not found)')
_KEY_MISSING: Final = re.compile(
    rf"(?i:couldn't find key) (?P<key>[-._A-Za-z0-9]+) (?i:in Secret) (?:{_LABEL}/)?(?P<name>{_NAME})"
    r"|(?i:references non-existent secret key:?) (?P<bare>[-._A-Za-z0-9]+)"
)
_CLAIM_MISSING: Final = re.compile(rf'(?i:persistentvolumeclaims?) "(?P<name>{_NAME})" (?i:not found)')
_MAP_MISSING: Final = re.compile(rf'(?i:configmaps?) "(?P<name>{_NAME})" (?i:not found)')
_MAP_KEY_MISSING: Final = re.compile(r"(?i:configmap references non-existent config key:?) (?P<key>[-._A-Za-z0-9]+)")
_ACCOUNT_MISSING: Final = re.compile(rf'(?i:serviceaccounts?) "(?P<name>{_NAME})" (?i:not found)')
_QUOTA: Final = ("exceeded quota", "status unknown for quota")
"""The second is told of a quota that is so new that nobody has counted for it yet."""
_DENIED: Final = re.compile(r"denied (?:the )?request", re.IGNORECASE)
_QUOTED: Final = re.compile(r'"[^"]*"')
_BACK_OFF: Final = re.compile(rf'^Back-off pulling image "[^"]*"(?:: (?:{"|".join(sorted(_IMAGE_REASONS))}))?(?:: )?')
_WEBHOOK: Final = re.compile(r'failed calling webhook "(?P<name>[^"]{1,253})"', re.IGNORECASE)
_CONTROL_PLANE: Final = re.compile(
    r"failed calling webhook|internal error|etcdserver|timed? ?out|deadline exceeded|connection refused"
    r"|no endpoints available|too many requests|the api server (?:answers|does not answer)|unable to be processed",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hold:
    """What holds a job up.

    ``reason`` is the condition's reason; ``known`` the same out of the reason table, or None where there is no such;
    ``waiting_for`` names the missing object; ``varies`` tells whether the wording is foreign and may change while the
    cause stays; ``vague`` whether it names no cause, where an earlier message may have done so.
    """

    reason: str
    message: str
    known: Reason | None = None
    waiting_for: str | None = None
    varies: bool = True
    vague: bool = False

    @property
    def mendable(self) -> bool:
        """Whether somebody must mend it, so that a clock runs before the job has begun."""
        return self.known in MENDABLE


def hold_of_runtime(refusal: Refusal, name: str) -> Hold:
    """Explain a runtime that is missing, or that does not take the job yet: GitOps may apply in any order."""
    tells_mend = refusal.reason is Reason.NOT_PERMITTED
    message = refusal.message if tells_mend else f"{refusal.message}. {REASONS[refusal.reason].mend}"
    return _known(refusal.reason, message, waiting_for=name)


def hold_of_refusal(message: str) -> Hold:
    """Explain why the API server does not create a Job or a pod: a quota, a policy, a webhook, a missing account."""
    text = bare(message)
    if is_denied(text):
        return _known(Reason.NOT_PERMITTED, f"The cluster refuses it: {text}")
    if any(words in text.lower() for words in _QUOTA):
        return _known(Reason.QUOTA_EXCEEDED, f"{text}. {REASONS[Reason.QUOTA_EXCEEDED].mend}")
    if found := _ACCOUNT_MISSING.search(text):
        return _known(
            Reason.CREDENTIALS_NOT_FOUND,
            f'ServiceAccount "{found["name"]}" does not exist in the namespace of the job. Create it, or '
            "delete the job and apply it anew with another serviceAccountName.",
            waiting_for=found["name"],
        )
    if _CONTROL_PLANE.search(_QUOTED.sub("", text)):  # a job may be called "timeout"
        webhook = _WEBHOOK.search(text)
        who = f'Webhook "{webhook["name"]}" fails' if webhook else "The control plane has a fault"
        return Hold(
            reason=CONTROL_PLANE_FAULT, message=f"{who}; the job goes on by itself when that works again: {text}"
        )
    return _known(Reason.NOT_PERMITTED, f"The cluster refuses it: {text}")


def is_denied(message: str) -> bool:
    """Tell whether a webhook or a policy has refused a request; what else stands there is in its own words."""
    return _DENIED.search(message) is not None


def hold_of(child: ChildView, pods: tuple[PodView, ...], *, now: datetime, named: Named) -> Hold | None:
    """Tell what keeps an unfinished child from running; None while it runs or is just starting.

    ``named`` says which fields name the objects that the pod needs.
    """
    if any(pod.phase == "Running" and not pod.deleting for pod in pods):
        return None
    if child.suspended:
        return _hold_of_suspension(child, now)
    waiting = [pod for pod in pods if pod.phase == "Pending" and not pod.deleting]
    if waiting:
        return _hold_of_pod(_newest(waiting), now, named)
    standing = [pod for pod in pods if pod.phase not in ("Succeeded", "Failed")]
    if standing:
        late = stuck(standing, now) or f"A new pod starts when {_placed(_newest(standing))} has ended."
        return Hold(reason=POD_IN_THE_WAY, message=late, varies=False)
    if child.pod_create_error and child.active == 0:
        return hold_of_refusal(child.pod_create_error)
    return None


def stuck(pods: Iterable[PodView], now: datetime) -> str | None:
    """Tell of a pod that should have gone and has not, and what an administrator does; None if there is none."""
    for pod in pods:
        if pod.phase in ("Succeeded", "Failed") or pod.gone_by is None:
            continue
        if (now - pod.gone_by).total_seconds() < OVERDUE_SECONDS:
            continue
        return (
            f"The {_placed(pod)} should have gone by {rfc3339(pod.gone_by)} and has not. If the node is lost, "
            "delete the Node, or taint it node.kubernetes.io/out-of-service; force-delete the pod only when nothing "
            "can run there any more."
        )
    return None


def orphan(pods: Iterable[PodView]) -> str | None:
    """Tell of a live pod whose Job was deleted from above it, so that nobody ends it; None if there is none."""
    for pod in pods:
        if pod.job_uid is None and pod.phase not in ("Succeeded", "Failed") and not pod.deleting:
            return (
                f"The {_placed(pod)} runs on without its Job, which somebody deleted with --cascade=orphan. Nothing "
                f"starts beside it; delete it: kubectl delete pod {pod.name}."
            )
    return None


def _placed(pod: PodView) -> str:
    return f"pod {pod.name}" + (f" on node {pod.node}" if pod.node else "")


def _hold_of_suspension(child: ChildView, now: datetime) -> Hold:
    if child.queue is not None:
        told = queue_says(child, now=now)
        return Hold(reason=told.reason, message=told.message)
    since = f" since {rfc3339(child.suspended_at)}" if child.suspended_at else ""
    who = f" by {bare(child.suspended_by)}" if child.suspended_by else ""
    return Hold(
        reason="ChildSuspended",
        message=f"Job {child.name} is suspended{who}{since}. It goes on when the Job's own spec.suspend is false.",
        varies=False,
    )


def _hold_of_pod(pod: PodView, now: datetime, named: Named) -> Hold | None:
    reason, text = pod.waiting_reason or "", bare(pod.waiting_message)
    event = bare(pod.start_error)
    if reason in _IMAGE_REASONS:
        return _hold_of_image(reason, text)
    if hold := (
        _hold_of_secret(event, named)
        or (_hold_of_secret(text, named) if reason in _CONTAINER_REASONS else None)
        or _hold_of_claim(f"{event} {bare(pod.unschedulable)}", named)
        or _hold_of_map(event, named)
    ):
        return hold
    if reason in _CONTAINER_REASONS:
        return _known(Reason.TRAINER_ERROR, f"The container can't be created ({reason}): {text}")
    if pod.unschedulable and (now - pod.created).total_seconds() >= SCHEDULING_GRACE_SECONDS:
        return Hold(reason="Unschedulable", message=f"No node takes the pod: {bare(pod.unschedulable)}")
    if event and not pod.unschedulable:
        return Hold(reason=_EVENT_HOLDS.get(pod.start_error_reason, "MountFailed"), message=event)
    return None


def _hold_of_image(reason: str, text: str) -> Hold:
    """Tell why the image can't be had; between two tries kubelet repeats the cause, or names none."""
    cause = _BACK_OFF.sub("", text)
    hold = _known(Reason.IMAGE_PULL_FAILED, f"{cause or text or reason}. {REASONS[Reason.IMAGE_PULL_FAILED].mend}")
    return replace(hold, vague=not cause)


def _hold_of_secret(text: str, named: Named) -> Hold | None:
    """Name the Secrets, or the key in one, that kubelet misses."""
    if names := sorted({found["name"] for found in _SECRET_MISSING.finditer(text)}):
        quoted = ", ".join(f'"{name}"' for name in names)
        one = len(names) == 1
        missing = f"Secret{'' if one else 's'} {quoted} do{'es' if one else ''} not exist in the namespace of the job. "
        fields = [field for name in names for field in named.secrets.get(name, ())]
        mend = (
            f"Create {'it' if one else 'them'} with the keys that {listed(fields)} "
            f"need{'s' if len(fields) == 1 else ''}."
            if fields
            else "No field of the job names it: something else wants it in the pod."
        )
        return _known(Reason.CREDENTIALS_NOT_FOUND, missing + mend, waiting_for=names[0])
    if found := _KEY_MISSING.search(text):
        secret = f'Secret "{found["name"]}"' if found["name"] else "A Secret of the job"
        message = f"{secret} has no key {found['key'] or found['bare']}. Add the key."
        return _known(Reason.CREDENTIALS_NOT_FOUND, message, waiting_for=found["name"])
    return None


def _hold_of_claim(text: str, named: Named) -> Hold | None:
    """Name the claim of a URI, or of the model cache, that is not there; one that no field names is not the job's."""
    found = _CLAIM_MISSING.search(text)
    name = found["name"] if found else ""
    fields = named.claims.get(name, ())
    if not fields and name != named.cache:
        return None
    message = f'PersistentVolumeClaim "{name}" does not exist in the namespace of the job. Create it, or '
    if not fields:
        mend = "ask the owner of the FineTuneRuntime to do without modelCache, which is to be kept there."
        return _known(Reason.MODEL_NOT_FOUND, message + mend, waiting_for=name)
    of_model = any(field.startswith("model.") for field in fields)
    reason = Reason.MODEL_NOT_FOUND if of_model else Reason.DATASET_NOT_FOUND
    return _known(reason, f"{message}correct {listed(fields)} in a new job.", waiting_for=name)


def _hold_of_map(text: str, named: Named) -> Hold | None:
    """Name the ConfigMap of a field that is not there, or lacks the key; one that no field names is not the job's."""
    if (found := _MAP_MISSING.search(text)) and (keys := named.maps.get(found["name"])):
        name = found["name"]
        wanted = listed([f"key {key} for {field}" for field, key in keys.items()])
        message = f'ConfigMap "{name}" does not exist in the namespace of the job. Create it with {wanted}.'
        return _known(Reason.DATASET_NOT_FOUND, message, waiting_for=name)
    if found := _MAP_KEY_MISSING.search(text):
        key = found["key"]
        where = {name: field for name, keys in named.maps.items() for field, wanted in keys.items() if wanted == key}
        if where:
            maps = " or ".join(f'"{name}" ({field})' for name, field in where.items())
            return _known(Reason.DATASET_NOT_FOUND, f"ConfigMap {maps} has no key {key}. Add the key.")
    return None


def _known(reason: Reason, message: str, *, waiting_for: str | None = None) -> Hold:
    return Hold(reason=reason.value, known=reason, message=message, waiting_for=waiting_for)


def _newest(pods: Iterable[PodView]) -> PodView:
    return max(pods, key=lambda pod: (pod.created, pod.name))
