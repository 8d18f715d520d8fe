"""Pure views of Kubernetes objects: a raw Job or Pod becomes what reconcile needs of it.

Feeds ``cache.py`` and ``observe.py``. Tenants can shape parts of these objects, so nothing here trusts a field's type:
a malformed part counts as absent, and an object without a name or uid gives None. No function here raises.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final, Literal, cast, get_args

from finetune_api.names import LABEL_JOB_NAME, LABEL_JOB_UID, StageName
from finetune_operator.cluster.protocol import JobKey, Raw
from finetune_operator.decide.manifests.job import CONTAINER
from finetune_operator.decide.plan import JobView, PodView, RuntimeView

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
    "parse_time",
    "pod_view",
    "runtime_name",
    "runtime_view",
]

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
POD_PHASES: Final = get_args(PodPhase)
DEFAULT_RUNTIME: Final = "default"


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


def parse_time(value: Any) -> datetime | None:
    """Parse a metav1.Time or MicroTime (RFC 3339) into an aware datetime in UTC."""
    if not isinstance(value, str):
        return None
    try:
        parsed = datetime.fromisoformat(value)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


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


def child_view(raw: Raw, *, stage: StageName) -> JobView | None:
    """View of a batch/v1 Job that stands under the name of ``stage``'s child, whoever made it."""
    name, uid = as_text(metadata(raw).get("name")), as_text(metadata(raw).get("uid"))
    if name is None or uid is None:
        return None
    spec, status = as_dict(raw.get("spec")), as_dict(raw.get("status"))
    complete, failed = condition(status, "Complete"), condition(status, "Failed")
    outcome: Literal["Complete", "Failed"] | None = None
    if complete.get("status") == "True":
        outcome = "Complete"
    elif failed.get("status") == "True":
        outcome = "Failed"
    ended = complete if outcome == "Complete" else failed if outcome == "Failed" else {}
    completion = parse_time(status.get("completionTime"))
    return JobView(
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
        outcome=outcome,
        failed_reason=as_text(failed.get("reason")) if outcome == "Failed" else None,
        failed_message=as_text(failed.get("message")) if outcome == "Failed" else None,
        finished_at=(completion or parse_time(ended.get("lastTransitionTime"))) if outcome else None,
        ttl_seconds=_number(spec.get("ttlSecondsAfterFinished")),
        active_deadline_seconds=_number(spec.get("activeDeadlineSeconds")),
    )


def pod_view(raw: Raw) -> PodView | None:
    """View of a pod and of the stage's container in it."""
    meta, status = metadata(raw), as_dict(raw.get("status"))
    name, uid = as_text(meta.get("name")), as_text(meta.get("uid"))
    created = parse_time(meta.get("creationTimestamp"))
    if name is None or uid is None or created is None:
        return None
    state = as_dict(_stage_container_status(raw).get("state"))
    waiting, terminated = as_dict(state.get("waiting")), as_dict(state.get("terminated"))
    scheduled = condition(status, "PodScheduled")
    unschedulable = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    phase = status.get("phase")
    return PodView(
        name=name,
        uid=uid,
        job_uid=controller_uid(raw),
        created=created,
        phase=cast(PodPhase, phase) if phase in POD_PHASES else "Unknown",
        deleting=is_deleting(raw),
        node=as_text(as_dict(raw.get("spec")).get("nodeName")),
        unschedulable=(as_text(scheduled.get("message")) or "Unschedulable") if unschedulable else None,
        waiting_reason=as_text(waiting.get("reason")),
        waiting_message=as_text(waiting.get("message")),
        exit_code=_number(terminated.get("exitCode")),
        terminated_reason=as_text(terminated.get("reason")),
        termination_message=as_text(terminated.get("message")),
        finished_at=parse_time(terminated.get("finishedAt")),
    )


def _stage_container_status(raw: Raw) -> Raw:
    """Status of the stage's container; by name, since service meshes put containers of their own before or after it."""
    statuses = [as_dict(s) for s in as_list(as_dict(raw.get("status")).get("containerStatuses"))]
    return next((s for s in statuses if s.get("name") == CONTAINER), statuses[0] if len(statuses) == 1 else {})


def newest_event(events: list[Raw], reason: str) -> str | None:
    """Message of the newest core/v1 Event with this reason."""
    found: list[tuple[datetime, str]] = []
    for event in events:
        message = as_text(event.get("message"))
        if event.get("reason") != reason or message is None:
            continue
        series = as_dict(event.get("series"))
        stamps = (
            series.get("lastObservedTime"),
            event.get("lastTimestamp"),
            event.get("eventTime"),
            metadata(event).get("creationTimestamp"),
        )
        known = [stamp for stamp in map(parse_time, stamps) if stamp is not None]
        found.append((max(known, default=datetime.min.replace(tzinfo=UTC)), message))
    return max(found, key=lambda item: item[0])[1] if found else None
