"""GitOps applies in any order: what is missing is named and waited for, and the job goes on when it comes.

All jobs of this module wait at the same time; what each one misses is given to it as soon as it has said so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.machine import pushed_tag, tag_of
from tests.e2e.world import Tenant, World, merged, until

pytestmark = pytest.mark.timeout(600)

CPU = {"gpusPerNode": 0}
Status = dict[str, Any]


@dataclass(frozen=True)
class Waited:
    """A job that waited: where it lives, and its status as it stood then."""

    tenant: Tenant
    status: Status


@pytest.fixture(scope="module")
def waited(world: World, pair: str, shared_tenant: Tenant) -> Iterator[dict[str, Waited]]:
    """Every job that waited; by then each has got what it missed."""
    late = f"late-{int(time.time())}"
    tenant = shared_tenant
    half = world.stages_of(pair)
    with ExitStack() as stack:
        crowded = stack.enter_context(world.tenant("quota"))
        crowded.set_quota(0)
        image = tag_of(world.images.trainer, late)
        stack.enter_context(world.runtime("e2e-late-image", image=image, allowUnpinnedImage=True, **half))
        nowhere = merged(half, {"train": {"nodeSelector": {"e2e": "nowhere"}}})
        stack.enter_context(world.runtime("e2e-no-node", **nowhere))
        tenant.put_rows()
        crowded.put_rows()

        def job(name: str, runtime: str = pair, *, where: Tenant = tenant, **spec: Any) -> dict[str, Any]:
            return where.job(name, **{"runtimeRef": {"name": runtime}, "resources": CPU, **spec})

        secret = job("secret")
        secret["spec"]["dataset"]["credentialsRef"] = {"name": "late-s3"}
        tenant.apply(
            job("runtime", "e2e-late"),
            secret,
            job("image", "e2e-late-image"),
            job("deadline", "e2e-no-node", activeDeadlineSeconds=60),
            job("quota", where=crowded),
        )
        places = {"quota": crowded}
        mends: dict[str, tuple[str, Callable[[], object]]] = {
            "runtime": (
                "RuntimeNotFound",
                lambda: stack.enter_context(world.runtime("e2e-late", **half)),
            ),
            "secret": ("CredentialsNotFound", lambda: tenant.add_secret("late-s3")),
            "image": ("ImagePullFailed", lambda: stack.enter_context(pushed_tag(world.images.trainer, late))),
            "deadline": ("Unschedulable", lambda: tenant.patch("deadline", activeDeadlineSeconds=3600)),
            "quota": ("QuotaExceeded", lambda: crowded.set_quota(9)),
        }
        seen: dict[str, Waited] = {}

        def all_mended() -> bool:
            """Give each job what it misses as soon as it has said so."""
            for name, (reason, mend) in mends.items():
                if name not in seen:
                    place = places.get(name, tenant)
                    status = place.status(name)
                    if _conditions(status).get("Succeeded", {}).get("reason") == reason:
                        seen[name] = Waited(place, status)
                        mend()
            return len(seen) == len(mends)

        until("all jobs say what they miss", all_mended, timeout=150, pause=1)
        yield seen


def _conditions(status: Status) -> dict[str, dict[str, Any]]:
    return {c["type"]: c for c in status.get("conditions", [])}


WORDS = {
    "runtime": "FineTuneRuntime e2e-late",
    "secret": 'Secret "late-s3"',
    "image": "finetune-trainer:late-",
    "quota": "exceeded quota: pods",
}


@pytest.mark.parametrize("name", WORDS)
def test_what_is_missing_is_named_while_it_is_waited_for(name: str, waited: dict[str, Waited]) -> None:
    conditions = _conditions(waited[name].status)
    assert conditions["Succeeded"]["status"] == "Unknown"
    assert conditions["Reconciling"]["status"] == "True"
    assert conditions["Stalled"]["status"] == "False"
    assert WORDS[name] in conditions["Succeeded"]["message"]
    assert "failure" not in waited[name].status


@pytest.mark.parametrize("name", WORDS)
def test_a_job_goes_on_by_itself_when_what_it_missed_has_come(name: str, waited: dict[str, Waited]) -> None:
    status = waited[name].tenant.wait_finished(name)["status"]
    assert status["phase"] == "Succeeded", status
    assert [stage["attempts"] for stage in status["stages"]] == [1]


def test_a_deadline_that_was_raised_in_time_ends_no_job(waited: dict[str, Waited], shared_tenant: Tenant) -> None:
    (child,) = until(
        "the child has the new deadline",
        lambda: [j for j in shared_tenant.jobs("deadline") if j["spec"]["activeDeadlineSeconds"] > 3000],
        timeout=60,
    )
    started = time.mktime(time.strptime(child["status"]["startTime"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone
    time.sleep(max(0.0, started + 65 - time.time()))
    assert _conditions(shared_tenant.status("deadline"))["Succeeded"]["status"] == "Unknown"
    assert json.dumps(shared_tenant.jobs("deadline")[0]["status"].get("conditions", [])) == "[]"


def test_jobs_that_are_deleted_while_they_wait_or_stand_still_leave_nothing_in_the_cluster(
    waited: dict[str, Waited], shared_tenant: Tenant
) -> None:
    """One whose pod finds no node, one without a runtime, one that is suspended, one that was just created."""
    names = ("no-node", "no-runtime", "suspended", "fresh")
    runtimes = {"no-node": "e2e-no-node", "no-runtime": "e2e-never"}
    made = [
        shared_tenant.job(name, resources=CPU, runtimeRef={"name": runtimes.get(name, "e2e-pair")}) for name in names
    ]
    made[2]["spec"]["suspend"] = True
    shared_tenant.apply(*made[:3])
    until("a pod waits for a node", lambda: shared_tenant.pods("no-node"), timeout=60)
    until("it is suspended", lambda: shared_tenant.condition("Suspended", "suspended").get("status"), timeout=60)
    shared_tenant.apply(made[3])
    for name in names:
        shared_tenant.delete("ftj", name)
    until(
        "jobs and pods are gone",
        lambda: not any(shared_tenant.jobs(name) or shared_tenant.pods(name) for name in names),
        timeout=120,
        pause=1,
    )
    time.sleep(3)  # a create that was under way would show up now
    assert not any(shared_tenant.jobs(name) or shared_tenant.pods(name) for name in names)
