"""The bookkeeping of stages: which come, which are done, how many seconds they have used."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.job import FineTuneJobSpec
from finetune_api.status import StageStatus
from finetune_operator.decide.stages import (
    ended,
    ended_by_deletion,
    given_up,
    running,
    seconds_of,
    seconds_spent,
    set_back,
    stage_is_done,
    stage_list,
    stage_names,
)
from finetune_operator.decide.text import rfc3339
from tests.support import builders as b

TRAIN = StageStatus(name="train", state="Pending")


def spec(gpus: int) -> FineTuneJobSpec:
    return FineTuneJobSpec.model_validate(b.job_spec(resources={"gpusPerNode": gpus}))


def test_only_a_job_with_a_gpu_has_a_stage_of_its_own_for_preparing() -> None:
    assert stage_names(spec(1)) == ("prepare", "train")
    assert stage_names(spec(0)) == ("train",)


def test_recorded_stages_are_kept_in_order_and_missing_ones_are_added() -> None:
    recorded = StageStatus(name="train", state="Running", attempts=2)
    stages = stage_list(spec(1), [recorded])
    assert [(stage.name, stage.state) for stage in stages] == [("prepare", "Pending"), ("train", "Running")]
    assert stages[1] == recorded


@pytest.mark.parametrize(
    ("stage", "done"),
    [
        (StageStatus(name="prepare", state="Succeeded", digest=b.DIGEST), True),
        (StageStatus(name="prepare", state="Succeeded"), False),
        (StageStatus(name="prepare", state="Running", digest=b.DIGEST), False),
        (StageStatus(name="train", state="Succeeded"), True),
        (StageStatus(name="train", state="Failed"), False),
        (StageStatus(name="train", state="Skipped"), True),
    ],
)
def test_prepare_is_done_only_with_the_digest_that_train_checks(stage: StageStatus, done: bool) -> None:
    assert stage_is_done(stage) is done


def test_seconds_run_from_the_jobs_start_to_its_end_or_to_now() -> None:
    assert seconds_of(b.child(), b.at(90)) == 90
    assert seconds_of(b.complete(seconds=60), b.at(90)) == 60
    assert seconds_of(b.failed(seconds=70), b.at(90)) == 70
    assert seconds_of(b.child(start_time=None), b.at(90)) == 0


def test_clocks_that_disagree_never_give_negative_seconds() -> None:
    assert seconds_of(b.child(), b.at(-30)) == 0
    assert seconds_of(b.complete(seconds=-30), b.at(90)) == 0


def test_the_seconds_of_all_stages_add_up() -> None:
    stages = [
        StageStatus(name="prepare", state="Succeeded", run_seconds=30),
        TRAIN.model_copy(update={"run_seconds": 5}),
    ]
    assert seconds_spent(stages) == 35


@pytest.mark.parametrize(
    ("before", "counts", "pods", "attempts"),
    [(0, (1, 0, 0), 1, 1), (0, (1, 0, 2), 1, 3), (0, (0, 0, 0), 0, 1), (5, (1, 0, 0), 1, 5), (0, (1, 0, 0), 3, 3)],
)
def test_attempts_are_the_most_pods_ever_seen(
    before: int, counts: tuple[int, int, int], pods: int, attempts: int
) -> None:
    active, succeeded, failed = counts
    child = b.child(active=active, succeeded=succeeded, failed=failed)
    stage = running(TRAIN.model_copy(update={"attempts": before}), child, [b.pod() for _ in range(pods)])
    assert stage.attempts == attempts
    assert (stage.job_name, stage.job_uid) == (child.name, child.uid)
    assert stage.start_time == "2026-03-01T08:00:00Z"


def test_an_end_adds_its_seconds_to_those_of_earlier_children() -> None:
    stage = ended(
        TRAIN.model_copy(update={"run_seconds": 100}),
        b.complete(seconds=50),
        [],
        now=b.at(60),
        digest=None,
        succeeded=True,
    )
    assert stage.run_seconds == 150
    assert stage.completion_time == "2026-03-01T08:00:50Z"


def test_a_child_that_is_given_up_keeps_its_seconds_and_is_marked() -> None:
    child = b.complete(seconds=50)
    stage = set_back(TRAIN.model_copy(update={"run_seconds": 10}), child, now=b.at(60))
    assert (stage.state, stage.run_seconds, stage.recreated, stage.job_name) == ("Pending", 60, 0, child.name)
    assert given_up(stage, child)
    assert not given_up(stage, b.complete(uid="the next one"))
    assert not given_up(TRAIN, child)
    assert not given_up(running(TRAIN, child, []), child)


def test_only_a_child_whose_report_is_lost_uses_up_the_second_try() -> None:
    child = b.complete(seconds=50)
    assert set_back(TRAIN, child, now=b.at(60), report_lost=True).recreated == 1
    assert set_back(TRAIN, child, now=b.at(60)).recreated == 0


@pytest.mark.parametrize(
    ("fields", "killed"),
    [
        ({"deleting": True, "deleted_at": b.at(299)}, True),
        ({"deleting": True, "deleted_at": b.at(300)}, True),
        ({"deleting": True, "deleted_at": b.at(301)}, False),
        ({"deleting": True, "deleted_at": None}, False),
        ({"deleting": True, "deleted_at": b.at(10), "finished_at": None}, False),
        ({}, False),
    ],
)
def test_a_child_that_failed_after_its_deletion_was_asked_for_failed_of_it(
    fields: dict[str, Any], killed: bool
) -> None:
    assert ended_by_deletion(b.failed(seconds=300, **fields)) is killed


def test_a_child_that_ended_well_while_it_was_deleted_has_ended_well() -> None:
    assert not ended_by_deletion(b.complete(deleting=True, deleted_at=b.T0))


def test_the_pods_of_the_next_child_count_on_top_of_those_before() -> None:
    before = TRAIN.model_copy(update={"attempts": 2, "job_uid": "the one before"})
    first = running(before, b.child(), [b.pod()])
    assert first.attempts == 3
    assert running(first, b.child(), [b.pod()]).attempts == 3


def test_a_pod_in_place_of_one_that_is_gone_is_another_attempt() -> None:
    """A pod that is deleted and has saved its state is not counted by the Job, and soon not found any more."""
    first = running(TRAIN, b.child(active=1), [b.pod()])
    assert (first.attempts, first.last_attempt_time) == (1, rfc3339(b.pod().created))
    second = running(first, b.child(active=1), [b.pod(created=b.at(60))])
    assert (second.attempts, second.last_attempt_time) == (2, rfc3339(b.at(60)))
    assert running(second, b.child(active=1), [b.pod(created=b.at(60))]) == second


def test_a_pod_that_stays_is_counted_once_and_so_is_one_that_the_job_counts_before_it_is_seen() -> None:
    first = running(TRAIN, b.child(active=1), [b.pod()])
    early = running(first, b.child(active=1, failed=1), [b.pod(phase="Failed")])
    assert early.attempts == 1
    assert running(early, b.child(active=1, failed=1), [b.pod(), b.pod(created=b.at(60))]).attempts == 2


def test_pods_of_an_ended_child_that_nobody_saw_are_counted_by_the_job() -> None:
    first = running(TRAIN, b.child(active=1), [b.pod()])
    assert running(first, b.failed(failed=3), []).attempts == 3


def test_the_seconds_of_a_child_that_was_given_up_are_counted_once() -> None:
    child = b.complete(seconds=50)
    stage = set_back(TRAIN, child, now=b.at(60))
    assert ended(stage, child, [], now=b.at(70), digest=b.DIGEST, succeeded=True).run_seconds == 50


@pytest.mark.parametrize(
    ("start", "used"), [("2026-03-01T08:00:00Z", 60), ("2026-03-01T09:00:00Z", 0), ("junk", 0), (None, 0)]
)
def test_a_child_that_vanished_has_used_the_time_until_it_was_missed(start: str | None, used: int) -> None:
    record = TRAIN.model_copy(update={"start_time": start, "state": "Running"})
    stage = set_back(record, None, now=b.at(1000), missed_at=b.at(60))
    assert (stage.state, stage.run_seconds, stage.recreated, stage.start_time) == ("Pending", used, 0, None)


def test_a_child_that_nobody_has_seen_go_has_used_the_time_until_its_newest_pod_came() -> None:
    record = TRAIN.model_copy(
        update={"start_time": rfc3339(b.T0), "last_attempt_time": rfc3339(b.at(40)), "state": "Running"}
    )
    assert set_back(record, None, now=b.at(172800)).run_seconds == 40


def test_no_child_has_used_more_than_its_deadline_whatever_the_clocks_say() -> None:
    assert seconds_of(b.child(active_deadline_seconds=500), b.at(36000)) == 500
    record = TRAIN.model_copy(update={"start_time": rfc3339(b.T0), "state": "Running"})
    assert set_back(record, None, now=b.at(36000), missed_at=b.at(36000), most=500).run_seconds == 500


def test_failures_are_kept_from_child_to_child() -> None:
    first = set_back(TRAIN, b.child(failed=2), now=b.at(60))
    assert first.failures == 2
    assert set_back(first, b.child(failed=1), now=b.at(60), failed=True).failures == 4


def test_what_a_deletion_ended_is_no_failure() -> None:
    child = b.child(failed=2, deleting=True, deleted_at=b.at(50))
    before = b.ended_pod(exit_code=1, finished_at=b.at(40), name="a")
    killed = b.ended_pod(exit_code=137, finished_at=b.at(51), name="b")
    saved = b.ended_pod(exit_code=75, finished_at=b.at(45), name="c")
    assert set_back(TRAIN, child, (before, killed, saved), now=b.at(60)).failures == 1
