"""Pure views of Kubernetes objects: a raw Job or Pod becomes what reconcile needs of it.

Feeds ``cache.py`` and ``observe.py``. Tenants can shape parts of these objects, so nothing here trusts a field's type:
a malformed part counts as absent, and an object without a name or uid gives None. No function here raises.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, cast, get_args

from finetune_api.names import LABEL_JOB_NAME, LABEL_JOB_UID, StageName
from finetune_operator.cluster.protocol import JobKey, Raw
from finetune_operator.decide.manifests.job import CONTAINER
from finetune_operator.decide.manifests.queueing import ANNOTATION_QUEUE, LABEL_PRIORITY, LABEL_QUEUE
from finetune_operator.decide.plan import ChildView, PodView, RuntimeView
from finetune_operator.decide.text import parse_time

__all__ = [
    "as_dict",
    "as_list",
    "as_text",
    "child_view",
    "condition",
    "controller_uid",
    "is_deleting",
    "is_finished",
    "job_key",
    "labels",
    "metadata",
    "newest_event",
    "owner_key",
    "owner_uid",
    "pod_view",
    "runtime_name",
    "runtime_view",
    "start_trouble",
]

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
POD_PHASES: Final = get_args(PodPhase)
DEFAULT_RUNTIME: Final = "default"

BESIDE: Final = timedelta(seconds=200)
"""How far apart two Events may be that tell of the same state; kubelet tries a volume at least every 122 s."""

_VOLUME: Final = re.compile(r'for volume "([^"]+)"')
_UNMOUNTED: Final = re.compile(r"unable to attach or mount volumes: unmounted volumes=\[([^\]]*)\]", re.IGNORECASE)


# --- parts ------------------------------------------------------------------------------------------------------------


def as_dict(value: Any) -> Raw:
    """Return the value if it is a dict, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return the value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str | None:
    """Return the value if it is a text with something in it."""
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def metadata(raw: Raw) -> Raw:
    """Return ``.metadata``."""
    return as_dict(raw.get("metadata"))


def labels(raw: Raw) -> Raw:
    """Return ``.metadata.labels``."""
    return as_dict(metadata(raw).get("labels"))


def is_deleting(raw: Raw) -> bool:
    """Tell whether the object has a deletionTimestamp."""
    return metadata(raw).get("deletionTimestamp") is not None


def job_key(raw: Raw) -> JobKey | None:
    """Key of a FineTuneJob."""
    namespace, name = as_text(metadata(raw).get("namespace")), as_text(metadata(raw).get("name"))
    return JobKey(namespace, name) if namespace and name else None


def owner_key(raw: Raw) -> JobKey | None:
    """Key of the FineTuneJob that a child or a pod says it works for, from its labels."""
    namespace, name = as_text(metadata(raw).get("namespace")), as_text(labels(raw).get(LABEL_JOB_NAME))
    return JobKey(namespace, name) if namespace and name else None


def owner_uid(raw: Raw) -> str | None:
    """Uid of the FineTuneJob that a child or a pod says it works for, from its labels."""
    return as_text(labels(raw).get(LABEL_JOB_UID))


def controller_uid(raw: Raw) -> str | None:
    """Uid of the controller ownerReference."""
    for reference in map(as_dict, as_list(metadata(raw).get("ownerReferences"))):
        if reference.get("controller") is True:
            return as_text(reference.get("uid"))
    return None


def runtime_name(job: Raw) -> str:
    """Name of the FineTuneRuntime that a FineTuneJob refers to."""
    return as_text(as_dict(as_dict(job.get("spec")).get("runtimeRef")).get("name")) or DEFAULT_RUNTIME


def is_finished(job: Raw) -> bool:
    """Tell whether a FineTuneJob's status says that it has ended, with success or without."""
    return condition(as_dict(job.get("status")), "Finished").get("status") == "True"


def condition(status: Raw, kind: str) -> Raw:
    """Return a condition of a status by its type; empty if there is none."""
    for entry in map(as_dict, as_list(status.get("conditions"))):
        if entry.get("type") == kind:
            return entry
    return {}


# --- whole objects ----------------------------------------------------------------------------------------------------


