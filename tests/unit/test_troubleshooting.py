"""Every row of docs/troubleshooting.md is provoked: its REASON, in the PHASE that it names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from finetune_operator.decide.plan import QueueWord
from tests.support import builders as b
from tests.support.simulation import Simulation

PAGE: Final = Path(__file__).resolve().parents[2] / "docs/troubleshooting.md"
SPEC: Final = b.cpu_spec()
ROWS: Final = [
    (phase, reason)
    for phase, reasons in re.findall(r"^\| (\w+) \| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text(), re.MULTILINE)
    for reason in re.findall(r"`(\w+)`", reasons)
]


def started(**pod: object) -> Simulation:
    """A job whose pod stands there and has not started."""
    life = Simulation(b.job(SPEC), runtime=b.runtime(), lingering=True).settle()
    return life.pod_waits("train", node="node-1", **pod) if pod else life


def running() -> Simulation:
    return started().pod_runs("train").settle(60)


def refused(message: str) -> Simulation:
    life = Simulation(b.job(SPEC), runtime=b.runtime())
    life.create_error = message
    return life


def held(**child: object) -> Simulation:
    """A job whose child somebody else has suspended before it began."""
    return started().change_child("train", suspended=True, suspended_at=b.T0, start_time=None, **child)


SCENES: Final[dict[str, Callable[[], Simulation]]] = {
    "RuntimeNotFound": lambda: Simulation(b.job(SPEC)),
    "NotPermitted": lambda: Simulation(b.job(SPEC), runtime=b.runtime(b.runtime_spec(allowedNamespaces=["team-b"]))),
    "CredentialsNotFound": lambda: started(start_error='secret "team-a-s3" not found'),
    "ImagePullFailed": lambda: started(waiting_reason="ErrImagePull"),
    "QuotaExceeded": lambda: refused("exceeded quota: pods"),
    "Unschedulable": lambda: started().pod_waits("train", unschedulable="0/3 nodes are available").settle(10),
    "Queued": lambda: held(queue="team-a"),
    "Inadmissible": lambda: held(queue="team-a", word=QueueWord(installed=False)),
    "ChildSuspended": lambda: held(suspended_by="kubectl-patch"),
    "Suspended": lambda: Simulation(b.job(b.cpu_spec(suspend=True)), runtime=b.runtime()),
    "Suspending": lambda: running().edit(suspend=True),
    "ControlPlaneFault": lambda: refused('Internal error occurred: failed calling webhook "w"'),
    "MountFailed": lambda: started(start_error="MountVolume.SetUp failed: no such device"),
    "SandboxFailed": lambda: started(start_error="no network", start_error_reason="FailedCreatePodSandBox"),
    "PodTerminating": lambda: running().change_pod("train", phase="Running", node="node-7", deleting=True),
    "Restarting": lambda: running().is_deleted("train"),
}


def test_the_page_tells_of_every_scene_and_nothing_else() -> None:
    assert sorted(reason for _, reason in ROWS) == sorted(SCENES)


@pytest.mark.parametrize(("phase", "reason"), ROWS, ids=str)
def test_a_user_sees_the_reason_in_the_phase_that_the_page_names(phase: str, reason: str) -> None:
    life = SCENES[reason]().settle(5)
    assert life.reason == reason
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert life.condition("Succeeded")["message"]
    assert phase in ("any", life.status["phase"])
