"""Names, labels, mount points and environment variables that operator and trainer share.

Deterministic child names make a create idempotent: a second create of the same child is a 409, never a second pod.
"""

from __future__ import annotations

from typing import Final, Literal

from finetune_api import GROUP

__all__ = [
    "ANNOTATION_PROGRESS_CA",
    "CREDENTIALS_DIR",
    "DATA_DIR",
    "ENV_POD_NAME",
    "ENV_POD_UID",
    "ENV_PROGRESS_URL",
    "ENV_STAGE_INPUT",
    "ENV_WORK_DIR",
    "JOB_NAME_PATTERN",
    "LABEL_JOB_NAME",
    "LABEL_JOB_UID",
    "LABEL_STAGE",
    "MANAGED_BY",
    "MODEL_CACHE_DIR",
    "PROGRESS_AUDIENCE",
    "PROGRESS_CA_FILE",
    "PROGRESS_DIR",
    "PROGRESS_TOKEN_FILE",
    "ROLES",
    "TERMINATION_LOG",
    "Role",
    "StageName",
    "child_labels",
    "child_name",
    "credentials_field",
    "mount_path",
]

StageName = Literal["prepare", "train"]
Role = Literal["model", "adapter", "dataset", "output"]
ROLES: Final[tuple[Role, ...]] = ("model", "adapter", "dataset", "output")

JOB_NAME_PATTERN: Final = "^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$"
"""DNS-1035, at most 40 characters, so that ``<name>-<uid8>-prepare-<5 of the pod>`` ends at 63."""

MANAGED_BY: Final = "finetune-operator"
LABEL_JOB_UID: Final = f"{GROUP}/job-uid"
LABEL_JOB_NAME: Final = f"{GROUP}/job-name"
LABEL_STAGE: Final = f"{GROUP}/stage"

ENV_STAGE_INPUT: Final = "FINETUNE_STAGE_INPUT"
ENV_WORK_DIR: Final = "FINETUNE_WORK_DIR"
ENV_POD_NAME: Final = "FINETUNE_POD_NAME"
ENV_POD_UID: Final = "FINETUNE_POD_UID"
ENV_PROGRESS_URL: Final = "FINETUNE_PROGRESS_URL"
"""Where a pod posts its live reports; absent where nobody takes them."""

CREDENTIALS_DIR: Final = "/var/run/secrets/finetune.dev"
"""One folder a role below it, each key of the Secret a file; absent: the service account's own identity."""

DATA_DIR: Final = "/mnt/finetune.dev"
"""Volumes and ConfigMaps that a job's URIs name lie below it, read-only, as ``<scheme>/<name>``."""

MODEL_CACHE_DIR: Final = "/var/cache/finetune.dev"
"""The volume of the runtime's model cache, writable."""

ANNOTATION_PROGRESS_CA: Final = f"{GROUP}/progress-ca"
"""Annotation of a pod with the certificate that signs the operator's."""

PROGRESS_AUDIENCE: Final = f"{GROUP}/progress"
"""Audience of a pod's token for live reports; the API server refuses such a token, and the operator every other."""

PROGRESS_DIR: Final = "/var/run/finetune.dev/progress"
PROGRESS_TOKEN_FILE: Final = "token"  # noqa: S105 - a file's name
PROGRESS_CA_FILE: Final = "ca.crt"

TERMINATION_LOG: Final = "/dev/termination-log"


def mount_path(scheme: str, name: str, base: str = DATA_DIR) -> str:
    """Where the PersistentVolumeClaim (``pvc``) or ConfigMap (``configmap``) of a URI lies in a pod."""
    return f"{base}/{scheme}/{name}"


def credentials_field(role: Role) -> str:
    """The field of a job that names the Secret of a role."""
    return f"{'model.adapter' if role == 'adapter' else role}.credentialsRef"


def child_name(job_name: str, job_uid: str, stage: StageName) -> str:
    """Name of a stage's child Job."""
    return f"{job_name}-{job_uid[:8]}-{stage}"


def child_labels(job_name: str, job_uid: str, stage: StageName) -> dict[str, str]:
    """Labels of a stage's Job and pods; an allow-list of our own, nothing is copied from the FineTuneJob."""
    return {
        "app.kubernetes.io/name": "finetune-trainer",
        "app.kubernetes.io/component": "trainer",
        "app.kubernetes.io/managed-by": MANAGED_BY,
        LABEL_JOB_NAME: job_name,
        LABEL_JOB_UID: job_uid,
        LABEL_STAGE: stage,
    }