def runtime_view(raw: Raw) -> RuntimeView | None:
    """View of a FineTuneRuntime."""
    name = as_text(metadata(raw).get("name"))
    if name is None:
        return None
    return RuntimeView(
        name=name, generation=_number(metadata(raw).get("generation")) or 0, spec=as_dict(raw.get("spec"))
    )


def child_view(raw: Raw, *, stage: StageName) -> ChildView | None:
    """View of a batch/v1 Job that stands under the name of ``stage``'s child, whoever made it."""
    name, uid = as_text(metadata(raw).get("name")), as_text(metadata(raw).get("uid"))
    if name is None or uid is None:
        return None
    spec, status = as_dict(raw.get("spec")), as_dict(raw.get("status"))
    complete, failed = condition(status, "Complete"), condition(status, "Failed")
    ended: Literal["Complete", "Failed"] | None = None
    if complete.get("status") == "True":
        ended = "Complete"
    elif failed.get("status") == "True":
        ended = "Failed"
    end = complete if ended == "Complete" else failed if ended == "Failed" else {}
    completion = parse_time(status.get("completionTime"))
    suspended = spec.get("suspend") is True
    stopped = condition(status, "Suspended")
    return ChildView(
        name=name,
        uid=uid,
        stage=stage,
        owner_uid=controller_uid(raw),
        deleting=is_deleting(raw),
        deleted_at=parse_time(metadata(raw).get("deletionTimestamp")),
        active=_number(status.get("active")) or 0,
        succeeded=_number(status.get("succeeded")) or 0,
        failed=_number(status.get("failed")) or 0,
        start_time=parse_time(status.get("startTime")),
        completion_time=completion,
        ended=ended,
        failed_reason=as_text(failed.get("reason")) if ended == "Failed" else None,
        failed_message=as_text(failed.get("message")) if ended == "Failed" else None,
        finished_at=(completion or parse_time(end.get("lastTransitionTime"))) if ended else None,
        ttl_seconds=_number(spec.get("ttlSecondsAfterFinished")),
        active_deadline_seconds=_number(spec.get("activeDeadlineSeconds")),
        suspended=suspended,
        # Before the job controller has acted, the condition is missing, or still tells of the last resumption.
        suspended_at=parse_time(stopped.get("lastTransitionTime"))
        if suspended and stopped.get("status") == "True"
        else None,
        suspended_by=_manager_of_suspend(raw) if suspended else None,
        queue=as_text(labels(raw).get(LABEL_QUEUE)),
        priority=as_text(labels(raw).get(LABEL_PRIORITY)),
        made_for=as_text(as_dict(metadata(raw).get("annotations")).get(ANNOTATION_QUEUE)),
    )


def _manager_of_suspend(raw: Raw) -> str | None:
    """Who wrote a Job's ``spec.suspend`` last, by its managed fields."""
    owners = [
        entry
        for entry in map(as_dict, as_list(metadata(raw).get("managedFields")))
        if "f:suspend" in as_dict(as_dict(entry.get("fieldsV1")).get("f:spec"))
    ]
    newest = max(owners, key=lambda entry: str(entry.get("time")), default={})
    return as_text(newest.get("manager"))


