"""Readable builders of what the operator's pure core sees: a FineTuneJob, a runtime, child Jobs, pods, reports.

Everything has a sensible default, so that a test names only what it is about. ``MINUTE`` 0 is ``T0``; ``at(90)`` is 90
seconds later.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import StageName, child_name
from finetune_api.reasons import Reason
from finetune_api.report import ReportedFailure, StageReport, encode_report
from finetune_api.status import Artifact, DatasetSummary, Resolved, Results, Score
from finetune_operator.decide.plan import ChildView, Observed, PodReport, PodView, ReportEndpoint, RuntimeView

T0 = datetime(2026, 3, 1, 8, 0, tzinfo=UTC)
NAMESPACE, NAME, UID = "team-a", "support-intent", "0f3c9a1b-1111-4222-8333-444455556666"
IMAGE = "registry.example.com/finetune-trainer@sha256:" + "1" * 64
DIGEST = "sha256:" + "a" * 64
MANIFEST_DIGEST = "sha256:" + "b" * 64


def at(seconds: float) -> datetime:
    """The moment so many seconds after T0."""
    return T0 + timedelta(seconds=seconds)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of ``base`` with ``changes`` merged in; None removes a key."""
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def job_spec(**changes: Any) -> dict[str, Any]:
    """A valid spec with one GPU; ``changes`` are merged in."""
    base: dict[str, Any] = {
        "model": {"uri": "s3://models/smollm2/", "credentialsRef": {"name": "team-a-s3"}},
        "dataset": {
            "uri": "s3://team-a-data/intents.jsonl",
            "credentialsRef": {"name": "team-a-s3"},
            "template": {"name": "intent", "columns": {"text": "utterance", "label": "intent"}},
        },
        "output": {"uri": "s3://team-a-models/support-intent/", "credentialsRef": {"name": "team-a-s3"}},
        "resources": {"gpusPerNode": 1},
    }
    return merged(base, changes)


def cpu_spec(**changes: Any) -> dict[str, Any]:
    """The same on the CPU: one stage."""
    return merged(job_spec(resources={"gpusPerNode": 0}), changes)


