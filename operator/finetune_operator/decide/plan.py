"""The two ends of the pure core: what reconcile sees (``Observed``) and what it wants (``Plan``).

Values only, no I/O and no clients, so that every decision is a table test. ``cluster/observe.py`` fills ``Observed``
from the cache and live reads, ``cluster/apply.py`` carries a ``Plan`` out. In this package *job* is the FineTuneJob and
*child* the batch/v1 Job of one of its stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from finetune_api.live import LiveReport
from finetune_api.names import StageName
from finetune_api.reasons import Reason

__all__ = [
    "Action",
    "ChildView",
    "CreateChild",
    "DeleteChild",
    "Event",
    "Observed",
    "Plan",
    "PodReport",
    "PodView",
    "QueueWord",
    "ReportEndpoint",
    "RuntimeView",
    "SetChildDeadline",
    "SetChildTTL",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueWord:
    """What Kueue says of a Job that it does not let run."""

    installed: bool = True
    """Whether the API server serves Kueue's kinds at all."""
    readable: bool = True
    """Whether the operator may read them."""
    workload: str | None = None
    """The Workload that Kueue keeps of the Job; it makes none where something is wrong with the Job."""
    priority_missing: bool = False
    """The Job's WorkloadPriorityClass does not exist."""
    reason: str | None = None
    """Why no quota is reserved: Pending or Inadmissible; None before Kueue has tried."""
    message: str | None = None
    evicted: str | None = None
    """Why it was taken off its nodes and stands in the queue again: Preempted, Deactivated, ClusterQueueStopped, ..."""
    evicted_message: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChildView:
    """What matters of a child batch/v1 Job."""

    name: str
    uid: str
    stage: StageName
    owner_uid: str | None
    """uid of the controller ownerReference; a Job that isn't ours is a NameConflict."""
    deleting: bool = False
    deleted_at: datetime | None = None
    """When somebody asked for its deletion; it stays until its pods are gone."""
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    """Pods whose failure counts against backoffLimit."""
    start_time: datetime | None = None
    """Begin of its running time: None before its first pod is made, set anew when it is resumed."""
    completion_time: datetime | None = None
    ended: Literal["Complete", "Failed"] | None = None
    """From the Job's terminal conditions (Complete=True or Failed=True), not FailureTarget or SuccessCriteriaMet."""
    failed_reason: str | None = None
    """PodFailurePolicy, BackoffLimitExceeded or DeadlineExceeded."""
    failed_message: str | None = None
    finished_at: datetime | None = None
    ttl_seconds: int | None = None
    active_deadline_seconds: int | None = None
    suspended: bool = False
    """Its own ``spec.suspend``, which only others set: a queue, or a person."""
    suspended_at: datetime | None = None
    """When the job controller took its pods away; its ``start_time`` may stay that of before."""
    suspended_by: str | None = None
    """Field manager of ``spec.suspend``."""
    queue: str | None = None
    """Kueue's LocalQueue that it stands in, waiting or admitted."""
    priority: str | None = None
    """Kueue's WorkloadPriorityClass that it names."""
    made_for: str | None = None
    """Queue that this operator made it for."""
    word: QueueWord | None = None
    """What Kueue says of it while it waits."""
    pod_create_error: str | None = None
    """Newest FailedCreate message of the job controller (quota, admission) since it last had a pod."""


