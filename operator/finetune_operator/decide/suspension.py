"""What ``spec.suspend`` asks for: the child goes, its pods save their state, and nothing is created until it is false.

Pure; used by ``reconcile`` before a job has a runtime and by ``advance`` after. The child is deleted rather than
suspended: a queue such as Kueue owns a Job's own ``suspend``, and would let an admitted one run on. ``Suspended`` is
True only when a live read shows no child and no pod, so that whoever waits for it can count on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from finetune_api.status import FineTuneJobStatus
from finetune_operator.decide.outcomes import Case, go_on
from finetune_operator.decide.plan import DeleteChild, Event, JobView, Plan

__all__ = ["LOOK_AGAIN_SECONDS", "suspend", "with_resumed"]

LOOK_AGAIN_SECONDS: Final = 30.0
"""How soon to look again at pods that are going; the watch is faster, unless it has lost an event."""

_SUSPENDING: Final = "The pods save their state and go; the job is suspended when none is left."
_SUSPENDED: Final = "No pod is left. Set spec.suspend to false, and the job goes on."


def suspend(
    case: Case, status: FineTuneJobStatus, child: JobView | None, *, note: str = "", events: Iterable[Event] = ()
) -> Plan:
    """Take the child away, and say that the job is suspended once it and all pods are gone.

    Parameters
    ----------
    status
        As it shall be, with the child given up (``stages.given_up``).
    child
        The stage's child as long as it stands there.
    note
        What the user should know before resuming.
    """
    left = child is not None or any(pod.phase not in ("Succeeded", "Failed") for pod in case.observed.pods)
    told = case.suspension == "SpecSuspended"
    plan = go_on(
        case,
        status,
        reason="Suspending" if left else "Suspended",
        message=_SUSPENDING if left else f"{_SUSPENDED}{note}",
        actions=[DeleteChild(name=child.name, uid=child.uid)] if child is not None and not child.deleting else [],
        events=[*events, *([] if left or told else [Event(reason="Suspended", message=_SUSPENDED)])],
        requeue_after=LOOK_AGAIN_SECONDS if left else None,
        suspension="Suspending" if left else "SpecSuspended",
    )
    if (plan.status is not None or plan.actions) and not case.observed.live:
        return Plan(needs_live=True)
    return plan


def with_resumed(case: Case, plan: Plan) -> Plan:
    """Add the Event about a job that is no longer suspended to the plan that takes note of it."""
    if case.suspension is None or plan.status is None:
        return plan
    return replace(plan, events=(Event(reason="Resumed", message="spec.suspend is false again."), *plan.events))
