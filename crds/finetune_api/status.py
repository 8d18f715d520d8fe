"""``FineTuneJob.status``: what the operator tells, every list and string bounded, every float a decimal string.

``stages``, ``runtime``, ``progress`` and the terminal conditions are the operator's memory and are read back; ``phase``
is derived and never read back (Kubernetes API conventions, "Typical status properties").
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.base import ApiModel, DecimalString, Digest, LocalName, Timestamp
from finetune_api.live import NEWEST_POINTS, LivePhase, Progress, ValidationPoint
from finetune_api.metrics import MetricName, SecondaryName
from finetune_api.names import StageName
from finetune_api.runtime import ResolvedRuntime
from finetune_api.trust import WARNING_TYPES, ResultWarning

__all__ = [
    "Artifact",
    "Compute",
    "Condition",
    "DatasetSummary",
    "DroppedRows",
    "FailedAttempt",
    "Failure",
    "FewShotScore",
    "FineTuneJobStatus",
    "LivePhase",
    "MetricName",
    "NearDuplicates",
    "Phase",
    "Progress",
    "ReferenceScore",
    "Resolved",
    "ResolvedSplit",
    "Results",
    "Score",
    "SecondaryName",
    "SecondaryScore",
    "SourceRows",
    "StageStatus",
    "TruncatedField",
    "ValidationPoint",
]

Phase = Literal[
    "Pending",
    "Queued",
    "Preparing",
    "Baseline",
    "Training",
    "Uploading",
    "Evaluating",
    "Suspended",
    "Succeeded",
    "Failed",
]
Message = Annotated[str, Field(max_length=1024)]


class FailedAttempt(ApiModel):
    """A pod that failed, and after which another one was tried."""

    attempt: int = Field(ge=1, description="Which of the backoffLimit + 1 attempts it was.")
    reason: str = Field(max_length=64, description="A reason of the table in the documentation, or what the node says.")
    message: str = Field(max_length=512, description="What happened.")
    exit_code: int | None = Field(None, description="Exit code of the container.")
    pod: str = Field(max_length=253, description="The pod that failed.")


class StageStatus(ApiModel):
    """One stage, one child Job."""

    name: StageName = Field(description="prepare reads and checks the data on a CPU; train does the rest.")
    state: Literal["Pending", "Running", "Succeeded", "Failed", "Skipped"] = Field(
        description="How far the stage is; Skipped when the result of an earlier job was reused."
    )
    job_name: str | None = Field(None, max_length=63, description="Name of the child Job.")
    job_uid: str | None = Field(None, max_length=64, description="UID of the child Job.")
    attempts: int = Field(0, ge=0, description="Pods that were started for this stage.")
    last_attempt_time: Timestamp | None = Field(None, description="When the newest of these pods was created.")
    failures: int = Field(
        0, ge=0, description="Failures of child Jobs that were replaced since; they count against backoffLimit."
    )
    last_failure: FailedAttempt | None = Field(
        None, description="The newest attempt that failed and was tried again; it stays when a later one succeeds."
    )
    recreated: int = Field(0, ge=0, description="How often the child Job was made anew because its report was lost.")
    start_time: Timestamp | None = Field(None, description="When the child Job started.")
    completion_time: Timestamp | None = Field(None, description="When the child Job ended.")
    run_seconds: int = Field(
        0,
        ge=0,
        description="Seconds that count against activeDeadlineSeconds, waiting for a node included.",
    )
    digest: Digest | None = Field(None, description="Digest of the manifest that the stage left behind.")


class DroppedRows(ApiModel):
    """Bad rows left out, by part."""

    unsplit: int = Field(0, ge=0, description="Rows that could not be read, before their part was known.")
    train: int = Field(0, ge=0, description="Rows to learn from.")
    validation: int = Field(0, ge=0, description="Rows watched during training.")
    test: int = Field(0, ge=0, description="Sealed rows.")


class NearDuplicates(ApiModel):
    """Rows that are nearly alike on both sides of the split, by part; estimated of word 5-grams (MinHash)."""

    train: int = Field(0, ge=0, description="Train rows that nearly repeat a sealed one.")
    validation: int = Field(0, ge=0, description="Validation rows that a train row nearly repeats.")
    test: int = Field(0, ge=0, description="Test rows that a train row nearly repeats.")
    dropped: int = Field(0, ge=0, description="Train rows left out for it.")


class SourceRows(ApiModel):
    """What came of one of dataset.sources, in their order."""

    rows: int = Field(0, ge=0, description="Rows read.")
    train: int = Field(0, ge=0, description="Rows to learn from, as often as its weight takes them.")
    validation: int = Field(0, ge=0, description="Rows watched during training.")
    test: int = Field(0, ge=0, description="Sealed rows.")
    revision: str | None = Field(None, max_length=40, description="Commit of an hf:// dataset.")


class TruncatedField(ApiModel):
    """A field of the template whose text was shortened."""

    name: str = Field(max_length=64, description="Name of the field; prompt where the prompt as a whole was cut.")
    rows: int = Field(ge=0, description="Rows in which it was shortened.")


class DatasetSummary(ApiModel):
    """What was read and how it was cut."""

    rows: int = Field(ge=0, description="Rows read.")
    dropped: int = Field(0, ge=0, description="Bad rows left out.")
    dropped_by: DroppedRows | None = Field(None, description="The same by part; absent if there are none.")
    test_unanswerable: int = Field(
        0,
        ge=0,
        description="Sealed rows that can't be answered, counted as wrong before and after: a label that train never "
        "had or that is no choice, or an answer longer than there is room for.",
    )
    skipped: int | None = Field(
        None, ge=0, description="Rows that the PromptSource prompt renders to nothing for, and so leaves out."
    )
    duplicates: int = Field(0, ge=0, description="Rows left out because the same input and output came before.")
    conflicts: int = Field(0, ge=0, description="Rows whose input also stands with another output; all in one part.")
    leaked: int = Field(
        0, ge=0, description="Rows taken out because a more sealed file that was given has the same input or group."
    )
    sources: Annotated[list[SourceRows], Field(max_length=16)] | None = Field(
        None, description="By source, in the order of dataset.sources."
    )
    near_duplicates: NearDuplicates | None = Field(None, description="Rows nearly alike in train and beyond.")
    truncated: int = Field(0, ge=0, description="Rows whose prompt was shortened to fit maxLength.")
    truncated_fields: Annotated[list[TruncatedField], Field(max_length=4)] | None = Field(
        None, description="What of them was shortened, the most frequent first; absent if there are none."
    )
    folded_labels: int = Field(
        0,
        ge=0,
        description="Rows whose label differed from its choice in case, white space, Unicode form or type.",
    )
    control_tokens: int = Field(
        0, ge=0, description="Rows whose text spells control tokens of the model; encoded as plain characters."
    )
    train: int = Field(0, ge=0, description="Rows to learn from.")
    validation: int = Field(0, ge=0, description="Rows watched during training.")
    test: int = Field(0, ge=0, description="Sealed rows.")
    train_answers: int | None = Field(
        None, ge=0, description="Answers to learn in the conversations to learn from; absent where each row has one."
    )
    tokens: int = Field(0, ge=0, description="Tokens of the training rows.")
    revision: str | None = Field(
        None, max_length=71, description="Commit of an hf:// dataset; a digest over those of several."
    )
    fingerprint: Digest | None = Field(None, description="Digest over the encoded rows of all parts.")


class ResolvedSplit(ApiModel):
    """How the rows were cut, in percent."""

    train_percent: int = Field(ge=0, le=100, description="Rows to learn from.")
    validation_percent: int = Field(ge=0, le=100, description="Rows watched during training.")
    test_percent: int = Field(ge=0, le=100, description="Sealed rows.")


class Resolved(ApiModel):
    """What was chosen where the spec left a choice."""

    method: str | None = Field(None, max_length=16, description="Full or LoRA.")
    batch_size: int | None = Field(None, ge=1, description="Rows per optimizer step.")
    learning_rate: DecimalString | None = Field(None, description="Peak learning rate.")
    target_modules: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=16)] | None = Field(
        None, description="Names of the layers that carry adapters; results.json counts them."
    )
    optimizer: str | None = Field(None, max_length=16, description="AdamW, AdamW8bit or Adafactor.")
    scheduler: str | None = Field(None, max_length=16, description="How the learning rate goes after the warm-up.")
    total_steps: int | None = Field(None, ge=1, description="Optimizer steps planned; early stopping ends before.")
    warmup_steps: int | None = Field(None, ge=0, description="Of these, the ones in which the learning rate rises.")
    precision: str | None = Field(None, max_length=16, description="Arithmetic of the weights.")
    metric: MetricName | None = Field(None, description="The metric of results.")
    select_by: Literal["Score", "Loss"] | None = Field(None, description="What the kept weights are the best by.")
    stop: Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=4)] | None = Field(
        None, description="Texts that end a generated answer, besides the model's end tokens; absent if none does."
    )
    split: ResolvedSplit | None = Field(None, description="How the rows were cut.")
    choices: int | None = Field(None, ge=0, description="Number of known answers; absent if they are open.")
    template_digest: Digest | None = Field(None, description="Digest of the template's text.")
    image: str | None = Field(None, max_length=512, description="The trainer's image.")
    model_revision: str | None = Field(None, max_length=128, description="Commit of an hf:// model, digest of another.")
    adapter_revision: str | None = Field(
        None, max_length=128, description="The same of model.adapter; the baseline is the model with it."
    )


class SecondaryScore(ApiModel):
    """A second metric on the same rows."""

    name: SecondaryName = Field(description="Name of the metric.")
    score: DecimalString = Field(
        description="Its value; 0 to 1 but for Perplexity. Of ECE and Perplexity less is better."
    )


class Score(ApiModel):
    """What one model reached on the sealed rows."""

    score: DecimalString = Field(
        description="Value of results.metric: 0 to 1, higher is better; Perplexity: from 1, lower is better."
    )
    correct: int | None = Field(
        None, ge=0, description="Rows answered correctly; absent where the metric is no share of right rows."
    )
    total: int = Field(ge=0, description="Rows scored.")
    ci95: Annotated[list[DecimalString], Field(max_length=2)] | None = Field(
        None,
        description="Lower and upper bound at 95 %: Wilson's interval (1927) where correct is told, else the "
        "percentiles of a seeded bootstrap over rows; absent where rows don't differ, of which it knows nothing.",
    )
    loss: DecimalString | None = Field(None, description="Mean cross-entropy of a completion token.")
    secondary: Annotated[list[SecondaryScore], Field(max_length=4)] | None = Field(
        None, description="Other metrics on the same rows."
    )


class FewShotScore(Score):
    """What the untouched model reached with examples of train in its prompt, and how the tuned one compares."""

    examples: int = Field(ge=1, description="Examples before a row.")
    fewer: int = Field(0, ge=0, description="Rows that got fewer: no more fit into training.maxLength beside them.")
    context_tokens: int | None = Field(
        None, ge=0, description="Tokens that they add to the prompt of a row, on average."
    )
    gain: DecimalString | None = Field(
        None, description="How much better the tuned model is; absent where there was no room, see results.json."
    )
    p_value: DecimalString | None = Field(
        None, description="Two-sided p-value, by pairedTest, that these two differ by chance."
    )


class ReferenceScore(ApiModel):
    """What is reached without a language model, learnt from the train rows."""

    name: Literal["MajorityClass", "BagOfWords"] = Field(
        description="MajorityClass always gives the most frequent label of train; BagOfWords is naive Bayes over the "
        "tokens of the prompt."
    )
    score: DecimalString = Field(description="results.metric on the same sealed rows.")


class Results(ApiModel):
    """Before and after on the same sealed rows."""

    metric: MetricName = Field(description="What the scores are.")
    baseline: Score = Field(description="The untouched model.")
    few_shot: FewShotScore | None = Field(
        None, description="The untouched model with examples in its prompt, where evaluation.fewShot asks for it."
    )
    test: Score = Field(description="The tuned model, as exported.")
    gain: DecimalString = Field(
        description="How much better the tuned model is, with its sign: test minus baseline; for Perplexity, where "
        "lower is better, baseline minus test. Above 0 is always better."
    )
    p_value: DecimalString | None = Field(None, description="Two-sided p-value that the two differ by chance.")
    paired_test: Literal["McNemarExact", "PairedBootstrap"] | None = Field(
        None,
        description="The test behind pValue: McNemar's (1947, exact binomial form) where rows are right or wrong, else "
        "a seeded bootstrap over pairs of rows.",
    )
    references: Annotated[list[ReferenceScore], Field(max_length=2)] | None = Field(
        None,
        description="Scores without a language model on the same rows; for metrics over choices that all rows share; "
        "absent where there was no room, see results.json.",
    )
    warnings: Annotated[list[ResultWarning], Field(max_length=len(WARNING_TYPES))] | None = Field(
        None, description="What speaks against trusting these numbers; absent if nothing does."
    )


class Compute(ApiModel):
    """What the training cost."""

    parameters: int | None = Field(None, ge=0, description="Parameters of the model.")
    trained_parameters: int | None = Field(None, ge=0, description="Parameters that were changed.")
    train_tokens: int | None = Field(None, ge=0, description="Tokens seen in training, padding not counted.")
    compute_optimal_tokens: int | None = Field(
        None,
        ge=0,
        description="20 tokens a parameter (Hoffmann et al. 2022): for training from scratch, not for tuning.",
    )
    flops: DecimalString | None = Field(None, description="Estimated floating point operations of the training.")
    train_seconds: int | None = Field(None, ge=0, description="Seconds in the training loop.")
    tokens_per_second: int | None = Field(None, ge=0, description="Training tokens a second, padding not counted.")
    peak_memory_bytes: int | None = Field(None, ge=0, description="Peak memory of the process, or of the GPU.")


class Artifact(ApiModel):
    """Something stored below output.uri."""

    # Narrow bounds: eight of these must fit into a termination message beside the scores.
    name: str = Field(
        max_length=32, pattern=r"^[a-z][a-z0-9-]*$", description="model, adapter, report or prepared, for example."
    )
    path: str = Field(max_length=64, pattern=r"^[A-Za-z0-9._/-]+$", description="Path below outputUri.")
    digest: Digest | None = Field(
        None, description="Digest over the digests of its files; absent where there was no room, see manifest.json."
    )
    bytes: int = Field(ge=0, description="Size of all its files.")


class Failure(ApiModel):
    """Why the job failed; absent unless it did."""

    reason: str = Field(max_length=64, description="A reason of the table in the documentation.")
    message: Message = Field(description="What happened and what mends it.")
    stage: StageName | None = Field(None, description="The stage that failed.")
    exit_code: int | None = Field(None, description="Exit code of the container.")
    pod: str | None = Field(None, max_length=253, description="The pod to look at.")
    log: str | None = Field(
        None, max_length=64, description="The log of that attempt as JSON lines, below outputUri; it outlives the pod."
    )


class Condition(ApiModel):
    """metav1.Condition."""

    type: str = Field(
        max_length=316, pattern=r"^[A-Za-z][A-Za-z0-9]*$", description="Kind of the condition; one of each kind."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    observed_generation: int | None = Field(None, ge=0, description="Generation of the spec that this is about.")
    last_transition_time: Timestamp = Field(description="When status last changed.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
        description="CamelCase word.",
    )
    message: str = Field("", max_length=32768, description="A sentence for people; may be empty.")


class FineTuneJobStatus(ApiModel):
    """What has been reached."""

    observed_generation: int | None = Field(None, ge=-1, description="Generation of the spec that was last acted on.")
    phase: Phase | None = Field(None, description="Summary for people; derived from the conditions and stages.")
    output_uri: str | None = Field(None, max_length=1024, description="Where the results go.")
    start_time: Timestamp | None = Field(None, description="When the first stage was created.")
    completion_time: Timestamp | None = Field(None, description="When the job ended.")
    runtime: ResolvedRuntime | None = Field(
        None,
        description="The runtime as it was when the job started; later edits of the FineTuneRuntime have no effect.",
    )
    spec_digest: Digest | None = Field(
        None, description="Digest of what the spec asked for when the job took its runtime; reports answer it."
    )
    stages: Annotated[list[StageStatus], Field(max_length=4)] | None = Field(None, description="Stages in their order.")
    progress: Progress | None = Field(None, description="How far the job is.")
    dataset: DatasetSummary | None = Field(None, description="What was read and how it was cut.")
    resolved: Resolved | None = Field(None, description="What was chosen where the spec left a choice.")
    validation: Annotated[list[ValidationPoint], Field(max_length=NEWEST_POINTS)] | None = Field(
        None, description="The newest validation points."
    )
    results: Results | None = Field(None, description="Before and after on the same sealed rows.")
    compute: Compute | None = Field(None, description="What the training cost.")
    artifacts: Annotated[list[Artifact], Field(max_length=8)] | None = Field(
        None, description="What lies below outputUri."
    )
    manifest_digest: Digest | None = Field(None, description="Digest of manifest.json below outputUri.")
    failure: Failure | None = Field(None, description="Why the job failed; absent unless it did.")
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        None, description="Succeeded, Finished, Suspended, Prepared, ArtifactPublished, Reconciling, Stalled."
    )
    waiting_for: LocalName | None = Field(None, description="Name of the object that the job waits for.")
    waiting_since: Timestamp | None = Field(None, description="Since when the job waits for what its reason names.")
