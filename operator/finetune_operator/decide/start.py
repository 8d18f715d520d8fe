"""Arms of ``reconcile`` about a stage that has no child: none can be made yet, none any more, or this one.

Pure.
"""

from __future__ import annotations

from typing import Any, Final

from finetune_api.names import StageName, child_name
from finetune_api.reasons import REASONS
from finetune_api.runtime import ResolvedRuntime
from finetune_api.status import Failure, StageStatus
from finetune_operator.decide.answers import fail, go_on, hold_up, out_of_time
from finetune_operator.decide.holds import POD_IN_THE_WAY, REFUSALS, hold_of_refusal, hold_of_runtime, orphan
from finetune_operator.decide.manifests.job import build_job
from finetune_operator.decide.plan import CreateChild, Event, Plan
from finetune_operator.decide.runtimes import Refusal
from finetune_operator.decide.situation import Situation
from finetune_operator.decide.stages import stage_is_done
from finetune_operator.decide.status import read_status
from finetune_operator.decide.text import rfc3339, sanitise

__all__ = ["RETRY_SECONDS", "before_pod", "create", "no_time_left", "without_runtime"]

RETRY_SECONDS: Final = 30.0
"""How soon a create that was refused is tried again."""

LOST_STATUS_SECONDS: Final = 600.0
"""Age from which a job without a status may be one that has lost it."""

STANDING_STILL: Final = ("Suspending", "Suspended", "Resuming")
"""Reasons of a job that spec.suspend had stopped."""


def without_runtime(s: Situation) -> Plan:
    """Wait for a FineTuneRuntime that is missing or does not take the job; GitOps may apply in any order."""
    assert s.spec is not None  # noqa: S101 - the choice says so
    assert isinstance(s.runtime, Refusal)  # noqa: S101 - the choice says so
    if not REASONS[s.runtime.reason].waits:
        return fail(s, s.status, Failure(reason=s.runtime.reason.value, message=s.runtime.message))
    return hold_up(s, s.status, hold_of_runtime(s.runtime, s.spec.runtime_ref.name))


def no_time_left(s: Situation) -> Plan:
    """Create no further child: the seconds are used up."""
    return out_of_time(s)


def create(s: Situation) -> Plan:
    """Create the stage's child, for the first time or anew; where that was refused, say why and try again."""
    runtime = s.snapshot
    assert runtime is not None  # noqa: S101 - the choice says so
    status, events, name = s.status, [], s.current_stage.name
    if status.start_time is None:
        status = status.model_copy(update={"start_time": rfc3339(s.now)})
        child = child_name(s.name, s.uid, name)
        told = f"Stage {name} begins as Job {child}, in pod {child}-…; results go to "
        events = [Event(reason="Started", message=told + sanitise(runtime.output_uri, 300))]
    action = CreateChild(stage=name, manifest=_manifest(s, runtime, name), first=_is_the_first(s))
    if s.observed.create_error:
        return hold_up(s, status, hold_of_refusal(s.observed.create_error), actions=[action], poll=RETRY_SECONDS)
    if s.reason in REFUSALS and s.kept == runtime and status.start_time == s.status.start_time:
        # An operator that has just started does not know yet whether it is refused still; the clock goes on.
        return Plan(actions=(action,), requeue_after=RETRY_SECONDS)
    if (alone := orphan(s.observed.pods)) is not None:
        # The create is held back for as long; nobody watches a pod without a Job for us but the next look.
        return go_on(
            s,
            status,
            reason=POD_IN_THE_WAY,
            message=alone,
            actions=[action],
            events=events,
            requeue_after=RETRY_SECONDS,
        )
    reason, message = before_pod(s, name)
    return go_on(s, status, reason=reason, message=message, actions=[action], events=events)


def before_pod(s: Situation, stage: StageName) -> tuple[str, str]:
    """Tell of a stage that has no pod yet; Starting follows on something that held it up."""
    if s.reason == "Restarting":
        return "Restarting", s.told
    if s.reason in (None, "Pending", "Preparing", *STANDING_STILL):
        return "Pending", f"Stage {stage} waits for its pod to start."
    return "Starting", f"The pod of stage {stage} starts."


def _is_the_first(s: Situation) -> bool:
    """Tell whether no child of the stage can have been made before, because the status that comes first speaks of it.

    A stage's child is made after the write that sets ``startTime``, or that records the stage before it as done. As
    long as neither stands there none was made, unless the status was lost: of that an old job without any is suspected.
    """
    stage = s.current_stage
    if stage != StageStatus(name=stage.name, state="Pending") or s.observed.create_error:
        return False
    if any(child.stage == stage.name for child in s.observed.children):
        return False
    if any(pod.phase not in ("Succeeded", "Failed") for pod in s.observed.pods):
        return False
    earlier = s.stages[: s.stages.index(stage)]
    if not earlier:
        return "startTime" not in s.stored and (bool(s.stored.get("conditions")) or s.age_seconds < LOST_STATUS_SECONDS)
    recorded = {one.name: one for one in read_status(s.stored).stages or []}
    return all(one.name in recorded for one in earlier) and not all(stage_is_done(recorded[o.name]) for o in earlier)


def _manifest(s: Situation, runtime: ResolvedRuntime, stage: StageName) -> dict[str, Any]:
    assert s.spec is not None  # noqa: S101 - the choice says so
    prepared = next((one.digest for one in s.stages if one.name == "prepare"), None)
    return build_job(
        job=s.identity,
        spec=s.spec,
        digest=s.digest,
        runtime=runtime,
        stage=stage,
        deadline_seconds=s.seconds_left,
        backoff_limit=max(0, s.spec.backoff_limit - s.current_stage.failures),
        prepared_digest=prepared if stage == "train" else None,
        short_report=s.current_stage.recreated > 0,
        endpoint=s.observed.endpoint,
    )
