"""Makes docs/failures.md from the reason table: ``python -m finetune_api.failures --write`` or ``--check``.

A tool of the repository, like :mod:`finetune_api.crd`. What a reason means and what follows from it stands in
:mod:`finetune_api.reasons`; this module adds an example of each message and says what to do about it in the order in
which a user asks.
"""

from __future__ import annotations

import argparse
import sys
from typing import Final

from finetune_api.crd import REPO_ROOT
from finetune_api.reasons import EXIT_DIFFERENT, EXIT_LAST_DIGITS, EXIT_RESUMABLE, REASONS, Reason, ReasonInfo

__all__ = ["EXAMPLES", "PATH", "main", "render"]

PATH: Final = "docs/failures.md"
"""Where the page lies, below the repository's root."""

EXAMPLES: Final[dict[Reason, str]] = {
    Reason.INVALID_SPEC: "output.uri is needed, because FineTuneRuntime default has no outputPrefix; delete the job "
    "and apply it anew with a folder such as s3://bucket/name/",
    Reason.DATASET_INVALID: "1 of 12 rows can't be used, more than dataset.badRows.maxPercent 5: line 7: not JSON: "
    "Expecting property name enclosed in double quotes at column 14.",
    Reason.ACCESS_DENIED: "reading s3://team-a-data/rows.jsonl (dataset.uri) was refused: 403.",
    Reason.UNSAFE_MODEL: "model.uri: config.json asks for code of its own (auto_map), which is never run.",
    Reason.VERIFICATION_FAILED: "s3://team-a-models/support-intent/model/model.safetensors is not what was written "
    "there.",
    Reason.DATASET_NOT_FOUND: "dataset.uri: there is no file at s3://team-a-data/rows.jsonl.",
    Reason.TEMPLATE_INVALID: "dataset.template topic needs column 'utterance', which no row has; map it with "
    "template.columns: {text: YOUR_COLUMN}; columns: text, label.",
    Reason.MODEL_NOT_FOUND: "model.uri: there are no files at s3://models/smollm2/.",
    Reason.MODEL_INVALID: "model.uri: bert is no causal language model.",
    Reason.OUTPUT_EXISTS: "output.uri: s3://team-a-models/support-intent/ holds a result of another job (team-a/first, "
    "0f3c9a1b-7d0c-4e0a-9b1c-2d3e4f5a6b7c) of another spec: training.seed; set output.ifExists: Overwrite to replace "
    "it.",
    Reason.OUTPUT_NOT_FOUND: "listing s3://team-a-modles/support-intent/ (output.uri): there is no bucket "
    "'team-a-modles'.",
    Reason.DIVERGED: "training diverged at step 3 of 120: the loss is nan and the gradient's norm nan, with "
    "training.learningRate 1.",
    Reason.NOT_ACCEPTED: "evaluation.minScore asks for 0.9, and ChoiceAccuracy is 0.8710; evaluation.failOn names "
    "NoGain: the gain of +0.0120 may be chance (p 0.4200).",
    Reason.CREDENTIALS_NOT_FOUND: 'Secret "team-a-s3" does not exist in the namespace of the job. Create it with the '
    "keys that model.credentialsRef needs.",
    Reason.GPU_OUT_OF_MEMORY: "the GPU's memory was full during training: CUDA out of memory. Tried to allocate 2.00 "
    "GiB.",
    Reason.STORAGE_UNAVAILABLE: "reading s3://team-a-data/rows.jsonl failed: EndpointConnectionError.",
    Reason.ARTIFACT_UPLOAD_FAILED: "writing s3://team-a-models/support-intent/model/model.safetensors failed: "
    "InsufficientStorage.",
    Reason.STALLED: "no sign of progress for 3600 s, in step upload_model.",
    Reason.TRAINER_ERROR: "resources.gpusPerNode asks for a GPU, but the container finds none that works: check the "
    "node's driver, and train.runtimeClassName and gpuResourceName of the FineTuneRuntime.",
    Reason.OUT_OF_MEMORY: "The trainer used more memory than its limit (exit code 137).",
    Reason.DISK_FULL: 'The pod was evicted: Usage of EmptyDir volume "workspace" exceeds the limit "20Gi".',
    Reason.RUNTIME_NOT_FOUND: "FineTuneRuntime default does not exist.",
    Reason.IMAGE_PULL_FAILED: 'Back-off pulling image "registry.example.com/trainer@sha256:…".',
    Reason.QUOTA_EXCEEDED: 'pods "support-intent-0f3c9a1b-train-x2x9z" is forbidden: exceeded quota: gpus, requested: '
    "requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=4, limited: requests.nvidia.com/gpu=4.",
    Reason.NOT_PERMITTED: "resources.gpusPerNode is 1, and FineTuneRuntime cpu allows at most 0; ask its owner to "
    "raise limits.gpusPerNode, or delete the job and apply it anew with at most 0 or another runtimeRef.name",
    Reason.DEADLINE_EXCEEDED: "Stage train was stopped: the job's 14400 s (activeDeadlineSeconds) are used up.",
    Reason.BACKOFF_LIMIT_EXCEEDED: "The trainer ended with exit code 139.",
    Reason.NAME_CONFLICT: "Job support-intent-0f3c9a1b-train is not of this FineTuneJob.",
}
"""What a message says besides the mend, which most end with."""

