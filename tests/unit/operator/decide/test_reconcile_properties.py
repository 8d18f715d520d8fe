"""What holds for every observation, however odd: no exception, one answer, a bounded and valid status."""

from __future__ import annotations

import copy
import json
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName
from finetune_api.status import FineTuneJobStatus
from finetune_operator.decide.plan import (
    ChildView,
    CreateChild,
    DeleteChild,
    Observed,
    Plan,
    PodView,
    QueueWord,
    RuntimeView,
)
from finetune_operator.decide.reconcile import reconcile
from finetune_operator.decide.status import is_terminal
from tests.support import builders as b
from tests.support.kstatus import kstatus
from tests.support.simulation import MAX_STATUS_BYTES, PHASES, Simulation
from tests.support.spec_strategies import HOSTILE, specs


def _stored_jobs() -> list[dict[str, Any]]:
    """Jobs as they stand at the turns of their lives."""
    life = Simulation(b.job(), runtime=b.runtime())
    jobs = [life.job, b.job(b.cpu_spec()), b.job({}), life.settle().job]
    jobs.append(Simulation(b.job()).settle().job)
    jobs.append(life.pod_runs("prepare").settle(5).job)
    jobs.append(life.completes("prepare", b.prepare_report()).settle(5).job)
    jobs.append(life.pod_runs("train").settle(5).job)
    lost = Simulation(b.job(b.cpu_spec()), runtime=b.runtime()).settle().pod_runs("train").settle(5)
    jobs.append(lost.completes("train", None).settle(1).job)
    jobs += _suspended_jobs()
    jobs += _queued_jobs()
    reused = Simulation(b.job(), runtime=b.runtime()).settle().pod_runs("prepare").settle(5)
    jobs.append(reused.completes("prepare", b.train_report(stage="prepare", reused=True)).settle(1).job)
    jobs.append(life.completes("train", b.train_report()).settle(5).job)
    failed = Simulation(b.job(b.cpu_spec()), runtime=b.runtime()).settle().pod_runs("train").settle(5)
    jobs.append(failed.pod_fails("train", 11).fails("train").settle(1).job)
    return jobs


def _suspended_jobs() -> list[dict[str, Any]]:
    life = Simulation(b.job(), runtime=b.runtime(), lingering=True).settle().pod_runs("prepare").settle(5)
    jobs = [Simulation(b.job(b.job_spec(suspend=True))).settle().job, life.edit(suspend=True).job]
    jobs.append(life.settle(1).job)
    jobs.append(life.goes("prepare").settle(1).job)
    jobs.append(life.edit(suspend=False).job)
    jobs.append(life.settle(1).job)
    return jobs


def _queued_jobs() -> list[dict[str, Any]]:
    spec = b.cpu_spec(queueName="team-a", workloadPriorityClassName="low")
    life = Simulation(b.job(spec), runtime=b.runtime())
    jobs = [life.job, life.settle().job, life.settle(5).job]
    jobs.append(life.waits("train", reason="Inadmissible", message="LocalQueue team-a doesn't exist").settle(5).job)
    jobs.append(life.admitted("train").settle(1).pod_runs("train").settle(5).job)
    jobs.append(life.stopped_by_queue("train").settle(1).job)
    return jobs


JOBS = _stored_jobs()
ENDED = [job for job in JOBS if is_terminal(job["status"])]
_TEXTS = st.sampled_from([*HOSTILE, "", "Succeeded", "True", "\ud800", "x" * 5000]) | st.text(max_size=20)
_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in inner for path in _paths(item, (*at, key)))]


@st.composite
def mutated_jobs(draw: st.DrawFn) -> dict[str, Any]:
    """A real job in which up to four places were replaced by junk or removed."""
    job: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(JOBS)))
    for _ in range(draw(st.integers(0, 4))):
        paths = [path for path in _paths(job) if path]
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        place: Any = job
        for step in way:
            place = place[step]
        if isinstance(place, dict) and draw(st.booleans()):
            del place[last]
        else:
            place[last] = draw(_JUNK)
    return job


_messages = (
    st.none() | _TEXTS | st.sampled_from([b.train_report(), b.prepare_report()]).map(lambda r: r.model_dump_json())
)
_moments = st.none() | st.integers(-(10**6), 10**6).map(b.at)

