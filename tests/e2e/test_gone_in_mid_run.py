"""Once a job has begun, nothing of the environment ends it: what goes missing is named and waited for, however long.

Two jobs lose something after their first pod has started, and then the pod: one its Secret, one the room that a
ResourceQuota leaves. Their runtime lets a job wait for a few seconds only, which counts before a job has begun. Both
wait for longer than that, get back what they lost, and go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from tests.e2e.podlog import Entry, Pods, events
from tests.e2e.world import Tenant, World, rows, until

pytestmark = pytest.mark.timeout(600)

PATIENCE = 10
"""pendingTimeoutSeconds of the runtime."""

ROWS = 600
TRAINING = {"method": "Full", "epochs": 2, "learningRate": "1e-3", "batchSize": 8, "maxLength": 64}
FIRST = 20
"""The step of training at which the job loses something."""

Status = dict[str, Any]


@dataclass(frozen=True)
class Loss:
    """What a job loses, what it is told as, and how it is taken and given back."""

    tenant: Tenant
    name: str
    reason: str
    take: Callable[[], object]
    give: Callable[[], object]


@dataclass(frozen=True)
class Story:
    """One job.

    Attributes
    ----------
    told, later, end
        Status when it said what it waits for, when the runtime's patience was over, and at the end.
    next
        What the pod logged that came after the wait.
    """

    told: Status
    later: Status
    end: Status
    next: list[Entry]


def live(loss: Loss) -> Story:
    """Tell the story of one job."""
    tenant, name = loss.tenant, loss.name
    pods = Pods(tenant, name)
    try:
        pod = pods.trains_to(FIRST)
        loss.take()
        tenant.delete("pod", pod["metadata"]["name"])
        until(
            f"{name} says {loss.reason}",
            lambda: tenant.condition("Succeeded", name).get("reason") == loss.reason,
            timeout=120,
            pause=1,
        )
        told = tenant.status(name)
        since = datetime.fromisoformat(told["waitingSince"]).timestamp()
        time.sleep(max(0.0, since + PATIENCE + 2 - time.time()))
        tenant.raise_deadline(name, 1900)
        later = tenant.status(name)
        loss.give()
        pods.next()
        end = tenant.wait_finished(name)["status"]
    finally:
        logs = pods.close()
    return Story(told, later, end, logs[-1])


@pytest.fixture(scope="module")
def stories(world: World, pair: str, shared_tenant: Tenant) -> dict[str, Story]:
    with ExitStack() as stack:
        hasty = stack.enter_context(world.runtime("e2e-hasty", like=pair, limits={"pendingTimeoutSeconds": PATIENCE}))
        # A quota is one of a namespace, and the other job's next pod must not be refused.
        crowded = stack.enter_context(world.tenant("crowded"))
        shared_tenant.add_secret("own-s3")
        losses = [
            Loss(
                shared_tenant,
                "secret",
                "CredentialsNotFound",
                take=lambda: shared_tenant.delete("secret", "own-s3"),
                give=lambda: shared_tenant.add_secret("own-s3"),
            ),
            Loss(
                crowded,
                "quota",
                "QuotaExceeded",
                take=lambda: crowded.set_quota(0),
                give=lambda: crowded.delete("resourcequota", "pods"),
            ),
        ]
        for loss in losses:
            loss.tenant.put_rows(rows(ROWS))
            job = loss.tenant.job(
                loss.name,
                training=TRAINING,
                resources={"gpusPerNode": 0},
                runtimeRef={"name": hasty},
                activeDeadlineSeconds=1800,
            )
            if loss.name == "secret":
                job["spec"]["dataset"]["credentialsRef"] = {"name": "own-s3"}
            loss.tenant.apply(job)
        with ThreadPoolExecutor(len(losses)) as pool:
            return dict(zip(WORDS, pool.map(live, losses), strict=True))


WORDS = {"secret": 'Secret "own-s3" does not exist', "quota": "exceeded quota: pods"}
"""By the name of the job, what it says of its loss."""


def _succeeded(status: Status) -> dict[str, Any]:
    return next(c for c in status["conditions"] if c["type"] == "Succeeded")


@pytest.mark.parametrize("name", WORDS)
def test_what_goes_missing_in_mid_run_is_named_with_since_when(name: str, stories: dict[str, Story]) -> None:
    told = stories[name].told
    assert _succeeded(told)["status"] == "Unknown"
    assert WORDS[name] in _succeeded(told)["message"]
    assert told.get("waitingFor") == {"secret": "own-s3"}.get(name)
    assert told["waitingSince"] >= told["stages"][0]["startTime"]


@pytest.mark.parametrize("name", WORDS)
def test_a_job_that_has_begun_waits_for_longer_than_the_runtime_lets_others(
    name: str, stories: dict[str, Story]
) -> None:
    told, later = stories[name].told, stories[name].later
    assert later["observedGeneration"] > told["observedGeneration"], "the operator has not looked since"
    for key in ("status", "reason", "message", "lastTransitionTime"):
        assert _succeeded(later)[key] == _succeeded(told)[key]
    assert later["waitingSince"] == told["waitingSince"]
    assert "failure" not in later


@pytest.mark.parametrize("name", WORDS)
def test_it_goes_on_where_it_was_when_that_is_back(name: str, stories: dict[str, Story]) -> None:
    end = stories[name].end
    assert end["phase"] == "Succeeded", end
    (resumed,) = events(stories[name].next, "resumed")
    assert resumed["step"] >= FIRST
    assert [stage["attempts"] for stage in end["stages"]] == [2]
    assert "waitingSince" not in end
