"""The plans that an arm of ``reconcile`` answers with: go on, wait, fail, succeed.

Pure. Status, events and follow-up actions are written here, so that every arm does it alike: status is left out where
nothing changed, waiting has one clock, every end sets observedGeneration and completionTime.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from finetune_api.metrics import LOWER_IS_BETTER
from finetune_api.reasons import REASONS, Reason
from finetune_api.status import Failure, FineTuneJobStatus, Results
from finetune_operator.decide.conditions import Suspension, Verdict
from finetune_operator.decide.holds import CONTROL_PLANE_FAULT, MENDABLE, POD_START, Hold
from finetune_operator.decide.plan import Action, ChildView, DeleteChild, Event, Plan, SetChildTTL
from finetune_operator.decide.queued import INADMISSIBLE, QUEUE_REASONS
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.status import to_stored
from finetune_operator.decide.text import parse_time, rfc3339, sanitise
from finetune_operator.decide.wording import renewal_in, says_the_same

__all__ = ["DEFAULT_PENDING_TIMEOUT_SECONDS", "delete", "fail", "go_on", "hold_up", "out_of_time", "succeed", "ttls"]

DEFAULT_PENDING_TIMEOUT_SECONDS: Final = 600
"""How long a job waits while there is no runtime that says otherwise."""

DEFAULT_TTL_SECONDS: Final = 86400
_MAX_EVENT: Final = 512
_MAX_PLACE: Final = 300


def go_on(
    s: Situation,
    status: FineTuneJobStatus,
    *,
    reason: str,
    message: str,
    actions: Iterable[Action] = (),
    events: Iterable[Event] = (),
    requeue_after: float | None = None,
    suspension: Suspension | None = None,
    final: bool = False,
    clock_goes_on: bool = False,
) -> Plan:
    """Not ended and nothing missing: the waiting clock stops, unless nothing shows that the missing thing has come."""
    if not (clock_goes_on and _clock_runs(s)):
        status = status.model_copy(update={"waiting_for": None, "waiting_since": None})
    return Plan(
        status=s.changed(_ongoing(s, status, reason, message, suspension)),
        actions=tuple(actions),
        events=tuple(events),
        requeue_after=requeue_after,
        final=final,
    )


def hold_up(
    s: Situation,
    status: FineTuneJobStatus,
    hold: Hold,
    *,
    actions: Iterable[Action] = (),
    events: Iterable[Event] = (),
    poll: float | None = None,
) -> Plan:
    """Something is missing, or the cluster has no room or a fault: wait and tell, with since when.

    Before the job has begun, what somebody must mend is waited for at most the runtime's pendingTimeoutSeconds. That
    clock runs through changes of the missing thing, and through what a node says in between, and stops when nothing is
    missing. Everything else, and all of it once the job has begun, waits for as long as the deadline lets it.
    """
    timed, runs = hold.mendable and not s.begun, _clock_runs(s)
    in_between = hold.reason in POD_START
    current = parse_time(s.status.waiting_since) if in_between or hold.mendable == runs else None
    since = current or s.now
    timeout = s.pending_timeout_seconds or DEFAULT_PENDING_TIMEOUT_SECONDS
    left = timeout - max(0.0, (s.now - since).total_seconds()) if timed else None
    if left is not None and left <= 0:
        failure = Failure(
            reason=hold.reason,
            message=sanitise(f"Waited {timeout} s (pendingTimeoutSeconds of the runtime). {hold.message}"),
        )
        return fail(s, status, failure, actions=[delete(s.child)] if s.child else [])
    waiting_for = s.status.waiting_for if in_between and runs else hold.waiting_for
    status = status.model_copy(update={"waiting_for": waiting_for, "waiting_since": rfc3339(since)})
    message, renewal = _worded(s, hold, (s.now - since).total_seconds())
    event = Event(reason=hold.reason, message=sanitise(hold.message, _MAX_EVENT), type="Warning")
    pauses = [seconds for seconds in (left, poll, renewal) if seconds is not None]
    return Plan(
        status=s.changed(_ongoing(s, status, hold.reason, message)),
        actions=tuple(actions),
        events=(*events, *((event,) if _is_news(s, hold) else ())),
        requeue_after=max(1.0, min(pauses)) if pauses else None,
        waiting=hold.known,
    )


def fail(s: Situation, status: FineTuneJobStatus, failure: Failure, *, actions: Iterable[Action] = ()) -> Plan:
    """End the job as failed."""
    status = status.model_copy(update={"failure": failure})
    verdict = Verdict(succeeded=False, reason=failure.reason, message=failure.message, prepared=_prepared(status))
    event = Event(reason="Failed", message=sanitise(f"{failure.reason}: {failure.message}", _MAX_EVENT), type="Warning")
    return _end(s, status, verdict, event, tuple(actions), final=True)


def out_of_time(s: Situation) -> Plan:
    """End a job whose stage can't begin because the seconds are used up."""
    failure = Failure(
        reason=Reason.DEADLINE_EXCEEDED.value,
        message=f"The job's {s.limit} s (activeDeadlineSeconds) are used up before stage {s.current_stage.name}. "
        f"{REASONS[Reason.DEADLINE_EXCEEDED].mend}",
        stage=s.current_stage.name,
    )
    return fail(s, s.status, failure)