pods: st.SearchStrategy[PodView] = st.builds(
    PodView,
    name=_TEXTS,
    uid=_TEXTS,
    job_uid=st.sampled_from(["job-prepare", "job-train", "child-1", "child-2", None]),
    created=st.integers(-1000, 1000).map(b.at),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    deleting=st.booleans(),
    node=st.none() | _TEXTS,
    unschedulable=st.none() | _TEXTS,
    waiting_reason=st.none() | st.sampled_from(["ErrImagePull", "CreateContainerConfigError", "ContainerCreating"]),
    waiting_message=st.none() | st.sampled_from(['secret "x" not found', "couldn't find key K in Secret n/s"]) | _TEXTS,
    start_error_reason=st.sampled_from(["FailedMount", "FailedCreatePodSandBox", "FailedScheduling"]),
    gone_by=_moments,
    reason=st.none() | st.sampled_from(["Evicted", "NodeLost"]) | _TEXTS,
    message=st.none() | st.just('Usage of EmptyDir volume "tmp" exceeds the limit "1Gi".') | _TEXTS,
    disruption=st.none() | _TEXTS,
    outlived=st.booleans(),
    start_error=st.none() | st.sampled_from(['secret "y" not found', "references non-existent secret key: K"]) | _TEXTS,
    exit_code=st.none() | st.integers(-1, 300),
    terminated_reason=st.none() | st.sampled_from(["OOMKilled", "Error", "Completed"]),
    termination_message=_messages,
    finished_at=_moments,
)


words: st.SearchStrategy[QueueWord] = st.builds(
    QueueWord,
    installed=st.booleans(),
    readable=st.booleans(),
    workload=st.none() | _TEXTS,
    priority_missing=st.booleans(),
    reason=st.sampled_from([None, "Pending", "Inadmissible"]) | _TEXTS,
    message=st.sampled_from([None, "LocalQueue nope doesn't exist", "5 > maximum capacity (4)"]) | _TEXTS,
    evicted=st.sampled_from([None, "Preempted", "Deactivated"]) | _TEXTS,
    evicted_message=st.none() | _TEXTS,
)


@st.composite
def children(draw: st.DrawFn) -> ChildView:
    stages: list[StageName] = ["prepare", "train"]
    stage = draw(st.sampled_from(stages))
    return b.child(
        stage,
        uid=draw(st.sampled_from([f"job-{stage}", "child-1", "child-2"])),
        owner_uid=draw(st.sampled_from([b.UID, b.UID, b.UID, None, "other"])),
        deleting=draw(st.booleans()),
        deleted_at=draw(_moments),
        active=draw(st.integers(0, 2)),
        succeeded=draw(st.integers(0, 1)),
        failed=draw(st.integers(0, 5)),
        start_time=draw(_moments),
        completion_time=draw(_moments),
        finished_at=draw(_moments),
        ended=draw(st.sampled_from([None, "Complete", "Failed"])),
        failed_reason=draw(st.sampled_from([None, "PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded"])),
        failed_message=draw(st.none() | _TEXTS | st.just("failed with exit code 16 matching")),
        suspended=draw(st.booleans()),
        suspended_at=draw(_moments),
        suspended_by=draw(st.none() | _TEXTS),
        queue=draw(st.none() | _TEXTS),
        priority=draw(st.none() | _TEXTS),
        made_for=draw(st.sampled_from([None, None, "team-a", "team-a/low"]) | _TEXTS),
        word=draw(st.none() | words),
        ttl_seconds=draw(st.none() | st.integers(0, 10**6)),
        active_deadline_seconds=draw(st.none() | st.integers(1, 10**6)),
        pod_create_error=draw(st.none() | st.just("exceeded quota: x") | _TEXTS),
    )


@st.composite
def observations(draw: st.DrawFn, jobs: st.SearchStrategy[dict[str, Any]] | None = None) -> Observed:
    runtimes = st.sampled_from([None, b.runtime(), b.runtime({"image": "x"})])
    junk = st.dictionaries(_TEXTS, _JUNK, max_size=3)
    broken = st.builds(RuntimeView, name=st.just("default"), generation=st.integers(), spec=junk)
    return b.observed(
        draw(mutated_jobs() if jobs is None else jobs),
        children=draw(st.lists(children(), max_size=2, unique_by=lambda child: child.name)),
        pods=draw(st.lists(pods, max_size=3)),
        runtime=draw(runtimes | broken),
        now=b.T0 + timedelta(seconds=draw(st.integers(-(10**5), 10**5))),
        live=draw(st.booleans()),
        create_error=draw(st.none() | st.just("exceeded quota: x") | _TEXTS),
    )


many = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _with_status(observed: Observed, plan: Plan) -> Observed:
    job = {**observed.job, "status": plan.status} if plan.status is not None else observed.job
    return b.observed(
        job,
        children=observed.children,
        pods=observed.pods,
        runtime=observed.runtime,
        now=observed.now,
        live=observed.live,
        create_error=observed.create_error,
    )


@many
@given(observations())
def test_nothing_that_stands_in_a_cluster_makes_reconcile_raise(observed: Observed) -> None:
    plan = reconcile(observed)
    if plan.status is not None:
        json.dumps(plan.status)


