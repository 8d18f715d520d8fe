"""Decides about the stages of one job: create a child, watch it, judge its end, go on to the next.

Pure. ``reconcile`` comes here once the spec and the runtime's snapshot are settled. A decision that can't be taken back
(failing, deleting, starting anew) is taken on live reads only; a cache that lags would end a healthy job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName, child_name
from finetune_api.reasons import REASONS, Reason
from finetune_api.runtime import ResolvedRuntime
from finetune_api.status import Failure, FineTuneJobStatus, StageStatus
from finetune_operator.decide.diagnose import Hold, failure_of, hold_of, hold_of_refusal, success_report
from finetune_operator.decide.manifests.job import build_job
from finetune_operator.decide.outcomes import Case, fail, go_on, hold_up, succeed
from finetune_operator.decide.plan import (
    Action,
    CreateChild,
    DeleteChild,
    Event,
    JobView,
    Plan,
    PodView,
    SetChildDeadline,
)
from finetune_operator.decide.runtimes import deadline_seconds
from finetune_operator.decide.stages import (
    ended,
    ended_by_deletion,
    given_up,
    replace_stage,
    running,
    seconds_spent,
    set_back,
    stage_is_done,
)
from finetune_operator.decide.status import condition, with_report
from finetune_operator.decide.suspension import suspend
from finetune_operator.decide.text import rfc3339, sanitise

__all__ = ["POLL_SECONDS", "SLOW_POLL_SECONDS", "StagePlanner"]

POLL_SECONDS: Final = 10.0
"""How soon to look again at a pod that doesn't start: mount errors are events, which nobody watches."""

SLOW_POLL_SECONDS: Final = 30.0
_POLL_SLOWER_AFTER: Final = 120.0

_STARTED: Final[dict[StageName, tuple[str, str]]] = {
    "prepare": ("Preparing", "The rows are read, split and tokenised."),
    "train": ("Training", "The model is scored, tuned and scored again."),
}
_STANDING_STILL: Final = ("Suspending", "Suspended", "Resuming")
_REPORT_LOST: Final = "The trainer ended without a readable report; the stage runs once more to report again."