NOT_ADMITTED: Final = frozenset({"UnexpectedAdmissionError", "NodeAffinity"})
"""Reasons of a pod that its node turned away; with ``OutOf…`` for each resource that it lacks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodView:
    """What matters of a pod of a child Job; ``job_uid`` is the uid of its controller ownerReference."""

    name: str
    uid: str
    job_uid: str | None
    created: datetime
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]
    deleting: bool = False
    gone_by: datetime | None = None
    """When a pod that is being deleted should be gone: its deletionTimestamp, which has the grace period in it."""
    node: str | None = None
    reason: str | None = None
    """``status.reason``: Evicted, NodeLost, UnexpectedAdmissionError, Preempting, Shutdown, ..."""
    message: str | None = None
    """``status.message``, which goes with it."""
    disruption: str | None = None
    """Reason of the DisruptionTarget condition: PreemptionByScheduler, EvictionByEvictionAPI, ..."""
    unschedulable: str | None = None
    """Message of PodScheduled=False."""
    ready_to_start: bool = False
    """PodReadyToStartContainers: its volumes are mounted and its network stands."""
    waiting_reason: str | None = None
    """ImagePullBackOff, ErrImagePull, InvalidImageName, CreateContainerConfigError, ContainerCreating, ..."""
    waiting_message: str | None = None
    start_error: str | None = None
    """What Events tell of why the container doesn't start, e.g. of each Secret that doesn't exist."""
    start_error_reason: str = "FailedMount"
    """Reason of those Events."""
    exit_code: int | None = None
    terminated_reason: str | None = None
    """Error, OOMKilled, ContainerStatusUnknown, Completed, ..."""
    termination_message: str | None = None
    finished_at: datetime | None = None
    outlived: bool = False
    """The trainer's container has ended and another one of the pod runs on, such as an injected proxy."""

    @property
    def turned_away(self) -> bool:
        """Whether its node did not admit it (kubelet's ``rejectPod``), so that no container of it has ever run."""
        if self.phase != "Failed" or self.exit_code is not None or self.terminated_reason is not None:
            return False
        reason, message = self.reason or "", self.message or ""
        return message.startswith("Pod was rejected") or reason in NOT_ADMITTED or reason.startswith("OutOf")

    @property
    def started(self) -> bool:
        """Whether a container of it has run, as far as is known."""
        return self.phase != "Pending" and not self.turned_away


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeView:
    """A FineTuneRuntime as it stands in the cluster."""

    name: str
    generation: int
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportEndpoint:
    """Where pods post live reports."""

    url: str
    ca: str
    """Certificate in PEM that its own is signed with."""
    since: datetime
    """Since when it has listened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PodReport:
    """The live report that is to be shown."""

    report: LiveReport
    pod_uid: str
    received: datetime
    heard: datetime
    """When the newest one came; not each is shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """One job and everything around it at one moment.

    ``job`` is the raw FineTuneJob as the API server gave it; ``children`` and ``pods`` hold only objects labelled with
    its uid plus any Job that stands under a child's name. ``now`` is the API server's time. ``live`` tells whether
    children and pods were read from the API server just now (False: from the watch cache, which may be behind).
    """

    job: dict[str, Any]
    runtime: RuntimeView | None
    children: tuple[ChildView, ...]
    pods: tuple[PodView, ...]
    now: datetime
    live: bool = False
    create_error: str | None = None
    """Why the API server doesn't create the next child (quota, admission, a webhook that is down), until it does."""
    gone: Mapping[str, datetime] = field(default_factory=dict)
    """By uid, children that this operator has seen and that are gone: when it missed them."""
    endpoint: ReportEndpoint | None = None
    """Absent where the operator takes no live reports."""
    report: PodReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateChild:
    """Create a child Job behind the guard (apply.py): job not deleted, no such Job, no live pod of this job."""

    stage: StageName
    manifest: dict[str, Any]
    first: bool = False
    """The status of this plan is the first to speak of the child, so that none can have been made: once that status is
    written, on the very version of the job that was looked at, there is nothing that the guard could find."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteChild:
    """Delete a child Job, foreground, with its uid as precondition."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SetChildTTL:
    """Set a finished child's ttlSecondsAfterFinished to the job's, once the result stands in status."""

    name: str
    uid: str
    seconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SetChildDeadline:
    """Set a running child's activeDeadlineSeconds, after the user raised the job's or set one where none was."""

    name: str
    uid: str
    seconds: int


Action = CreateChild | DeleteChild | SetChildTTL | SetChildDeadline


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A Kubernetes Event about the FineTuneJob."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What reconcile wants done, in this order: ``status`` first, then ``actions``, then ``events``.

    ``status`` is the whole wanted status (wire form), written only where it differs from what is stored; None writes
    nothing. ``final`` marks what can't be taken back, so that it is decided on live reads only; ``needs_live`` asks to
    observe again with live reads and to reconcile that instead. ``waiting`` is the reason that holds the job up, for
    metrics and logs.
    """

    status: dict[str, Any] | None = None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    final: bool = False
    needs_live: bool = False
    waiting: Reason | None = None

    @property
    def irrevocable(self) -> bool:
        """Whether a cache that lags must not be what this rests on."""
        return self.final or any(
            isinstance(action, DeleteChild) or (isinstance(action, CreateChild) and not action.first)
            for action in self.actions
        )
