"""Live reports of real pods: over the real network, with kubelet's token, to the operator that the chart installed."""

from __future__ import annotations

import pytest

from tests.e2e.world import Tenant, until

pytestmark = pytest.mark.timeout(600)

NAME = "tells"
PHASES = ("Preparing", "Baseline", "Training", "Uploading", "Evaluating")
LONG = {"method": "Full", "epochs": 40, "learningRate": "3e-3", "batchSize": 8, "maxLength": 256}


def test_a_pod_tells_how_far_it_is_while_it_works(tenant: Tenant, pair: str) -> None:
    tenant.put_rows()
    tenant.apply(tenant.job(NAME, resources={"gpusPerNode": 0}, runtimeRef={"name": pair}, training=LONG))
    seen: list[str] = []

    def trains() -> bool:
        status = tenant.status(NAME)
        phase = status.get("phase")
        if phase in PHASES and (not seen or seen[-1] != phase):
            seen.append(phase)
        progress = status.get("progress") or {}
        return phase == "Failed" or (progress.get("step") is not None and bool(status.get("validation")))

    until("a report of the training stands in status", trains, timeout=400)
    status = tenant.status(NAME)
    progress = status["progress"]
    assert 0 <= progress["percent"] <= 99
    assert 0 < progress["step"] <= progress["totalSteps"]
    assert progress["lastReportTime"]
    assert seen == [phase for phase in PHASES if phase in seen], seen
    ended = tenant.wait_finished(NAME)["status"]
    assert (ended["phase"], ended["progress"]) == ("Succeeded", {"percent": 100})