class StagePlanner:
    """Decides about the stages of one job; holds what every decision needs, and no state."""

    def __init__(self, *, case: Case, spec: FineTuneJobSpec, runtime: ResolvedRuntime) -> None:
        self.case, self.spec, self.runtime = case, spec, runtime
        self.limit = deadline_seconds(spec, runtime)

    def next(self, status: FineTuneJobStatus) -> Plan:
        """Decide about the first stage that isn't done, or end the job."""
        stage = next((stage for stage in status.stages or [] if not stage_is_done(stage)), None)
        if stage is None:
            return self._all_done(status)
        name = child_name(self.case.name, self.case.uid, stage.name)
        child = next((child for child in self.case.observed.children if child.name == name), None)
        if child is not None and child.owner_uid != self.case.uid:
            if not self.spec.suspend:
                return self._wait_for_its_end(status, child) if child.deleting else self._conflict(status, stage, child)
            child = None  # it is in nobody's way before the stage goes on
        if child is not None:
            return self._with_child(status, stage, child)
        return self._suspend(status, stage, None) if self.spec.suspend else self._without_child(status, stage)

    def _with_child(self, status: FineTuneJobStatus, stage: StageStatus, child: JobView) -> Plan:
        """Judge an end first, suspended or not; then do with the child what spec.suspend says."""
        pods = tuple(pod for pod in self.case.observed.pods if pod.job_uid == child.uid)
        if child.outcome == "Complete":
            return self._complete(status, stage, child, pods)
        if child.outcome == "Failed" and not ended_by_deletion(child):
            return self._failed(status, stage, child, pods)
        if self.spec.suspend:
            return self._suspend(status, stage, child, pods)
        if child.deleting or given_up(stage, child):
            return self._going(status, stage, child, pods)
        return self._active(status, stage, child, pods)

    def _all_done(self, status: FineTuneJobStatus) -> Plan:
        """Every stage is recorded as done, and normally its results were in the same write."""
        if status.results is None:
            mend = REASONS[Reason.NOT_REPORTED].mend
            return fail(self.case, status, Failure(reason=Reason.NOT_REPORTED.value, message=mend))
        reused = any(stage.state == "Skipped" for stage in status.stages or [])
        return succeed(self.case, status, status.results, reused=reused)

    def _suspend(
        self,
        status: FineTuneJobStatus,
        stage: StageStatus,
        child: JobView | None,
        pods: tuple[PodView, ...] = (),
        events: tuple[Event, ...] = (),
    ) -> Plan:
        """Give the child up in status, then take it away."""
        if child is None:
            # Somebody deleted it while the job was being suspended: the same is wanted now.
            stage = stage if stage.state == "Pending" else set_back(stage, None, now=self.case.now)
        elif not given_up(stage, child):
            stage = self._given_up(stage, child, pods)
        status = self._with(status, stage)
        used_up = seconds_spent(status.stages or []) >= self.limit
        note = f" The job's {self.limit} s are used up: raise activeDeadlineSeconds before that." if used_up else ""
        return suspend(self.case, status, child, note=note, events=events)

    def _conflict(self, status: FineTuneJobStatus, stage: StageStatus, foreign: JobView) -> Plan:
        if not self.case.observed.live:
            return Plan(needs_live=True)
        failure = Failure(
            reason=Reason.NAME_CONFLICT.value,
            message=f"Job {foreign.name} is not of this FineTuneJob. {REASONS[Reason.NAME_CONFLICT].mend}",
            stage=stage.name,
        )
        return fail(self.case, status, failure)

    def _without_child(self, status: FineTuneJobStatus, stage: StageStatus) -> Plan:
        """Create the child, for the first time or because somebody deleted it in mid-run."""
        case = self.case
        if stage.state != "Pending":
            return self._vanished(status, stage)
        left = self.limit - seconds_spent(status.stages or [])
        if left <= 0:
            return self._out_of_time(status, stage)
        events = []
        if status.start_time is None:
            status = status.model_copy(update={"start_time": rfc3339(case.now)})
            events = [Event(reason="Started", message=f"Results go to {sanitise(self.runtime.output_uri, 400)}")]
        create = CreateChild(stage=stage.name, manifest=self._manifest(status, stage, left))
        if case.observed.create_error:
            hold = hold_of_refusal(case.observed.create_error)
            return self._hold(status, hold, None, actions=[create], poll=SLOW_POLL_SECONDS)
        reason, message = self._before_pod(stage.name)
        return go_on(case, status, reason=reason, message=message, actions=[create], events=events)

    def _before_pod(self, stage: StageName) -> tuple[str, str]:
        """Tell of a stage that has no pod yet; Starting follows on something that held it up."""
        if self.case.reason == "Restarting":
            return "Restarting", self._restarting("")
        if self.case.reason in (None, "Pending", "Preparing", *_STANDING_STILL):
            return "Pending", f"Stage {stage} waits for its pod to start."
        return "Starting", f"The pod of stage {stage} starts."

    def _restarting(self, message: str) -> str:
        """Why the stage starts anew; the first message stays until it has."""
        current = condition(self.case.status, "Succeeded")
        return current.message if current and current.reason == "Restarting" else message

    def _vanished(self, status: FineTuneJobStatus, stage: StageStatus) -> Plan:
        """Take note that a child is gone that had started; the next look creates it again, if there is time left."""
        if not self.case.observed.live:
            return Plan(needs_live=True)
        stage = set_back(stage, None, now=self.case.now)
        after = self._with(status, stage)
        if seconds_spent(after.stages or []) >= self.limit:
            return self._out_of_time(after, stage)
        plan = self._anew(status, stage, stage.job_name or stage.name)
        return replace(plan, requeue_after=1.0)

    def _anew(self, status: FineTuneJobStatus, stage: StageStatus, child_name: str) -> Plan:
        """Tell that somebody else deleted the child, of which the stage is set back already."""
        message = f"Job {child_name} was deleted while it ran; stage {stage.name} starts anew."
        event = Event(reason="ChildDeleted", message=message, type="Warning")
        return go_on(self.case, self._with(status, stage), reason="Restarting", message=message, events=[event])

    def _manifest(self, status: FineTuneJobStatus, stage: StageStatus, left: int) -> dict[str, Any]:
        prepared = next((s.digest for s in status.stages or [] if s.name == "prepare"), None)
        return build_job(
            job=self.case.identity,
            spec=self.spec,
            runtime=self.runtime,
            stage=stage.name,
            deadline_seconds=left,
            prepared_digest=prepared if stage.name == "train" else None,
        )

    def _out_of_time(self, status: FineTuneJobStatus, stage: StageStatus) -> Plan:
        if not self.case.observed.live:
            return Plan(needs_live=True)
        failure = Failure(
            reason=Reason.DEADLINE_EXCEEDED.value,
            message=f"The job's {self.limit} s (activeDeadlineSeconds) are used up before stage {stage.name}. "
            f"{REASONS[Reason.DEADLINE_EXCEEDED].mend}",
            stage=stage.name,
        )
        return fail(self.case, status, failure)

    def _going(self, status: FineTuneJobStatus, stage: StageStatus, child: JobView, pods: tuple[PodView, ...]) -> Plan:
        """The stage can't go on with this child: give it up if somebody else deletes it, then wait until it is gone."""
        if not (child.deleting and given_up(stage, child)) and not self.case.observed.live:
            return Plan(needs_live=True)
        if not given_up(stage, child):
            return self._anew(status, self._given_up(stage, child, pods), child.name)
        return self._wait_for_its_end(status, child)

    def _wait_for_its_end(self, status: FineTuneJobStatus, child: JobView) -> Plan:
        message = f"Job {child.name} is being deleted; the stage goes on when it is gone."
        resuming = self.case.reason in _STANDING_STILL
        # A delete that was cut off is made now.
        delete = [] if child.deleting else [DeleteChild(name=child.name, uid=child.uid)]
        return go_on(
            self.case,
            status,
            reason="Resuming" if resuming else "Restarting",
            message=message if resuming else self._restarting(message),
            actions=delete,
        )

    def _given_up(self, stage: StageStatus, child: JobView, pods: tuple[PodView, ...]) -> StageStatus:
        seen = running(stage, child, pods) if _has_started(stage, child, pods) else stage
        return set_back(seen, child, now=self.case.now)

    def _active(self, status: FineTuneJobStatus, stage: StageStatus, child: JobView, pods: tuple[PodView, ...]) -> Plan:
        """An unfinished child: runs, starts or is held up."""
        case = self.case
        started = _has_started(stage, child, pods)
        if started:
            status = self._with(status, running(stage, child, pods))
        actions = self._edited_deadline(status, child)
        poll = self._poll(child, pods)
        if case.reason == "Unschedulable" and not child.pod_create_error and not any(_stays(pod) for pod in pods):
            # Either the Job is ended by its deadline, which then can say why, or another pod comes in a moment. The pod
            # goes before the Job says so, and is counted as failed, which looks like a start.
            return Plan(actions=tuple(actions), requeue_after=poll)
        hold = hold_of(child, pods, now=case.now)
        if hold is not None:
            # The scheduler's verdict is part of the watched pod; there is no event to look for.
            poll = None if hold.reason == "Unschedulable" else poll
            return self._hold(status, hold, child, actions=actions, poll=poll)
        reason, message = _STARTED[stage.name] if started else self._before_pod(stage.name)
        return go_on(case, status, reason=reason, message=message, actions=actions, requeue_after=poll)

    def _poll(self, child: JobView, pods: tuple[PodView, ...]) -> float | None:
        """When to look again at a child that doesn't run yet; never at one that runs."""
        if any(pod.phase == "Running" for pod in pods):
            return None
        begins: list[datetime] = [pod.created for pod in pods if pod.phase == "Pending"]
        begins += [child.start_time] if child.start_time and not begins else []
        waited = max((self.case.now - begin).total_seconds() for begin in begins) if begins else 0.0
        return POLL_SECONDS if waited < _POLL_SLOWER_AFTER else SLOW_POLL_SECONDS

    def _edited_deadline(self, status: FineTuneJobStatus, child: JobView) -> list[Action]:
        wanted = max(1, self.limit - seconds_spent(status.stages or []))
        if child.active_deadline_seconds in (None, wanted):
            return []
        return [SetChildDeadline(name=child.name, uid=child.uid, seconds=wanted)]

    def _hold(
        self,
        status: FineTuneJobStatus,
        hold: Hold,
        child: JobView | None,
        *,
        actions: list[Action],
        poll: float | None,
    ) -> Plan:
        timeout = self.runtime.pending_timeout_seconds
        return hold_up(self.case, status, hold, timeout=timeout, child=child, actions=actions, poll=poll)

    def _complete(
        self, status: FineTuneJobStatus, stage: StageStatus, child: JobView, pods: tuple[PodView, ...]
    ) -> Plan:
        """A child that ended well counts only with its report; without, it runs once more and says it again."""
        case = self.case
        report = success_report(pods, stage=stage.name, spec_digest=spec_digest(self.spec))
        if report is not None:
            stage = ended(stage, child, pods, now=case.now, digest=report.digest, succeeded=True)
            status = with_report(self._with(status, stage), report, succeeded=True)
            if stage.name == "train" or report.reused:
                status = status.model_copy(update={"manifest_digest": report.digest})
            if report.reused and status.results is not None:
                return succeed(case, _rest_skipped(status), status.results, reused=True)
            return self.next(status)
        if not case.observed.live:
            return Plan(needs_live=True)
        if child.deleting or given_up(stage, child):
            taken_away = self._suspend if self.spec.suspend else self._going
            return taken_away(status, stage, child, pods)
        return self._report_lost(status, stage, child, pods)

    def _report_lost(
        self, status: FineTuneJobStatus, stage: StageStatus, child: JobView, pods: tuple[PodView, ...]
    ) -> Plan:
        """Give the child up for its report, once; the next one says it again."""
        case = self.case
        if stage.recreated > 0:
            mend = REASONS[Reason.NOT_REPORTED].mend
            failure = Failure(reason=Reason.NOT_REPORTED.value, message=mend, stage=stage.name)
            stage = ended(stage, child, pods, now=case.now, digest=None, succeeded=False)
            return fail(case, self._with(status, stage), failure)
        stage = set_back(stage, child, now=case.now, report_lost=True)
        event = Event(reason="ReportLost", message=_REPORT_LOST, type="Warning")
        if self.spec.suspend:
            return self._suspend(status, stage, child, pods, (event,))
        delete = DeleteChild(name=child.name, uid=child.uid)
        status = self._with(status, stage)
        return go_on(case, status, reason="Restarting", message=_REPORT_LOST, actions=[delete], events=[event])

    def _failed(self, status: FineTuneJobStatus, stage: StageStatus, child: JobView, pods: tuple[PodView, ...]) -> Plan:
        if not self.case.observed.live:
            return Plan(needs_live=True)
        failure, report = failure_of(
            child, pods, stage=stage.name, spec_digest=spec_digest(self.spec), deadline=self.limit
        )
        if failure.reason == Reason.DEADLINE_EXCEEDED.value and self.case.reason == "Unschedulable":
            failure = failure.model_copy(update={"message": sanitise(f"{failure.message} No node took its pod.")})
        stage = ended(stage, child, pods, now=self.case.now, digest=None, succeeded=False)
        status = self._with(status, stage)
        if report is not None:
            status = with_report(status, report, succeeded=False)
        return fail(self.case, status, failure)

    @staticmethod
    def _with(status: FineTuneJobStatus, stage: StageStatus) -> FineTuneJobStatus:
        return status.model_copy(update={"stages": replace_stage(status.stages or [], stage)})


def _has_started(stage: StageStatus, child: JobView, pods: Iterable[PodView]) -> bool:
    """Tell whether a pod of the stage's child has ever started."""
    counted = stage.state == "Running" or child.failed > 0 or child.succeeded > 0
    return counted or any(pod.phase != "Pending" for pod in pods)


def _stays(pod: PodView) -> bool:
    """Tell whether a pod waits, or has been placed; one that is deleted before that is as good as gone."""
    return not pod.deleting or pod.node is not None


def _rest_skipped(status: FineTuneJobStatus) -> FineTuneJobStatus:
    """Record that no further stage comes; none of them has ever had a child."""
    stages = [s.model_copy(update={"state": "Skipped"}) if s.state == "Pending" else s for s in status.stages or []]
    return status.model_copy(update={"stages": stages})
