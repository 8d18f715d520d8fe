"""Two jobs, one output folder: one of them has it, and nothing of it is lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.world import Tenant, numbers

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def rivals(pair: str, shared_tenant: Tenant) -> Tenant:
    """Two jobs that differ in their seed, applied at once for one folder."""
    shared_tenant.put_rows()
    shared_tenant.apply(*(manifest(shared_tenant, pair, name, seed) for name, seed in (("one", 1), ("two", 2))))
    return shared_tenant


def manifest(tenant: Tenant, pair: str, name: str, seed: int, **output: str) -> dict[str, Any]:
    job = tenant.job(name, resources={"gpusPerNode": 0}, runtimeRef={"name": pair})
    job["spec"]["training"] |= {"seed": seed}
    job["spec"]["output"] |= {"uri": f"s3://e2e-results/{tenant.namespace}/shared/", **output}
    return job


def winner_and_loser(tenant: Tenant) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both jobs at their end, the one that has the folder first."""
    ends = [tenant.wait_finished(name) for name in ("one", "two")]
    ends.sort(key=lambda job: job["status"]["phase"], reverse=True)
    assert [job["status"]["phase"] for job in ends] == ["Succeeded", "Failed"], ends
    return ends[0], ends[1]


def test_of_two_jobs_for_one_folder_one_succeeds_and_the_other_is_told_whose_it_is(rivals: Tenant) -> None:
    winner, loser = winner_and_loser(rivals)
    failure = loser["status"]["failure"]
    assert failure["reason"] == "OutputExists"
    assert f"{rivals.namespace}/{winner['metadata']['name']}" in failure["message"]
    assert "results" not in loser["status"]


def test_the_folder_holds_the_result_of_the_one_that_has_it(rivals: Tenant) -> None:
    winner, _ = winner_and_loser(rivals)
    assert json.loads(rivals.read("shared", "owner.json"))["jobUid"] == winner["metadata"]["uid"]
    assert numbers(json.loads(rivals.read("shared", "results.json"))["results"]) == numbers(winner["status"]["results"])


def test_a_job_that_wants_no_result_of_another_fails_though_it_is_the_same(rivals: Tenant, pair: str) -> None:
    winner, _ = winner_and_loser(rivals)
    before = rivals.read("shared", "manifest.json")
    seed = winner["spec"]["training"]["seed"]
    rivals.apply(manifest(rivals, pair, "again", seed, ifExists="Fail"))
    assert rivals.wait_finished("again")["status"]["failure"]["reason"] == "OutputExists"
    assert rivals.read("shared", "manifest.json") == before
