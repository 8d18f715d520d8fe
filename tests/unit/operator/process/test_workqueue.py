"""The queue: what is coalesced, what waits, what runs when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_operator.process.workqueue import WorkQueue
from tests.support.virtual_time import run_virtual


def queue() -> WorkQueue[str]:
    return WorkQueue(jitter=lambda: 0.99999999)


async def taken(work: WorkQueue[str], within: float = 0.001) -> str | None:
    try:
        async with asyncio.timeout(within):
            return await work.get()
    except TimeoutError:
        return None


def test_keys_come_out_in_the_order_they_went_in() -> None:
    async def scenario() -> list[str | None]:
        work = queue()
        for key in "abc":
            work.add(key)
        return [await taken(work) for _ in range(4)]

    assert run_virtual(scenario()) == ["a", "b", "c", None]


def test_a_key_that_is_added_many_times_runs_once() -> None:
    async def scenario() -> list[str | None]:
        work = queue()
        for _ in range(5):
            work.add("a")
        return [await taken(work), await taken(work)]

    assert run_virtual(scenario()) == ["a", None]


def test_a_key_never_runs_twice_at_once_and_runs_again_if_it_was_added_meanwhile() -> None:
    async def scenario() -> list[str | None]:
        work = queue()
        work.add("a")
        first = await taken(work)
        work.add("a")
        work.add("a")
        while_busy = await taken(work)
        work.done("a")
        return [first, while_busy, await taken(work), await taken(work)]

    assert run_virtual(scenario()) == ["a", None, "a", None]


def test_a_waiting_worker_wakes_up_for_a_new_key() -> None:
    async def scenario() -> str | None:
        work = queue()
        asyncio.get_running_loop().call_later(5, work.add, "a")
        return await taken(work, within=5.001)

    assert run_virtual(scenario()) == "a"


def test_a_waiting_worker_wakes_up_for_a_key_that_another_one_is_done_with() -> None:
    async def scenario() -> str | None:
        work = queue()
        work.add("a")
        await work.get()
        work.add("a")
        asyncio.get_running_loop().call_later(5, work.done, "a")
        return await taken(work, within=5.001)

    assert run_virtual(scenario()) == "a"


@pytest.mark.parametrize(("delays", "due"), [([10], 10), ([10, 3], 3), ([3, 10], 3), ([5, 0], 0), ([-1], 0)])
def test_of_several_delays_the_earliest_wins_and_counts_once(delays: list[float], due: float) -> None:
    async def scenario() -> tuple[float, str | None]:
        work = queue()
        for delay in delays:
            work.add_after("a", delay)
        assert await work.get() == "a"
        at = asyncio.get_running_loop().time()
        work.done("a")
        return at, await taken(work, within=100)

    assert run_virtual(scenario()) == (due, None)


def test_a_run_makes_delays_that_were_set_before_it_void() -> None:
    async def scenario() -> str | None:
        work = queue()
        work.add_after("a", 50)
        work.add("a")
        assert await work.get() == "a"
        work.done("a")
        return await taken(work, within=100)

    assert run_virtual(scenario()) is None


def test_a_delay_that_is_set_during_a_run_holds() -> None:
    async def scenario() -> tuple[str, float]:
        work = queue()
        work.add("a")
        await work.get()
        work.add_after("a", 7)
        work.done("a")
        return await work.get(), asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == ("a", 7)


def test_failures_in_a_row_wait_twice_as_long_each_time_up_to_a_minute() -> None:
    async def scenario() -> list[float]:
        work = queue()
        return [work.add_failed("a") for _ in range(9)]

    assert run_virtual(scenario()) == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60])


def test_jitter_takes_at_most_half_of_a_backoff_away() -> None:
    async def scenario() -> float:
        work: WorkQueue[str] = WorkQueue(jitter=lambda: 0.0)
        return work.add_failed("a")

    assert run_virtual(scenario()) == 0.25


def test_a_server_that_asks_for_more_time_gets_it() -> None:
    async def scenario() -> float:
        return queue().add_failed("a", at_least=12)

    assert run_virtual(scenario()) == 12


def test_backoffs_are_counted_for_each_key_apart_and_forgiven() -> None:
    async def scenario() -> list[float]:
        work = queue()
        work.add_failed("a")
        work.add_failed("a")
        other = work.add_failed("b")
        work.forgive("a")
        return [other, work.add_failed("a")]

    assert run_virtual(scenario()) == pytest.approx([0.5, 0.5])


def test_a_queue_of_which_nothing_is_done_stands_still_since_there_was_something_to_do() -> None:
    async def scenario() -> list[float]:
        work = queue()
        await asyncio.sleep(5)
        still = [work.standstill()]
        work.add("a")
        await asyncio.sleep(3)
        work.add("b")
        await asyncio.sleep(4)
        still.append(work.standstill())
        return still

    assert run_virtual(scenario()) == [0, 7]


def test_a_queue_that_moves_does_not_stand_still_however_long_a_key_has_waited() -> None:
    async def scenario() -> list[float]:
        work = queue()
        for key in ("a", "b", "c"):
            work.add(key)
        still = []
        for _ in range(2):
            key = await work.get()
            await asyncio.sleep(9)
            work.done(key)
            await asyncio.sleep(1)
            still.append(work.standstill())
        return still

    assert run_virtual(scenario()) == [1, 1]


def test_a_key_that_runs_for_ever_stands_still_whatever_else_is_done() -> None:
    async def scenario() -> list[float]:
        work = queue()
        work.add_after("later", 1000)
        work.add("a")
        await work.get()
        await asyncio.sleep(8)
        work.add("b")
        work.done(await work.get())
        await asyncio.sleep(1)
        return [work.standstill()]

    assert run_virtual(scenario()) == [9]


def test_many_workers_share_the_keys_and_none_runs_twice_at_once() -> None:
    async def scenario() -> tuple[int, int]:
        work = queue()
        running: dict[str, int] = {}
        most, runs = 0, 0

        async def process(key: str) -> None:
            nonlocal most, runs
            assert key not in running
            running[key] = 1
            most, runs = max(most, len(running)), runs + 1
            await asyncio.sleep(1)
            del running[key]

        workers = [asyncio.create_task(work.work(process)) for _ in range(4)]
        for round_ in range(20):
            for key in range(10):
                work.add(str(key))
            await asyncio.sleep(0.5 * round_ % 2)
        await asyncio.sleep(60)
        for worker in workers:
            worker.cancel()
        assert work.idle
        return most, runs

    most, runs = run_virtual(scenario())
    assert most == 4
    assert 10 <= runs < 200


def test_a_closed_queue_lets_running_work_end_and_hands_out_nothing_more() -> None:
    async def scenario() -> tuple[float, str | None]:
        work = queue()
        work.add("a")
        await work.get()
        work.add("b")
        asyncio.get_running_loop().call_later(1.5, work.done, "a")
        await work.close(patience=10)
        return asyncio.get_running_loop().time(), await taken(work, within=5)

    assert run_virtual(scenario()) == (1.5, None)


def test_closing_gives_up_on_work_that_does_not_end() -> None:
    async def scenario() -> float:
        work = queue()
        work.add("a")
        await work.get()
        await work.close(patience=2)
        return asyncio.get_running_loop().time()

    assert run_virtual(scenario()) == 2


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "after", "failed", "get", "done", "sleep"]), st.sampled_from("abc"), st.floats(0, 9)
    ),
    max_size=60,
)


@settings(deadline=None)
@given(OPERATIONS)
def test_no_key_that_was_asked_for_is_ever_lost(operations: list[tuple[str, str, float]]) -> None:
    async def scenario() -> None:
        work = queue()
        busy: set[str] = set()
        owed: set[str] = set()
        do: dict[str, Callable[[str, float], object]] = {
            "add": lambda key, _: work.add(key),
            "after": work.add_after,
            "failed": lambda key, _: work.add_failed(key),
        }
        for name, key, number in operations:
            if name in do:
                do[name](key, number)
                owed.add(key)
            elif name == "get":
                got = await taken(work)
                if got is not None:
                    assert got not in busy
                    busy.add(got)
                    owed.discard(got)
            elif name == "done" and key in busy:
                busy.discard(key)
                work.done(key)
            elif name == "sleep":
                await asyncio.sleep(number)
        for key in sorted(busy):
            work.done(key)
        await asyncio.sleep(100)
        left = set()
        while (got := await taken(work)) is not None:
            left.add(got)
        assert left == owed

    run_virtual(scenario())