def succeed(s: Situation, status: FineTuneJobStatus, results: Results, *, reused: bool = False) -> Plan:
    """End the job with its results, or with those of an earlier job that it found below its output.uri."""
    gain = f"{results.gain}; lower is better" if results.metric in LOWER_IS_BETTER else results.gain
    message = (
        f"{results.metric} {results.baseline.score} before, {results.test.score} after ({gain}) on "
        f"{results.test.total} sealed rows"
    )
    if results.warnings:
        message += f"; warnings: {', '.join(warning.type for warning in results.warnings)}"
    if reused:
        place = sanitise(status.output_uri or "output.uri", _MAX_PLACE)
        message = f"The result of an earlier job with the same spec, model and rows, found at {place}: {message}"
    reason = "ReusedExistingArtifact" if reused else "Completed"
    verdict = Verdict(succeeded=True, reason=reason, message=message, prepared=True)
    event = Event(reason="Succeeded", message=sanitise(message, _MAX_EVENT))
    return _end(s, status, verdict, event, (), final=False)


def ttls(s: Situation) -> list[Action]:
    """Children that have ended go when ttlSecondsAfterFinished says; they have none before the result is in status."""
    seconds = _ttl(s.observed.job.get("spec"))
    return [
        SetChildTTL(name=child.name, uid=child.uid, seconds=seconds)
        for child in s.children
        if child.ended is not None and not child.deleting and child.ttl_seconds != seconds
    ]


def delete(child: ChildView) -> DeleteChild:
    """Take a child away, this one and no other of its name."""
    return DeleteChild(name=child.name, uid=child.uid)


def _end(
    s: Situation,
    status: FineTuneJobStatus,
    verdict: Verdict,
    event: Event,
    actions: tuple[Action, ...],
    *,
    final: bool,
) -> Plan:
    status = status.model_copy(update={"waiting_for": None, "waiting_since": None, "completion_time": rfc3339(s.now)})
    # A child that seems to run still is deleted by the next look, on live reads.
    return Plan(
        status=s.changed(to_stored(status, verdict, generation=s.generation, now=s.now)),
        actions=(*actions, *ttls(s)),
        events=(event,),
        final=final,
    )


def _ongoing(
    s: Situation, status: FineTuneJobStatus, reason: str, message: str, suspension: Suspension | None = None
) -> dict[str, Any]:
    verdict = Verdict(succeeded=None, reason=reason, message=message, prepared=_prepared(status), suspension=suspension)
    return to_stored(status, verdict, generation=s.generation, now=s.now)


def _prepared(status: FineTuneJobStatus) -> bool:
    """The rows are prepared once a stage has said what they are, even if it failed later."""
    return status.dataset is not None or any(stage.state == "Succeeded" for stage in status.stages or [])


def _is_news(s: Situation, hold: Hold) -> bool:
    """Tell whether an Event shall tell of it: not each change of what is missing, and not the daily want of nodes."""
    if hold.reason in (CONTROL_PLANE_FAULT, INADMISSIBLE):
        return s.reason != hold.reason
    return hold.known is not None and s.reason in (None, "Pending")


def _clock_runs(s: Situation) -> bool:
    """Tell whether waitingSince is the clock of something to mend, and not that of a node or of room."""
    if s.reason in MENDABLE:
        return True
    if s.reason in POD_START:
        return s.status.waiting_for is not None  # kept beside what the node says
    return s.reason in ("Pending", "Starting") and s.status.waiting_since is not None


def _worded(s: Situation, hold: Hold, waited: float) -> tuple[str, float | None]:
    """Return the message to tell, and in how many seconds another one may take its place.

    It stays while nothing but the wording has changed; messages with a name in them are our own.
    """
    if hold.reason in QUEUE_REASONS:  # read at a pace of our own, so that only numbers are left alone
        return (s.told if says_the_same(s.told, hold.message) else hold.message), None
    named = hold.waiting_for or (s.status.waiting_for and hold.reason not in POD_START)
    if not hold.varies or s.reason != hold.reason or named:
        return hold.message, None
    if hold.vague or says_the_same(s.told, hold.message):
        return s.told, None
    # kubelet tells of an image at its own slow pace, and of the cause for a moment only.
    pause = 0.0 if hold.known is Reason.IMAGE_PULL_FAILED else renewal_in(waited)
    return (s.told, pause) if pause else (hold.message, None)


def _ttl(spec: object) -> int:
    """Read the one field that matters after the end, even of a spec that can't be read as a whole."""
    value = spec.get("ttlSecondsAfterFinished") if isinstance(spec, dict) else None
    return value if isinstance(value, int) and 0 <= value <= 31536000 else DEFAULT_TTL_SECONDS
