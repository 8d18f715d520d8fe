"""The pure parts of the operator's benchmark: counting requests, what simulated pods say, moments of a job."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from benchmarks.operator_bench.audit import count_requests
from benchmarks.operator_bench.client import Timeline
from benchmarks.operator_bench.measure import spec_for
from benchmarks.operator_bench.simulated_pods import SPEC_DIGEST, TEST_SCORE, kwok_config, report
from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import ENV_STAGE_INPUT
from finetune_api.report import parse_report

USER = "system:serviceaccount:finetune-system:finetune-operator"


def entry(verb: str, resource: str, *, code: int = 200, **changes: Any) -> str:
    reference = {"namespace": "burst", "resource": resource} | changes.pop("ref", {})
    values = {
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": USER},
        "objectRef": reference,
        "responseStatus": {"code": code},
    }
    return json.dumps(values | changes)


def test_writes_events_and_reads_are_counted_apart() -> None:
    lines = [
        entry("create", "jobs", code=201),
        entry("patch", "finetunejobs", ref={"subresource": "status"}),
        entry("delete", "jobs"),
        entry("create", "events", code=201),
        entry("get", "jobs", code=404),
        entry("list", "pods"),
    ]
    found = count_requests(lines, namespace="burst", user=USER)
    assert (found.writes, found.events, found.reads, found.refused) == (3, 1, 2, 0)
    assert found.by_kind["patch", "finetunejobs/status", 200] == 1


def test_a_write_that_was_refused_counts_as_a_write() -> None:
    found = count_requests([entry("patch", "finetunejobs", code=409)], namespace="burst", user=USER)
    assert (found.writes, found.refused) == (1, 1)


@pytest.mark.parametrize(
    "line",
    [
        entry("create", "jobs", ref={"namespace": "idle"}),
        entry("create", "jobs", user={"username": "admin"}),
        entry("create", "jobs", stage="RequestReceived"),
        entry("watch", "jobs"),
        entry("get", "", objectRef=None),
    ],
    ids=["another namespace", "another user", "not answered yet", "a watch", "no object"],
)
def test_what_does_not_concern_the_jobs_is_left_out(line: str) -> None:
    assert not count_requests([line], namespace="burst", user=USER).by_kind


@pytest.mark.parametrize(("stages", "gpus"), [(1, 0), (2, 1)])
def test_the_jobs_are_valid_and_a_gpu_gives_them_a_second_stage(stages: Any, gpus: int) -> None:
    spec = FineTuneJobSpec.model_validate(spec_for(stages))
    assert spec.resources.gpus_per_node == gpus
    assert spec.output is None or spec.output.uri is None


def _template_of_the_end() -> str:
    documents = [json.loads(text) for text in kwok_config(run_seconds=1.5).split("\n---\n")]
    ends = next(document for document in documents if document["metadata"]["name"] == "pod-ends")
    assert ends["spec"]["delay"] == {"durationMilliseconds": 1500}
    template: str = ends["spec"]["next"]["statusTemplate"]
    return template


def test_the_simulated_reports_take_the_digest_of_the_pods_own_spec() -> None:
    template = _template_of_the_end()
    encoded = re.findall(r'"([A-Za-z0-9+/=]{200,})"', template)
    digest = spec_digest(FineTuneJobSpec.model_validate(spec_for(2)))
    texts = [base64.b64decode(text).decode().replace("@SPEC_DIGEST@", digest) for text in encoded]
    reports = [parse_report(text) for text in texts]
    assert [r and (r.stage, r.spec_digest) for r in reports] == [("train", digest), ("prepare", digest)]
    assert SPEC_DIGEST not in "".join(texts)


def test_the_template_reads_the_variable_that_the_operator_writes() -> None:
    assert f'eq .name "{ENV_STAGE_INPUT}"' in _template_of_the_end()
    assert "@ENV@" not in _template_of_the_end()


def test_the_simulated_training_reports_the_score_that_the_benchmark_looks_for() -> None:
    results = report("train").results
    assert results is not None
    assert results.test.score == TEST_SCORE


def test_moments_are_those_of_the_first_event_that_shows_them() -> None:
    timeline = Timeline()
    child = {"metadata": {"labels": {"finetune.dev/job-name": "a", "finetune.dev/stage": "train"}}}
    done = child | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    for when, event in enumerate((child, child, done, done)):
        timeline.saw_child(event, float(when))
    assert timeline.child_seen == {"train": {"a": 0.0}}
    assert timeline.child_complete == {"train": {"a": 2.0}}
    for when, status in enumerate(("Unknown", "True", "True")):
        job = {"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Finished", "status": status}]}}
        timeline.saw_job(job, float(when))
    assert timeline.finished == {"a": 1.0}
