"""Builds the batch/v1 Job of one stage.

Pure: values in, a dict out, so that golden files show every field. Tenant text reaches the pod in one place only, as
JSON in one environment variable; everything else comes from the runtime's snapshot or is fixed here. ``reconcile``
calls this, ``apply`` creates what it returns and never changes the template afterwards.
"""

from __future__ import annotations

import json
from typing import Any, Final

from finetune_api import API_VERSION, JOB_KIND
from finetune_api.digest import spec_digest
from finetune_api.job import FineTuneJobSpec
from finetune_api.names import (
    ANNOTATION_PROGRESS_CA,
    CREDENTIALS_DIR,
    ENV_POD_NAME,
    ENV_POD_UID,
    ENV_PROGRESS_URL,
    ENV_STAGE_INPUT,
    ENV_WORK_DIR,
    ROLES,
    TERMINATION_LOG,
    Role,
    StageName,
    child_labels,
    child_name,
)
from finetune_api.reasons import EXIT_RESUMABLE, final_exit_codes
from finetune_api.runtime import ResolvedRuntime, StageResources, StageRuntime
from finetune_api.stage import JobIdentity, StageInput
from finetune_operator.decide.manifests.mounts import Mount, mounts_of, reporting
from finetune_operator.decide.manifests.queueing import ANNOTATION_QUEUE, queue_of
from finetune_operator.decide.plan import ReportEndpoint

__all__ = ["CONTAINER", "MAX_STAGE_INPUT_BYTES", "USER_ID", "build_job", "secrets_of", "stage_input"]

CONTAINER: Final = "trainer"
USER_ID: Final = 65532
"""uid, gid and fsGroup of the trainer image's user ("nonroot" in distroless images)."""

MAX_STAGE_INPUT_BYTES: Final = 120_000
"""Linux refuses to start a process with one environment string above 128 KiB (MAX_ARG_STRLEN in execve(2))."""


_NOT_INJECTED_LABELS: Final = {"sidecar.istio.io/inject": "false"}
_NOT_INJECTED_ANNOTATIONS: Final = {"sidecar.istio.io/inject": "false", "linkerd.io/inject": "disabled"}
"""No proxy of a service mesh, unless the runtime allows one: it outlives the trainer, and stands between it and its
storage."""


def stage_input(
    *,
    job: JobIdentity,
    spec: FineTuneJobSpec,
    runtime: ResolvedRuntime,
    stage: StageName,
    digest: str | None = None,
    prepared_digest: str | None = None,
    short_report: bool = False,
) -> str:
    r"""Return the stage's input as JSON on one line.

    A dollar sign is written as ``\u0024``: Kubernetes expands ``$(NAME)`` and ``$$`` in environment values, which would
    change a template that holds them.
    """
    document = StageInput(
        stage=stage,
        includes_prepare=spec.resources.gpus_per_node == 0,
        job=job,
        spec=spec,
        spec_digest=digest or spec_digest(spec, template=runtime.template.document if runtime.template else None),
        output_uri=runtime.output_uri,
        storage=runtime.storage,
        template=runtime.template,
        model_cache=runtime.model_cache if stage == "train" else None,
        prepared_digest=prepared_digest,
        short_report=short_report,
        grace_seconds=runtime.termination_grace_period_seconds,
        stall_seconds=runtime.stall_timeout_seconds,
        simulated_gpus=runtime.simulated_gpus,
        image=runtime.image,
    )
    text = json.dumps(document.to_wire(), ensure_ascii=False, separators=(",", ":"))
    return text.replace("$", "\\u0024")


def build_job(
    *,
    job: JobIdentity,
    spec: FineTuneJobSpec,
    runtime: ResolvedRuntime,
    stage: StageName,
    deadline_seconds: int,
    digest: str | None = None,
    backoff_limit: int | None = None,
    prepared_digest: str | None = None,
    short_report: bool = False,
    endpoint: ReportEndpoint | None = None,
) -> dict[str, Any]:
    """Return the child Job of a stage.

    It has no ttlSecondsAfterFinished: its result must be in status first, however long the operator is away. For a
    queue it is made suspended, and whether it runs is the queue's to say from then on.

    Parameters
    ----------
    job
        The owner: namespace, name and uid of the FineTuneJob.
    spec, runtime
        What the user wrote, and the snapshot of the runtime that stands in status.
    stage
        ``prepare`` or ``train``; with ``gpusPerNode: 0`` the one stage ``train`` prepares too.
    deadline_seconds
        What is left of the job's activeDeadlineSeconds, at least 1.
    digest
        Digest of the spec that the report must answer; by default the spec's own.
    backoff_limit
        Failures that the stage has left; by default all that the spec allows.
    prepared_digest
        Digest that prepare reported, for train to check.
    short_report
        Whether to report in a few hundred bytes, because an earlier report did not arrive whole.
    endpoint
        Where the stage that trains posts live reports, unless the runtime says that it doesn't.
    """
    document = stage_input(
        job=job,
        spec=spec,
        runtime=runtime,
        stage=stage,
        digest=digest,
        prepared_digest=prepared_digest,
        short_report=short_report,
    )
    labels = child_labels(job.name, job.uid, stage)
    declined = runtime.sidecar_injection == "Declined"
    if stage != "train" or runtime.progress == "Disabled":
        endpoint = None
    queue = queue_of(spec, runtime, stage)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": child_name(job.name, job.uid, stage),
            "namespace": job.namespace,
            "labels": {**labels, **(queue.labels if queue else {})},
            **({"annotations": {ANNOTATION_QUEUE: str(queue)}} if queue else {}),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": JOB_KIND,
                    "name": job.name,
                    "uid": job.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            **({"suspend": True} if queue else {}),
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": spec.backoff_limit if backoff_limit is None else backoff_limit,
            "activeDeadlineSeconds": max(1, deadline_seconds),
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {
                    "labels": {**labels, **(_NOT_INJECTED_LABELS if declined else {})},
                    "annotations": {
                        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                        "karpenter.sh/do-not-disrupt": "true",
                        **(_NOT_INJECTED_ANNOTATIONS if declined else {}),
                        **({ANNOTATION_PROGRESS_CA: endpoint.ca} if endpoint else {}),
                    },
                },
                "spec": _pod_spec(spec, runtime, stage, document, endpoint),
            },
        },
    }