def pod_view(raw: Raw) -> PodView | None:
    """View of a pod and of the stage's container in it."""
    meta, status = metadata(raw), as_dict(raw.get("status"))
    name, uid = as_text(meta.get("name")), as_text(meta.get("uid"))
    created = parse_time(meta.get("creationTimestamp"))
    if name is None or uid is None or created is None:
        return None
    trainer = _stage_container_status(raw)
    state = as_dict(trainer.get("state"))
    waiting, terminated = as_dict(state.get("waiting")), as_dict(state.get("terminated"))
    scheduled = condition(status, "PodScheduled")
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    target = condition(status, "DisruptionTarget")
    others = [s for s in map(as_dict, as_list(status.get("containerStatuses"))) if s is not trainer]
    phase = status.get("phase")
    return PodView(
        name=name,
        uid=uid,
        job_uid=controller_uid(raw),
        created=created,
        phase=cast(PodPhase, phase) if phase in POD_PHASES else "Unknown",
        deleting=is_deleting(raw),
        gone_by=parse_time(meta.get("deletionTimestamp")),
        reason=as_text(status.get("reason")),
        message=as_text(status.get("message")),
        disruption=as_text(target.get("reason")) if target.get("status") == "True" else None,
        node=as_text(as_dict(raw.get("spec")).get("nodeName")),
        unschedulable=(as_text(scheduled.get("message")) or "Unschedulable") if unschedulable else None,
        ready_to_start=condition(status, "PodReadyToStartContainers").get("status") == "True",
        waiting_reason=as_text(waiting.get("reason")),
        waiting_message=as_text(waiting.get("message")),
        exit_code=_number(terminated.get("exitCode")),
        terminated_reason=as_text(terminated.get("reason")),
        termination_message=as_text(terminated.get("message")),
        finished_at=parse_time(terminated.get("finishedAt")),
        outlived=bool(terminated) and any("running" in as_dict(s.get("state")) for s in others),
    )


def _stage_container_status(raw: Raw) -> Raw:
    """Status of the stage's container; by name, since service meshes put containers of their own before or after it."""
    statuses = [as_dict(s) for s in as_list(as_dict(raw.get("status")).get("containerStatuses"))]
    return next((s for s in statuses if s.get("name") == CONTAINER), statuses[0] if len(statuses) == 1 else {})


# --- Events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Told:
    """What one core/v1 Event says, and when it said so last."""

    moment: datetime
    reason: str
    message: str


def newest_event(
    events: list[Raw], reasons: Collection[str], *, since: datetime | None = None
) -> tuple[str, str] | None:
    """Reason and message of the newest core/v1 Event with one of the reasons.

    Events of before ``since`` (their times are whole seconds) are of an earlier trouble, and are not told anew.
    """
    found = [one for one in _told(events, reasons) if since is None or one.moment >= since.replace(microsecond=0)]
    newest = max(found, key=lambda one: one.moment, default=None)
    return None if newest is None else (newest.reason, newest.message)


def start_trouble(events: list[Raw], reasons: Collection[str]) -> tuple[str, str] | None:
    """Reason of the newest Event about a pod that doesn't start, and all that is told beside it.

    kubelet tries each volume at a pace of its own: what it says of them takes turns, and together it is one state.
    """
    found = _with_summaries(_told(events, reasons))
    newest = max(found, key=lambda one: one.moment, default=None)
    if newest is None or newest.reason != "FailedMount":
        return None if newest is None else (newest.reason, newest.message)
    beside = {one.message for one in found if one.reason == newest.reason and newest.moment - one.moment <= BESIDE}
    return newest.reason, "; ".join(sorted(beside))


def _with_summaries(found: list[_Told]) -> list[_Told]:
    """Let kubelet's summaries, which only list the volumes, renew what was told of each volume last."""
    last = {_volume(one): one for one in sorted(found, key=lambda one: one.moment)}
    return [
        replace(one, moment=max([one.moment, *(other.moment for other in found if _volume(one) in _unmounted(other))]))
        if last[_volume(one)] is one
        else one
        for one in found
        if not _unmounted(one) & last.keys()
    ]


def _volume(one: _Told) -> str:
    found = _VOLUME.search(one.message)
    return found[1] if found else ""


def _unmounted(one: _Told) -> set[str]:
    found = _UNMOUNTED.match(one.message)
    return set(found[1].split()) if found else set()


def _told(events: list[Raw], reasons: Collection[str]) -> list[_Told]:
    found: list[_Told] = []
    for event in events:
        reason, message = as_text(event.get("reason")), as_text(event.get("message"))
        if reason not in reasons or reason is None or message is None:
            continue
        series = as_dict(event.get("series"))
        stamps = (
            series.get("lastObservedTime"),
            event.get("lastTimestamp"),
            event.get("eventTime"),
            metadata(event).get("creationTimestamp"),
        )
        known = [stamp for stamp in map(parse_time, stamps) if stamp is not None]
        found.append(_Told(max(known, default=datetime.min.replace(tzinfo=UTC)), reason, message))
    return found
