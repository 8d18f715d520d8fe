"""Conditions, phase and the tolerant reading of a stored status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.status import Artifact, FineTuneJobStatus, StageStatus
from finetune_operator.decide.conditions import CONDITION_TYPES, Verdict, derive_conditions
from finetune_operator.decide.status import is_terminal, phase_of, read_status, to_stored, with_report
from tests.support import builders as b

GOING = Verdict(succeeded=None, reason="Training", message="It trains.")
PREPARED = Verdict(succeeded=None, reason="Training", message="It trains.", prepared=True)
GOOD = Verdict(succeeded=True, reason="Completed", message="Better.", prepared=True)
BAD = Verdict(succeeded=False, reason="OutOfMemory", message="Too big.")


def conditions(verdict: Verdict, *, prior: Any = (), seconds: float = 0) -> dict[str, dict[str, Any]]:
    made = derive_conditions(verdict, prior=prior, generation=2, now=b.at(seconds))
    return {condition.type: condition.to_wire() for condition in made}


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (GOING, ["Unknown", "False", "False", "Unknown", "Unknown", "True", "False"]),
        (PREPARED, ["Unknown", "False", "False", "True", "Unknown", "True", "False"]),
        (GOOD, ["True", "True", "False", "True", "True", "False", "False"]),
        (BAD, ["False", "True", "False", "False", "False", "False", "True"]),
    ],
)
def test_all_conditions_follow_from_one_verdict(verdict: Verdict, expected: list[str]) -> None:
    made = conditions(verdict)
    assert tuple(made) == CONDITION_TYPES
    assert [condition["status"] for condition in made.values()] == expected


def test_the_reason_stands_in_the_conditions_that_tools_show() -> None:
    made = conditions(BAD)
    for kind in ("Succeeded", "Finished", "Reconciling", "Stalled"):
        assert made[kind]["reason"] == "OutOfMemory"
    assert made["Succeeded"]["message"] == made["Stalled"]["message"] == "Too big."


def test_the_transition_time_moves_only_where_the_status_flips() -> None:
    prior = derive_conditions(GOING, prior=(), generation=1, now=b.T0)
    made = conditions(BAD, prior=prior, seconds=60)
    moved = {kind for kind, condition in made.items() if condition["lastTransitionTime"] == "2026-03-01T08:01:00Z"}
    assert moved == {"Succeeded", "Finished", "Prepared", "ArtifactPublished", "Reconciling", "Stalled"}


def test_a_new_reason_alone_does_not_move_the_transition_time() -> None:
    prior = derive_conditions(GOING, prior=(), generation=1, now=b.T0)
    later = Verdict(succeeded=None, reason="Unschedulable", message="No node.")
    made = conditions(later, prior=prior, seconds=60)
    assert {condition["lastTransitionTime"] for condition in made.values()} == {"2026-03-01T08:00:00Z"}
    assert {condition["observedGeneration"] for condition in made.values()} == {2}


SUSPENDING, SUSPENDED = (replace(GOING, suspension=how) for how in ("Suspending", "SpecSuspended"))


@pytest.mark.parametrize(
    ("before", "after", "truth", "reason"),
    [
        ([], GOING, "False", "NotSuspended"),
        ([], SUSPENDING, "False", "Suspending"),
        ([SUSPENDING], SUSPENDED, "True", "SpecSuspended"),
        ([], SUSPENDED, "True", "SpecSuspended"),
        ([SUSPENDED], GOING, "False", "Resumed"),
        ([SUSPENDING], GOING, "False", "Resumed"),
        ([SUSPENDED, GOING], GOING, "False", "Resumed"),
        ([SUSPENDED, GOING], GOOD, "False", "Resumed"),
        ([SUSPENDED, GOING], SUSPENDING, "False", "Suspending"),
        ([SUSPENDING], GOOD, "False", "NotSuspended"),
        ([GOING], BAD, "False", "NotSuspended"),
    ],
)
def test_suspended_is_true_only_while_no_pod_is_left_and_remembers_that_the_job_was_resumed(
    before: list[Verdict], after: Verdict, truth: str, reason: str
) -> None:
    prior: Any = ()
    for verdict in before:
        prior = derive_conditions(verdict, prior=prior, generation=1, now=b.T0)
    made = conditions(after, prior=prior)["Suspended"]
    assert (made["status"], made["reason"]) == (truth, reason)


@pytest.mark.parametrize(
    ("stored", "terminal"),
    [
        ({}, False),
        ({"conditions": None}, False),
        ({"conditions": "x"}, False),
        ({"conditions": [{"type": "Succeeded", "status": "Unknown"}]}, False),
        ({"conditions": [{"type": "Finished", "status": "True"}]}, False),
        ({"conditions": [{"type": "Succeeded", "status": "True"}]}, True),
        ({"conditions": [7, {"type": "Succeeded", "status": "False"}]}, True),
        ({"phase": "Succeeded"}, False),
    ],
)
def test_the_end_is_read_from_the_succeeded_condition_alone(stored: dict[str, Any], terminal: bool) -> None:
    assert is_terminal(stored) is terminal


def test_a_status_is_read_as_it_was_written() -> None:
    status = FineTuneJobStatus(output_uri="s3://x-y-z/", stages=[StageStatus(name="train", state="Running")])
    stored = to_stored(status, GOING, generation=1, now=b.T0)
    assert read_status(stored).to_wire() == stored


def test_the_parts_of_a_status_that_can_not_be_read_count_as_absent() -> None:
    stored = {
        "outputUri": "s3://x-y-z/",
        "startTime": 5,
        "runtime": {"image": "x"},
        "stages": [{"name": "train", "state": "Running"}, {"name": "sing"}, None],
        "unknown": {"from": "a newer version"},
    }
    status = read_status(stored)
    assert status.output_uri == "s3://x-y-z/"
    assert status.start_time is None
    assert status.runtime is None
    assert [stage.name for stage in status.stages or []] == ["train"]


@pytest.mark.parametrize(
    ("stages", "phase"),
    [
        ([], "Pending"),
        ([("prepare", "Pending", 0)], "Pending"),
        ([("prepare", "Running", 1), ("train", "Pending", 0)], "Preparing"),
        ([("prepare", "Pending", 1), ("train", "Pending", 0)], "Preparing"),
        ([("prepare", "Succeeded", 1), ("train", "Pending", 0)], "Preparing"),
        ([("prepare", "Succeeded", 1), ("train", "Running", 1)], "Training"),
        ([("prepare", "Succeeded", 1), ("train", "Pending", 1)], "Training"),
        ([("train", "Running", 1)], "Training"),
    ],
)
def test_the_phase_is_that_of_the_last_stage_that_has_ever_started(stages: list[Any], phase: str) -> None:
    made = [StageStatus(name=name, state=state, attempts=attempts) for name, state, attempts in stages]
    assert phase_of(FineTuneJobStatus(stages=made), GOING) == phase


def test_the_phase_of_an_end_is_its_outcome() -> None:
    assert phase_of(FineTuneJobStatus(), GOOD) == "Succeeded"
    assert phase_of(FineTuneJobStatus(), BAD) == "Failed"


def test_the_phase_is_suspended_only_when_no_pod_is_left() -> None:
    status = FineTuneJobStatus(stages=[StageStatus(name="train", state="Pending", attempts=1)])
    assert phase_of(status, replace(GOING, suspension="Suspending")) == "Training"
    assert phase_of(status, replace(GOING, suspension="SpecSuspended")) == "Suspended"


def test_a_stage_that_was_skipped_has_not_started() -> None:
    stages = [StageStatus(name="prepare", state="Running"), StageStatus(name="train", state="Skipped")]
    assert phase_of(FineTuneJobStatus(stages=stages), GOING) == "Preparing"


def test_what_a_later_stage_leaves_out_is_kept_from_the_earlier_one() -> None:
    status = with_report(FineTuneJobStatus(), b.prepare_report(), succeeded=True)
    status = with_report(status, b.train_report(dataset=None, resolved=None), succeeded=True)
    assert status.dataset == b.dataset_summary()
    assert status.resolved is not None
    assert status.resolved.choices == 27


def test_artifacts_of_both_stages_stand_side_by_side_and_a_newer_one_replaces_its_namesake() -> None:
    old = Artifact(name="prepared", path="prepared/", digest=b.DIGEST, bytes=1)
    report = b.prepare_report(artifacts=[old, old.model_copy(update={"name": "model"})])
    first = with_report(FineTuneJobStatus(), report, succeeded=True)
    both = with_report(first, b.train_report(), succeeded=True)
    assert [(artifact.name, artifact.path) for artifact in both.artifacts or []] == [
        ("prepared", "prepared/"),
        ("model", "model/"),
    ]


def test_a_stage_that_failed_leaves_neither_results_nor_artifacts() -> None:
    status = with_report(FineTuneJobStatus(), b.train_report(), succeeded=False)
    assert status.dataset == b.dataset_summary()
    assert status.results is None
    assert status.artifacts is None
