"""What GitOps tools make of a job: the health script of docs/gitops.md, on statuses that the operator wrote."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

from tests.support import builders as b
from tests.support.docs import ROOT
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC

PAGE = (ROOT / "docs/gitops.md").read_text(encoding="utf-8")
KEY = "resource.customizations.health.finetune.dev_FineTuneJob"


@pytest.fixture(scope="module")
def health() -> Callable[[dict[str, Any]], tuple[str, str]]:
    """Argo CD's verdict: Lua 5.1, the object in the global ``obj``, a table with status and message as answer."""
    block = re.search(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    script = yaml.safe_load(block[1])["data"][KEY]
    lua = LuaRuntime()

    def judge(job: dict[str, Any]) -> tuple[str, str]:
        lua.globals().obj = lua.table_from(job, recursive=True)
        answer = lua.execute(script)
        return answer["status"], answer["message"]

    return judge


def suspended() -> Simulation:
    return Simulation(b.job({**SPEC, "suspend": True}), runtime=b.runtime()).settle()


def running() -> Simulation:
    return Simulation(b.job(SPEC), runtime=b.runtime()).settle().pod_runs("train").settle(5)


LIVES: dict[str, tuple[Callable[[], Simulation], str]] = {
    "waits for its runtime": (lambda: Simulation(b.job(SPEC)).settle(), "Progressing"),
    "runs": (running, "Progressing"),
    "succeeded": (lambda: running().completes("train", b.train_report(SPEC)).settle(), "Healthy"),
    "failed": (lambda: running().pod_fails("train", 16).fails("train").settle(), "Degraded"),
    "suspended before it began": (suspended, "Suspended"),
}


@pytest.mark.parametrize("name", LIVES)
def test_argo_cd_says_what_the_page_says(name: str, health: Callable[[dict[str, Any]], tuple[str, str]]) -> None:
    make, status = LIVES[name]
    life = make()
    assert health(life.job) == (status, life.condition("Succeeded")["message"])


def test_a_job_whose_last_edit_nobody_has_seen_is_progressing(
    health: Callable[[dict[str, Any]], tuple[str, str]],
) -> None:
    job = running().completes("train", b.train_report(SPEC)).settle().job
    job["metadata"]["generation"] += 1
    assert health(job)[0] == "Progressing"
    assert health({"metadata": {"generation": 1}, "spec": {}})[0] == "Progressing"
