"""The candidate for the Lease: it holds, loses and gives back; and what may be written meanwhile."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from finetune_operator.cluster.protocol import ConflictError, NotFoundError, Raw, UnavailableError
from finetune_operator.decide.leader import Terms
from finetune_operator.process.leader import Elector
from finetune_operator.process.settings import Settings, SettingsError
from tests.support.virtual_time import run_virtual

TERMS = Terms(lease=15, renew=10, retry=2)


class Store:
    """One Lease, with the API server's rule that a write needs the version it was made from."""

    def __init__(self) -> None:
        self.lease: Raw | None = None
        self.version = 0
        self.down: set[str] = set()
        self.slow = 0.0
        self.log: list[str] = []

    def at(self, who: str) -> Any:
        store = self

        class Client:
            async def get_lease(self, _namespace: str, _name: str) -> Raw:
                store.answers(who)
                if store.lease is None:
                    raise NotFoundError("no Lease", code=404)
                return copy.deepcopy(store.lease)

            async def put_lease(self, _namespace: str, name: str, *, resource_version: str, spec: Raw) -> Raw:
                store.answers(who)
                known = "" if store.lease is None else store.lease["metadata"]["resourceVersion"]
                if resource_version != known and store.lease is not None:
                    raise ConflictError("changed", code=409)
                store.version += 1
                store.lease = {"metadata": {"name": name, "resourceVersion": str(store.version)}, "spec": dict(spec)}
                store.log.append(spec["holderIdentity"])
                stored = copy.deepcopy(store.lease)
                await asyncio.sleep(store.slow)  # the answer takes its time
                return stored

        return Client()

    def answers(self, who: str) -> None:
        if who in self.down:
            raise UnavailableError("no answer")

    @property
    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"]) if self.lease else ""


