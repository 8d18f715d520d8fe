"""``look``: reads an observation once, so that every decision after it speaks of the same things.

Pure. A ``Situation`` says what the job asks for, what its status remembers, which stage it is at, and what stands there
for that stage. Later steps read only this. Nothing here decides, and nothing here raises, whatever the objects hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import JOB_NAME_PATTERN, child_name
from finetune_api.runtime import ResolvedRuntime
from finetune_api.stage import JobIdentity
from finetune_api.status import FineTuneJobStatus, StageStatus
from finetune_operator.decide.child_end import ChildEnd, how_it_ended
from finetune_operator.decide.manifests.queueing import queue_of
from finetune_operator.decide.plan import ChildView, Observed, PodView
from finetune_operator.decide.runtimes import Refusal, deadline_seconds, runtime_for
from finetune_operator.decide.stages import (
    has_begun,
    next_stage,
    pods_have_started,
    replace_stage,
    seconds_spent,
    stage_is_done,
    stage_list,
)
from finetune_operator.decide.status import at_rest, condition, is_terminal, read_status
from finetune_operator.decide.text import explain, parse_time

__all__ = ["Situation", "look"]

_MAX_UID: Final = 64
_MAX_NAMESPACE: Final = 63


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """One job at one moment, read.

    Attributes
    ----------
    stored
        Status as it stands.
    status
        The same as far as it can be read, with the conditions of then, without the pace of a pod that worked then, and
        with every stage that the spec asks for.
    spec, spec_error
        What the job asks for, or why that can't be read.
    runtime
        The snapshot that the job has or takes now, or why it can't have one; None where it needs none.
    kept
        The snapshot that stands in status, if this version can read it.
    begun
        Whether a pod of this job has ever started; from then on nothing of the environment ends it.
    reused
        Whether what has ended well just now was found and not computed.
    stage
        The first stage that isn't done; None when all are, and while the spec can't be read.
    child, pods
        The stage's own child, and the pods of that child.
    foreign
        A Job of somebody else under the child's name.
    child_end
        How the child has ended, if it has.
    """

    observed: Observed
    namespace: str
    name: str
    uid: str
    generation: int
    stored: dict[str, Any]
    status: FineTuneJobStatus
    spec: FineTuneJobSpec | None = None
    spec_error: str = ""
    runtime: ResolvedRuntime | Refusal | None = None
    kept: ResolvedRuntime | None = None
    begun: bool = False
    reused: bool = False
    stage: StageStatus | None = None
    child: ChildView | None = None
    pods: tuple[PodView, ...] = ()
    foreign: ChildView | None = None
    child_end: ChildEnd | None = None

    # --- who and when -------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime:
        """The moment of observation."""
        return self.observed.now

    @property
    def age_seconds(self) -> float:
        """How long ago the job was created; infinite where that can't be read."""
        metadata = self.observed.job.get("metadata")
        created = parse_time(metadata.get("creationTimestamp")) if isinstance(metadata, dict) else None
        return float("inf") if created is None else (self.now - created).total_seconds()

    @property
    def identity(self) -> JobIdentity:
        """The owner as the stages know it; the name must have been checked."""
        return JobIdentity(namespace=self.namespace, name=self.name, uid=self.uid)

    # --- what the status remembers ------------------------------------------------------------------------------------

    @property
    def reason(self) -> str | None:
        """The reason that stands in the Succeeded condition now."""
        current = condition(self.status, "Succeeded")
        return current.reason if current else None

    @property
    def told(self) -> str:
        """The message beside it."""
        current = condition(self.status, "Succeeded")
        return current.message if current else ""

    @property
    def ended(self) -> bool:
        """Whether the job has ended, for good."""
        return is_terminal(self.stored)

    @property
    def suspension(self) -> str | None:
        """How far the job is suspended by its stored conditions; None if it isn't, or is no more."""
        current = condition(self.status, "Suspended")
        return current.reason if current and current.reason in ("Suspending", "SpecSuspended") else None

    @property
    def stages(self) -> list[StageStatus]:
        """All stages in their order."""
        return self.status.stages or []

    # --- what it asks for ---------------------------------------------------------------------------------------------

    @property
    def suspend(self) -> bool:
        """Whether the job shall stand still."""
        return self.spec is not None and self.spec.suspend

    @property
    def snapshot(self) -> ResolvedRuntime | None:
        """The runtime, if the job has one."""
        return self.runtime if isinstance(self.runtime, ResolvedRuntime) else None

    @property
    def pending_timeout_seconds(self) -> int | None:
        """How long the job may wait for what somebody must mend; None where no runtime says so."""
        return self.runtime.pending_timeout_seconds if self.runtime is not None else None

    @property
    def renewed(self) -> bool:
        """Whether the runtime was edited after the job took it, and before the job began."""
        if self.snapshot is None or self.begun:
            return False
        if self.kept is None:  # another version took it; all that is left of it is where the child's results go
            return self.stored.get("outputUri") not in (None, self.snapshot.output_uri)
        return self.kept != self.snapshot

    @property
    def in_another_queue(self) -> bool:
        """Whether the stage's child was made for another queue than the job names now."""
        if self.spec is None or self.snapshot is None or self.child is None:
            return False
        wanted = queue_of(self.spec, self.snapshot, self.current_stage.name)
        return (None if wanted is None else str(wanted)) != self.child.made_for

    @property
    def digest(self) -> str:
        """Digest of the spec as it was when the job took its runtime; a version with a new default leaves it alone."""
        if self.status.spec_digest is not None:
            return self.status.spec_digest
        return spec_digest(self.spec) if self.spec is not None else ""

    @property
    def limit(self) -> int:
        """Running seconds that the job has over all stages; none before it has a runtime."""
        return deadline_seconds(self.spec, self.snapshot) if self.spec and self.snapshot else 0

    @property
    def seconds_left(self) -> int:
        """Of the limit, after all children that have ended."""
        return self.limit - seconds_spent(self.stages)

    # --- what stands there --------------------------------------------------------------------------------------------

    @property
    def current_stage(self) -> StageStatus:
        """The stage, where the choice has made sure that there is one."""
        assert self.stage is not None  # noqa: S101 - the choice says so
        return self.stage

    @property
    def current_child(self) -> ChildView:
        """The stage's child, where the choice has made sure that there is one."""
        assert self.child is not None  # noqa: S101 - the choice says so
        return self.child

    @property
    def children(self) -> list[ChildView]:
        """The child Jobs that this job owns, of all stages."""
        names = {child_name(self.name, self.uid, "prepare"), child_name(self.name, self.uid, "train")}
        return [c for c in self.observed.children if c.name in names and c.owner_uid == self.uid]

    @property
    def leftovers(self) -> list[ChildView]:
        """Children of stages that are done and that have not ended themselves, since something else runs in a pod."""
        done = {stage.name for stage in self.stages if stage_is_done(stage)}
        return [child for child in self.children if child.ended is None and child.stage in done]

    # --- changes ------------------------------------------------------------------------------------------------------

    def with_status(self, status: FineTuneJobStatus, *, reused: bool = False) -> Situation:
        """Return the same situation after a change of status: the next stage, and what stands there for it."""
        return _at_its_stage(replace(self, status=status, reused=reused))

    def having(self, stage: StageStatus) -> FineTuneJobStatus:
        """Return the status with one stage replaced."""
        return self.status.model_copy(update={"stages": replace_stage(self.stages, stage)})

    def changed(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """Return the wanted status if it differs from what is stored."""
        return wanted if wanted != self.stored else None


def look(observed: Observed) -> Situation | None:
    """Read what was observed; None if the job is being deleted or is nothing that an API server would store."""
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
    situation = Situation(
        observed=observed,
        namespace=namespace,
        name=name,
        uid=uid,
        generation=generation if isinstance(generation, int) and generation >= 0 else 0,
        stored=stored,
        status=_read_at_rest(stored),
    )
    return situation if situation.ended else _asked_for(situation)


def _read_at_rest(stored: dict[str, Any]) -> FineTuneJobStatus:
    """Read a status; an arm under which the pod works on adds its pace again."""
    status = read_status(stored)
    return status.model_copy(update={"progress": at_rest(status.progress)}) if status.progress else status


def _asked_for(situation: Situation) -> Situation:
    """Read the spec, find its runtime, and what both say about the stages."""
    status = situation.status
    spec, error = _read_spec(situation.observed.job.get("spec"), situation.name)
    situation = replace(situation, spec=spec, spec_error=error)
    known = has_begun(status.stages or [])
    if spec is None or (spec.suspend and status.runtime is None and not known):
        return situation
    begun = known or _pods_have_started(situation)
    runtime = runtime_for(
        spec,
        situation.identity,
        view=situation.observed.runtime,
        kept=status.runtime,
        begun=begun,
        output_uri=status.output_uri,
    )
    situation = replace(situation, runtime=runtime, kept=status.runtime, begun=begun)
    if not isinstance(runtime, ResolvedRuntime):
        return situation
    update = {
        "runtime": runtime,
        "output_uri": runtime.output_uri,
        "spec_digest": _digest(situation, runtime),
        "stages": stage_list(spec, status.stages or []),
    }
    return situation.with_status(status.model_copy(update=update))


def _digest(situation: Situation, runtime: ResolvedRuntime) -> str:
    """The digest as it stands, or anew where the text of the runtime's template is another than it was taken of."""
    kept = situation.kept
    if runtime.template is None or (kept is not None and kept.template == runtime.template):
        return situation.digest
    assert situation.spec is not None  # noqa: S101 - a runtime is looked for with a spec only
    return spec_digest(situation.spec, template=runtime.template.document)


def _pods_have_started(situation: Situation) -> bool:
    """Tell it from the cluster, before it stands in status."""
    pods = situation.observed.pods
    return any(
        pods_have_started(child, [pod for pod in pods if pod.job_uid == child.uid]) for child in situation.children
    )


def _read_spec(raw: object, name: str) -> tuple[FineTuneJobSpec | None, str]:
    try:
        spec = FineTuneJobSpec.model_validate(raw)
    except ValidationError as error:
        return None, explain(error)
    if not re.fullmatch(JOB_NAME_PATTERN, name):
        return None, "metadata.name must be at most 40 lower-case letters, digits and '-'"
    return spec, ""


def _at_its_stage(situation: Situation) -> Situation:
    stage = next_stage(situation.stages)
    if stage is None or situation.spec is None:
        return replace(situation, stage=None, child=None, pods=(), foreign=None, child_end=None)
    found = _named(situation.observed.children, child_name(situation.name, situation.uid, stage.name))
    if found is None or found.owner_uid != situation.uid:
        return replace(situation, stage=stage, child=None, pods=(), foreign=found, child_end=None)
    pods = tuple(pod for pod in situation.observed.pods if pod.job_uid == found.uid)
    end = how_it_ended(
        found,
        pods,
        stage=stage,
        spec_digest=situation.digest,
        limit=situation.limit,
        backoff_limit=situation.spec.backoff_limit,
    )
    return replace(situation, stage=stage, child=found, pods=pods, foreign=None, child_end=end)


def _named(children: Iterable[ChildView], name: str) -> ChildView | None:
    return next((child for child in children if child.name == name), None)
