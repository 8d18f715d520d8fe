"""Waiting is not failing: what a missing thing looks like, how long it is waited for, and what happens then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_operator.decide.plan import DeleteChild
from finetune_operator.decide.reconcile import reconcile
from tests.support import builders as b
from tests.support.simulation import Simulation

SECRET = 'MountVolume.SetUp failed for volume "credentials-dataset" : secret "team-a-s3" not found'
QUOTA = 'pods "x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1, used: 8, limited: 8'


def started(**spec: Any) -> Simulation:
    """A job on the CPU whose child stands and has no pod yet."""
    return Simulation(b.job(b.cpu_spec(**spec)), runtime=b.runtime()).settle()


def test_a_runtime_that_does_not_exist_yet_is_waited_for() -> None:
    life = Simulation(b.job()).settle()
    assert life.reason == "RuntimeNotFound"
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert life.condition("Reconciling")["status"] == "True"
    assert life.condition("Stalled")["status"] == "False"
    assert life.status["waitingFor"] == "default"
    assert "FineTuneRuntime default does not exist" in life.condition("Succeeded")["message"]
    assert life.plan.waiting == "RuntimeNotFound"


def test_a_runtime_that_arrives_late_starts_the_job() -> None:
    life = Simulation(b.job()).settle()
    life.runtime = b.runtime()
    life.settle(300)
    assert life.writes == ["status", "status", "create"]
    assert "waitingSince" not in life.status


def test_a_runtime_that_never_arrives_fails_the_job_after_ten_minutes() -> None:
    life = Simulation(b.job()).settle()
    assert life.plan.requeue_after == 600
    assert life.settle(599).status["phase"] == "Pending"
    life.settle(1)
    assert life.status["failure"]["reason"] == "RuntimeNotFound"
    assert life.status["phase"] == "Failed"


def test_waiting_writes_nothing_while_time_passes() -> None:
    life = Simulation(b.job()).settle()
    for _ in range(20):
        life.settle(20)
    assert life.writes == ["status"]
    assert [event.reason for event in life.events] == ["RuntimeNotFound"]


def test_the_event_about_a_missing_thing_comes_with_the_first_look_that_misses_it() -> None:
    plan = Simulation(b.job()).step()
    assert [(event.reason, event.type) for event in plan.events] == [("RuntimeNotFound", "Warning")]


def test_a_runtime_made_for_another_version_is_waited_for_with_its_fault_named() -> None:
    life = Simulation(b.job(), runtime=b.runtime({"image": "trainer:latest"})).settle()
    assert life.reason == "RuntimeNotFound"
    assert "image" in life.condition("Succeeded")["message"]


@pytest.mark.parametrize(
    ("fields", "reason", "waiting_for", "words"),
    [
        ({"waiting_reason": "ErrImagePull", "waiting_message": "not found"}, "ImagePullFailed", None, "not found"),
        ({"waiting_reason": "ImagePullBackOff"}, "ImagePullFailed", None, "ImagePullBackOff"),
        ({"waiting_reason": "InvalidImageName"}, "ImagePullFailed", None, "InvalidImageName"),
        ({"start_error": SECRET}, "CredentialsNotFound", "team-a-s3", 'Secret "team-a-s3" does not exist'),
        (
            {"start_error": 'MountVolume.SetUp failed for volume "c" : references non-existent secret key: HF_TOKEN'},
            "CredentialsNotFound",
            None,
            "HF_TOKEN",
        ),
        (
            {"waiting_reason": "CreateContainerConfigError", "waiting_message": 'secret "hf-token" not found'},
            "CredentialsNotFound",
            "hf-token",
            "hf-token",
        ),
        (
            {
                "waiting_reason": "CreateContainerConfigError",
                "waiting_message": "couldn't find key HF_TOKEN in Secret team-a/hf-token",
            },
            "CredentialsNotFound",
            "hf-token",
            'Secret "hf-token" has no key HF_TOKEN',
        ),
        (
            {"waiting_reason": "CreateContainerError", "waiting_message": "failed to reserve container name"},
            "TrainerError",
            None,
            "CreateContainerError",
        ),
    ],
)
def test_a_pod_that_can_not_start_is_waited_for_with_the_missing_thing_named(
    fields: dict[str, Any], reason: str, waiting_for: str | None, words: str
) -> None:
    life = started().pod_waits("train", node="node-1", **fields).settle(5)
    assert life.reason == reason
    assert life.condition("Succeeded")["status"] == "Unknown"
    assert words in life.condition("Succeeded")["message"]
    assert life.status.get("waitingFor") == waiting_for
    assert life.plan.waiting == reason


def test_a_volume_that_is_not_bound_yet_is_a_matter_of_the_cluster() -> None:
    life = started().pod_waits("train", unschedulable="pod has unbound immediate PersistentVolumeClaims").settle(20)
    assert life.reason == "Unschedulable"


@pytest.mark.parametrize(
    ("message", "reason", "words"),
    [
        (QUOTA, "QuotaExceeded", "requests.nvidia.com/gpu"),
        (
            'pods "x" is forbidden: error looking up service account a/trainer: serviceaccount "trainer" not found',
            "CredentialsNotFound",
            'ServiceAccount "trainer" does not exist',
        ),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "NotPermitted", "violates PodSecurity"),
    ],
)
@pytest.mark.parametrize("whose", ["the Job's pod", "the Job itself"])
def test_a_refusal_by_the_cluster_is_waited_for_with_its_words(
    message: str, reason: str, words: str, whose: str
) -> None:
    if whose == "the Job's pod":
        life = started()
        life.change_child("train", pod_create_error=message)
    else:
        life = Simulation(b.job(b.cpu_spec()), runtime=b.runtime())
        life.create_error = message
    life.settle(5)
    assert life.reason == reason
    assert words in life.condition("Succeeded")["message"]
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_job_refused_by_a_quota_is_tried_again_until_it_goes_through() -> None:
    life = Simulation(b.job(b.cpu_spec()), runtime=b.runtime())
    life.create_error = QUOTA
    life.settle(5)
    assert life.children == {}
    assert life.plan.requeue_after == 30
    life.create_error = None
    life.settle(30)
    assert len(life.children) == 1
    assert life.reason == "Starting"


def test_a_secret_that_arrives_late_lets_the_job_go_on_and_stops_the_clock() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle(5)
    life.pod_runs("train").settle(500)
    assert life.reason == "Training"
    assert "waitingSince" not in life.status
    assert "waitingFor" not in life.status


def test_a_second_missing_secret_is_named_after_the_first_and_the_clock_goes_on() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle(5)
    since = life.status["waitingSince"]
    life.pod_waits("train", start_error=SECRET.replace("team-a-s3", "hf-token")).settle(5)
    assert life.status["waitingFor"] == "hf-token"
    assert "hf-token" in life.condition("Succeeded")["message"]
    assert life.status["waitingSince"] == since


def test_secrets_that_are_missing_together_are_all_named() -> None:
    life = started().pod_waits("train", start_error=f"{SECRET.replace('team-a-s3', 'hf-token')}; {SECRET}").settle(5)
    assert 'Secrets "hf-token", "team-a-s3" do not exist' in life.condition("Succeeded")["message"]
    assert life.status["waitingFor"] == "hf-token"


@pytest.mark.parametrize("name", ["a..b", "-a", "a-", "A", "a/b", "a" * 254])
@pytest.mark.parametrize("words", ['secret "{}" not found', "couldn't find key K in Secret team-a/{}"])
def test_a_secret_that_can_not_exist_is_not_waited_for(words: str, name: str) -> None:
    life = started().pod_waits("train", start_error=words.format(name)).settle(5)
    assert (life.reason, life.status.get("waitingFor")) == ("MountFailed", None)


def test_a_clock_goes_on_while_nothing_shows_that_the_secret_has_come() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle(5)
    since = life.status["waitingSince"]
    life.pod_waits("train", start_error=None).settle(5)
    assert (life.reason, life.status["waitingSince"]) == ("Starting", since)
    life.pod_waits("train", start_error=SECRET).settle(594)
    assert life.status["phase"] == "Pending"
    assert life.settle(1).status["failure"]["reason"] == "CredentialsNotFound"


def test_a_clock_stops_when_the_secret_is_mounted_though_nothing_runs_yet() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle(5)
    life.pod_waits("train", ready_to_start=True).settle(590)
    assert life.reason == "Starting"
    assert not {"waitingSince", "waitingFor"} & life.status.keys()
    life.pod_waits("train", ready_to_start=True, waiting_reason="ErrImagePull").settle(300)
    assert life.settle(599).status["phase"] == "Pending"


def test_a_clock_goes_on_through_what_the_node_says_in_between() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle(5)
    for minute in range(8):
        words = SECRET if minute % 2 else 'MountVolume.SetUp failed for volume "v" : timed out'
        life.pod_waits("train", start_error=words).settle(60)
        assert life.reason == ("CredentialsNotFound" if minute % 2 else "MountFailed")
    assert life.settle(120).status["failure"]["reason"] == "CredentialsNotFound"


def test_a_node_that_was_in_trouble_for_long_leaves_a_missing_secret_all_its_time() -> None:
    life = started().pod_waits("train", start_error="MountVolume.SetUp failed: no such device").settle(5000)
    life.pod_waits("train", start_error=SECRET).settle(5)
    assert life.settle(599).status["phase"] == "Pending"


def test_a_new_pod_of_an_image_that_can_not_be_had_does_not_begin_the_clock_anew() -> None:
    life = started().pod_waits("train", waiting_reason="ErrImagePull", waiting_message="not found").settle(5)
    since = life.status["waitingSince"]
    for ready in (False, True):
        life.pod_waits("train", ready_to_start=ready).settle(5)
        assert (life.reason, life.status["waitingSince"]) == ("Starting", since)
    life.pod_waits("train", ready_to_start=True, waiting_reason="ErrImagePull").settle(5)
    assert life.status["waitingSince"] == since


def test_a_thing_that_stays_missing_fails_the_job_and_removes_its_pod() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle()
    life.settle(600)
    assert life.status["failure"]["reason"] == "CredentialsNotFound"
    assert "team-a-s3" in life.status["failure"]["message"]
    assert "600 s" in life.status["failure"]["message"]
    assert life.children == {}
    assert life.writes[-1] == "delete"


def test_a_timeout_is_decided_on_live_reads_only() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle().passes(601)
    assert reconcile(life.observe(live=False)).needs_live
    life.pod_runs("train")
    assert reconcile(life.observe(live=True)).actions == ()


def test_the_runtime_says_how_long_to_wait() -> None:
    runtime = b.runtime(b.runtime_spec(limits={"pendingTimeoutSeconds": 60}))
    life = Simulation(b.job(b.cpu_spec()), runtime=runtime).settle().pod_waits("train", start_error=SECRET).settle()
    assert life.settle(59).status["phase"] == "Pending"
    assert life.settle(1).status["phase"] == "Failed"


def test_a_clock_that_was_set_back_never_fails_a_job_early() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle()
    life.settle(-3600)
    assert life.status["phase"] == "Pending"


def test_a_pod_without_a_node_is_told_after_a_moment_and_waits_beyond_every_timeout() -> None:
    life = started().pod_waits("train", unschedulable="0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    assert life.settle(9).reason == "Pending"
    assert life.plan.requeue_after == 10
    life.settle(1)
    assert life.reason == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in life.condition("Succeeded")["message"]
    assert life.plan.requeue_after is None
    life.settle(80000)
    assert life.status["phase"] == "Pending"
    assert life.condition("Succeeded")["status"] == "Unknown"


def test_a_node_found_late_is_told_before_the_pod_runs() -> None:
    life = started().pod_waits("train", unschedulable="no node").settle(15)
    life.pod_waits("train", node="node-2", unschedulable=None).settle(5)
    assert life.reason == "Starting"


def test_a_mount_that_fails_for_another_cause_is_shown_and_not_timed() -> None:
    life = started().pod_waits("train", start_error="MountVolume.SetUp failed: no such device").settle(15)
    assert life.reason == "MountFailed"
    assert life.settle(3000).status["phase"] == "Pending"


def test_a_pod_on_a_lost_node_is_named_with_its_node() -> None:
    life = started().pod_runs("train").settle(5)
    life.change_pod("train", phase="Running", node="node-7", deleting=True).settle(5)
    assert life.reason == "PodTerminating"
    assert "node-7" in life.condition("Succeeded")["message"]
    assert life.status["phase"] == "Training"


def test_a_pod_that_does_not_go_is_told_with_since_when_and_what_an_administrator_does() -> None:
    life = started().pod_runs("train").settle(5)
    life.change_pod("train", phase="Running", node="node-7", deleting=True, gone_by=b.at(180)).settle(204)
    assert "should have gone" not in life.condition("Succeeded")["message"]
    assert life.plan.requeue_after == 30, "no event comes of a node that is lost"
    life.settle(1)
    message = life.condition("Succeeded")["message"]
    assert "on node node-7 should have gone by 2026-03-01T08:03:00Z" in message
    assert "out-of-service" in message


def test_a_timeout_that_was_cut_off_before_the_delete_is_finished_later() -> None:
    life = started().pod_waits("train", start_error=SECRET).settle().passes(601)
    plan = reconcile(life.observe(live=True))
    assert plan.status is not None
    life.job = {**life.job, "status": plan.status}  # the operator dies between status and delete
    assert reconcile(life.observe(live=False)).needs_live
    again = reconcile(life.observe(live=True))
    assert again.status is None
    assert again.actions == (DeleteChild(name=life.child("train").name, uid=life.child("train").uid),)


def orphaned(life: Simulation) -> Simulation:
    """``kubectl delete job --cascade=orphan``: the Job goes, its pod runs on and is nobody's."""
    life.pods = {name: replace(pod, job_uid=None) for name, pod in life.pods.items()}
    life.children.clear()
    return life


def test_a_pod_whose_job_was_taken_from_above_it_is_named_with_what_to_do() -> None:
    life = orphaned(started().pod_runs("train").settle(10)).settle(1).settle(30)
    message = life.condition("Succeeded")["message"]
    assert "runs on without its Job" in message
    assert "kubectl delete pod" in message
    life.pods.clear()
    life.settle(30).pod_runs("train").settle(1)
    assert life.reason == "Training"


def test_a_suspended_job_names_such_a_pod_too() -> None:
    life = orphaned(started().pod_runs("train").settle(10)).edit(suspend=True).settle(1).settle(30)
    assert life.status["phase"] != "Suspended"
    assert "kubectl delete pod" in life.condition("Succeeded")["message"]
