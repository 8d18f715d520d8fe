"""A tiny cluster around the pure core: plays a job's life and counts every write.

It knows just enough of the Job controller for a test to say "its pod runs", "it fails with exit code 16". After every
reconcile it checks what must hold at all times: the status is valid, phases never run backwards, kstatus never claims
an end too early nor takes it back, and reconciling the same again wants nothing more.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.names import StageName, child_name
from finetune_api.report import StageReport, encode_report
from finetune_api.status import FineTuneJobStatus
from finetune_operator.plan import (
    CreateChild,
    DeleteChild,
    Event,
    JobView,
    Observed,
    Plan,
    PodView,
    RuntimeView,
    SetChildDeadline,
    SetChildTTL,
)
from finetune_operator.reconcile import reconcile
from tests.support import builders
from tests.support.kstatus import Kstatus, kstatus

PHASES = ("Pending", "Preparing", "Training", "Succeeded", "Failed")
MAX_STATUS_BYTES = 64 * 1024


class Simulation:
    """One FineTuneJob, its children and pods, and a clock."""

    def __init__(self, job: dict[str, Any], *, runtime: RuntimeView | None = None) -> None:
        self.job = job
        self.runtime = runtime
        self.children: dict[str, JobView] = {}
        self.pods: dict[str, PodView] = {}
        self.now = builders.T0
        self.create_error: str | None = None
        self.writes: list[str] = []
        self.events: list[Event] = []
        self.manifests: list[dict[str, Any]] = []
        self.kstatuses: list[Kstatus] = []
        self.plan = Plan()
        self._count = 0

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.job["status"]
        return status

    def condition(self, kind: str) -> dict[str, Any]:
        return next(item for item in self.status["conditions"] if item["type"] == kind)

    @property
    def reason(self) -> str:
        return str(self.condition("Succeeded")["reason"])

    def child(self, stage: StageName) -> JobView:
        return self.children[self._name(stage)]

    def _name(self, stage: StageName) -> str:
        metadata = self.job["metadata"]
        return child_name(metadata["name"], metadata["uid"], stage)

    # --- the operator -------------------------------------------------------------------------------------------------

    def settle(self, seconds: float = 0) -> Simulation:
        """Let time pass, then reconcile until nothing changes any more."""
        self.now += timedelta(seconds=seconds)
        for _ in range(10):
            before = (len(self.writes), dict(self.children))
            self.step()
            if before == (len(self.writes), self.children):
                return self
        raise AssertionError(f"never settles: {self.writes}")

    def step(self) -> Plan:
        """Observe, reconcile, apply, once."""
        plan = reconcile(self.observe(live=False))
        if plan.needs_live:
            plan = reconcile(self.observe(live=True))
        assert not plan.needs_live
        self.plan = plan
        if plan.status is not None and plan.status != self.status:
            self._check(plan.status)
            self.job = {**self.job, "status": plan.status}
            self.writes.append("status")
            again = reconcile(self.observe(live=True))
            assert again.status in (None, self.status), "the same observation leads to another status"
        self.kstatuses.append(kstatus(self.job))
        assert _orderly(self.kstatuses), self.kstatuses
        for action in plan.actions:
            self._act(action)
        self.events += plan.events
        return plan

    def observe(self, *, live: bool) -> Observed:
        return builders.observed(
            self.job,
            children=list(self.children.values()),
            pods=list(self.pods.values()),
            runtime=self.runtime,
            now=self.now,
            live=live,
            create_error=self.create_error,
        )

    def _check(self, status: dict[str, Any]) -> None:
        FineTuneJobStatus.model_validate(status, extra="forbid")
        assert len(str(status).encode()) < MAX_STATUS_BYTES
        before, after = self.status.get("phase", "Pending"), status["phase"]
        assert PHASES.index(before) <= PHASES.index(after), f"the phase runs backwards from {before} to {after}"

    def _act(self, action: CreateChild | DeleteChild | SetChildTTL | SetChildDeadline) -> None:
        if isinstance(action, CreateChild):
            name = action.manifest["metadata"]["name"]
            alive = [pod for pod in self.pods.values() if pod.phase not in ("Succeeded", "Failed")]
            if name in self.children or alive or self.create_error:
                return  # what the guard or the API server refuses
            self._count += 1
            spec = action.manifest["spec"]
            self.children[name] = JobView(
                name=name,
                uid=f"child-{self._count}",
                stage=action.stage,
                owner_uid=action.manifest["metadata"]["ownerReferences"][0]["uid"],
                start_time=self.now,
                ttl_seconds=spec["ttlSecondsAfterFinished"],
                active_deadline_seconds=spec["activeDeadlineSeconds"],
            )
            self.manifests.append(action.manifest)
            self.writes.append("create")
        elif isinstance(action, DeleteChild):
            if self.children.get(action.name, None) and self.children[action.name].uid == action.uid:
                self.remove(self.children[action.name].stage)
                self.writes.append("delete")
        else:
            change: dict[str, Any] = (
                {"ttl_seconds": action.seconds}
                if isinstance(action, SetChildTTL)
                else {"active_deadline_seconds": action.seconds}
            )
            self.children[action.name] = replace(self.children[action.name], **change)
            self.writes.append("patch")

    # --- the cluster --------------------------------------------------------------------------------------------------

    def remove(self, stage: StageName) -> Simulation:
        """A child Job goes, with its pods."""
        gone = self.children.pop(self._name(stage))
        self.pods = {name: pod for name, pod in self.pods.items() if pod.job_uid != gone.uid}
        return self

    def pod_waits(self, stage: StageName, **fields: Any) -> Simulation:
        """The child's pod is there and has not started."""
        return self.change_pod(stage, phase="Pending", **fields)

    def pod_runs(self, stage: StageName, **fields: Any) -> Simulation:
        return self.change_pod(stage, phase="Running", node="node-1", **fields)

    def pod_fails(self, stage: StageName, exit_code: int, message: str | StageReport | None = None) -> Simulation:
        """The container ends badly; the Job counts it and has no pod until the next one."""
        self._end_pod(stage, exit_code, message)
        child = self.child(stage)
        return self.change_child(stage, active=0, failed=child.failed + 1)

    def completes(self, stage: StageName, report: StageReport | str | None) -> Simulation:
        """The container ends well and the Job is complete."""
        self._end_pod(stage, 0, report)
        return self.change_child(
            stage, active=0, succeeded=1, outcome="Complete", completion_time=self.now, finished_at=self.now
        )

    def fails(self, stage: StageName, reason: str = "PodFailurePolicy", message: str = "Job has failed") -> Simulation:
        """The Job gets its Failed condition."""
        return self.change_child(
            stage, active=0, outcome="Failed", failed_reason=reason, failed_message=message, finished_at=self.now
        )

    def passes(self, seconds: float) -> Simulation:
        """Time passes and the operator isn't looking."""
        self.now += timedelta(seconds=seconds)
        return self

    def edit(self, **spec: Any) -> Simulation:
        """The user changes mutable fields."""
        metadata = {**self.job["metadata"], "generation": self.job["metadata"]["generation"] + 1}
        self.job = {**self.job, "metadata": metadata, "spec": {**self.job["spec"], **spec}}
        return self

    def change_child(self, stage: StageName, **fields: Any) -> Simulation:
        """Something else about the child Job is new."""
        self.children[self._name(stage)] = replace(self.child(stage), **fields)
        return self

    def change_pod(self, stage: StageName, **fields: Any) -> Simulation:
        """The child's newest pod is as ``fields`` say; it is made if there is none."""
        child = self.child(stage)
        name = f"{child.name}-{child.uid}-{child.failed}"
        created: datetime = self.pods[name].created if name in self.pods else self.now
        values: dict[str, Any] = {"name": name, "uid": name, "job_uid": child.uid, "created": created} | fields
        self.pods[name] = PodView(**values)
        return self.change_child(stage, active=1)

    def _end_pod(self, stage: StageName, exit_code: int, message: str | StageReport | None) -> None:
        text = encode_report(message).decode() if isinstance(message, StageReport) else message
        self.change_pod(
            stage,
            phase="Failed" if exit_code else "Succeeded",
            exit_code=exit_code,
            termination_message=text,
            finished_at=self.now,
            node="node-1",
        )


def _orderly(seen: list[Kstatus]) -> bool:
    """InProgress until the end, and one end only; an edit after the end may be observed once more."""
    ends = {state for state in seen if state != "InProgress"}
    if len(ends) > 1:
        return False
    first = next((index for index, state in enumerate(seen) if state != "InProgress"), len(seen))
    return all(state != "InProgress" for state in seen[first:])
