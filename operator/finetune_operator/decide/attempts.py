"""Tells of attempts: a pod that failed and is tried again, and one that was interrupted and goes on.

Pure. Without it a job that fails twice and then succeeds looks as if nothing had been, and one that is about to fail
for good looks healthy until it has. The newest failure stands in its stage, so that it is told once, and still when its
pod is gone. An interruption is none: the message says that the job goes on.
"""

from __future__ import annotations

from typing import Final

from finetune_api.names import StageName
from finetune_api.reasons import BY_EXIT_CODE, EXIT_RESUMABLE, REASONS, Reason
from finetune_api.status import FailedAttempt, FineTuneJobStatus, StageStatus
from finetune_operator.decide.child_end import cause_of
from finetune_operator.decide.plan import Event, Plan, PodView
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.stages import counted_failures, given_up
from finetune_operator.decide.status import read_status
from finetune_operator.decide.text import sanitise

__all__ = ["REPLACED", "attempt_note", "events_about", "interruption_note", "with_failure", "with_failure_of"]

REPLACED: Final = "PodReplaced"
"""Reason of the Event about a child that is made anew since its Job sees no end."""

_MAX_TOLD: Final = 512
_FINISHED: Final = ("Succeeded", "Failed")


def with_failure(s: Situation, stage: StageStatus) -> StageStatus:
    """Record the newest failed pod of the child in its stage, if another one is tried after it."""
    child = s.current_child
    failed = [pod for pod in s.pods if _counts(pod)]
    counted = counted_failures(child, s.pods)
    number = stage.failures + counted
    if not failed or not counted or child.deleting or child.suspended:
        return stage  # the Job has not counted it yet, or never will: its pods were taken away
    if number >= _tries(s):
        return stage  # the Job fails in a moment
    return with_failure_of(stage, max(failed, key=_age), number=number)


def with_failure_of(stage: StageStatus, pod: PodView, *, number: int) -> StageStatus:
    """Record a pod's failure as that of the ``number``-th attempt; one that ends the job is told when it has."""
    if _is_final(pod):
        return stage
    cause, words = cause_of(pod)
    failure = FailedAttempt(
        attempt=number,
        reason=cause.value if cause else sanitise(pod.reason or Reason.TRAINER_ERROR.value, 64),
        message=sanitise(words or f"Pod {pod.name} failed, and nothing says why.", _MAX_TOLD),
        exit_code=pod.exit_code,
        pod=sanitise(pod.name, 253),
    )
    return stage.model_copy(update={"last_failure": failure})


def events_about(before: Situation, plan: Plan) -> list[Event]:
    """Return an Event for each stage whose newest failure is new in a plan, whichever arm has recorded it."""
    if plan.status is None or any(event.reason == REPLACED for event in plan.events):
        return []  # that Event tells of the failure already
    known = {stage.name: stage.last_failure for stage in before.stages}
    after = read_status(plan.status).stages or []
    return [
        _event(before, stage.name, stage.last_failure)
        for stage in after
        if stage.last_failure and ((old := known.get(stage.name)) is None or old.pod != stage.last_failure.pod)
    ]


def _event(s: Situation, stage: StageName, failure: FailedAttempt) -> Event:
    told = (
        f"Attempt {failure.attempt} of {_tries(s)} of stage {stage} (pod {failure.pod}) ended with {failure.reason}, "
        f"and another one is made: {failure.message}"
    )
    return Event(reason="AttemptFailed", message=sanitise(told, _MAX_TOLD), type="Warning")


def attempt_note(s: Situation, status: FineTuneJobStatus) -> str:
    """Say which attempt it is and why it is not the first; nothing if it is."""
    stage = next((one for one in status.stages or [] if one.name == s.current_stage.name), s.current_stage)
    last = stage.last_failure
    own = s.child is not None and not given_up(stage, s.child)
    failures = stage.failures + (counted_failures(s.current_child, s.pods) if own else 0)
    if not 0 < failures < _tries(s) or any(_is_final(pod) for pod in s.pods):
        return ""  # the Job fails in a moment
    note = f" Attempt {failures + 1} of {_tries(s)}"
    if last is None or last.attempt != failures:
        return f"{note}."  # its pod was gone before anybody looked
    return f"{note}; the last ended with {last.reason}: {last.message}"


def interruption_note(s: Situation) -> str:
    """Say of a stage between two pods that it goes on, where the last one was interrupted; nothing else."""
    if any(pod.phase not in _FINISHED for pod in s.pods):
        return ""
    newest = max(s.pods, key=_age, default=None)
    if newest is None or not _interrupted(newest):
        return ""
    end = "saved its state and ended" if newest.exit_code == EXIT_RESUMABLE else "was disrupted"
    why = f" ({sanitise(newest.disruption, 64)})" if newest.disruption else ""
    then = "goes on from what was saved" if s.current_stage.name == "train" else "takes its place"
    return f" Pod {sanitise(newest.name, 253)} {end}{why}; the next one {then}."


def _tries(s: Situation) -> int:
    return (s.spec.backoff_limit if s.spec else 0) + 1


def _interrupted(pod: PodView) -> bool:
    return pod.phase == "Failed" and (pod.exit_code == EXIT_RESUMABLE or pod.disruption is not None)


def _counts(pod: PodView) -> bool:
    """Tell whether the Job counts a pod against backoffLimit."""
    return pod.phase == "Failed" and pod.exit_code != 0 and not (_interrupted(pod) or pod.turned_away)


def _is_final(pod: PodView) -> bool:
    """Tell whether a pod ended with a code that ends the Job."""
    known = BY_EXIT_CODE.get(pod.exit_code) if pod.exit_code is not None else None
    return known is not None and not REASONS[known].retried


def _age(pod: PodView) -> tuple[object, str]:
    return pod.created, pod.name
