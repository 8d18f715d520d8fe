"""Who may take the Lease: by how long its candidate has seen no change, never by another machine's clock."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.leader import Sight, Terms

TERMS = Terms(lease=15, renew=10, retry=2)


def held(by: str, renewed: str = "r1", **fields: Any) -> dict[str, Any]:
    return {"holderIdentity": by, "leaseDurationSeconds": 15, "renewTime": renewed, "leaseTransitions": 3, **fields}


def test_a_lease_that_is_not_there_is_created() -> None:
    assert Sight("me", TERMS).look(None, 0.0) == "create"


def test_one_that_another_holds_is_waited_for_however_old_its_stamp_is() -> None:
    assert Sight("me", TERMS).look(held("other", renewed="1970-01-01T00:00:00.000000Z"), 1000.0) == "wait"


def test_it_is_taken_once_it_has_not_changed_for_its_duration() -> None:
    sight = Sight("me", TERMS)
    assert [sight.look(held("other"), at) for at in (0.0, 14.9, 15.0, 15.1)] == ["wait", "wait", "wait", "take"]


def test_every_change_begins_the_wait_anew() -> None:
    sight = Sight("me", TERMS)
    sight.look(held("other", renewed="r1"), 0.0)
    sight.look(held("other", renewed="r2"), 10.0)
    assert sight.look(held("other", renewed="r2"), 20.0) == "wait"
    assert sight.look(held("other", renewed="r2"), 25.1) == "take"


@pytest.mark.parametrize(("seconds", "waits"), [(40, 40), (5, 15), (10_000, 300), (-1, 15), ("x", 15)])
def test_a_holder_with_longer_terms_is_given_its_time_within_bounds(seconds: Any, waits: int) -> None:
    sight = Sight("me", TERMS)
    lease = held("other", leaseDurationSeconds=seconds)
    assert [sight.look(lease, at) for at in (0.0, waits, waits + 0.1)] == ["wait", "wait", "take"]


def test_one_that_was_given_back_is_taken_at_once() -> None:
    sight = Sight("me", TERMS)
    sight.look(held("other"), 0.0)
    assert sight.look(held(""), 1.0) == "take"


def test_one_that_somebody_deleted_under_its_holder_is_free_only_after_its_duration() -> None:
    sight = Sight("me", TERMS)
    sight.look(held("other"), 0.0)
    assert [sight.look(None, at) for at in (1.0, 15.0, 15.1)] == ["wait", "wait", "create"]


def test_ones_own_is_renewed_and_keeps_when_it_was_acquired() -> None:
    sight = Sight("me", TERMS)
    assert sight.look(held("me", acquireTime="then"), 0.0) == "renew"
    assert sight.held("now") == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "then",
        "renewTime": "now",
        "leaseTransitions": 3,
    }


@pytest.mark.parametrize(("lease", "transitions"), [(None, 0), (held("other"), 4), (held(""), 4), (held("me"), 3)])
def test_each_new_holder_is_one_transition(lease: dict[str, Any] | None, transitions: int) -> None:
    sight = Sight("me", TERMS)
    sight.look(lease, 0.0)
    assert sight.held("now")["leaseTransitions"] == transitions


def test_what_is_given_back_has_no_holder_and_keeps_the_count() -> None:
    sight = Sight("me", TERMS)
    sight.look(held("me"), 0.0)
    assert (sight.released("now")["holderIdentity"], sight.released("now")["leaseTransitions"]) == ("", 3)


def test_who_holds_it_is_followed_once_it_was_seen_to_be_alive() -> None:
    sight, follows = Sight("me", TERMS), []
    for at, renewed in ((0.0, "r1"), (2.0, "r1"), (4.0, "r2")):
        sight.look(held("other", renewed=renewed), at)
        follows.append(sight.follows)
    assert follows == [False, False, True]


def test_it_is_known_when_the_one_before_was_last_heard() -> None:
    sight = Sight("me", TERMS)
    sight.look(held("other", renewed="r1"), 1.0)
    sight.look(held("other", renewed="r2"), 3.0)
    sight.look(held("other", renewed="r2"), 5.0)
    sight.look(held(""), 6.0)
    assert sight.heard == 3.0
