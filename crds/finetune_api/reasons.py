"""The closed table of reasons: why a job waits or failed, what happens then, and what mends it.

The trainer exits with a reason's code, the child Job's podFailurePolicy is built from the codes that are not
retried, and the operator turns code and report back into ``status.failure``. Source of the retry semantics:
Kubernetes, "Handling retriable and non-retriable pod failures with Pod failure policy".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

__all__ = [
    "BY_EXIT_CODE",
    "EXIT_DIFFERENT",
    "EXIT_LAST_DIGITS",
    "EXIT_RESUMABLE",
    "REASONS",
    "Half",
    "Reason",
    "ReasonInfo",
    "final_exit_codes",
]

Half = Literal["trainer", "operator"]
"""The two programs that find reasons."""

EXIT_RESUMABLE: Final = 75
"""EX_TEMPFAIL of sysexits.h: state is saved, run me again; never counted as a failure."""

EXIT_DIFFERENT: Final = 40
"""Of ``finetune-trainer reproduce``: the rerun came out otherwise."""
EXIT_LAST_DIGITS: Final = 41
"""The same, where only computed numbers differ and another machine or version computed them; no pod ends so."""


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
    DISK_FULL = "DiskFull"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    DIVERGED = "Diverged"
    NOT_ACCEPTED = "NotAccepted"
    STALLED = "Stalled"
    ARTIFACT_UPLOAD_FAILED = "ArtifactUploadFailed"
    VERIFICATION_FAILED = "VerificationFailed"
    OUTPUT_EXISTS = "OutputExists"
    OUTPUT_NOT_FOUND = "OutputNotFound"
    NAME_CONFLICT = "NameConflict"
    NOT_REPORTED = "NotReported"
    TRAINER_ERROR = "TrainerError"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonInfo:
    """What follows from a reason.

    ``exit_code`` is the trainer's (None: it has none of its own); ``retried`` whether another pod is started within
    ``backoffLimit``; ``waits`` whether the job waits up to ``pendingTimeoutSeconds`` before it fails, where the
    operator finds it; ``mend`` is the sentence that tells the user what to do, ``meaning`` the one that says what has
    happened. ``found_by`` says who finds it.
    """

    meaning: str
    mend: str
    exit_code: int | None = None
    retried: bool = False
    waits: bool = False
    found_by: tuple[Half, ...]


_TRAINER: Final[tuple[Half, ...]] = ("trainer",)
_OPERATOR: Final[tuple[Half, ...]] = ("operator",)
_BOTH: Final[tuple[Half, ...]] = ("trainer", "operator")

REASONS: Final[dict[Reason, ReasonInfo]] = {
    Reason.INVALID_SPEC: ReasonInfo(
        meaning="A field, or several together, ask for something that cannot be done.",
        mend="Correct the named field in a new FineTuneJob.",
        exit_code=10,
        found_by=_BOTH,
    ),
    Reason.DATASET_INVALID: ReasonInfo(
        meaning="The file was read, but too many of its rows cannot be used, or too few are left to train and to test.",
        mend="Correct the named rows, or raise dataset.badRows.maxPercent.",
        exit_code=11,
        found_by=_TRAINER,
    ),
    Reason.ACCESS_DENIED: ReasonInfo(
        meaning="The storage or the hub knows the credentials and refuses, or does not know them.",
        mend="Give the credentials of the named URI the right to do this.",
        exit_code=12,
        found_by=_TRAINER,
    ),
    Reason.UNSAFE_MODEL: ReasonInfo(
        meaning="Loading the model would run code that comes with it: pickled weights, or modules of its own.",
        mend="Use a model that is stored as safetensors and needs no code of its own.",
        exit_code=13,
        found_by=_TRAINER,
    ),
    Reason.VERIFICATION_FAILED: ReasonInfo(
        meaning="Something that was stored has another digest, or answers otherwise, when it is read back.",
        mend="What was read back differs from what was written; check the storage.",
        exit_code=14,
        found_by=_TRAINER,
    ),
    Reason.DATASET_NOT_FOUND: ReasonInfo(
        meaning="There is no such file or bucket for the rows; or no such volume or ConfigMap (the job waits).",
        mend="Put the file at dataset.uri, or correct the URI.",
        exit_code=15,
        waits=True,
        found_by=_BOTH,
    ),
    Reason.TEMPLATE_INVALID: ReasonInfo(
        meaning="The template cannot be read, names a column that the rows do not have, or does not suit the model.",
        mend="Correct dataset.template; the message names the column or the line.",
        exit_code=16,
        found_by=_TRAINER,
    ),
    Reason.MODEL_NOT_FOUND: ReasonInfo(
        meaning="There is no such model, revision or bucket; or no such volume (the job waits).",
        mend="Put the model at model.uri, or correct the URI or the revision.",
        exit_code=17,
        waits=True,
        found_by=_BOTH,
    ),
    Reason.MODEL_INVALID: ReasonInfo(
        meaning="What lies at model.uri is no causal language model that can be tuned, or does not fit the data.",
        mend="Use a causal language model that transformers can load.",
        exit_code=18,
        found_by=_TRAINER,
    ),
    Reason.OUTPUT_EXISTS: ReasonInfo(
        meaning="The output folder belongs to another job, or holds files that no job wrote.",
        mend="Choose another output.uri, or remove what lies there.",
        exit_code=19,
        found_by=_TRAINER,
    ),
    Reason.OUTPUT_NOT_FOUND: ReasonInfo(
        meaning="There is no such bucket for the results.",
        mend="Create the bucket, or correct output.uri.",
        exit_code=23,
        found_by=_TRAINER,
    ),
    Reason.DIVERGED: ReasonInfo(
        meaning="The loss or the gradient became infinite or no number.",
        mend="Lower training.learningRate.",
        exit_code=20,
        found_by=_TRAINER,
    ),
    Reason.NOT_ACCEPTED: ReasonInfo(
        meaning="The model is tuned and stored, and its result is not what evaluation.minScore, minGain or failOn ask "
        "for. Status has the results and the artifacts.",
        mend="Look at the report below output.uri; mend the rows or the training, or ask for less.",
        exit_code=24,
        found_by=_TRAINER,
    ),
    Reason.CREDENTIALS_NOT_FOUND: ReasonInfo(
        meaning="A Secret or service account is missing (the job waits), or a key in the Secret is empty (it ends).",
        mend="Create the Secret, or give it the key that is missing.",
        exit_code=21,
        waits=True,
        found_by=_BOTH,
    ),
    Reason.GPU_OUT_OF_MEMORY: ReasonInfo(
        meaning="The GPU's memory was full.",
        mend="Lower training.maxLength or batchSize, use LoRA, or a larger GPU.",
        exit_code=22,
        found_by=_TRAINER,
    ),
    Reason.STORAGE_UNAVAILABLE: ReasonInfo(
        meaning="The storage or the hub did not answer, or answered with a fault of its own, several times.",
        mend="Check that the storage endpoint can be reached from the cluster.",
        exit_code=30,
        retried=True,
        found_by=_TRAINER,
    ),
    Reason.ARTIFACT_UPLOAD_FAILED: ReasonInfo(
        meaning="The storage did not take what the job wrote below output.uri.",
        mend="Check the storage behind output.uri: space, quota and reachability.",
        exit_code=31,
        retried=True,
        found_by=_TRAINER,
    ),
    Reason.STALLED: ReasonInfo(
        meaning="A stage got no further for limits.stallTimeoutSeconds of the FineTuneRuntime.",
        mend="The pod's log shows where its threads stood; if it was only slow, raise limits.stallTimeoutSeconds.",
        exit_code=33,
        retried=True,
        found_by=_TRAINER,
    ),
    Reason.TRAINER_ERROR: ReasonInfo(
        meaning="The trainer ended with an error that it can't explain or found no working GPU (tried again), or its "
        "container can't be created (the job waits).",
        mend="Look at the pod's log; report it if it is not your data.",
        exit_code=1,
        retried=True,
        found_by=_BOTH,
    ),
    Reason.OUT_OF_MEMORY: ReasonInfo(
        meaning="The container used more memory than its limit.",
        mend="Raise the memory in the FineTuneRuntime, or apply the job anew with a lower maxLength or batchSize.",
        retried=True,
        found_by=_BOTH,
    ),
    Reason.DISK_FULL: ReasonInfo(
        meaning="The pod used more local disk than its ephemeral storage; kubelet evicted it.",
        mend="Raise ephemeralStorage of the stage in the FineTuneRuntime above the named amount.",
        found_by=_OPERATOR,
    ),
    Reason.RUNTIME_NOT_FOUND: ReasonInfo(
        meaning="The FineTuneRuntime does not exist, or was made for another version.",
        mend="Create the FineTuneRuntime that runtimeRef names, or correct the field of it that is named.",
        waits=True,
        found_by=_OPERATOR,
    ),
    Reason.IMAGE_PULL_FAILED: ReasonInfo(
        meaning="The node cannot get the trainer's image.",
        mend="Correct the image or its pull secret in the FineTuneRuntime.",
        waits=True,
        found_by=_OPERATOR,
    ),
    Reason.QUOTA_EXCEEDED: ReasonInfo(
        meaning="A ResourceQuota of the namespace leaves no room for the job; it waits until there is.",
        mend="Raise the ResourceQuota, or wait until other jobs have ended.",
        waits=True,
        found_by=_OPERATOR,
    ),
    Reason.NOT_PERMITTED: ReasonInfo(
        meaning="The FineTuneRuntime does not allow what the job asks for, or the cluster refuses its Job or pod.",
        mend="Ask the owner of the FineTuneRuntime to allow this, or delete the job and apply it anew with what is "
        "allowed.",
        waits=True,
        found_by=_OPERATOR,
    ),
    Reason.DEADLINE_EXCEEDED: ReasonInfo(
        meaning="The job has used up its activeDeadlineSeconds: all stages and attempts, and the time in which their "
        "pods waited for a node.",
        mend="Raise activeDeadlineSeconds, or make the job smaller: delete it and apply it again; with nothing but the "
        "deadline changed it goes on from what it stored.",
        found_by=_OPERATOR,
    ),
    Reason.BACKOFF_LIMIT_EXCEEDED: ReasonInfo(
        meaning="More than backoffLimit pods have failed, and the last one left no better reason.",
        mend="Look at the log of each container of the last pod; if it was bad luck, delete the job and apply it anew.",
        found_by=_OPERATOR,
    ),
    Reason.NAME_CONFLICT: ReasonInfo(
        meaning="The name of the child Job is taken by a Job of somebody else.",
        mend="Remove the named Job, which is somebody else's, then delete the FineTuneJob and apply it anew; or "
        "apply it under another name.",
        found_by=_OPERATOR,
    ),
    Reason.NOT_REPORTED: ReasonInfo(
        meaning="A stage ended well and left no report that answers this spec, twice.",
        mend="The trainer ended without a valid report; look at the pod's log.",
        found_by=_OPERATOR,
    ),
}

BY_EXIT_CODE: Final[dict[int, Reason]] = {i.exit_code: r for r, i in REASONS.items() if i.exit_code is not None}


def final_exit_codes() -> list[int]:
    """Exit codes that end the job at once (podFailurePolicy action FailJob), sorted as Kubernetes demands."""
    return sorted(i.exit_code for i in REASONS.values() if i.exit_code is not None and not i.retried)
