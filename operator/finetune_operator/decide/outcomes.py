"""The plans that a decision ends in: go on, wait, fail, succeed.

Pure. ``reconcile`` decides, this module writes status, events and follow-up actions so that every path does it alike:
status is left out where nothing changed, waiting has one clock, every end sets observedGeneration and completionTime.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from finetune_api.names import child_name
from finetune_api.stage import JobIdentity
from finetune_api.status import Failure, FineTuneJobStatus, Results
from finetune_operator.decide.conditions import Suspension, Verdict
from finetune_operator.decide.diagnose import Hold
from finetune_operator.decide.plan import Action, DeleteChild, Event, JobView, Observed, Plan, SetChildTTL
from finetune_operator.decide.status import condition, read_status, to_stored, with_generation
from finetune_operator.decide.text import parse_time, rfc3339, sanitise

__all__ = ["DEFAULT_PENDING_TIMEOUT_SECONDS", "Case", "clean_up", "fail", "go_on", "hold_up", "observe_edit", "succeed"]

DEFAULT_PENDING_TIMEOUT_SECONDS: Final = 600
"""How long a job waits while there is no runtime that says otherwise."""

DEFAULT_TTL_SECONDS: Final = 86400
_MAX_UID: Final = 64
_MAX_NAMESPACE: Final = 63
_MAX_EVENT: Final = 512
_MAX_PLACE: Final = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One observed job with its metadata read."""

    observed: Observed
    namespace: str
    name: str
    uid: str
    generation: int
    stored: dict[str, Any]
    """Status as it stands."""
    status: FineTuneJobStatus
    """The same as far as it can be read, with the observed generation and conditions of then."""

    @classmethod
    def of(cls, observed: Observed) -> Case | None:
        """Read the job's metadata; None if it is being deleted or is nothing that an API server would store."""
        metadata = observed.job.get("metadata")
        if not isinstance(metadata, dict) or metadata.get("deletionTimestamp") is not None:
            return None
        namespace, name, uid = (metadata.get(key) for key in ("namespace", "name", "uid"))
        if not (isinstance(namespace, str) and isinstance(name, str) and isinstance(uid, str)):
            return None
        if not (0 < len(namespace) <= _MAX_NAMESPACE and name and 0 < len(uid) <= _MAX_UID):
            return None
        generation, stored = metadata.get("generation"), observed.job.get("status")
        stored = stored if isinstance(stored, dict) else {}
        return cls(
            observed=observed,
            namespace=namespace,
            name=name,
            uid=uid,
            generation=generation if isinstance(generation, int) and generation >= 0 else 0,
            stored=stored,
            status=read_status(stored),
        )

    @property
    def now(self) -> datetime:
        """The moment of observation."""
        return self.observed.now

    @property
    def identity(self) -> JobIdentity:
        """The owner as the stages know it; the name must have been checked."""
        return JobIdentity(namespace=self.namespace, name=self.name, uid=self.uid)

    @property
    def reason(self) -> str | None:
        """The reason that stands in the Succeeded condition now."""
        current = condition(self.status, "Succeeded")
        return current.reason if current else None

    @property
    def suspension(self) -> str | None:
        """How far the job is suspended by its stored conditions; None if it isn't, or is no more."""
        current = condition(self.status, "Suspended")
        return current.reason if current and current.reason in ("Suspending", "SpecSuspended") else None

    @property
    def children(self) -> list[JobView]:
        """The child Jobs that this job owns."""
        names = {child_name(self.name, self.uid, "prepare"), child_name(self.name, self.uid, "train")}
        return [c for c in self.observed.children if c.name in names and c.owner_uid == self.uid]

    def changed(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """Return the wanted status if it differs from what is stored."""
        return wanted if wanted != self.stored else None


def go_on(
    case: Case,
    status: FineTuneJobStatus,
    *,
    reason: str,
    message: str,
    actions: Iterable[Action] = (),
    events: Iterable[Event] = (),
    requeue_after: float | None = None,
    suspension: Suspension | None = None,
) -> Plan:
    """Not ended and nothing missing: the waiting clock stops."""
    status = status.model_copy(update={"waiting_for": None, "waiting_since": None})
    return Plan(
        status=case.changed(_ongoing(case, status, reason, message, suspension)),
        actions=tuple(actions),
        events=tuple(events),
        requeue_after=requeue_after,
    )


def hold_up(
    case: Case,
    status: FineTuneJobStatus,
    hold: Hold,
    *,
    timeout: int,
    child: JobView | None = None,
    actions: Iterable[Action] = (),
    poll: float | None = None,
) -> Plan:
    """Something is missing or no node is free: wait, and fail once it has been missing for ``timeout`` seconds.

    The clock runs through changes of the missing thing and stops when nothing is missing.
    """
    if hold.known is None:
        status = status.model_copy(update={"waiting_for": None, "waiting_since": None})
        stored = case.changed(_ongoing(case, status, hold.reason, _steady(case, hold)))
        return Plan(status=stored, actions=tuple(actions), requeue_after=poll)
    since = parse_time(case.status.waiting_since) or case.now
    left = timeout - max(0.0, (case.now - since).total_seconds())
    if left <= 0:
        if not case.observed.live:
            return Plan(needs_live=True, waiting=hold.known)
        failure = Failure(
            reason=hold.reason,
            message=sanitise(f"Waited {timeout} s (pendingTimeoutSeconds of the runtime). {hold.message}"),
        )
        return fail(case, status, failure, actions=[_delete(child)] if child else [])
    status = status.model_copy(update={"waiting_for": hold.waiting_for, "waiting_since": rfc3339(since)})
    begins = case.reason in (None, "Pending")
    event = Event(reason=hold.reason, message=sanitise(hold.message, _MAX_EVENT), type="Warning")
    return Plan(
        status=case.changed(_ongoing(case, status, hold.reason, _steady(case, hold))),
        actions=tuple(actions),
        events=(event,) if begins else (),
        requeue_after=max(1.0, left if poll is None else min(poll, left)),
        waiting=hold.known,
    )


def fail(case: Case, status: FineTuneJobStatus, failure: Failure, *, actions: Iterable[Action] = ()) -> Plan:
    """End the job as failed."""
    status = status.model_copy(update={"failure": failure})
    verdict = Verdict(succeeded=False, reason=failure.reason, message=failure.message, prepared=_prepared(status))
    event = Event(reason="Failed", message=sanitise(f"{failure.reason}: {failure.message}", _MAX_EVENT), type="Warning")
    return _end(case, status, verdict, event, tuple(actions))


def succeed(case: Case, status: FineTuneJobStatus, results: Results, *, reused: bool = False) -> Plan:
    """End the job with its results, or with those of an earlier job that it found below its output.uri."""
    message = (
        f"{results.metric} {results.baseline.score} before, {results.test.score} after ({results.gain}) on "
        f"{results.test.total} sealed rows"
    )
    if reused:
        place = sanitise(status.output_uri or "output.uri", _MAX_PLACE)
        message = f"The result of an earlier job with the same spec, model and rows, found at {place}: {message}"
    reason = "ReusedExistingArtifact" if reused else "Completed"
    verdict = Verdict(succeeded=True, reason=reason, message=message, prepared=True)
    event = Event(reason="Succeeded", message=sanitise(message, _MAX_EVENT))
    return _end(case, status, verdict, event, ())


def observe_edit(case: Case) -> dict[str, Any] | None:
    """After the end: renew observedGeneration, if a mutable field was edited."""
    if case.stored.get("observedGeneration") == case.generation:
        return None
    return case.changed(with_generation(case.stored, case.generation))


def clean_up(case: Case) -> list[Action]:
    """After the end: finished children go when ttlSecondsAfterFinished says, others go now."""
    actions: list[Action] = []
    ttl = _ttl(case.observed.job.get("spec"))
    for child in case.children:
        if child.deleting:
            continue
        if child.outcome is None:
            actions.append(_delete(child))
        elif child.ttl_seconds != ttl:
            actions.append(SetChildTTL(name=child.name, uid=child.uid, seconds=ttl))
    return actions


def _end(case: Case, status: FineTuneJobStatus, verdict: Verdict, event: Event, actions: tuple[Action, ...]) -> Plan:
    status = status.model_copy(
        update={"waiting_for": None, "waiting_since": None, "completion_time": rfc3339(case.now)}
    )
    # A child that seems to run still is deleted by the next look, on live reads.
    ttls = tuple(action for action in clean_up(case) if isinstance(action, SetChildTTL))
    return Plan(
        status=case.changed(to_stored(status, verdict, generation=case.generation, now=case.now)),
        actions=actions + ttls,
        events=(event,),
    )


def _ongoing(
    case: Case, status: FineTuneJobStatus, reason: str, message: str, suspension: Suspension | None = None
) -> dict[str, Any]:
    verdict = Verdict(succeeded=None, reason=reason, message=message, prepared=_prepared(status), suspension=suspension)
    return to_stored(status, verdict, generation=case.generation, now=case.now)


def _prepared(status: FineTuneJobStatus) -> bool:
    """The rows are prepared once a stage has said what they are, even if it failed later."""
    return status.dataset is not None or any(stage.state == "Succeeded" for stage in status.stages or [])


def _steady(case: Case, hold: Hold) -> str:
    """Keep the message while nothing but the wording can have changed; messages with a name in them are our own."""
    current = condition(case.status, "Succeeded")
    if current and current.reason == hold.reason and hold.waiting_for is None and case.status.waiting_for is None:
        return current.message
    return hold.message


def _delete(child: JobView) -> DeleteChild:
    return DeleteChild(name=child.name, uid=child.uid)


def _ttl(spec: object) -> int:
    """Read the one field that matters after the end, even of a spec that can't be read as a whole."""
    value = spec.get("ttlSecondsAfterFinished") if isinstance(spec, dict) else None
    return value if isinstance(value, int) and 0 <= value <= 31536000 else DEFAULT_TTL_SECONDS