def _failure_rules() -> list[dict[str, Any]]:
    """First match wins; a failure that matches none counts against backoffLimit."""
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "Ignore", "onExitCodes": _exit_codes([EXIT_RESUMABLE])},
        {"action": "FailJob", "onExitCodes": _exit_codes(final_exit_codes())},
    ]


def _exit_codes(codes: list[int]) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": codes}


def _pod_spec(
    spec: FineTuneJobSpec, runtime: ResolvedRuntime, stage: StageName, document: str, endpoint: ReportEndpoint | None
) -> dict[str, Any]:
    own: StageRuntime = runtime.prepare if stage == "prepare" else runtime.train
    secrets = secrets_of(spec)
    mounts = (*mounts_of(spec, stage, runtime.model_cache), *([reporting()] if endpoint else []))
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": runtime.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _container(
                image=runtime.image,
                stage=stage,
                amounts=_amounts(spec, runtime, own.resources, stage),
                roles=tuple(secrets),
                mounts=mounts,
                document=document,
                url=endpoint.url if endpoint else None,
            )
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": own.resources.ephemeral_storage}},
            {"name": "workspace", "emptyDir": {"sizeLimit": own.resources.ephemeral_storage}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": own.resources.memory}},
            *(
                {"name": f"credentials-{role}", "secret": {"secretName": name, "defaultMode": 0o440}}
                for role, name in secrets.items()
            ),
            *(mount.volume for mount in mounts),
        ],
    }
    if spec.service_account_name is not None:
        pod["serviceAccountName"] = spec.service_account_name
    if runtime.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": secret.name} for secret in runtime.image_pull_secrets]
    if own.node_selector:
        pod["nodeSelector"] = dict(own.node_selector)
    if own.tolerations:
        pod["tolerations"] = [toleration.to_wire() for toleration in own.tolerations]
    if own.runtime_class_name is not None:
        pod["runtimeClassName"] = own.runtime_class_name
    return pod


def _amounts(
    spec: FineTuneJobSpec, runtime: ResolvedRuntime, resources: StageResources, stage: StageName
) -> dict[str, str]:
    """What the container gets, as request and limit alike: quotas then count what is really used."""
    amounts = {
        "cpu": resources.cpu,
        "memory": resources.memory,
        "ephemeral-storage": resources.ephemeral_storage,
    }
    if stage == "train" and spec.resources.gpus_per_node > 0:
        amounts[runtime.gpu_resource_name] = str(spec.resources.gpus_per_node)
    return amounts


def _container(
    *,
    image: str,
    stage: StageName,
    amounts: dict[str, str],
    roles: tuple[Role, ...],
    mounts: tuple[Mount, ...],
    document: str,
    url: str | None,
) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": image,
        "command": ["finetune-trainer"],
        "args": ["stage", stage],
        "workingDir": "/workspace",
        "env": [
            {"name": ENV_STAGE_INPUT, "value": document},
            {"name": ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": ENV_POD_UID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            # Rounded up to whole CPUs by kubelet; torch would otherwise start a thread for every CPU of the node.
            {"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": _cpu_limit()}},
            {"name": ENV_WORK_DIR, "value": "/workspace"},
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
            *([{"name": ENV_PROGRESS_URL, "value": url}] if url else []),
        ],
        "resources": {"requests": dict(amounts), "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TERMINATION_LOG,
        # A crash leaves no report; the last line of its log then stands in status.failure.message.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
            {"name": "workspace", "mountPath": "/workspace"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - a memory volume of this pod alone
            *(
                {"name": f"credentials-{role}", "mountPath": f"{CREDENTIALS_DIR}/{role}", "readOnly": True}
                for role in roles
            ),
            *(mount.volume_mount for mount in mounts),
        ],
    }


def _cpu_limit() -> dict[str, str]:
    return {"containerName": CONTAINER, "resource": "limits.cpu", "divisor": "1"}


def secrets_of(spec: FineTuneJobSpec) -> dict[Role, str]:
    """Names of the Secrets by role; kubelet mounts them, the operator never reads them."""
    refs = {
        "model": spec.model.credentials_ref,
        "adapter": spec.model.adapter.credentials_ref if spec.model.adapter else None,
        "dataset": spec.dataset.credentials_ref,
        "output": spec.output.credentials_ref,
    }
    return {role: ref.name for role in ROLES if (ref := refs[role]) is not None}
