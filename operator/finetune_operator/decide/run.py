"""Arms of ``reconcile`` about a stage whose child stands and has not ended: it runs, starts or is held up.

Pure.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from finetune_api.names import StageName
from finetune_api.reasons import Reason
from finetune_api.status import FineTuneJobStatus
from finetune_operator.decide.answers import go_on, hold_up
from finetune_operator.decide.attempts import attempt_note, interruption_note, with_failure
from finetune_operator.decide.holds import Hold, hold_of
from finetune_operator.decide.named import named_by
from finetune_operator.decide.plan import Action, ChildView, Event, Plan, SetChildDeadline
from finetune_operator.decide.progress import seconds_of_silence_left, silence_note, with_progress
from finetune_operator.decide.queued import QUEUE_REASONS, QUEUED
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.stages import has_started, running, seconds_spent, stood_still
from finetune_operator.decide.start import before_pod

__all__ = ["POLL_SECONDS", "SLOW_POLL_SECONDS", "held_up", "is_between_pods", "stays_told", "what_holds", "works"]

QUEUE_GRACE_SECONDS: Final = 3.0
"""How long a new child may take to be admitted before its queue is asked: telling of it would cost two writes."""

_LONGEST_QUEUE_POLL: Final = 300.0

POLL_SECONDS: Final = 10.0
"""How soon to look again at a pod that doesn't start: mount errors are events, which nobody watches."""

SLOW_POLL_SECONDS: Final = 30.0
_POLL_SLOWER_AFTER: Final = 120.0

_STARTED: Final[dict[StageName, tuple[str, str]]] = {
    "prepare": ("Preparing", "The rows are read, split and tokenised."),
    "train": ("Training", "The model is scored, tuned and scored again."),
}


def is_between_pods(s: Situation) -> bool:
    """Tell whether a job that found no node has no pod at the moment.

    Either the Job is ended by its deadline, which then can say why, or another pod comes in a moment. The pod goes
    before the Job says so, and is counted as failed, which looks like a start.
    """
    child = s.child
    if s.reason != "Unschedulable" or child is None or child.pod_create_error or child.suspended:
        return False
    return not any(not pod.deleting or pod.node is not None for pod in s.pods)


def stays_told(s: Situation) -> Plan:
    """Leave what is told as it is."""
    child = s.current_child
    return Plan(actions=tuple(_edited_deadline(s, child, s.status)), requeue_after=_poll(s, child))


def what_holds(s: Situation) -> Hold | None:
    """Tell what keeps the child from running."""
    if _just_queued(s):
        return None
    cache = s.snapshot.model_cache if s.snapshot else None
    return hold_of(s.current_child, s.pods, now=s.now, named=named_by(s.spec, cache))


def held_up(s: Situation) -> Plan:
    """Tell what keeps the child from running, and wait for it."""
    child, hold = s.current_child, what_holds(s)
    assert hold is not None  # noqa: S101 - the choice says so
    # The scheduler's verdict is part of the watched pod, a suspension of the watched Job; no Event is to be looked for.
    poll = None if hold.reason == "Unschedulable" else _poll(s, child)
    status = _seen(s, child)
    return hold_up(
        s, status, hold, actions=_edited_deadline(s, child, status), events=_stopped_by_queue(s, hold), poll=poll
    )


def works(s: Situation) -> Plan:
    """The child runs, or is about to."""
    child = s.current_child
    status = _seen(s, child)
    started = has_started(s.current_stage, child, s.pods)
    if started:
        status = with_progress(s, status)
        reason, message = _started(s, status)
    else:
        reason, message = before_pod(s, s.current_stage.name)
    return go_on(
        s,
        status,
        reason=reason,
        message=message,
        actions=_edited_deadline(s, child, status),
        requeue_after=_first(_poll(s, child), seconds_of_silence_left(s) if started else None),
        clock_goes_on=not started and not s.begun and _may_still_be_missing(s),
    )


