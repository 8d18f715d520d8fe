"""Nodes and pods that do no work: what kwok is told, so that a pod runs, ends and leaves a valid report.

kwok plays kubelet by *Stages*: a selector over a pod's fields and a template of its next status. The template here
reads the pod's own stage input and puts the digest of its spec into a report that the contract's types have built, so
the operator takes it exactly like a real trainer's.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

from finetune_api.names import ENV_STAGE_INPUT, StageName
from finetune_api.report import StageReport, encode_report
from finetune_api.status import (
    Artifact,
    Compute,
    DatasetSummary,
    Resolved,
    Results,
    Score,
    SecondaryScore,
    ValidationPoint,
)

__all__ = ["TEST_SCORE", "kwok_config", "node"]

TEST_SCORE: Final = "0.8709"
IMAGE: Final = "registry.example.com/finetune-trainer@sha256:" + "1" * 64
SPEC_DIGEST: Final = "sha256:" + "0" * 64
"""Stands in the built reports where kwok puts the digest that the pod was given."""

_SELECTOR_ALIVE: Final = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}

_RUNNING: Final = """
{{ $now := Now }}
phase: Running
startTime: {{ $now | Quote }}
podIP: 10.0.0.1
hostIP: 10.0.0.1
conditions:
{{ range list "Initialized" "Ready" "ContainersReady" }}
- {type: {{ . }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""

_ENDED: Final = """
{{ $now := Now }}
{{ $root := . }}
phase: Succeeded
containerStatuses:
{{ range .spec.containers }}
{{ $digest := "" }}
{{ $stage := "" }}
{{ range .env }}{{ if eq .name "@ENV@" }}
{{ $input := fromJson .value }}
{{ $digest = $input.specDigest }}
{{ $stage = $input.stage }}
{{ end }}{{ end }}
{{ $report := "@TRAIN@" }}
{{ if eq $stage "prepare" }}{{ $report = "@PREPARE@" }}{{ end }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $root.status.startTime | Quote }}
      finishedAt: {{ $now | Quote }}
      message: {{ $report | b64dec | replace "@SPEC_DIGEST@" $digest | toJson }}
{{ end }}
"""


def report(stage: StageName) -> StageReport:
    """What a stage says at its end, as large as a real one."""
    dataset = DatasetSummary(rows=8530, dropped=12, duplicates=40, train=6814, validation=852, test=852, tokens=1230000)
    prepared = StageReport(
        stage="prepare",
        spec_digest=SPEC_DIGEST,
        digest="sha256:" + "a" * 64,
        dataset=dataset,
        resolved=Resolved(metric="ChoiceAccuracy", choices=27),
    )
    if stage == "prepare":
        return prepared

    def score(value: str, correct: int, low: str, high: str, loss: str) -> Score:
        secondary = [SecondaryScore(name="ExactMatch", score=value)]
        return Score(score=value, correct=correct, total=852, ci95=[low, high], loss=loss, secondary=secondary)

    return prepared.model_copy(
        update={
            "stage": "train",
            "digest": "sha256:" + "b" * 64,
            "resolved": Resolved(method="LoRA", batch_size=16, learning_rate="2e-4", precision="BFloat16", image=IMAGE),
            "validation": [
                ValidationPoint(epoch=epoch, step=330 * epoch, loss="0.61", score="0.8102") for epoch in (1, 2, 3)
            ],
            "results": Results(
                metric="ChoiceAccuracy",
                baseline=score("0.4120", 351, "0.3794", "0.4453", "2.31"),
                test=score(TEST_SCORE, 742, "0.8467", "0.8917", "0.39"),
                gain="+0.4589",
                p_value="1e-60",
                paired_test="McNemarExact",
            ),
            "compute": Compute(parameters=134515008, trained_parameters=4884480, train_tokens=3690000, flops="2.9e15"),
            "artifacts": [
                Artifact(name=name, path=f"{name}/", digest="sha256:" + "c" * 64, bytes=33554432)
                for name in ("adapter", "report")
            ],
        }
    )


def _pod_stage(name: str, *, phase: str, status: str, milliseconds: int) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
        "selector": {
            "matchExpressions": [_SELECTOR_ALIVE, {"key": ".status.phase", "operator": "In", "values": [phase]}]
        },
        "next": {"statusTemplate": status.strip() + "\n"},
    }
    if milliseconds:
        spec["delay"] = {"durationMilliseconds": milliseconds}
    return {"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": "Stage", "metadata": {"name": name}, "spec": spec}


def _encoded(stage: StageName) -> str:
    text = encode_report(report(stage)).decode().replace(SPEC_DIGEST, "@SPEC_DIGEST@")
    return base64.b64encode(text.encode()).decode()


def kwok_config(*, run_seconds: float = 0) -> str:
    """Return kwok's configuration as a stream of JSON documents, which is YAML.

    Parameters
    ----------
    run_seconds
        How long every pod runs before it ends well.
    """
    ended = (
        _ENDED.replace("@ENV@", ENV_STAGE_INPUT)
        .replace("@TRAIN@", _encoded("train"))
        .replace("@PREPARE@", _encoded("prepare"))
    )
    gone = {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "pod-gone"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": [{**_SELECTOR_ALIVE, "operator": "Exists"}]},
            "next": {"finalizers": {"empty": True}, "delete": True},
        },
    }
    documents = (
        _pod_stage("pod-runs", phase="Pending", status=_RUNNING, milliseconds=0),
        _pod_stage("pod-ends", phase="Running", status=ended, milliseconds=round(run_seconds * 1000)),
        gone,
    )
    return "\n---\n".join(json.dumps(document) for document in documents) + "\n"


def node(name: str) -> dict[str, Any]:
    """A node that holds hundreds of pods with a GPU each; nothing backs it."""
    amounts = {
        "cpu": "100k",
        "memory": "1Pi",
        "ephemeral-storage": "1Pi",
        "pods": "10k",
        "nvidia.com/gpu": "10k",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"type": "kwok", "kubernetes.io/hostname": name}},
        "status": {"capacity": amounts, "allocatable": amounts},
    }
