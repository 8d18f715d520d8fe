"""Random lives: people suspend, resume, edit and delete, pods run, end and are preempted, the operator dies in between.

Every step goes through the tiny cluster, which checks after each write what must hold at all times (valid status,
phases, kstatus, suspended means no pod, no second counted twice, a stage that succeeded stays as it is, one unfinished
child). Here the ends are checked too: terminal is terminal, and a job that is left in peace comes to an end.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_api.names import StageName
from finetune_api.reasons import EXIT_RESUMABLE
from finetune_api.report import StageReport
from finetune_operator.decide.plan import ChildView
from finetune_operator.decide.reconcile import reconcile
from finetune_operator.decide.status import is_terminal
from tests.support import builders as b
from tests.support.simulation import Simulation

ACTIONS = (
    "look",
    "look",
    "die after the status write",
    "suspend",
    "resume",
    "raise the deadline",
    "shorten the ttl",
    "delete the child",
    "remove the child",
    "the pod waits",
    "the pod runs",
    "the pod runs",
    "the pod is preempted",
    "the pod fails",
    "the pod ends well",
    "the pod ends well without a report",
    "an earlier result is found",
    "the child fails",
    "the deleted child goes",
    "the deleted child goes",
    "the runtime is deleted",
    "the queue admits it",
    "the queue admits it",
    "the queue stops it",
    "another queue is named",
)
steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 400)), max_size=25)


class Walk:
    """One job that things happen to; what makes no sense at the moment doesn't happen."""

    def __init__(self, *, gpu: bool, suspended: bool, queued: bool = False) -> None:
        self.spec = (b.job_spec if gpu else b.cpu_spec)(suspend=suspended, activeDeadlineSeconds=2000)
        if queued:
            self.spec["queueName"] = "team-a"
        self.life = Simulation(b.job(self.spec), runtime=b.runtime(), lingering=True)
        self.end: dict[str, Any] | None = None
        self.given_up: dict[str, int] = {}
        """Seconds in status by the uid of the child that was given up."""

    def happens(self, action: str, seconds: int) -> None:
        """One thing happens, so many seconds after the last one."""
        self.life.passes(seconds)
        doing = getattr(self, "_" + action.replace(" ", "_"))
        doing()
        self._check()

    def _check(self) -> None:
        life = self.life
        assert len(life.live_pods) <= 1, "two live pods"
        if self.end is not None:
            for field in ("phase", "results", "failure", "completionTime", "stages"):
                assert life.status.get(field) == self.end.get(field), f"{field} has changed after the end"
        elif is_terminal(life.status):
            self.end = life.status
        for stage in life.status.get("stages", []):
            if stage["state"] == "Pending" and stage.get("jobUid"):
                seen = self.given_up.setdefault(stage["jobUid"], stage["runSeconds"])
                assert stage["runSeconds"] == seen, "a child's seconds are counted again"

    # --- the operator -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.life.step()

    def _die_after_the_status_write(self) -> None:
        self.life.write(reconcile(self.life.observe(live=True)))

    # --- people -------------------------------------------------------------------------------------------------------

    def _edit(self, **fields: Any) -> None:
        if self.end is not None:
            self.life.kstatuses.clear()  # an edit after the end is observed once more
        self.life.edit(**fields)

    def _suspend(self) -> None:
        self._edit(suspend=True)

    def _resume(self) -> None:
        self._edit(suspend=False)

    def _another_queue_is_named(self) -> None:
        spec = self.life.job["spec"]
        if spec.get("suspend"):
            self._edit(queueName="team-b" if spec.get("queueName") == "team-a" else "team-a")

    def _raise_the_deadline(self) -> None:
        self._edit(activeDeadlineSeconds=self.life.job["spec"]["activeDeadlineSeconds"] + 500)

    def _shorten_the_ttl(self) -> None:
        self._edit(ttlSecondsAfterFinished=0)

    def _the_runtime_is_deleted(self) -> None:
        if "runtime" in self.life.status:
            self.life.runtime = None

    def _delete_the_child(self) -> None:
        if child := self._newest(deleting=False):
            self.life.is_deleted(child.stage)

    def _remove_the_child(self) -> None:
        if child := self._newest(deleting=False):
            self.life.remove(child.stage)

    # --- the cluster --------------------------------------------------------------------------------------------------

    def _newest(self, *, deleting: bool | None = None) -> ChildView | None:
        children = [c for c in self.life.children.values() if deleting is None or c.deleting is deleting]
        return max(children, key=lambda child: child.uid, default=None)

    def _active(self, *, deleting: bool | None = None) -> StageName | None:
        child = self._newest(deleting=deleting)
        return child.stage if child and child.ended is None else None

    def _running(self) -> StageName | None:
        return self._active() if any(pod.phase == "Running" for pod in self.life.live_pods) else None

    def _the_pod_waits(self) -> None:
        if (stage := self._admitted()) and not self.life.live_pods:
            self.life.pod_waits(stage)

    def _the_pod_runs(self) -> None:
        if stage := self._admitted():
            self.life.pod_runs(stage)

    def _admitted(self) -> StageName | None:
        stage = self._active(deleting=False)
        return stage if stage and not self.life.child(stage).suspended else None

    def _the_queue_admits_it(self) -> None:
        if (stage := self._active(deleting=False)) and self.life.child(stage).suspended:
            self.life.admitted(stage)

    def _the_queue_stops_it(self) -> None:
        if (stage := self._admitted()) and self.life.child(stage).queue:
            self.life.stopped_by_queue(stage)

    def _the_pod_is_preempted(self) -> None:
        if stage := self._running():
            self.life._end_pod(stage, EXIT_RESUMABLE, None)

    def _the_pod_fails(self) -> None:
        if stage := self._running():
            self.life.pod_fails(stage, 1)

    def _ends(self, report: StageReport | None) -> None:
        if stage := self._running():
            self.life.completes(stage, report)

    def _the_pod_ends_well(self) -> None:
        self._ends((b.prepare_report if self._running() == "prepare" else b.train_report)(self.spec))

    def _the_pod_ends_well_without_a_report(self) -> None:
        self._ends(None)

    def _an_earlier_result_is_found(self) -> None:
        self._ends(b.train_report(self.spec, stage=self._running() or "train", reused=True))

    def _the_child_fails(self) -> None:
        if (stage := self._active()) and not self.life.live_pods:
            self.life.fails(stage, "BackoffLimitExceeded")

    def _the_deleted_child_goes(self) -> None:
        if child := self._newest(deleting=True):
            self.life.goes(child.stage)

    # --- the end ------------------------------------------------------------------------------------------------------

    def in_peace(self) -> None:
        """Nothing is in the job's way any more: it is resumed, its pods run and end well."""
        self._edit(suspend=False, activeDeadlineSeconds=80000)
        for _ in range(12):
            for action in (
                "look",
                "look",
                "the deleted child goes",
                "look",
                "the queue admits it",
                "the pod runs",
                "look",
                "the pod ends well",
            ):
                self.happens(action, 1)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(gpu=st.booleans(), suspended=st.booleans(), queued=st.booleans(), steps=steps)