def _just_queued(s: Situation) -> bool:
    """Tell whether the child was made for its queue a moment ago."""
    child = s.current_child
    fresh = child.suspended and child.made_for is not None and s.current_stage.attempts == 0
    if not fresh or s.reason in QUEUE_REASONS:
        return False
    return child.suspended_at is None or (s.now - child.suspended_at).total_seconds() < QUEUE_GRACE_SECONDS


def _stopped_by_queue(s: Situation, hold: Hold) -> list[Event]:
    """Tell once that a child which ran was stopped; it is no failure."""
    word = s.current_child.word
    if word is None or word.evicted is None or hold.reason != QUEUED or s.reason in QUEUE_REASONS:
        return []
    return [Event(reason="Evicted", message=hold.message)]


def _started(s: Situation, status: FineTuneJobStatus) -> tuple[str, str]:
    """Tell of a stage that has started: what is done there, and why it is not the first attempt."""
    reason, message = _STARTED[s.current_stage.name]
    if not s.pods and s.reason == reason:
        return reason, s.told  # a pod that saved its state may be gone before the next one comes
    notes = _note_about_the_deadline(s), attempt_note(s, status), interruption_note(s), silence_note(s)
    return reason, message + "".join(notes)


def _may_still_be_missing(s: Situation) -> bool:
    """Tell whether nothing shows that what the job waited for has come; that no Event tells of it shows nothing."""
    if s.reason == Reason.NOT_PERMITTED:
        return not s.pods
    if not any(pod.ready_to_start for pod in s.pods):
        return True
    # Its Secrets are mounted; of the image a pod that has not started says nothing.
    before = s.reason in ("Pending", "Starting") and s.status.waiting_for is None
    return before or s.reason in (Reason.IMAGE_PULL_FAILED, Reason.TRAINER_ERROR)


def _seen(s: Situation, child: ChildView) -> FineTuneJobStatus:
    """Return the status with what is seen of the stage: that it runs, or that somebody else has stopped it."""
    stage = s.current_stage
    if child.suspended:
        return s.having(stood_still(stage, child))
    if not has_started(stage, child, s.pods):
        return s.status
    return s.having(with_failure(s, running(stage, child, s.pods)))


def _note_about_the_deadline(s: Situation) -> str:
    """A deadline may be raised above what the runtime allows; the runtime's holds, and the user is told."""
    wanted = s.spec.active_deadline_seconds if s.spec else None
    if wanted is None or wanted <= s.limit:
        return ""
    return f" activeDeadlineSeconds is {wanted}; the FineTuneRuntime allows {s.limit}, which holds."


def _poll(s: Situation, child: ChildView) -> float | None:
    """When to look again at a child that doesn't run yet; never at one that runs."""
    if any(pod.phase == "Running" and not pod.deleting for pod in s.pods):
        return None
    if child.suspended:
        return _queue_poll(s, child)
    begins: list[datetime] = [pod.created for pod in s.pods if pod.phase == "Pending"]
    begins += [child.start_time] if child.start_time and not begins else []
    waited = max((s.now - begin).total_seconds() for begin in begins) if begins else 0.0
    return POLL_SECONDS if waited < _POLL_SLOWER_AFTER else SLOW_POLL_SECONDS


def _queue_poll(s: Situation, child: ChildView) -> float | None:
    """When to ask a queue again, the later the longer the wait; of the admission the watched Job tells."""
    if child.queue is None:
        return None
    waited = (s.now - child.suspended_at).total_seconds() if child.suspended_at else 0.0
    return min(_LONGEST_QUEUE_POLL, max(QUEUE_GRACE_SECONDS, waited / 4))


def _first(*pauses: float | None) -> float | None:
    return min((pause for pause in pauses if pause is not None), default=None)


def _edited_deadline(s: Situation, child: ChildView, status: FineTuneJobStatus) -> list[Action]:
    wanted = max(1, s.limit - seconds_spent(status.stages or []))
    if child.active_deadline_seconds in (None, wanted):
        return []
    return [SetChildDeadline(name=child.name, uid=child.uid, seconds=wanted)]