_HEAD: Final = """# When a job waits or fails

<!-- Made by `make generate` from crds/finetune_api/reasons.py; do not edit. -->

`kubectl get ftj NAME -n NAMESPACE` shows the reason. While a job waits, `status.conditions[Succeeded]` is `Unknown`
with the reason and a message; once it has failed, `Succeeded` is `False`, `Stalled` is `True`, and `status.failure`
names the reason and a message with the mend; where a pod told it, the stage, the exit code and the pod too. A job
that has failed is never started again: mend the cause, delete it, and apply the same manifest anew (`suspend`,
`ttlSecondsAfterFinished` and `activeDeadlineSeconds` may differ). It goes on from what the failed one had stored at
`output.uri`: checkpoints and the score of the untouched model, if the rows are still the same. With another spec
choose another `output.uri`, or set `output.ifExists: Overwrite`; neither is needed where the failed job had stored
nothing yet. There is no half success: status has all results or none, and a folder without `manifest.json` is no
result. Only `NotAccepted` has both, results and a failure: the result is whole, and not good enough.

```console
$ kubectl get ftj NAME -n NAMESPACE -o jsonpath='{.status.failure.reason}: {.status.failure.message}'
```

A reason that is **tried again** starts another pod, up to `backoffLimit` more; the job has then failed with the reason
of the last one. `backoffLimit` counts the failures of a stage over all its child Jobs, those before a suspension
included; a pod that was interrupted and saved its state is no failure.

One that **waits** goes on by itself as soon as the cause is mended. Before a pod of the job has ever started, it fails
after `limits.pendingTimeoutSeconds` of the FineTuneRuntime (600 seconds unless set); once one has, it waits for as long
as `activeDeadlineSeconds` lets it. `status.waitingSince` says since when. `QuotaExceeded` waits without that limit, as
does everything that the cluster itself has to give or suffers. All others end the job at once, since another try would
end the same way.

Reasons of `Succeeded=Unknown` that are no failures, with what Kubernetes says in the message:

| reason | what it means |
| --- | --- |
| `Pending`, `Starting` | The stage's Job or pod is being made. |
| `Preparing`, `Training` | The stage runs. |
| `Unschedulable` | No node has room for the pod: other jobs end, or an autoscaler brings one. |
| `Queued` | Kueue has not admitted the Job yet, or has stopped it to make room. It costs no time. |
| `Inadmissible` | Kueue can't admit the Job until somebody mends what the message names. It costs no time. |
| `ChildSuspended` | Somebody has suspended the Job itself; the message says who, and since when. It costs no time. |
| `ControlPlaneFault` | The API server, or a webhook that it calls, fails at making the Job or its pod. |
| `MountFailed`, `SandboxFailed` | The node can't mount what the pod needs, or can't set up its network. |
| `PodTerminating` | An old pod has to leave first; one that should have gone is named with its node and the mend. |
| `Restarting` | The stage's Job was deleted, lost its report, or outlived its trainer, and is made anew. |
| `Suspending`, `Suspended`, `Resuming` | What `spec.suspend` asks for. |

| reason | exit code | found by | then |
| --- | --- | --- | --- |
"""

_EXIT_CODES: Final = f"""
## Exit codes of the trainer

| code | what it means |
| --- | --- |
| 0 | The stage is done and has reported. |
| 2 | A wrong command line; no stage has run. |
| {EXIT_DIFFERENT} | `finetune-trainer reproduce` came to another result. |
| {EXIT_LAST_DIGITS} | The same, where only computed numbers differ and another machine or version computed them. |
| {EXIT_RESUMABLE} | No failure: the pod was told to stop and has saved its state; the next one goes on from there. \
Not counted against `backoffLimit`. |
| 130 | `finetune-trainer run` was interrupted at the keyboard. |
| 137 | Killed from outside: OutOfMemory where the kernel says so, else what the node says of the pod. |
"""


def _then(info: ReasonInfo) -> str:
    if info.waits:
        return "waits"
    return "tried again" if info.retried else "ends the job"


def _section(reason: Reason, info: ReasonInfo) -> str:
    lines = [f"## {reason}", "", info.meaning, "", f"**Mend:** {info.mend}"]
    if reason in EXAMPLES:
        lines += ["", f"> {EXAMPLES[reason]}"]
    return "\n".join(lines) + "\n"


def render() -> str:
    """Return the page."""
    rows = [
        f"| [{reason}](#{reason.lower()}) | {info.exit_code if info.exit_code is not None else ''} | "
        f"{' and '.join(info.found_by)} | {_then(info)} |\n"
        for reason, info in REASONS.items()
    ]
    sections = [_section(reason, info) for reason, info in REASONS.items()]
    return _HEAD + "".join(rows) + "\n" + "\n".join(sections) + _EXIT_CODES


def main(argv: list[str] | None = None) -> int:
    """Write the page, or tell whether it is stale; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m finetune_api.failures", description="Generates docs/failures.md.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the page")
    action.add_argument("--check", action="store_true", help="exit with 1 if the page is not what would be written")
    arguments = parser.parse_args(argv)
    path, text = REPO_ROOT / PATH, render()
    if path.exists() and path.read_text() == text:
        return 0
    if arguments.check:
        sys.stderr.write(f"stale: {PATH}; run python -m finetune_api.failures --write\n")
        return 1
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote: {PATH}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