@many
@given(observations())
def test_every_status_of_a_job_that_goes_on_is_valid_and_bounded(observed: Observed) -> None:
    plan = reconcile(observed)
    stored = observed.job.get("status")
    if plan.status is not None and not (isinstance(stored, dict) and is_terminal(stored)):
        FineTuneJobStatus.model_validate(plan.status, extra="forbid")
        text = json.dumps(plan.status, ensure_ascii=False)
        assert len(text.encode()) < MAX_STATUS_BYTES


@many
@given(observations())
def test_reconciling_again_with_the_planned_status_wants_no_other_one(observed: Observed) -> None:
    plan = reconcile(observed)
    again = reconcile(_with_status(observed, plan))
    gone = any(event.reason == "ChildDeleted" for event in plan.events)
    if gone or any(isinstance(action, DeleteChild) for action in plan.actions):
        # That a child is gone, or why it has to go, is told first; what holds up the next one is another observation.
        plan, again = again, reconcile(_with_status(_with_status(observed, plan), again))
    assert again.status is None or again.status == plan.status


@many
@given(observations())
def test_live_reads_are_asked_for_at_most_once(observed: Observed) -> None:
    plan = reconcile(observed)
    if plan.needs_live:
        assert not observed.live
        assert plan.status is None
        assert plan.actions == ()


@many
@given(observations(st.sampled_from(ENDED)))
def test_a_job_that_has_ended_never_gets_a_child_nor_another_end(observed: Observed) -> None:
    plan = reconcile(observed)
    assert plan.status is None
    assert not any(isinstance(action, CreateChild) for action in plan.actions)
    assert plan.events == ()


@many
@given(observations(st.sampled_from(JOBS)))
def test_phases_never_run_backwards_and_kstatus_never_takes_an_end_back(observed: Observed) -> None:
    before = observed.job["status"]
    plan = reconcile(observed)
    if plan.status is None:
        return
    phases = [status.get("phase", "Pending") for status in (before, plan.status)]
    if not {"Suspended", "Queued"} & set(phases):
        assert PHASES.index(phases[0]) <= PHASES.index(phases[1])
    verdict = kstatus({**observed.job, "status": plan.status})
    ended = {"Succeeded": "Current", "Failed": "Failed"}
    at_rest = next(c for c in plan.status["conditions"] if c["type"] == "Suspended")["status"] == "True"
    assert verdict == ("Current" if at_rest else ended.get(plan.status["phase"], "InProgress"))


@many
@given(observations(st.sampled_from(JOBS)))
def test_a_job_is_said_to_be_suspended_only_where_a_live_read_shows_no_pod(observed: Observed) -> None:
    plan = reconcile(observed)
    if plan.status is not None and plan.status["phase"] == "Suspended" and observed.job["spec"].get("suspend"):
        assert observed.live
        assert all(pod.phase in ("Succeeded", "Failed") for pod in observed.pods)
    if observed.job["spec"].get("suspend"):
        assert not any(isinstance(action, CreateChild) for action in plan.actions)


@many
@given(observations(st.sampled_from(JOBS)))
def test_children_are_created_and_deleted_on_live_reads_only_but_for_a_stages_first(observed: Observed) -> None:
    plan = reconcile(observed)
    for action in plan.actions:
        if isinstance(action, CreateChild) and action.first:
            # Written before the child is made, on the version that was read: whoever was late makes none.
            assert plan.status is not None
            assert plan.status != observed.job.get("status")
            assert all(child.stage != action.stage for child in observed.children)
        elif isinstance(action, CreateChild | DeleteChild):
            assert observed.live


@many
@given(observations(st.sampled_from(JOBS)))
def test_a_child_is_created_only_where_none_stands_and_the_runtime_is_recorded(observed: Observed) -> None:
    plan = reconcile(observed)
    standing = {child.name for child in observed.children}
    for action in plan.actions:
        if isinstance(action, CreateChild):
            assert action.manifest["metadata"]["name"] not in standing
            status = plan.status or observed.job["status"]
            assert status["runtime"]["image"] == action.manifest["spec"]["template"]["spec"]["containers"][0]["image"]


@settings(max_examples=60, deadline=None)
@given(specs)
def test_every_valid_spec_is_started(spec: dict[str, Any]) -> None:
    runtime = b.runtime_spec(
        allowedServiceAccounts=[spec.get("serviceAccountName", "unused")],
        limits={"activeDeadlineSeconds": 31536000},
    )
    FineTuneJobSpec.model_validate(spec)
    life = Simulation(b.job(spec), runtime=b.runtime(runtime)).settle()
    assert len(life.children) == 1
