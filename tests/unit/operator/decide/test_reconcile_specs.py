"""Specs that can not be run, and what becomes of a job whose spec this version can not read."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation
from tests.unit.operator.decide.kit import SPEC, ended_with, running


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (None, "valid dictionary"),
        ({}, "model: Field required"),
        (b.cpu_spec(training={"learningRate": "7"}), "training.learningRate must be above 0"),
        (b.cpu_spec(training={"epochs": "3"}), "training.epochs"),
        (b.cpu_spec(resources={"nodes": 2}), "resources.nodes above 1 is not supported"),
        (b.cpu_spec(dataset={"template": {"inline": {"prompt": "x", "completion": "y"}}}), "exactly one of"),
    ],
)
def test_a_spec_that_can_not_be_run_fails_at_once_and_names_the_field(spec: Any, words: str) -> None:
    life = Simulation({**b.job(), "spec": spec}, runtime=b.runtime()).settle()
    reason, message = ended_with(life)
    assert reason == "InvalidSpec"
    assert words in message
    assert life.children == {}


def test_a_message_about_the_spec_never_repeats_a_value() -> None:
    spec = b.cpu_spec(training={"learningRate": "canary-value"}, model={"revision": "canary revision"})
    _, message = ended_with(Simulation(b.job(spec), runtime=b.runtime()).settle())
    assert "canary" not in message


def test_a_name_that_is_too_long_for_its_children_is_refused() -> None:
    life = Simulation(b.job(SPEC, name="a" * 41), runtime=b.runtime()).settle()
    reason, message = ended_with(life)
    assert reason == "InvalidSpec"
    assert "metadata.name" in message


def test_a_spec_that_does_not_fit_into_an_environment_variable_is_refused() -> None:
    choices = [f"{number:03}" + "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 125 for number in range(256)]
    spec = b.cpu_spec(
        dataset={
            "template": {
                "choices": choices,
                "name": None,
                "columns": None,
                "inline": {"prompt": "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 8000, "completion": "x"},
            }
        }
    )
    reason, message = ended_with(Simulation(b.job(spec), runtime=b.runtime()).settle())
    assert reason == "InvalidSpec"
    assert "dataset.template" in message


def test_a_running_child_is_not_harmed_by_a_version_that_can_not_read_its_spec() -> None:
    life = running()
    status = life.status
    life.job = {**life.job, "spec": {**life.job["spec"], "backoffLimit": "2"}}
    life.settle(10)
    assert life.status == status
    assert len(life.children) == 1


def test_an_unreadable_spec_of_a_job_that_has_begun_is_judged_on_live_reads_only() -> None:
    life = running().remove("train")
    life.job = {**life.job, "spec": {**life.job["spec"], "backoffLimit": "2"}}
    assert reconcile(life.observe(live=False)).needs_live
    assert reconcile(life.observe(live=True)).status is not None


def test_a_result_that_an_operator_of_another_version_can_not_read_is_not_lost() -> None:
    """So it is when the operator is rolled back, and upgraded again."""
    life = running().completes("train", b.train_report(SPEC))
    readable = life.job["spec"]
    life.job = {**life.job, "spec": {**readable, "backoffLimit": "2"}}
    life.settle(10).settle(86400)
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert life.reason == "InvalidSpec"
    assert "backoffLimit" in life.condition("Succeeded")["message"]
    life.job = {**life.job, "spec": readable}
    assert life.settle(1).status["phase"] == "Succeeded"


@pytest.mark.parametrize(
    ("refusing", "words"),
    [
        ({"allowedNamespaces": ["team-b"]}, "team-a"),
        ({"allowedUriPrefixes": ["s3://elsewhere/"]}, "allowedUriPrefixes"),
        ({"limits": {"gpusPerNode": 0}}, "resources.gpusPerNode"),
    ],
)
def test_what_the_runtime_refuses_is_waited_for_since_gitops_may_apply_in_any_order(
    refusing: dict[str, Any], words: str
) -> None:
    life = Simulation(b.job(), runtime=b.runtime(b.runtime_spec(**refusing))).settle()
    assert life.reason == "NotPermitted"
    assert words in life.condition("Succeeded")["message"]
    life.runtime = b.runtime()
    assert len(life.settle(500).children) == 1


def test_a_runtime_that_refuses_says_how_long_the_job_may_wait() -> None:
    refusing = b.runtime_spec(allowedNamespaces=["team-b"], limits={"pendingTimeoutSeconds": 20})
    life = Simulation(b.job(), runtime=b.runtime(refusing)).settle()
    assert life.settle(19).condition("Succeeded")["status"] == "Unknown"
    assert "Waited 20 s" in ended_with(life.settle(1))[1]


def test_what_the_runtime_refuses_for_too_long_fails() -> None:
    life = Simulation(b.job(), runtime=b.runtime(b.runtime_spec(allowedNamespaces=["team-b"]))).settle()
    reason, message = ended_with(life.settle(600))
    assert reason == "NotPermitted"
    assert "team-a" in message
    assert "startTime" not in life.status
