"""Arms of ``reconcile`` about ends: of a stage, of the job, and what still happens after it.

Pure.
"""

from __future__ import annotations

from finetune_api.reasons import REASONS, Reason
from finetune_api.status import Failure, FineTuneJobStatus
from finetune_operator.decide.answers import delete, fail, go_on, succeed, ttls
from finetune_operator.decide.attempts import with_failure
from finetune_operator.decide.child_end import EndedBadly, EndedWell
from finetune_operator.decide.plan import Event, Plan
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.stages import ended, has_begun, set_back
from finetune_operator.decide.status import with_generation, with_report
from finetune_operator.decide.stop import stand_still
from finetune_operator.decide.text import sanitise

__all__ = ["after_the_end", "all_done", "failed", "report_lost", "stage_done", "unreadable"]

_ANOTHER_VERSION = (
    "Another version of the operator began this job, and this one can't read its spec; upgrade the operator, and the "
    "job goes on:"
)
_REPORT_LOST = "The trainer ended without a readable report; the stage runs once more to report again."


# --- a stage ----------------------------------------------------------------------------------------------------------


def stage_done(s: Situation) -> Situation:
    """Record that a stage has ended well, and what it reported; the choice is then made for the next one."""
    end, child = s.child_end, s.current_child
    assert isinstance(end, EndedWell)  # noqa: S101 - the choice says so
    report = end.report
    # An operator that was away sees the failure of an earlier pod only now.
    before = with_failure(s, s.current_stage)
    stage = ended(before, child, s.pods, now=s.now, digest=report.digest, succeeded=True)
    status = with_report(s.having(stage), report, succeeded=True)
    if stage.name == "train" or report.reused:
        status = status.model_copy(update={"manifest_digest": report.digest})
    if report.reused:
        status = _rest_skipped(status)
    elif status.resolved and status.resolved.image is None and s.snapshot:
        status = status.model_copy(update={"resolved": status.resolved.model_copy(update={"image": s.snapshot.image})})
    return s.with_status(status, reused=bool(report.reused))


def report_lost(s: Situation) -> Plan:
    """Give a child up that ended well without a report, once; the next one says it again, in a short form."""
    stage, child = s.current_stage, s.current_child
    if stage.recreated > 0:
        failure = Failure(reason=Reason.NOT_REPORTED.value, message=REASONS[Reason.NOT_REPORTED].mend, stage=stage.name)
        stage = ended(stage, child, s.pods, now=s.now, digest=None, succeeded=False)
        return fail(s, s.having(stage), failure)
    stage = set_back(stage, child, s.pods, now=s.now, report_lost=True)
    event = Event(reason="ReportLost", message=_REPORT_LOST, type="Warning")
    if s.suspend:
        return stand_still(s, stage, events=[event])
    return go_on(
        s,
        s.having(stage),
        reason="Restarting",
        message=_REPORT_LOST,
        actions=[delete(child)],
        events=[event],
        final=True,
    )


# --- the job ----------------------------------------------------------------------------------------------------------


def all_done(s: Situation) -> Plan:
    """End a job whose stages are all done; normally their results were in the same write."""
    if s.status.results is None:
        mend = REASONS[Reason.NOT_REPORTED].mend
        return fail(s, s.status, Failure(reason=Reason.NOT_REPORTED.value, message=mend))
    reused = s.reused or any(stage.state == "Skipped" for stage in s.stages)
    return succeed(s, s.status, s.status.results, reused=reused)


def failed(s: Situation) -> Plan:
    """End a job whose child has failed for good."""
    end = s.child_end
    assert isinstance(end, EndedBadly)  # noqa: S101 - the choice says so
    failure = end.failure
    if failure.reason == Reason.DEADLINE_EXCEEDED.value and s.status.waiting_since is not None:
        # The time went by while it waited, which raising the deadline alone doesn't mend.
        waited = f"{failure.message} It had waited since {s.status.waiting_since} ({s.reason}): {s.told}"
        failure = failure.model_copy(update={"message": sanitise(waited)})
    stage = ended(s.current_stage, s.current_child, s.pods, now=s.now, digest=None, succeeded=False)
    status = s.having(stage)
    if end.report is not None:
        status = with_report(status, end.report, succeeded=False)
        if end.report.not_accepted:
            status = status.model_copy(update={"manifest_digest": end.report.digest})
    return fail(s, status, failure)


def unreadable(s: Situation) -> Plan:
    """Fail a spec that this version can't read, unless another version has begun the job: it may have a result.

    So it is after an operator was rolled back. The child is left to finish, and the job waits for a version that can
    read what it reported.
    """
    if any(child.ended is None for child in s.children) and s.stages:
        return Plan()
    if has_begun(s.stages):
        words = f"{_ANOTHER_VERSION} {s.spec_error}"
        return go_on(s, s.status, reason=Reason.INVALID_SPEC.value, message=sanitise(words), final=True)
    return fail(s, s.status, Failure(reason=Reason.INVALID_SPEC.value, message=sanitise(s.spec_error)))


def after_the_end(s: Situation) -> Plan:
    """Remove what still runs, let the rest go in its time, and observe an edit of a mutable field."""
    running = [delete(child) for child in s.children if child.ended is None and not child.deleting]
    edited = s.stored.get("observedGeneration") != s.generation
    status = s.changed(with_generation(s.stored, s.generation)) if edited else None
    return Plan(status=status, actions=(*running, *ttls(s)))


def _rest_skipped(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Record that no further stage comes; none of them has ever had a child."""
    stages = [s.model_copy(update={"state": "Skipped"}) if s.state == "Pending" else s for s in status.stages or []]
    return status.model_copy(update={"stages": stages})