@example(
    gpu=False,
    suspended=False,
    queued=False,
    steps=[("the pod runs", 400), ("look", 400), ("remove the child", 400), ("look", 800)],
)
@example(
    gpu=False,
    suspended=False,
    queued=False,
    steps=[("the pod runs", 0), ("look", 0), ("delete the child", 0), ("the deleted child goes", 0), ("look", 9)],
)
@example(
    gpu=False,
    suspended=False,
    queued=False,
    steps=[("the pod runs", 0), ("look", 0), ("the pod ends well", 0), ("remove the child", 0), ("look", 9)],
)
def test_whatever_happens_to_a_job_its_status_keeps_every_promise_and_it_comes_to_an_end(
    gpu: bool, suspended: bool, queued: bool, steps: list[tuple[str, int]]
) -> None:
    walk = Walk(gpu=gpu, suspended=suspended, queued=queued)
    walk.life.step()
    for action, seconds in steps:
        walk.happens(action, seconds)
    walk.in_peace()
    assert walk.end is not None, walk.life.status


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(gpu=st.booleans(), turns=st.lists(st.tuples(st.integers(1, 300), st.integers(4, 3000)), max_size=6))
def test_the_seconds_of_a_job_that_its_queue_stops_at_random_are_exactly_those_that_it_ran(
    gpu: bool, turns: list[tuple[int, int]]
) -> None:
    life = Walk(gpu=gpu, suspended=False, queued=True).life.settle()
    stage: StageName = "prepare" if gpu else "train"
    for ran, stood in turns:
        life.passes(stood).settle().admitted(stage).pod_runs(stage).settle().passes(ran)
        life.stopped_by_queue(stage).settle()
    assert life.stage(stage).get("runSeconds", 0) == sum(ran for ran, _ in turns)
    assert life.child(stage).active_deadline_seconds == 2000 - sum(ran for ran, _ in turns)
    assert life.stage(stage).get("failures", 0) == 0
    assert life.writes.count("create") == 1


@settings(max_examples=75, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(gpu=st.booleans(), toggles=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), max_size=6))
def test_the_seconds_of_a_job_that_is_suspended_at_random_are_exactly_those_that_it_ran(
    gpu: bool, toggles: list[tuple[int, int]]
) -> None:
    walk = Walk(gpu=gpu, suspended=False)
    life = walk.life.settle()
    stage: StageName = "prepare" if gpu else "train"
    for ran, stood in toggles:
        life.pod_runs(stage).settle().passes(ran)
        life.edit(suspend=True).settle().goes(stage).settle().passes(stood)
        life.edit(suspend=False).settle()
    assert life.stage(stage)["runSeconds"] == sum(ran for ran, _ in toggles)
    assert life.manifests[-1]["spec"]["activeDeadlineSeconds"] == 2000 - sum(ran for ran, _ in toggles)
