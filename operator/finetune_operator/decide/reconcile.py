"""The decision: from what stands in the cluster to what shall happen next.

Pure: ``reconcile(Observed) -> Plan``, no clock, no client, no memory of its own. What the operator must remember
stands in ``status`` (the runtime's snapshot, the stages, the terminal conditions), so a restart at any point goes on.
Terminal is terminal: a job that has ended is never run again, whatever is missing. This module settles whether there is
anything to do at all; ``advance.py`` decides about the stages, ``suspension.py`` about a job that is to stand still.
"""

from __future__ import annotations

import re

from pydantic import ValidationError

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import JOB_NAME_PATTERN
from finetune_api.reasons import REASONS, Reason
from finetune_api.runtime import ResolvedRuntime
from finetune_api.status import Failure, FineTuneJobStatus
from finetune_operator.decide.advance import StagePlanner
from finetune_operator.decide.diagnose import Hold
from finetune_operator.decide.manifests.job import MAX_STAGE_INPUT_BYTES, stage_input
from finetune_operator.decide.outcomes import (
    DEFAULT_PENDING_TIMEOUT_SECONDS,
    Case,
    clean_up,
    fail,
    hold_up,
    observe_edit,
)
from finetune_operator.decide.plan import DeleteChild, Observed, Plan
from finetune_operator.decide.runtimes import Refusal, resolve_runtime
from finetune_operator.decide.stages import stage_list
from finetune_operator.decide.status import is_terminal
from finetune_operator.decide.suspension import suspend, with_resumed
from finetune_operator.decide.text import explain, sanitise

__all__ = ["reconcile"]


def reconcile(observed: Observed) -> Plan:
    """Decide what to do about one job. Never raises, whatever the objects hold."""
    case = Case.of(observed)
    if case is None:
        return Plan()
    if is_terminal(case.stored):
        return _after_the_end(case)
    try:
        spec = FineTuneJobSpec.model_validate(observed.job.get("spec"))
    except ValidationError as error:
        return _unreadable(case, explain(error))
    if not re.fullmatch(JOB_NAME_PATTERN, case.name):
        return _unreadable(case, "metadata.name must be at most 40 lower-case letters, digits and '-'")
    if spec.suspend:
        return _suspended(case, spec)
    return with_resumed(case, _running(case, spec))


def _running(case: Case, spec: FineTuneJobSpec) -> Plan:
    runtime = case.status.runtime or _resolve(case, spec)
    if isinstance(runtime, Plan):
        return runtime
    return StagePlanner(case=case, spec=spec, runtime=runtime).next(_begun(case, spec, runtime))


def _suspended(case: Case, spec: FineTuneJobSpec) -> Plan:
    """Let a job stand still; before its first child it needs no runtime, and what is missing is not waited for."""
    runtime = case.status.runtime
    if runtime is None:
        return suspend(case, case.status, next((child for child in case.children if child.outcome is None), None))
    return StagePlanner(case=case, spec=spec, runtime=runtime).next(_begun(case, spec, runtime))


def _begun(case: Case, spec: FineTuneJobSpec, runtime: ResolvedRuntime) -> FineTuneJobStatus:
    return case.status.model_copy(
        update={
            "runtime": runtime,
            "output_uri": runtime.output_uri,
            "stages": stage_list(spec, case.status.stages or []),
        }
    )


def _after_the_end(case: Case) -> Plan:
    actions = clean_up(case)
    if any(isinstance(action, DeleteChild) for action in actions) and not case.observed.live:
        return Plan(needs_live=True)
    return Plan(status=observe_edit(case), actions=tuple(actions))


def _unreadable(case: Case, problem: str) -> Plan:
    """Fail a spec that this version can't read; a child that an other version started is left to finish first."""
    if case.status.stages:
        if not case.observed.live:
            return Plan(needs_live=True)
        if any(child.outcome is None for child in case.children):
            return Plan()
    return fail(case, case.status, Failure(reason=Reason.INVALID_SPEC.value, message=sanitise(problem)))


def _resolve(case: Case, spec: FineTuneJobSpec) -> ResolvedRuntime | Plan:
    """Take the snapshot of the runtime, or plan what follows from having none."""
    name, view = spec.runtime_ref.name, case.observed.runtime
    if view is None:
        resolved: ResolvedRuntime | Refusal = Refusal(
            reason=Reason.RUNTIME_NOT_FOUND, message=f"FineTuneRuntime {name} does not exist"
        )
    else:
        resolved = resolve_runtime(view=view, spec=spec, job=case.identity)
    if isinstance(resolved, ResolvedRuntime):
        size = len(stage_input(job=case.identity, spec=spec, runtime=resolved, stage="train").encode())
        if size <= MAX_STAGE_INPUT_BYTES:
            return resolved
        resolved = Refusal(
            reason=Reason.INVALID_SPEC,
            message=f"the spec takes {size} bytes and {MAX_STAGE_INPUT_BYTES} fit into a pod's environment; shorten "
            "dataset.template (choices or inline)",
        )
    if not REASONS[resolved.reason].waits:
        return fail(case, case.status, Failure(reason=resolved.reason.value, message=resolved.message))
    hold = Hold(
        reason=resolved.reason.value,
        known=resolved.reason,
        message=f"{resolved.message}. {REASONS[resolved.reason].mend}",
        waiting_for=name,
    )
    return hold_up(case, case.status, hold, timeout=DEFAULT_PENDING_TIMEOUT_SECONDS)