class Candidate:
    def __init__(self, store: Store, me: str) -> None:
        loop = asyncio.get_running_loop()
        self.lost: list[str] = []
        self.waited: list[str] = []
        self.asleep = 0.0
        self.elector = Elector(
            store.at(me),
            namespace="system",
            name="operator",
            me=me,
            terms=TERMS,
            stamp=lambda: f"{loop.time():.6f}",
            lost=self.lost.append,
            waits=self.waited.append,
            clock=lambda: loop.time() + self.asleep,
        )
        self.task = asyncio.create_task(self.elector.run())

    async def crash(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def scenario(play: Callable[[Store], Awaitable[None]]) -> None:
    async def whole() -> None:
        await play(Store())
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    run_virtual(whole())


def test_of_two_candidates_one_leads_and_the_other_knows_who() -> None:
    async def play(store: Store) -> None:
        one, two = Candidate(store, "one"), Candidate(store, "two")
        await asyncio.sleep(60)
        assert (one.elector.may_write(), two.elector.may_write()) == (True, False)
        assert set(store.log) == {"one"}
        assert set(two.waited) == {"one"}

    scenario(play)


def test_a_leader_that_has_crashed_is_followed_after_the_lease_and_no_sooner() -> None:
    async def play(store: Store) -> None:
        one, two = Candidate(store, "one"), Candidate(store, "two")
        await asyncio.sleep(30)
        await one.crash()
        await asyncio.sleep(12)
        assert not two.elector.may_write()
        await asyncio.sleep(8)
        assert two.elector.may_write()
        assert store.lease is not None
        assert store.lease["spec"]["leaseTransitions"] == 1

    scenario(play)


def test_one_that_stops_gives_the_lease_back_and_is_followed_with_the_next_look() -> None:
    async def play(store: Store) -> None:
        one, two = Candidate(store, "one"), Candidate(store, "two")
        await asyncio.sleep(30)
        await one.crash()
        await one.elector.release()
        assert not one.elector.may_write()
        await asyncio.sleep(2.3)
        assert two.elector.may_write()

    scenario(play)


def test_a_candidate_that_stops_leaves_the_others_lease_alone() -> None:
    async def play(store: Store) -> None:
        _, two = Candidate(store, "one"), Candidate(store, "two")
        await asyncio.sleep(5)
        await two.crash()
        await two.elector.release()
        assert store.holder == "one"

    scenario(play)


def test_a_leader_that_can_not_renew_writes_nothing_and_goes_on_when_it_can() -> None:
    async def play(store: Store) -> None:
        one = Candidate(store, "one")
        await asyncio.sleep(5)
        store.down = {"one"}
        await asyncio.sleep(7.5)
        assert one.elector.may_write()
        await asyncio.sleep(3)
        assert not one.elector.may_write()
        await asyncio.sleep(60)
        store.down = set()
        await asyncio.sleep(3)
        assert one.elector.may_write()
        assert one.lost == []

    scenario(play)


def test_a_renewal_counts_from_when_it_was_sent_and_not_from_its_answer() -> None:
    async def play(store: Store) -> None:
        store.slow = 4.0
        one = Candidate(store, "one")
        await asyncio.sleep(4.1)
        assert one.elector.may_write()
        await one.crash()
        await asyncio.sleep(6.0)
        assert not one.elector.may_write()

    scenario(play)


def test_a_renewal_whose_answer_never_came_is_found_to_be_ones_own() -> None:
    async def play(store: Store) -> None:
        one = Candidate(store, "one")
        await asyncio.sleep(5)
        store.slow = 60.0
        await asyncio.sleep(6)
        store.slow = 0.0
        await asyncio.sleep(8)
        assert one.elector.may_write()
        assert one.lost == []

    scenario(play)


def test_one_whose_lease_was_taken_meanwhile_has_lost_it() -> None:
    async def play(store: Store) -> None:
        one, two = Candidate(store, "one"), Candidate(store, "two")
        await asyncio.sleep(5)
        store.down = {"one"}
        await asyncio.sleep(20)
        assert (one.elector.may_write(), two.elector.may_write()) == (False, True)
        store.down = set()
        await asyncio.sleep(3)
        assert one.lost == ["two holds Lease operator now"]
        assert not one.elector.may_write()

    scenario(play)


def test_at_no_moment_may_two_write() -> None:
    async def play(store: Store) -> None:
        both = Candidate(store, "one"), Candidate(store, "two")
        for second in range(1200):
            if second % 90 == 0:
                store.down = {store.holder}
            elif second % 90 == 45:
                store.down = set()
            await asyncio.sleep(0.5)
            assert [one.elector.may_write() for one in both].count(True) <= 1
        assert set(store.log) >= {"one", "two"}

    scenario(play)


def test_one_that_has_slept_through_its_renewals_may_write_nothing_when_it_wakes() -> None:
    async def play(store: Store) -> None:
        one = Candidate(store, "one")
        await asyncio.sleep(5)
        assert one.elector.may_write()
        one.asleep = 20.0
        assert not one.elector.may_write()

    scenario(play)


def test_one_that_finds_its_lease_free_has_lost_it_too() -> None:
    async def play(store: Store) -> None:
        one = Candidate(store, "one")
        await asyncio.sleep(5)
        assert store.lease is not None
        store.lease["spec"]["holderIdentity"] = ""
        store.lease["metadata"]["resourceVersion"] = "x"
        await asyncio.sleep(4.6)
        assert one.lost == ["Nobody holds Lease operator now"]
        assert not one.elector.may_write()  # though its last renewal is young

    scenario(play)


def test_a_container_that_is_started_anew_in_its_pod_goes_on_at_once() -> None:
    async def play(store: Store) -> None:
        before = Candidate(store, "pod_uid")
        await asyncio.sleep(5)
        await before.crash()
        after = Candidate(store, "pod_uid")
        await asyncio.sleep(0.1)
        assert after.elector.may_write()

    scenario(play)


# --- its settings -----------------------------------------------------------------------------------------------------

NAMED = {"FINETUNE_LEASE": "operator", "FINETUNE_NAMESPACE": "system"}


def test_the_holder_is_named_after_the_pod_and_its_uid() -> None:
    settings = Settings.from_environment({**NAMED, "FINETUNE_POD_NAME": "operator-1", "FINETUNE_POD_UID": "u"})
    assert (settings.lease, settings.identity, settings.terms) == ("operator", "operator-1_u", Terms())


def test_two_processes_without_a_pod_have_two_names() -> None:
    assert Settings.from_environment(NAMED).identity != Settings.from_environment(NAMED).identity


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"FINETUNE_LEASE": "operator"}, "FINETUNE_NAMESPACE is not set; FINETUNE_LEASE needs it"),
        ({"FINETUNE_LEASE_SECONDS": "2"}, "FINETUNE_LEASE_SECONDS is '2'; use a whole number from 3 to 300"),
        ({"FINETUNE_LEASE_SECONDS": "301"}, "FINETUNE_LEASE_SECONDS is '301'; use a whole number from 3 to 300"),
        (
            {"FINETUNE_LEASE_RENEW_SECONDS": "15"},
            "FINETUNE_LEASE_RENEW_SECONDS is '15'; use a whole number from 2 to 14",
        ),
        ({"FINETUNE_LEASE_RETRY_SECONDS": "6"}, "FINETUNE_LEASE_RETRY_SECONDS is '6'; use a whole number from 1 to 5"),
    ],
)
def test_terms_that_can_not_be_held_are_named(environment: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environment)
    assert str(caught.value) == told
