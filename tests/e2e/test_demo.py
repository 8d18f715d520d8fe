"""The demo as a user runs it: the real model, the real rows, the program behind `make demo`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from hack.demo.demo import ANSWERED, NAME, NAMESPACE
from hack.demo.kube import ROOT
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def demo(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run the demo afresh and return what it printed."""
    world.kube.kubectl("delete", "ftj", NAME, "-n", NAMESPACE, "--ignore-not-found", "--cascade=foreground", "--wait")
    log = tmp_path_factory.mktemp("demo") / "log"
    with log.open("w") as out:
        code = subprocess.run(
            [sys.executable, str(ROOT / "hack/demo/demo.py")], stdout=out, stderr=subprocess.STDOUT, check=False
        ).returncode
    text = Path(log).read_text()
    assert code == 0, text[-6000:]
    return text


def test_the_demo_ends_with_a_table_of_both_scores(demo: str, world: World) -> None:
    job = world.kube.get("finetunejob", NAME, NAMESPACE)
    assert job is not None
    results = job["status"]["results"]
    row = next(line for line in demo.splitlines() if line.startswith(NAME + " "))
    assert row.split()[1:6] == ["Succeeded", "Completed", "100", results["baseline"]["score"], results["test"]["score"]]


def test_the_tuned_score_lies_beyond_the_interval_of_the_baseline(demo: str, world: World) -> None:
    job = world.kube.get("finetunejob", NAME, NAMESPACE)
    assert job is not None
    results = job["status"]["results"]
    assert float(results["test"]["ci95"][0]) > float(results["baseline"]["ci95"][1])


def test_the_tuned_model_from_the_bucket_answers_most_rows_with_plain_transformers(demo: str) -> None:
    """The untouched one answers none of them in just these words."""
    found = re.search(rf"^ *(\d+) of {ANSWERED} answers are as expected$", demo, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > ANSWERED / 2


def test_a_second_run_reuses_the_finished_job(demo: str, world: World) -> None:
    before = world.kube.get("finetunejob", NAME, NAMESPACE)
    done = subprocess.run(
        [sys.executable, str(ROOT / "hack/demo/demo.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    after = world.kube.get("finetunejob", NAME, NAMESPACE)
    assert before is not None
    assert after is not None
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["completionTime"] == before["status"]["completionTime"]
