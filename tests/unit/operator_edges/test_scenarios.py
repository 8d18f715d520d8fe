"""The whole operator in memory: reconcile, edges and a simulated control plane, from submit to the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from finetune_api.names import child_name
from finetune_api.reasons import Reason
from finetune_api.report import encode_report
from finetune_api.stage import StageInput
from finetune_operator.cluster import ForbiddenError, InvalidError, JobKey, Raw
from finetune_operator.plan import Observed, Plan
from finetune_operator.reconcile import reconcile
from tests.support.builders import cpu_spec, failure_report, job_spec
from tests.support.job_simulator import End, report_success
from tests.support.operator_world import World, timeless
from tests.support.virtual_time import run_virtual


def bad_rows(document: StageInput, _attempt: int) -> End:
    report = failure_report(Reason.DATASET_INVALID, "row 3 has no label", stage=document.stage)
    return End(exit_code=11, message=encode_report(report).decode())


def second_try(document: StageInput, attempt: int) -> End:
    return report_success(document, attempt) if attempt else End(exit_code=1, message="Segmentation fault")


async def undisturbed(spec: Raw, end: Any = report_success) -> tuple[World, JobKey]:
    world = World(end=end)
    world.add_runtime()
    async with world.operator() as engine:
        key = world.submit(spec)
        await world.until_finished(key, engine)
        await world.until_quiet(engine)
    return world, key


def condition(status: Raw, kind: str = "Succeeded") -> Raw:
    return next(c for c in status["conditions"] if c["type"] == kind)


# --- all is well ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spec", "stages"), [(cpu_spec(), ["train"]), (job_spec(), ["prepare", "train"])])
def test_a_job_runs_each_stage_once_and_succeeds(spec: Raw, stages: list[str]) -> None:
    world, key = run_virtual(undisturbed(spec))
    status = world.status(key)
    assert status["phase"] == "Succeeded"
    assert [stage["name"] for stage in status["stages"]] == stages
    assert world.simulator.pods_made == dict.fromkeys(stages, 1)
    assert world.simulator.violations == []


@pytest.mark.parametrize(("spec", "most"), [(cpu_spec(), 4), (job_spec(), 7)])
def test_a_job_costs_no_more_writes_than_promised(spec: Raw, most: int) -> None:
    world, _ = run_virtual(undisturbed(spec))
    calls = world.calls()
    assert calls["patch_job_status"] + calls["create_child"] + calls["patch_child"] <= most
    assert calls["create_event"] <= 4


def test_a_restart_among_finished_jobs_writes_nothing() -> None:
    async def scenario() -> int:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            keys = [world.submit(cpu_spec(), name=f"job-{n}") for n in range(20)]
            for key in keys:
                await world.until_finished(key, engine)
            await world.until_quiet(engine)
        async with world.operator() as engine:
            await world.until_quiet(engine)
        return world.gateways[-1].writes

    assert run_virtual(scenario()) == 0


# --- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash_after", [False, True], ids=["before it is sent", "after it was carried out"])
@pytest.mark.parametrize(
    ("spec", "end"),
    [(cpu_spec(), report_success), (job_spec(), report_success), (job_spec(), bad_rows), (job_spec(), second_try)],
    ids=["one stage", "two stages", "a failure", "a retry"],
)
def test_a_crash_at_any_write_changes_neither_the_pods_nor_the_end(spec: Raw, end: Any, crash_after: bool) -> None:
    world, key = run_virtual(undisturbed(spec, end))
    wanted, pods, writes = timeless(world.status(key)), world.simulator.pods_made, world.gateways[0].writes
    assert writes >= 4

    async def crashing(number: int) -> tuple[World, bool]:
        world = World(end=end)
        world.add_runtime()
        key = world.submit(spec)
        return world, await world.run_with_crashes(key, crash_at=number, crash_after=crash_after)

    for number in range(1, writes + 1):
        world, crashed = run_virtual(crashing(number))
        assert crashed, f"write {number} was never reached"
        assert timeless(world.status(key)) == wanted, f"crash at write {number}"
        assert world.simulator.pods_made == pods, f"crash at write {number}"
        assert world.simulator.violations == [], f"crash at write {number}"


def test_a_crash_at_every_single_write_in_turn_still_ends_well() -> None:
    """Each operator survives one write only; the job is carried to its end by many."""

    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        key = world.submit()
        for _ in range(40):
            if await world.carry_on(key, crash_at=1):
                break
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}
    assert world.simulator.violations == []


def test_two_operators_at_once_make_no_second_pod() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator(), world.operator() as engine:
            key = world.submit()
            await world.until_finished(key, engine)
            await world.until_quiet(engine)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}
    assert world.simulator.violations == []


# --- watches that lie -------------------------------------------------------------------------------------------------


def test_an_operator_that_hears_nothing_gets_there_by_resync() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator(hears=lambda _kind, _event, _raw: False) as engine:
            key = world.submit()
            await world.until_finished(key, engine, within=4 * 3600)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}


def test_events_that_come_late_and_out_of_order_change_nothing() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        late: list[tuple[str, str, Raw]] = []

        def keep(kind: str, event: str, raw: Raw) -> bool:
            late.append((kind, event, raw))
            return False

        async with world.operator(hears=keep) as engine:
            key = world.submit()

            def deliver() -> None:
                for kind, event, raw in reversed(late):
                    engine.event(kind, event, raw)  # type: ignore[arg-type]  # kinds of the cluster, events left out below
                late.clear()

            for second in range(600):
                await world.second()
                late[:] = [item for item in late if item[0] != "events"]
                if second % 7 == 0:
                    deliver()
            await world.until_finished(key, engine)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}
    assert world.simulator.violations == []


def test_a_write_on_a_stale_cache_is_made_again_on_live_reads_and_not_at_the_next_resync() -> None:
    async def scenario() -> tuple[World, float]:
        world = World()
        world.add_runtime()
        key = world.submit()
        gateways = world.gateways

        def somebody_labels_the_job(name: str) -> None:
            if name == "patch_job_status" and gateways[0].calls[name] == 1:
                world.cluster.patch("jobs", *key, {"metadata": {"labels": {"team": "a"}}})

        async with world.operator(hears=lambda _kind, _event, _raw: False) as engine:
            gateways[0].on_request = somebody_labels_the_job
            await world.until(lambda: world.calls()["create_child"] == 1, engine)
        return world, asyncio.get_running_loop().time()

    world, took = run_virtual(scenario())
    assert world.calls()["patch_job_status"] == 2
    assert took < 5


def test_a_job_whose_deletion_was_missed_is_forgotten_at_the_next_resync() -> None:
    async def scenario() -> tuple[int, int]:
        world = World()
        async with world.operator(hears=lambda _kind, event, _raw: event != "DELETED") as engine:
            key = world.submit()
            await world.second()
            world.cluster.delete("jobs", *key)
            await world.second()
            before = engine.cache.size("jobs")
            await asyncio.sleep(400)
            return before, engine.cache.size("jobs")

    assert run_virtual(scenario()) == (1, 0)


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_job_waits_for_its_runtime_and_starts_when_it_comes() -> None:
    async def scenario() -> tuple[Raw, Raw]:
        world = World()
        async with world.operator() as engine:
            key = world.submit()
            await world.until(lambda: "conditions" in world.status(key), engine)
            waiting = world.status(key)
            world.add_runtime()
            await world.until_finished(key, engine, within=60)
            return waiting, world.status(key)

    waiting, ended = run_virtual(scenario())
    assert condition(waiting)["reason"] == "RuntimeNotFound"
    assert condition(waiting)["status"] == "Unknown"
    assert ended["phase"] == "Succeeded"


@pytest.mark.parametrize("labelled", [False, True])
def test_a_foreign_job_under_a_childs_name_is_a_conflict_and_stays(labelled: bool) -> None:
    async def scenario() -> tuple[Raw, Raw, World]:
        world = World()
        world.add_runtime()
        key = world.submit()
        uid = world.job(key)["metadata"]["uid"]
        name = child_name(key.name, uid, "prepare")
        labels = {"finetune.dev/job-uid": uid, "finetune.dev/job-name": key.name} if labelled else {}
        foreign = {"metadata": {"name": name, "namespace": key.namespace, "labels": labels}, "spec": {}}
        before = world.cluster.create(
            "children", {**foreign, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
        )
        async with world.operator() as engine:
            await world.until_finished(key, engine)
            await world.until_quiet(engine)
        assert world.cluster.get("children", key.namespace, name) == before
        return world.status(key), world.job(key), world

    status, _, world = run_virtual(scenario())
    assert status["failure"]["reason"] == "NameConflict"
    assert world.simulator.pods_made == {}


def test_a_child_that_a_person_deletes_is_made_anew_once_it_is_gone() -> None:
    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: world.simulator.pods_made["train"] == 1, engine)
            await world.second()
            name = child_name(key.name, world.job(key)["metadata"]["uid"], "train")
            world.cluster.delete("children", key.namespace, name, foreground=True)
            await world.until_finished(key, engine)
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"train": 2}
    assert world.simulator.violations == []


def test_a_child_that_is_missing_after_the_end_stays_missing() -> None:
    async def scenario() -> tuple[World, Raw, Raw]:
        world, key = await undisturbed(cpu_spec())
        before = world.status(key)
        world.cluster.delete("children", key.namespace, before["stages"][0]["jobName"])
        for pod in world.cluster.all("pods"):
            world.cluster.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
        async with world.operator() as engine:
            await asyncio.sleep(1000)
            await world.until_quiet(engine)
        return world, before, world.status(key)

    world, before, after = run_virtual(scenario())
    assert before == after
    assert world.cluster.all("children") == []


def test_a_job_that_is_deleted_in_mid_run_makes_nothing_more() -> None:
    async def scenario() -> World:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit()
            await world.until(lambda: world.simulator.pods_made["prepare"] == 1, engine)
            world.cluster.delete("jobs", *key)
            for _ in range(400):
                await world.second()
            assert engine.queue.idle
        return world

    world = run_virtual(scenario())
    assert world.cluster.all("children") == []
    assert world.simulator.pods_made == {"prepare": 1}


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_full_quota_is_told_and_waited_out() -> None:
    async def scenario() -> tuple[Raw, Raw, int]:
        world = World()
        world.add_runtime()
        full = 'jobs.batch "x" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, used: 5, limited: 5'
        world.cluster.refusals = [ForbiddenError(full, code=403) for _ in range(4)]
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: "QuotaExceeded" in str(world.status(key)), engine, within=5)
            await world.until(lambda: world.calls()["create_child"] == 3, engine)
            waiting, writes = world.status(key), world.calls()["patch_job_status"]
            await world.until_finished(key, engine)
            return waiting, world.status(key), writes

    waiting, ended, writes = run_virtual(scenario())
    assert condition(waiting)["reason"] == "QuotaExceeded"
    assert "count/jobs.batch=1" in condition(waiting)["message"]
    assert writes == 2, "one write to start, one to tell; the retries write nothing"
    assert ended["phase"] == "Succeeded"


def test_an_admission_policy_that_refuses_the_child_is_told() -> None:
    async def scenario() -> Raw:
        world = World()
        world.add_runtime()
        world.cluster.refusals = [InvalidError("admission webhook denied: images must be signed", code=400)] * 3
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: len(world.cluster.refusals) <= 1, engine)
            return world.status(key)

    assert "images must be signed" in condition(run_virtual(scenario()))["message"]


@pytest.mark.parametrize(
    "refusal",
    [
        ForbiddenError("jobs.batch is forbidden: it is being terminated because its namespace is being terminated"),
        ForbiddenError('jobs.batch is forbidden: User "x" cannot create resource "jobs" in API group "batch"'),
    ],
    ids=["namespace going", "no right"],
)
def test_what_the_user_can_not_mend_is_not_told_as_his_fault(refusal: ForbiddenError) -> None:
    async def scenario() -> Raw:
        world = World()
        world.add_runtime()
        world.cluster.refusals = [refusal] * 3
        async with world.operator() as engine:
            key = world.submit(cpu_spec())
            await world.until(lambda: not world.cluster.refusals, engine)
            before = world.status(key)
            await world.until_finished(key, engine)
            return before

    assert condition(run_virtual(scenario()))["reason"] == "Pending"


def test_an_outage_of_the_api_server_is_waited_out_without_a_restart() -> None:
    methods = {"get_job", "get_child", "list_pods", "list_all", "create_child", "patch_job_status", "create_event"}

    async def scenario() -> tuple[World, JobKey]:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            key = world.submit()
            await world.until(lambda: world.simulator.pods_made["prepare"] == 1, engine)
            world.gateways[0].broken = methods
            for _ in range(600):
                await world.second()
            world.gateways[0].broken = set()
            await world.until_finished(key, engine, within=700)
            assert engine.trouble() is None
            assert engine.queue.add_failed(key) <= 0.5, "a success forgives the failures before it"
        return world, key

    world, key = run_virtual(scenario())
    assert world.status(key)["phase"] == "Succeeded"
    assert world.simulator.pods_made == {"prepare": 1, "train": 1}


# --- bad objects ------------------------------------------------------------------------------------------------------


def test_a_job_that_breaks_the_operators_code_stops_no_other_job(caplog: pytest.LogCaptureFixture) -> None:
    def decide(observed: Observed) -> Plan:
        if observed.job["metadata"]["name"] == "poison":
            raise RuntimeError("boom")
        return reconcile(observed)

    async def scenario() -> Raw:
        world = World()
        world.add_runtime()
        async with world.operator(decide=decide) as engine:
            world.submit(name="poison")
            key = world.submit(name="healthy")
            await world.until_finished(key, engine, within=120)
            assert engine.trouble() is None
            return world.status(key)

    assert run_virtual(scenario())["phase"] == "Succeeded"
    failures = [r for r in caplog.records if getattr(r, "event", None) == "ReconcileFailed"]
    assert failures
    assert all(r.job == "team-a/poison" for r in failures)
    assert len(failures) < 20, "a failing key backs off"


def test_a_job_of_a_stranger_schema_fails_alone() -> None:
    async def scenario() -> tuple[Raw, Raw]:
        world = World()
        world.add_runtime()
        async with world.operator() as engine:
            odd = world.submit({"dataset": 7}, name="odd")
            key = world.submit(name="healthy")
            await world.until_finished(odd, engine)
            await world.until_finished(key, engine)
            return world.status(odd), world.status(key)

    odd, healthy = run_virtual(scenario())
    assert odd["failure"]["reason"] == "InvalidSpec"
    assert healthy["phase"] == "Succeeded"


def test_a_dead_worker_ends_the_operator() -> None:
    async def scenario() -> None:
        world = World()
        async with world.operator() as engine:
            engine._spawn("broken", _raise())
            await engine.died.wait()
            assert engine.trouble() == "a worker has ended"

    async def _raise() -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run_virtual(scenario())
