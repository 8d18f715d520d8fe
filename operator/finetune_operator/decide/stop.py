"""Arms of ``reconcile`` about children that go or have to go: suspended, deleted, outdated, in the way, not ours.

Pure. A child is deleted rather than suspended: a queue such as Kueue owns a Job's own ``suspend``, and would let an
admitted one run on. ``Suspended`` is True only when a live read shows no child and no pod, so that whoever waits for it
can count on the GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from finetune_api.reasons import REASONS, Reason
from finetune_api.status import Failure, StageStatus
from finetune_operator.decide.answers import delete, fail, go_on, out_of_time
from finetune_operator.decide.attempts import attempt_note, with_failure, with_failure_of
from finetune_operator.decide.child_end import Interrupted
from finetune_operator.decide.holds import POD_IN_THE_WAY, orphan, stuck
from finetune_operator.decide.plan import ChildView, Event, Plan
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.stages import given_up, has_started, running, seconds_spent, set_back, stood_still
from finetune_operator.decide.start import STANDING_STILL

__all__ = [
    "LOOK_AGAIN_SECONDS",
    "foreign_child",
    "going",
    "remove_leftovers",
    "stand_still",
    "suspend",
    "take_new_queue",
    "take_new_runtime",
    "try_again",
    "vanished",
]

LOOK_AGAIN_SECONDS: Final = 30.0
"""How soon to look again at pods that are going; the watch is faster, unless it has lost an event."""

_SUSPENDING: Final = "The pods save their state and go; the job is suspended when none is left."
_SUSPENDED: Final = "No pod is left. Set spec.suspend to false, and the job goes on."


# --- spec.suspend -----------------------------------------------------------------------------------------------------


def suspend(s: Situation) -> Plan:
    """Give the stage's child up, then let the job stand still."""
    stage, child = s.stage, s.child
    if stage is None:
        return stand_still(s, None)
    if child is None:
        # Somebody deleted it while the job was being suspended: the same is wanted now.
        return stand_still(s, stage if stage.state == "Pending" else _missed(s, stage))
    return stand_still(s, stage if given_up(stage, child) else _given_up(s, stage, child))


def stand_still(s: Situation, stage: StageStatus | None, *, events: Iterable[Event] = ()) -> Plan:
    """Take all children away, and say that the job is suspended once they and all pods are gone.

    ``stage`` is the stage as it shall be recorded, with its child given up.
    """
    status = s.having(stage) if stage is not None else s.status
    going = [child for child in s.children if child.ended is None or child == s.child]
    left = bool(going) or any(pod.phase not in ("Succeeded", "Failed") for pod in s.observed.pods)
    late = stuck(s.observed.pods, s.now) or orphan(s.observed.pods)
    message = (late or _SUSPENDING) if left else _SUSPENDED
    if not left and s.limit and seconds_spent(status.stages or []) >= s.limit:
        message += f" The job's {s.limit} s are used up: raise activeDeadlineSeconds before that."
    told = left or s.suspension == "SpecSuspended"
    plan = go_on(
        s,
        status,
        reason="Suspending" if left else "Suspended",
        message=message,
        actions=[delete(child) for child in going if not child.deleting],
        events=[*events, *([] if told else [Event(reason="Suspended", message=_SUSPENDED)])],
        requeue_after=LOOK_AGAIN_SECONDS if left else None,
        suspension="Suspending" if left else "SpecSuspended",
        final=True,
    )
    return plan if plan.status is not None or plan.actions else Plan(requeue_after=plan.requeue_after)


# --- a child that is not wanted any more ------------------------------------------------------------------------------


def going(s: Situation) -> Plan:
    """The stage can't go on with this child: give it up if somebody else deletes it, then wait until it is gone."""
    stage, child = s.current_stage, s.current_child
    if not given_up(stage, child):
        return _anew(s, _given_up(s, stage, child), child.name)
    return _wait_for(s, child)


def take_new_runtime(s: Situation) -> Plan:
    """Replace a child that has never run: its FineTuneRuntime was edited, most likely because it could not."""
    child = s.current_child
    stage = _given_up(s, s.current_stage, child)
    name = s.snapshot.name if s.snapshot else ""
    message = f"FineTuneRuntime {name} was edited before the job began; stage {stage.name} starts with it as it is now."
    return go_on(s, s.having(stage), reason="Restarting", message=message, actions=[delete(child)], final=True)


def take_new_queue(s: Situation) -> Plan:
    """Replace a child of another queue: the job was suspended, changed and resumed before anybody took note of it."""
    child = s.current_child
    stage = _given_up(s, s.current_stage, child)
    message = f"The job names another queue now; stage {stage.name} goes on there."
    return go_on(s, s.having(stage), reason="Restarting", message=message, actions=[delete(child)], final=True)


