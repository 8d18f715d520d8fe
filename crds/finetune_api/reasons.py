"""The closed table of reasons: why a job waits or failed, what happens then, and what mends it.

The trainer exits with a reason's code, the child Job's podFailurePolicy is built from the codes that are not
retried, and the operator turns code and report back into ``status.failure``. Source of the retry semantics:
Kubernetes, "Handling retriable and non-retriable pod failures with Pod failure policy".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = ["BY_EXIT_CODE", "EXIT_RESUMABLE", "REASONS", "Reason", "ReasonInfo", "final_exit_codes"]

EXIT_RESUMABLE: Final = 75
"""EX_TEMPFAIL of sysexits.h: state is saved, run me again; never counted as a failure."""


class Reason(StrEnum):
    """Every reason that ``status.failure.reason`` or the Succeeded condition can carry when a job failed or waits."""

    INVALID_SPEC = "InvalidSpec"
    RUNTIME_NOT_FOUND = "RuntimeNotFound"
    CREDENTIALS_NOT_FOUND = "CredentialsNotFound"
    NOT_PERMITTED = "NotPermitted"
    ACCESS_DENIED = "AccessDenied"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    DATASET_NOT_FOUND = "DatasetNotFound"
    DATASET_INVALID = "DatasetInvalid"
    TEMPLATE_INVALID = "TemplateInvalid"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_INVALID = "ModelInvalid"
    UNSAFE_MODEL = "UnsafeModel"
    OUT_OF_MEMORY = "OutOfMemory"
    GPU_OUT_OF_MEMORY = "GPUOutOfMemory"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DIVERGED = "Diverged"
    STALLED = "Stalled"
    ARTIFACT_UPLOAD_FAILED = "ArtifactUploadFailed"
    VERIFICATION_FAILED = "VerificationFailed"
    OUTPUT_EXISTS = "OutputExists"
    NAME_CONFLICT = "NameConflict"
    NOT_REPORTED = "NotReported"
    TRAINER_ERROR = "TrainerError"


@dataclass(frozen=True, slots=True)
class ReasonInfo:
    """What follows from a reason.

    ``exit_code`` is the trainer's (None: only the operator finds it); ``retried`` whether another pod is started within
    ``backoffLimit``; ``waits`` whether the job waits up to ``pendingTimeoutSeconds`` before it fails; ``mend`` is the
    sentence that tells the user what to do.
    """

    exit_code: int | None
    retried: bool
    waits: bool
    mend: str


def _user(code: int, mend: str) -> ReasonInfo:
    return ReasonInfo(code, retried=False, waits=False, mend=mend)


def _retry(code: int | None, mend: str) -> ReasonInfo:
    return ReasonInfo(code, retried=True, waits=False, mend=mend)


def _waits(mend: str, code: int | None = None) -> ReasonInfo:
    return ReasonInfo(code, retried=False, waits=True, mend=mend)


def _ends(mend: str) -> ReasonInfo:
    return ReasonInfo(None, retried=False, waits=False, mend=mend)


REASONS: Final[dict[Reason, ReasonInfo]] = {
    Reason.INVALID_SPEC: _user(10, "Correct the named field in a new FineTuneJob."),
    Reason.DATASET_INVALID: _user(11, "Correct the named rows, or raise dataset.badRows.maxPercent."),
    Reason.ACCESS_DENIED: _user(12, "Give the credentials of the named URI the right to do this."),
    Reason.UNSAFE_MODEL: _user(13, "Use a model that is stored as safetensors and needs no code of its own."),
    Reason.VERIFICATION_FAILED: _user(14, "What was read back differs from what was written; check the storage."),
    Reason.DATASET_NOT_FOUND: _user(15, "Put the file at dataset.uri, or correct the URI."),
    Reason.TEMPLATE_INVALID: _user(16, "Correct dataset.template; the message names the column or the line."),
    Reason.MODEL_NOT_FOUND: _user(17, "Put the model at model.uri, or correct the URI or the revision."),
    Reason.MODEL_INVALID: _user(18, "Use a causal language model that transformers can load."),
    Reason.OUTPUT_EXISTS: _user(19, "Choose another output.uri, or remove what lies there."),
    Reason.DIVERGED: _user(20, "Lower training.learningRate."),
    Reason.CREDENTIALS_NOT_FOUND: _waits("Create the named Secret with the keys that its role needs.", code=21),
    Reason.GPU_OUT_OF_MEMORY: _user(22, "Lower training.maxLength or batchSize, use LoRA, or a larger GPU."),
    Reason.STORAGE_UNAVAILABLE: _retry(30, "Check that the storage endpoint can be reached from the cluster."),
    Reason.ARTIFACT_UPLOAD_FAILED: _retry(31, "Check the storage behind output.uri: space, quota and reachability."),
    Reason.STALLED: _retry(33, "Look at the pod's log for what it waited for."),
    Reason.TRAINER_ERROR: _retry(1, "Look at the pod's log; report it if it is not your data."),
    Reason.OUT_OF_MEMORY: _retry(None, "Raise the memory in the FineTuneRuntime, or lower maxLength or batchSize."),
    Reason.RUNTIME_NOT_FOUND: _waits("Create the FineTuneRuntime that runtimeRef names."),
    Reason.IMAGE_PULL_FAILED: _waits("Correct the image or its pull secret in the FineTuneRuntime."),
    Reason.QUOTA_EXCEEDED: _waits("Raise the ResourceQuota, or wait until other jobs have ended."),
    Reason.NOT_PERMITTED: _ends("Use what the FineTuneRuntime allows, or ask its owner to allow this."),
    Reason.DEADLINE_EXCEEDED: _ends("Raise activeDeadlineSeconds, or make the job smaller."),
    Reason.BACKOFF_LIMIT_EXCEEDED: _ends(
        "See failure.message for the last attempt; raise backoffLimit if it was bad luck."
    ),
    Reason.NAME_CONFLICT: _ends("Remove the named Job that belongs to someone else, or rename the FineTuneJob."),
    Reason.NOT_REPORTED: _ends("The trainer ended without a valid report; look at the pod's log."),
}

BY_EXIT_CODE: Final[dict[int, Reason]] = {i.exit_code: r for r, i in REASONS.items() if i.exit_code is not None}


def final_exit_codes() -> list[int]:
    """Exit codes that end the job at once (podFailurePolicy action FailJob), sorted as Kubernetes demands."""
    return sorted(i.exit_code for i in REASONS.values() if i.exit_code is not None and not i.retried)
