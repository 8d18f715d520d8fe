"""The controller: what is read live, what a failed or refused request leads to, and when a job is looked at again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from finetune_operator.cluster.apply import Applied
from finetune_operator.cluster.protocol import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    JobKey,
    NotFoundError,
    UnavailableError,
)
from finetune_operator.decide.plan import Observed, Plan
from finetune_operator.process.controller import Controller
from finetune_operator.process.metrics import Metrics
from finetune_operator.process.workqueue import WorkQueue
from tests.support import builders as b
from tests.support.virtual_time import run_virtual

KEY = JobKey("team-a", "support-intent")
DONE = Applied(job=b.job())
BLOCKED = replace(DONE, blocked="pod x has not ended")
REFUSED = replace(DONE, create_error="exceeded quota")


def down(pause: float) -> Applied:
    return replace(DONE, create_error="The API server answers 503: try later", unavailable=pause)


@dataclass
class Bench:
    """A controller between an observer and an applier that do as they are told, one answer a run.

    ``looks`` holds, for each observation, whether it was live and which refusal it was told of.
    """

    answers: list[Applied | ClusterError]
    decide: Callable[[Observed], Plan] = lambda _: Plan()
    looks: list[tuple[bool, str | None]] = field(default_factory=list)
    applied: list[Plan] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queue: WorkQueue[JobKey] = WorkQueue(jitter=lambda: 0.99999999)
        self.controller = Controller(
            queue=self.queue,
            observer=self,  # type: ignore[arg-type]  # as much of one as is asked for
            applier=self,  # type: ignore[arg-type]  # as above
            reconcile=self.decide,
            metrics=Metrics(),
        )

    async def observe(self, key: JobKey, *, live: bool, create_error: str | None) -> Observed:
        self.looks.append((live, create_error))
        return Observed(job=b.job(), runtime=None, children=(), pods=(), now=b.T0, live=live, create_error=create_error)

    async def apply(self, key: JobKey, observed: Observed, plan: Plan) -> Applied:
        self.applied.append(plan)
        answer = self.answers.pop(0)
        if isinstance(answer, ClusterError):
            raise answer
        return answer

    async def pauses(self) -> list[float | None]:
        """Run the job once for each answer; return the seconds until it is due again after each (None: never)."""
        found = []
        for _ in range(len(self.answers)):
            await self.controller.process(KEY)
            found.append(await self._until_due())
        return found

    async def _until_due(self) -> float | None:
        begin = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(1000):
                self.queue.done(await self.queue.get())
        except TimeoutError:
            return None
        return round(asyncio.get_running_loop().time() - begin, 3)


def run(*answers: Applied | ClusterError, **fields: Any) -> tuple[Bench, list[float | None]]:
    async def scenario() -> tuple[Bench, list[float | None]]:
        bench = Bench(list(answers), **fields)
        return bench, await bench.pauses()

    return run_virtual(scenario())


# --- live reads -------------------------------------------------------------------------------------------------------


def test_a_plan_that_asks_for_live_reads_is_made_again_on_them_and_only_then_carried_out() -> None:
    def decide(observed: Observed) -> Plan:
        return Plan(status={"phase": "Failed"}, final=True) if observed.live else Plan(needs_live=True)

    bench, _ = run(DONE, decide=decide)
    assert [live for live, _ in bench.looks] == [False, True]
    assert [plan.status for plan in bench.applied] == [{"phase": "Failed"}]


def test_a_create_that_is_held_back_is_planned_again_on_live_reads_after_a_pause() -> None:
    bench, pauses = run(BLOCKED, DONE)
    assert [live for live, _ in bench.looks] == [False, True]
    assert pauses == [0.5, None]


@pytest.mark.parametrize("error", [ConflictError("changed", code=409), NotFoundError("gone", code=404)])
def test_a_write_that_a_stale_cache_led_to_is_planned_again_on_live_reads(error: ClusterError) -> None:
    bench, pauses = run(error, DONE)
    assert [live for live, _ in bench.looks] == [False, True]
    assert pauses == [0.5, None]


def test_live_reads_end_with_the_trouble_that_asked_for_them() -> None:
    bench, _ = run(BLOCKED, DONE, DONE)
    assert [live for live, _ in bench.looks] == [False, True, False]


def test_a_server_that_is_away_asks_for_no_live_reads() -> None:
    bench, _ = run(UnavailableError("no answer"), DONE)
    assert [live for live, _ in bench.looks] == [False, False]


# --- pauses -----------------------------------------------------------------------------------------------------------


def test_failures_in_a_row_wait_longer_and_a_success_forgives_them() -> None:
    _, pauses = run(BLOCKED, BLOCKED, BLOCKED, DONE, BLOCKED)
    assert pauses == [0.5, 1.0, 2.0, None, 0.5]


def test_a_server_that_asks_for_a_pause_gets_it() -> None:
    _, pauses = run(UnavailableError("slow down", code=429, retry_after=42))
    assert pauses == [42.0]


def test_a_control_plane_that_asks_for_a_pause_after_a_create_gets_it() -> None:
    _, pauses = run(down(17))
    assert pauses == [17.0]


def test_a_plan_says_when_the_job_is_looked_at_again() -> None:
    _, pauses = run(DONE, decide=lambda _: Plan(requeue_after=25.0))
    assert pauses == [25.0]


# --- refused creates --------------------------------------------------------------------------------------------------


def test_a_refused_create_is_told_at_once_and_then_tried_with_a_pause() -> None:
    bench, pauses = run(REFUSED, REFUSED, REFUSED)
    assert [told for _, told in bench.looks] == [None, "exceeded quota", "exceeded quota"]
    assert pauses == [0.0, 15.0, 15.0]


def test_the_plan_may_name_the_pause_of_a_refused_create() -> None:
    _, pauses = run(REFUSED, REFUSED, decide=lambda _: Plan(requeue_after=30.0))
    assert pauses == [0.0, 30.0]


def test_a_refusal_is_forgotten_once_the_create_goes_through() -> None:
    bench, _ = run(REFUSED, DONE, DONE)
    assert [told for _, told in bench.looks] == [None, "exceeded quota", None]


def test_a_fault_of_the_control_plane_is_told_from_the_third_time_on() -> None:
    bench, pauses = run(down(0), down(0), down(0), DONE)
    told = "The API server answers 503: try later"
    assert [error for _, error in bench.looks] == [None, None, None, told]
    assert pauses == [0.5, 1.0, 2.0, None]


def test_faults_that_are_not_in_a_row_are_not_told() -> None:
    bench, _ = run(down(0), down(0), DONE, down(0), DONE)
    assert {error for _, error in bench.looks} == {None}


# --- an object that is gone -------------------------------------------------------------------------------------------


def test_nothing_is_remembered_of_a_job_that_is_gone() -> None:
    async def scenario() -> list[tuple[bool, str | None]]:
        bench = Bench([BLOCKED, REFUSED, DONE])
        await bench.controller.process(KEY)
        await bench.controller.process(KEY)

        async def gone(*_: Any, **__: Any) -> None:
            return None

        bench.controller._observer.observe = gone  # type: ignore[method-assign,assignment]  # nobody is there
        await bench.controller.process(KEY)
        del bench.controller._observer.observe  # type: ignore[attr-defined]  # one of the same name comes
        await bench.controller.process(KEY)
        return bench.looks[-1:]

    assert run_virtual(scenario()) == [(False, None)]


def test_a_right_that_is_missing_is_an_error_once_it_stays_away(caplog: pytest.LogCaptureFixture) -> None:
    """An API server that has just started has not read the roles yet."""
    bench = Bench([ForbiddenError("finetunejobs/status is forbidden", code=403)] * 7)
    run_virtual(bench.pauses())
    levels = [r.levelname for r in caplog.records if getattr(r, "event", None) == "PermissionDenied"]
    assert levels == ["WARNING"] * 6 + ["ERROR"]