def try_again(s: Situation) -> Plan:
    """Replace a child that ended otherwise than its Job says: another container keeps the pod, or nodes refused it."""
    end, child = s.child_end, s.current_child
    assert isinstance(end, Interrupted)  # noqa: S101 - the choice says so
    stage = _given_up(s, s.current_stage, child)
    what = "failed" if end.counts else "saved its state and ended"
    why = end.why or f"The trainer in pod {end.pod} {what}, and another container keeps the pod."
    message = f"{why} Stage {stage.name} goes on anew."
    if end.counts:
        message += attempt_note(s, s.having(stage))
    event = Event(reason="PodReplaced", message=message, type="Warning")
    return go_on(
        s, s.having(stage), reason="Restarting", message=message, actions=[delete(child)], events=[event], final=True
    )


def remove_leftovers(s: Situation) -> Plan:
    """Take away the child of a stage that is done, in whose pod something else runs on; then the next stage starts."""
    names = ", ".join(child.name for child in s.leftovers)
    message = f"Job {names} has done its work and is removed, since another container keeps its pod."
    actions = [delete(child) for child in s.leftovers if not child.deleting]
    uids = {child.uid for child in s.leftovers}
    late = stuck([pod for pod in s.observed.pods if pod.job_uid in uids], s.now)
    return go_on(
        s, s.status, reason="Starting", message=late or message, actions=actions, requeue_after=LOOK_AGAIN_SECONDS
    )


def vanished(s: Situation) -> Plan:
    """Take note that a child is gone that had started; the next look creates it again, if there is time left."""
    stage = _missed(s, s.current_stage)
    after = s.with_status(s.having(stage))
    if after.seconds_left <= 0:
        return out_of_time(after)
    return _anew(s, stage, stage.job_name or stage.name, requeue_after=1.0)


# --- a child of somebody else -----------------------------------------------------------------------------------------


def foreign_child(s: Situation) -> Plan:
    """End a job whose child's name is taken; wait if what has taken it is going."""
    foreign = s.foreign
    assert foreign is not None  # noqa: S101 - the choice says so
    if foreign.deleting:
        return _wait_for(s, foreign)
    failure = Failure(
        reason=Reason.NAME_CONFLICT.value,
        message=f"Job {foreign.name} is not of this FineTuneJob. {REASONS[Reason.NAME_CONFLICT].mend}",
        stage=s.current_stage.name,
    )
    return fail(s, s.status, failure)


# --- helpers, in the order of their calls -----------------------------------------------------------------------------


def _given_up(s: Situation, stage: StageStatus, child: ChildView) -> StageStatus:
    seen = stage
    if child.suspended:  # it has run until then, also where a queue has removed its start time
        seen = stood_still(stage, child)
    elif has_started(stage, child, s.pods):
        seen = running(stage, child, s.pods)
    seen = with_failure(s, seen)
    if not isinstance(s.child_end, Interrupted) or not s.child_end.counts:
        return set_back(seen, child, s.pods, now=s.now)
    back = set_back(seen, child, s.pods, now=s.now, failed=True)
    pod = next(pod for pod in s.pods if pod.name == s.child_end.pod)
    return with_failure_of(back, pod, number=back.failures)


def _missed(s: Situation, stage: StageStatus) -> StageStatus:
    missed_at = s.observed.gone.get(stage.job_uid or "")
    return set_back(stage, None, now=s.now, missed_at=missed_at, most=max(0, s.seconds_left))


def _anew(s: Situation, stage: StageStatus, child_name: str, *, requeue_after: float | None = None) -> Plan:
    """Tell that somebody else deleted the child, of which the stage is set back already."""
    message = f"Job {child_name} was deleted while it ran; stage {stage.name} starts anew."
    event = Event(reason="ChildDeleted", message=message, type="Warning")
    alone = orphan(s.observed.pods)
    return go_on(
        s,
        s.having(stage),
        reason="Restarting" if alone is None else POD_IN_THE_WAY,
        message=alone or message,
        events=[event],
        requeue_after=requeue_after,
        final=True,
    )


def _wait_for(s: Situation, child: ChildView) -> Plan:
    """Wait for the end of a child that is going; a delete that was cut off is made now."""
    message = f"Job {child.name} is being deleted; the stage goes on when it is gone."
    resuming = s.reason in STANDING_STILL
    kept = s.told if s.reason == "Restarting" and not resuming else message
    late = stuck([pod for pod in s.observed.pods if pod.job_uid == child.uid], s.now)
    return go_on(
        s,
        s.status,
        reason="Resuming" if resuming else "Restarting",
        message=late or kept,
        actions=[] if child.deleting else [delete(child)],
        requeue_after=LOOK_AGAIN_SECONDS,
    )