def job(
    spec: dict[str, Any] | None = None, *, status: dict[str, Any] | None = None, generation: int = 1, **metadata: Any
) -> dict[str, Any]:
    """A FineTuneJob as the API server gives it, fresh unless ``status`` is given."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {
            "namespace": NAMESPACE,
            "name": NAME,
            "uid": UID,
            "generation": generation,
            "resourceVersion": "1",
            "creationTimestamp": "2026-03-01T08:00:00Z",
            **metadata,
        },
        "spec": job_spec() if spec is None else spec,
        "status": {"observedGeneration": -1} if status is None else status,
    }


def runtime_spec(**changes: Any) -> dict[str, Any]:
    """A valid FineTuneRuntime spec; ``changes`` are merged in."""
    base: dict[str, Any] = {
        "image": IMAGE,
        "outputPrefix": "s3://results/tuned/",
        "storage": [{"prefix": "s3://team-a-data/", "endpoint": "http://s3.example.com:9000"}],
        "train": {
            "nodeSelector": {"gpu": "a100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }
    return merged(base, changes)


def runtime(spec: dict[str, Any] | None = None, *, name: str = "default", generation: int = 3) -> RuntimeView:
    return RuntimeView(name=name, generation=generation, spec=runtime_spec() if spec is None else spec)


def child(stage: StageName = "train", **fields: Any) -> ChildView:
    """An unfinished child Job of ours that started at T0."""
    values: dict[str, Any] = {
        "name": child_name(NAME, UID, stage),
        "uid": f"job-{stage}",
        "stage": stage,
        "owner_uid": UID,
        "active": 1,
        "start_time": T0,
        "active_deadline_seconds": 86400,
    }
    return ChildView(**(values | fields))


def complete(stage: StageName = "train", *, seconds: float = 300, **fields: Any) -> ChildView:
    """A child Job that ended well."""
    end = at(seconds)
    values: dict[str, Any] = {
        "active": 0,
        "succeeded": 1,
        "ended": "Complete",
        "completion_time": end,
        "finished_at": end,
    }
    return child(stage, **(values | fields))


def failed(
    stage: StageName = "train", reason: str = "PodFailurePolicy", *, seconds: float = 300, **fields: Any
) -> ChildView:
    """A child Job that ended badly."""
    values: dict[str, Any] = {
        "active": 0,
        "failed": 1,
        "ended": "Failed",
        "failed_reason": reason,
        "failed_message": f"Job has failed: {reason}",
        "finished_at": at(seconds),
    }
    return child(stage, **(values | fields))


def pod(stage: StageName = "train", **fields: Any) -> PodView:
    """A pod of the child that runs since T0."""
    values: dict[str, Any] = {
        "name": f"{child_name(NAME, UID, stage)}-x7k2p",
        "uid": f"pod-{stage}",
        "job_uid": f"job-{stage}",
        "created": T0,
        "phase": "Running",
        "node": "node-1",
    }
    return PodView(**(values | fields))


def pending(stage: StageName = "train", **fields: Any) -> PodView:
    """A pod that has not started."""
    return pod(stage, **({"phase": "Pending", "node": None} | fields))


def ended_pod(
    stage: StageName = "train", *, report: StageReport | str | None = None, exit_code: int = 0, **fields: Any
) -> PodView:
    """A pod whose container has ended, with its report or other last words."""
    text = encode_report(report).decode() if isinstance(report, StageReport) else report
    values: dict[str, Any] = {
        "phase": "Failed" if exit_code else "Succeeded",
        "exit_code": exit_code,
        "terminated_reason": "Error" if exit_code else "Completed",
        "termination_message": text,
        "finished_at": at(300),
    }
    return pod(stage, **(values | fields))


def digest_of_spec(spec: dict[str, Any] | None = None) -> str:
    return spec_digest(FineTuneJobSpec.model_validate(job_spec() if spec is None else spec))


def dataset_summary() -> DatasetSummary:
    return DatasetSummary(rows=8530, dropped=12, duplicates=40, train=6814, validation=852, test=852, tokens=1230000)


def results(**changes: Any) -> Results:
    values: dict[str, Any] = {
        "metric": "ChoiceAccuracy",
        "baseline": Score(score="0.4120", correct=351, total=852),
        "test": Score(score="0.8709", correct=742, total=852, ci95=["0.8467", "0.8917"]),
        "gain": "+0.4589",
        "p_value": "1e-60",
        "paired_test": "McNemarExact",
    }
    return Results(**(values | changes))


def prepare_report(spec: dict[str, Any] | None = None, **changes: Any) -> StageReport:
    """What prepare says when all went well."""
    values: dict[str, Any] = {
        "stage": "prepare",
        "spec_digest": digest_of_spec(spec),
        "digest": DIGEST,
        "dataset": dataset_summary(),
        "resolved": Resolved(metric="ChoiceAccuracy", choices=27),
    }
    return StageReport(**(values | changes))


def train_report(spec: dict[str, Any] | None = None, **changes: Any) -> StageReport:
    """What train says when all went well."""
    values: dict[str, Any] = {
        "stage": "train",
        "spec_digest": digest_of_spec(spec),
        "digest": MANIFEST_DIGEST,
        "dataset": dataset_summary(),
        "resolved": Resolved(method="LoRA", batch_size=16, image=IMAGE),
        "results": results(),
        "artifacts": [Artifact(name="model", path="model/", digest=DIGEST, bytes=33554432)],
    }
    return StageReport(**(values | changes))


def failure_report(
    reason: Reason, message: str, *, stage: StageName = "train", spec: dict[str, Any] | None = None
) -> StageReport:
    """What a stage says when it failed."""
    failure = ReportedFailure(reason=reason, message=message)
    return StageReport(stage=stage, spec_digest=digest_of_spec(spec), failure=failure)


def observed(
    job: dict[str, Any],
    *,
    children: tuple[ChildView, ...] | list[ChildView] = (),
    pods: tuple[PodView, ...] | list[PodView] = (),
    runtime: RuntimeView | None = None,
    now: datetime = T0,
    live: bool = False,
    create_error: str | None = None,
    gone: Mapping[str, datetime] | None = None,
    endpoint: ReportEndpoint | None = None,
    report: PodReport | None = None,
) -> Observed:
    return Observed(
        job=job,
        runtime=runtime,
        children=tuple(children),
        pods=tuple(pods),
        now=now,
        live=live,
        create_error=create_error,
        gone=gone or {},
        endpoint=endpoint,
        report=report,
    )
