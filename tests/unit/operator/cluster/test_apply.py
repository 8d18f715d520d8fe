"""Applying plans: the order of writes, the guard before a create, and what refusals turn into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from finetune_operator.cluster.apply import Applied
from finetune_operator.cluster.gateway import error_of
from finetune_operator.cluster.protocol import ConflictError, ForbiddenError, InvalidError, UnavailableError
from finetune_operator.decide.plan import DeleteChild, Event, Plan, SetChildDeadline, SetChildTTL
from tests.support.virtual_time import run_virtual
from tests.unit.operator.kit import KEY, Bench, child_manifest, pod_manifest

# --- status -----------------------------------------------------------------------------------------------------------


def test_the_status_is_written_before_anything_else_and_events_come_last() -> None:
    async def scenario() -> list[str]:
        bench = Bench.new()
        order: list[str] = []
        bench.gateway.on_request = order.append
        event = Event(reason="Started", message="x")
        await bench.apply(bench.create(), status={"phase": "Pending"}, events=(event,))
        return [name for name in order if name.startswith(("patch", "create"))]

    assert run_virtual(scenario()) == ["patch_job_status", "create_child", "create_event"]


def test_a_status_that_stands_there_already_is_not_written() -> None:
    async def scenario() -> tuple[Applied, int]:
        bench = Bench.new()
        outcome = await bench.apply(status={"observedGeneration": -1})
        return outcome, bench.gateway.writes

    outcome, writes = run_virtual(scenario())
    assert (outcome.wrote_status, writes) == (False, 0)


def test_fields_that_the_wanted_status_lacks_are_removed() -> None:
    async def scenario() -> Any:
        bench = Bench.new()
        await bench.apply(
            status={"phase": "Pending", "waitingFor": "x", "stages": [{"name": "train", "state": "Pending"}]}
        )
        await bench.apply(status={"phase": "Training", "stages": []})
        return bench.status()

    assert run_virtual(scenario()) == {"phase": "Training", "stages": []}


def test_a_job_that_has_changed_since_it_was_observed_gets_no_write_at_all() -> None:
    async def scenario() -> int:
        bench = Bench.new()
        seen = await bench.observed()
        bench.cluster.patch("jobs", *KEY, {"metadata": {"labels": {"a": "b"}}})
        plan_actions = (bench.create(),)
        with pytest.raises(ConflictError):
            await bench.applier.apply(KEY, seen, Plan(status={"phase": "Pending"}, actions=plan_actions))
        return len(bench.children())

    assert run_virtual(scenario()) == 0


def test_the_cache_learns_the_written_status_at_once() -> None:
    async def scenario() -> Any:
        bench = Bench.new()
        await bench.apply(status={"phase": "Pending"})
        return bench.cache.job(KEY)

    assert run_virtual(scenario())["status"] == {"phase": "Pending"}


# --- the guard --------------------------------------------------------------------------------------------------------


def _deleted(bench: Bench) -> None:
    bench.cluster.delete("jobs", *KEY)


def _going(bench: Bench) -> None:
    bench.cluster.delete("jobs", *KEY, foreground=True)


def _replaced(bench: Bench) -> None:
    old = bench.cluster.get("jobs", *KEY)
    bench.cluster.delete("jobs", *KEY)
    bench.cluster.create("jobs", {"metadata": {"namespace": KEY.namespace, "name": KEY.name}, "spec": old["spec"]})


def _ended_meanwhile(bench: Bench) -> None:
    bench.cluster.patch("jobs", *KEY, {"status": {"phase": "Succeeded"}})


def _suspended_meanwhile(bench: Bench) -> None:
    bench.cluster.patch("jobs", *KEY, {"spec": {"suspend": True}})


def _child_is_there(bench: Bench) -> None:
    bench.cluster.create("children", child_manifest(bench.uid))


def _child_is_going(bench: Bench) -> None:
    child = bench.cluster.create("children", child_manifest(bench.uid))
    bench.cluster.delete("children", KEY.namespace, child["metadata"]["name"], foreground=True)


def _child_is_foreign(bench: Bench) -> None:
    manifest = child_manifest(bench.uid)
    manifest["metadata"]["ownerReferences"] = []
    bench.cluster.create("children", manifest)


def _pod(phase: str) -> Callable[[Bench], None]:
    def change(bench: Bench) -> None:
        bench.cluster.create("pods", pod_manifest(bench.uid, "old", phase))

    return change


BLOCKED = {
    "the job is gone": (_deleted, "is gone"),
    "the job is being deleted": (_going, "being deleted"),
    "the name was taken by another job": (_replaced, "taken the name"),
    "the job has ended": (_ended_meanwhile, "status has changed"),
    "the job has been suspended": (_suspended_meanwhile, "spec has changed"),
    "the child is there": (_child_is_there, "is there already"),
    "the child is being deleted": (_child_is_going, "still being deleted"),
    "the child belongs to someone else": (_child_is_foreign, "belongs to someone else"),
    "a pod is pending": (_pod("Pending"), "pod old has not ended"),
    "a pod runs": (_pod("Running"), "pod old has not ended"),
    "a pod is on a lost node": (_pod("Unknown"), "pod old has not ended"),
}


@pytest.mark.parametrize(("change", "reason"), BLOCKED.values(), ids=BLOCKED.keys())
def test_no_child_is_created_while(change: Callable[[Bench], None], reason: str) -> None:
    async def scenario() -> tuple[Applied, int]:
        bench = Bench.new()
        action, seen = bench.create(), await bench.observed()
        change(bench)
        outcome = await bench.applier.apply(KEY, seen, Plan(actions=(action,)))
        return outcome, bench.gateway.calls["create_child"]

    outcome, creates = run_virtual(scenario())
    assert reason in (outcome.blocked or "")
    assert creates == 0


def test_the_first_child_of_a_stage_costs_no_read() -> None:
    async def scenario() -> tuple[list[str], list[str]]:
        bench = Bench.new()
        seen, order = await bench.observed(), list[str]()
        bench.gateway.on_request = order.append
        plan = Plan(status={"phase": "Pending"}, actions=(bench.create(first=True),))
        await bench.applier.apply(KEY, seen, plan)
        return order, bench.children()

    order, children = run_virtual(scenario())
    assert order == ["patch_job_status", "create_child"]
    assert len(children) == 1


def test_a_first_child_whose_status_had_not_to_be_written_is_looked_for_all_the_same() -> None:
    async def scenario() -> Applied:
        bench = Bench.new()
        _pod("Running")(bench)
        return await bench.apply(bench.create(first=True), status={"observedGeneration": -1})

    assert run_virtual(scenario()).blocked == "pod old has not ended"


def test_a_first_child_of_a_job_that_has_changed_meanwhile_is_not_created() -> None:
    async def scenario() -> int:
        bench = Bench.new()
        seen = await bench.observed()
        _suspended_meanwhile(bench)
        plan = Plan(status={"phase": "Pending"}, actions=(bench.create(first=True),))
        with pytest.raises(ConflictError):
            await bench.applier.apply(KEY, seen, plan)
        return bench.gateway.calls["create_child"]

    assert run_virtual(scenario()) == 0


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_not_in_the_way(phase: str) -> None:
    async def scenario() -> tuple[Applied, list[str]]:
        bench = Bench.new()
        _pod(phase)(bench)
        return await bench.apply(bench.create()), bench.children()

    outcome, children = run_virtual(scenario())
    assert outcome.blocked is None
    assert len(children) == 1


def test_a_pod_of_another_namespace_is_not_in_the_way() -> None:
    async def scenario() -> Applied:
        bench = Bench.new()
        pod = pod_manifest(bench.uid, "theirs", "Running")
        pod["metadata"]["namespace"] = "team-b"
        bench.cluster.create("pods", pod)
        return await bench.apply(bench.create())

    assert run_virtual(scenario()).blocked is None


def test_a_child_that_appears_between_guard_and_create_is_taken_as_it_is() -> None:
    async def scenario() -> tuple[Applied, list[str]]:
        bench = Bench.new()

        def appear(name: str) -> None:
            if name == "create_child":
                _child_is_there(bench)

        bench.gateway.on_request = appear
        return await bench.apply(bench.create()), bench.children()

    outcome, children = run_virtual(scenario())
    assert "is there already" in (outcome.blocked or "")
    assert len(children) == 1


def test_a_blocked_create_holds_back_the_actions_behind_it() -> None:
    async def scenario() -> tuple[Applied, list[str]]:
        bench = Bench.new()
        _pod("Running")(bench)
        return await bench.apply(bench.create("train"), bench.create("prepare")), bench.children()

    outcome, children = run_virtual(scenario())
    assert outcome.blocked
    assert children == []


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        ForbiddenError('jobs.batch "x" is forbidden: exceeded quota: q', code=403),
        ForbiddenError('admission webhook "w" denied the request', code=403),
        InvalidError("spec.template: Invalid value", code=422),
    ],
)
def test_a_refused_create_becomes_a_value(error: Any) -> None:
    async def scenario() -> Applied:
        bench = Bench.new()
        bench.cluster.refusals = [error]
        return await bench.apply(bench.create())

    outcome = run_virtual(scenario())
    assert (outcome.blocked, outcome.create_error) == (None, error.message)


def test_a_missing_right_of_the_operator_is_an_error() -> None:
    async def scenario() -> None:
        bench = Bench.new()
        bench.cluster.refusals = [ForbiddenError('User "op" cannot create resource "jobs" in API group "batch"')]
        await bench.apply(bench.create())

    with pytest.raises(ForbiddenError):
        run_virtual(scenario())


@pytest.mark.parametrize(
    "text",
    [
        'User "a" cannot create resource "jobs"',
        "not here, because it is being terminated",
        "an internal error",
    ],
)
@pytest.mark.parametrize("code", [400, 401, 403, 404, 409, 418, 500])
def test_a_policys_own_words_and_code_are_no_fault_of_anybody_else(text: str, code: int) -> None:
    error = error_of(code, {"message": f'admission webhook "g" denied the request: {text}'}, verb="x", resource="jobs")

    async def scenario() -> Applied:
        bench = Bench.new()
        bench.cluster.refusals = [error]
        return await bench.apply(bench.create())

    applied = run_virtual(scenario())
    assert (applied.create_error, applied.blocked, applied.unavailable) == (error.message, None, None)


def test_a_fault_of_the_control_plane_becomes_a_value_with_the_pause_that_it_asks_for() -> None:
    error = UnavailableError('failed calling webhook "w"', code=500, retry_after=7.0)

    async def scenario() -> Applied:
        bench = Bench.new()
        bench.cluster.refusals = [error]
        return await bench.apply(bench.create())

    applied = run_virtual(scenario())
    assert (applied.create_error, applied.unavailable) == (
        'The API server answers 500: failed calling webhook "w"',
        7.0,
    )


@pytest.mark.parametrize("code", [0, 401])
def test_a_server_that_does_not_answer_or_knows_us_not_is_an_error(code: int) -> None:
    async def scenario() -> None:
        bench = Bench.new()
        bench.cluster.refusals = [UnavailableError("no answer", code=code)]
        await bench.apply(bench.create())

    with pytest.raises(UnavailableError):
        run_virtual(scenario())


# --- other actions ----------------------------------------------------------------------------------------------------


def test_a_child_is_deleted_in_the_foreground() -> None:
    async def scenario() -> Any:
        bench = Bench.new()
        child = bench.cluster.create("children", child_manifest(bench.uid))["metadata"]
        await bench.apply(DeleteChild(name=child["name"], uid=child["uid"]))
        return bench.cluster.get("children", KEY.namespace, child["name"])

    assert "deletionTimestamp" in run_virtual(scenario())["metadata"]


@pytest.mark.parametrize("kind", [DeleteChild, SetChildTTL, SetChildDeadline])
@pytest.mark.parametrize("there", [False, True], ids=["no child", "another child"])
def test_a_child_that_is_no_longer_that_one_is_left_alone(kind: Any, there: bool) -> None:
    async def scenario() -> tuple[Applied, Any, Any]:
        bench = Bench.new()
        before = bench.cluster.create("children", child_manifest(bench.uid)) if there else None
        name = child_manifest(bench.uid)["metadata"]["name"]
        fields = {} if kind is DeleteChild else {"seconds": 5}
        outcome = await bench.apply(kind(name=name, uid="another", **fields))
        return outcome, before, bench.cluster.get("children", KEY.namespace, name) if there else None

    outcome, before, after = run_virtual(scenario())
    assert outcome.blocked is None
    assert before == after


@pytest.mark.parametrize(
    ("kind", "field"), [(SetChildTTL, "ttlSecondsAfterFinished"), (SetChildDeadline, "activeDeadlineSeconds")]
)
def test_a_number_of_the_child_is_set(kind: Any, field: str) -> None:
    async def scenario() -> Any:
        bench = Bench.new()
        child = bench.cluster.create("children", child_manifest(bench.uid))["metadata"]
        await bench.apply(kind(name=child["name"], uid=child["uid"], seconds=77))
        return bench.cluster.get("children", KEY.namespace, child["name"])

    assert run_virtual(scenario())["spec"] == {field: 77}
