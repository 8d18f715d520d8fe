"""A tiny cluster around the pure core: plays a job's life and counts every write.

It knows just enough of the Job controller for a test to say "its pod runs", "it fails with exit code 16". After every
reconcile it checks what must hold at all times: the status is valid, phases never run backwards, kstatus never claims
an end too early nor takes it back, a job that is said to be suspended has no pod, no second is counted twice, and
reconciling the same again wants nothing more.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.names import StageName, child_name
from finetune_api.reasons import EXIT_RESUMABLE
from finetune_api.report import StageReport, encode_report
from finetune_api.status import FineTuneJobStatus
from finetune_operator.decide.manifests.queueing import ANNOTATION_QUEUE, LABEL_PRIORITY, LABEL_QUEUE
from finetune_operator.decide.plan import (
    ChildView,
    CreateChild,
    DeleteChild,
    Event,
    Observed,
    Plan,
    PodReport,
    PodView,
    QueueWord,
    ReportEndpoint,
    RuntimeView,
    SetChildDeadline,
    SetChildTTL,
)
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders
from tests.support.kstatus import Kstatus, kstatus

PHASES = ("Pending", "Preparing", "Baseline", "Training", "Uploading", "Evaluating", "Succeeded", "Failed")
"""In their order; from Suspended a job comes back to where it was."""
MAX_STATUS_BYTES = 64 * 1024
ENDED = ("Succeeded", "Failed")


class Simulation:
    """One FineTuneJob, its children and pods, and a clock.

    A child that the operator deletes goes at once, or with ``lingering`` when the test says so (:meth:`goes`).
    """

    def __init__(self, job: dict[str, Any], *, runtime: RuntimeView | None = None, lingering: bool = False) -> None:
        self.job = job
        self.lingering = lingering
        self.runtime = runtime
        self.children: dict[str, ChildView] = {}
        self.pods: dict[str, PodView] = {}
        self.now = builders.T0
        self.create_error: str | None = None
        self.endpoint: ReportEndpoint | None = None
        self.report: PodReport | None = None
        self.writes: list[str] = []
        self.events: list[Event] = []
        self.manifests: list[dict[str, Any]] = []
        self.kstatuses: list[Kstatus] = []
        self.gone: dict[str, datetime] = {}
        """Children that the operator has seen and misses, with the first look that missed them."""
        self.plan = Plan()
        self._count = 0
        self._phase = "Pending"
        self._begun: dict[str, datetime] = {}
        self._over: dict[str, datetime] = {}
        self._seen: set[str] = set()

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

    def child(self, stage: StageName) -> ChildView:
        return self.children[self._name(stage)]

    def stage(self, stage: StageName) -> dict[str, Any]:
        """What status says about a stage."""
        return next(item for item in self.status["stages"] if item["name"] == stage)

    @property
    def live_pods(self) -> list[PodView]:
        return [pod for pod in self.pods.values() if pod.phase not in ENDED]

    @property
    def existed_seconds(self) -> int:
        """How long children of this job have existed without having ended, all of them together."""
        spans = (
            max(0.0, (self._over.get(uid, self.now) - begun).total_seconds()) for uid, begun in self._begun.items()
        )
        return int(sum(spans))

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
        self.write(plan)
        for action in plan.actions:
            self._act(action)
        self.events += plan.events
        return plan

    def write(self, plan: Plan) -> None:
        """Store what a plan says about the job, and nothing more: the operator may be gone after it."""
        if plan.status is not None and plan.status != self.status:
            self._check(plan.status)
            self.job = {**self.job, "status": plan.status}
            self.writes.append("status")
            again = reconcile(self.observe(live=True))
            assert again.status in (None, self.status), "the same observation leads to another status"
        if self.status.get("phase") != "Suspended":
            self.kstatuses.append(kstatus(self.job))  # one that stands still is Current, as was asked for
        assert _orderly(self.kstatuses), self.kstatuses

    def observe(self, *, live: bool) -> Observed:
        standing = {child.uid for child in self.children.values()}
        for uid in self._seen - standing:
            self.gone.setdefault(uid, self.now)
        self._seen |= standing
        return builders.observed(
            self.job,
            children=list(self.children.values()),
            pods=list(self.pods.values()),
            runtime=self.runtime,
            now=self.now,
            live=live,
            create_error=self.create_error,
            gone=self.gone,
            endpoint=self.endpoint,
            report=self.report,
        )

    def restart(self) -> Simulation:
        """The operator's process ends and another one begins, which has seen nothing."""
        self.gone, self._seen = {}, set()
        return self

    def _check(self, status: dict[str, Any]) -> None:
        FineTuneJobStatus.model_validate(status, extra="forbid")
        assert len(str(status).encode()) < MAX_STATUS_BYTES
        self._check_stages(status.get("stages", []))
        if status["phase"] == "Suspended" and self.job["spec"].get("suspend"):
            assert self.live_pods == [], "a job that is said to be suspended has a pod"
            assert all(child.ended for child in self.children.values() if child.owner_uid == self._uid)
        if status["phase"] in ("Suspended", "Queued"):
            return
        before, self._phase = self._phase if "phase" in self.status else "Pending", status["phase"]
        assert PHASES.index(before) <= PHASES.index(self._phase), f"the phase goes back from {before} to {self._phase}"

    def _check_stages(self, stages: list[dict[str, Any]]) -> None:
        used = sum(stage.get("runSeconds", 0) for stage in stages)
        assert used <= self.existed_seconds, f"{used} s are counted, children have existed for {self.existed_seconds} s"
        final = {stage["name"]: stage for stage in self.status.get("stages", []) if stage["state"] == "Succeeded"}
        for stage in stages:
            assert final.get(stage["name"], stage) == stage, "a stage that had succeeded has changed"

    def _act(self, action: CreateChild | DeleteChild | SetChildTTL | SetChildDeadline) -> None:
        if isinstance(action, CreateChild):
            name = action.manifest["metadata"]["name"]
            if name in self.children or self.live_pods or self.create_error:
                return  # what the guard or the API server refuses
            done = {stage["name"] for stage in self.status["stages"] if stage["state"] in ("Succeeded", "Skipped")}
            assert action.stage not in done, f"{action.stage} is made again"
            assert not self.job["spec"].get("suspend"), "a suspended job gets a child"
            assert all(child.ended for child in self.children.values()), "a second unfinished child"
            self._count += 1
            spec, meta = action.manifest["spec"], action.manifest["metadata"]
            queued = bool(spec.get("suspend"))
            self.children[name] = ChildView(
                name=name,
                uid=f"child-{self._count}",
                stage=action.stage,
                owner_uid=action.manifest["metadata"]["ownerReferences"][0]["uid"],
                start_time=None if queued else self.now,
                suspended=queued,
                suspended_at=self.now if queued else None,
                queue=meta["labels"].get(LABEL_QUEUE),
                priority=meta["labels"].get(LABEL_PRIORITY),
                made_for=meta.get("annotations", {}).get(ANNOTATION_QUEUE),
                ttl_seconds=spec.get("ttlSecondsAfterFinished"),
                active_deadline_seconds=spec["activeDeadlineSeconds"],
            )
            for uid in self._begun:
                self._over.setdefault(uid, self.now)  # one that somebody deleted runs until it is missed
            self._begun[f"child-{self._count}"] = self.now
            self.manifests.append(action.manifest)
            self.writes.append("create")
        elif isinstance(action, DeleteChild):
            child = self.children.get(action.name)
            if child is None or child.uid != action.uid:
                return
            self.writes.append("delete")
            if self.lingering:
                self.is_deleted(child.stage)
            else:
                self._over.setdefault(child.uid, self.now)
                self.remove(child.stage)
        else:
            change: dict[str, Any] = (
                {"ttl_seconds": action.seconds}
                if isinstance(action, SetChildTTL)
                else {"active_deadline_seconds": action.seconds}
            )
            self.children[action.name] = replace(self.children[action.name], **change)
            self.writes.append("patch")

    # --- a queue ------------------------------------------------------------------------------------------------------

    def waits(self, stage: StageName, **says: Any) -> Simulation:
        """Kueue says why it does not admit a child."""
        return self.change_child(stage, word=QueueWord(**({"workload": "job-x"} | says)))

    def admitted(self, stage: StageName) -> Simulation:
        """Kueue lets a child run."""
        return self.change_child(stage, suspended=False, suspended_at=None, start_time=self.now, word=None)

    def stopped_by_queue(self, stage: StageName, reason: str = "Preempted", message: str = "made room") -> Simulation:
        """Kueue takes a child off its nodes: the job controller deletes its pods and counts none of them."""
        child = self.child(stage)
        self.pods = {name: pod for name, pod in self.pods.items() if pod.job_uid != child.uid}
        self.waits(stage, evicted=reason, evicted_message=message)
        return self.change_child(stage, suspended=True, suspended_at=self.now, start_time=None, active=0)

    # --- the cluster --------------------------------------------------------------------------------------------------

    def remove(self, stage: StageName) -> Simulation:
        """A child Job goes, with its pods."""
        gone = self.children.pop(self._name(stage))
        self.pods = {name: pod for name, pod in self.pods.items() if pod.job_uid != gone.uid}
        if any(
            entry.get("jobUid") == gone.uid and entry["state"] == "Running" for entry in self.status.get("stages", [])
        ):
            self._over.pop(gone.uid, None)  # of its end nothing is known: it runs until it is missed
        return self

    def is_deleted(self, stage: StageName) -> Simulation:
        """Somebody deletes a child Job in the foreground: it stays until its pods are gone."""
        child = self.child(stage)
        if not child.deleting:
            self.change_child(stage, deleting=True, deleted_at=self.now)
        for name, pod in self.pods.items():
            if pod.job_uid == child.uid and pod.phase not in ENDED:
                self.pods[name] = replace(pod, deleting=True)
        return self

    def goes(self, stage: StageName) -> Simulation:
        """A child Job that is being deleted goes, after its pods."""
        child = self.child(stage)
        assert child.deleting
        self._over.setdefault(child.uid, self.now)
        return self.remove(stage)

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
        self._over.setdefault(self.child(stage).uid, self.now)
        return self.change_child(
            stage, active=0, succeeded=1, ended="Complete", completion_time=self.now, finished_at=self.now
        )

    def fails(self, stage: StageName, reason: str = "PodFailurePolicy", message: str = "Job has failed") -> Simulation:
        """The Job gets its Failed condition."""
        self._over.setdefault(self.child(stage).uid, self.now)
        return self.change_child(
            stage, active=0, ended="Failed", failed_reason=reason, failed_message=message, finished_at=self.now
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
        own = [pod for pod in self.pods.values() if pod.job_uid == child.uid]
        name = f"{child.name}-{child.uid}-{len([pod for pod in own if pod.phase in ENDED])}"
        created: datetime = self.pods[name].created if name in self.pods else self.now
        values: dict[str, Any] = {"name": name, "uid": name, "job_uid": child.uid, "created": created} | fields
        self.pods[name] = PodView(**values)
        return self.change_child(stage, active=1)

    def preempted(self, stage: StageName, exit_code: int = EXIT_RESUMABLE) -> Simulation:
        """The pod is told to go, saves its state and ends; podFailurePolicy ignores it, and the next one waits."""
        self._end_pod(stage, exit_code, None)
        return self.pod_waits(stage)

    @property
    def _uid(self) -> str:
        return str(self.job["metadata"]["uid"])

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
