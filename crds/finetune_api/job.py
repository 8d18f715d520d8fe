"""``FineTuneJob.spec``: what a user writes.

Every block but the listed mutable fields is immutable; the CRD generator derives those rules from
:data:`MUTABLE_FIELDS`. A field whose behaviour this version lacks is refused by a :func:`~finetune_api.base.not_yet`
rule, never accepted and ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from finetune_api.base import ApiModel, DecimalString, LocalName, Rule, SecretRef, not_yet
from finetune_api.uris import CLUSTER_URI

__all__ = [
    "MUTABLE_FIELDS",
    "BadRows",
    "Checkpoint",
    "Dataset",
    "DatasetFiles",
    "EarlyStopping",
    "Evaluation",
    "FineTuneJobSpec",
    "InlineTemplate",
    "LoRA",
    "Model",
    "Output",
    "Resources",
    "RuntimeRef",
    "Split",
    "Template",
    "Training",
]

MUTABLE_FIELDS: Final = frozenset({"suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds"})
"""Fields of spec that may change after creation."""

Uri = Annotated[str, Field(min_length=6, max_length=1024)]
Column = Annotated[str, Field(min_length=1, max_length=128)]


def _in_cluster(field: str, schemes: str, *, optional: bool = False) -> Rule:
    """URIs of a cluster run: a known scheme, nothing that could make a prefix check lie."""
    cel = f"self.{field}.matches('{_cel_text(schemes)}') && !self.{field}.matches('(^|/)[.][.]?(/|$)')"
    pattern, dots = re.compile(schemes), re.compile("(^|/)[.][.]?(/|$)")

    def check(obj: object) -> bool:
        value: str | None = getattr(obj, field)
        return value is None or bool(pattern.search(value) and not dots.search(value))

    return Rule(
        cel=f"!has(self.{field}) || ({cel})" if optional else cel,
        message=f"{field} must be a URI that a pod can read, such as s3://bucket/key, without '..', '?', '#' or spaces",
        check=check,
        cluster_only=True,
    )


def _cel_text(pattern: str) -> str:
    return pattern.replace("\\", "\\\\")


S3_URI: Final = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^?#\\\s]*$"


class RuntimeRef(ApiModel):
    """Names the FineTuneRuntime to run on."""

    name: LocalName = Field("default", description="Name of a cluster-scoped FineTuneRuntime.")


class Model(ApiModel):
    """The model to start from."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _in_cluster("uri", CLUSTER_URI),
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message="revision belongs to hf:// models only; remove it, or version the s3:// path itself",
            check=lambda m: m.revision is None or m.uri.startswith("hf://"),
        ),
    )

    uri: Uri = Field(description="Where the model lies: s3://bucket/prefix/ or hf://org/name. Safetensors only.")
    revision: str | None = Field(
        None, max_length=128, pattern=r"^[A-Za-z0-9._/-]+$", description="Branch, tag or commit of an hf:// model."
    )
    credentials_ref: SecretRef | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or HF_TOKEN for an hf:// model."
    )


class DatasetFiles(ApiModel):
    """One file for each part, for data that is split already."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _in_cluster("train", S3_URI),
        _in_cluster("validation", S3_URI, optional=True),
        _in_cluster("test", S3_URI, optional=True),
    )

    train: Uri = Field(description="Rows to learn from.")
    validation: Uri | None = Field(None, description="Rows to watch during training. Absent: cut from train.")
    test: Uri | None = Field(None, description="Sealed rows for the accuracy. Absent: cut from train.")


class InlineTemplate(ApiModel):
    """A prompt template of the user's own, in sandboxed Jinja."""

    prompt: str = Field(min_length=1, max_length=8192, description="Jinja text; the columns of the row are variables.")
    completion: str = Field(min_length=1, max_length=8192, description="Jinja text of the expected answer.")


class Template(ApiModel):
    """How a row becomes a prompt and an expected completion."""

    rules: ClassVar[tuple[Rule, ...]] = (
        not_yet("!has(self.promptsource)", "template.promptsource", lambda t: t.promptsource is None),
        Rule(
            cel="(has(self.name) ? 1 : 0) + (has(self.inline) ? 1 : 0) == 1",
            message="template needs exactly one of name and inline",
            check=lambda t: (t.name is not None) + (t.inline is not None) == 1,
        ),
        Rule(
            cel="!has(self.choices) || self.choices.all(c, self.choices.exists_one(d, d == c))",
            message="template.choices must not repeat a choice; remove the duplicate",
            check=lambda t: t.choices is None or len(set(t.choices)) == len(t.choices),
        ),
        Rule(
            cel="!has(self.columns) || has(self.name)",
            message="template.columns maps the fields of a named template; an inline template names the columns itself",
            check=lambda t: t.columns is None or t.name is not None,
        ),
    )

    name: (
        Literal[
            "sentiment",
            "topic",
            "intent",
            "nli",
            "qa",
            "summarization",
            "instruction",
            "multiple-choice",
            "raw",
            "messages",
        ]
        | None
    ) = Field(None, description="A template of the library.")
    inline: InlineTemplate | None = Field(None, description="A template of your own.")
    promptsource: str | None = Field(None, max_length=253, description="A PromptSource template. Not supported yet.")
    columns: dict[Annotated[str, Field(max_length=64)], Column] | None = Field(
        None,
        max_length=16,
        description="Maps the template's fields to columns of the data, for example text: utterance.",
    )
    choices: list[Annotated[str, Field(min_length=1, max_length=128)]] | None = Field(
        None,
        min_length=2,
        max_length=256,
        description="The possible answers. Absent: from the template, else the label set found in train, else none.",
    )


class Split(ApiModel):
    """How the rows are cut into train, validation and test. Columns are those of the data, before templating."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.trainPercent + self.validationPercent + self.testPercent == 100",
            message="split.trainPercent, validationPercent and testPercent must add up to 100",
            check=lambda s: s.train_percent + s.validation_percent + s.test_percent == 100,
        ),
    )

    train_percent: int = Field(80, ge=1, le=99, description="Share of the rows to learn from.")
    validation_percent: int = Field(10, ge=0, le=98, description="Share of the rows to watch during training.")
    test_percent: int = Field(10, ge=0, le=98, description="Share of the sealed rows. 0 only with files.test.")
    seed: int = Field(42, ge=0, le=2147483647, description="Another seed gives another split.")
    stratify_by: Column | None = Field(None, description="Keep the shares of this column's values equal in all parts.")
    group_by: Column | None = Field(None, description="Rows with the same value here stay in one part.")


class BadRows(ApiModel):
    """What to do with rows that can't be used: no JSON, a missing column, an empty or too long completion."""

    policy: Literal["Drop", "Fail"] = Field("Drop", description="Drop counts them; Fail ends the job at the first.")
    max_percent: int = Field(5, ge=0, le=100, description="With Drop: more bad rows than this end the job.")


class Dataset(ApiModel):
    """The rows, how they are cut and how they become prompts."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _in_cluster("uri", S3_URI, optional=True),
        Rule(
            cel="has(self.uri) != has(self.files)",
            message="dataset needs exactly one of uri and files",
            check=lambda d: (d.uri is None) != (d.files is None),
        ),
        Rule(
            cel="(has(self.files) && has(self.files.test)) ? self.split.testPercent == 0 : self.split.testPercent > 0",
            message="split.testPercent must be 0 with dataset.files.test, and above 0 without it",
            check=lambda d: (d.split.test_percent == 0) == bool(d.files and d.files.test),
        ),
        Rule(
            cel="(has(self.files) && has(self.files.validation)) ? self.split.validationPercent == 0 : true",
            message="split.validationPercent must be 0 with dataset.files.validation",
            check=lambda d: not (d.files and d.files.validation) or d.split.validation_percent == 0,
        ),
        not_yet(
            "self.format in ['Auto', 'Jsonl', 'Csv', 'Tsv']",
            "dataset.format other than Auto, Jsonl, Csv and Tsv",
            lambda d: d.format in ("Auto", "Jsonl", "Csv", "Tsv"),
            mend="convert the file to JSON lines or CSV",
        ),
    )

    uri: Uri | None = Field(None, description="One file with all rows, for example s3://bucket/rows.jsonl.")
    files: DatasetFiles | None = Field(None, description="Files for data that is split already.")
    format: Literal["Auto", "Jsonl", "Json", "Csv", "Tsv", "Parquet", "Arrow"] = Field(
        "Auto", description="Auto goes by the ending of the URI: .jsonl, .csv, .tsv."
    )
    credentials_ref: SecretRef | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for reading the rows."
    )
    template: Template = Field(description="How a row becomes a prompt and an expected completion.")
    split: Split = Field(Split(), description="How the rows are cut into train, validation and test.")
    bad_rows: BadRows = Field(BadRows(), description="What to do with rows that can't be used.")


class LoRA(ApiModel):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on every linear layer of the blocks."""

    rank: int = Field(16, ge=1, le=512, description="Rank of the adapters.")
    alpha: int = Field(
        32, ge=1, le=4096, description="Scale of the adapters; the update is multiplied by alpha / rank."
    )
    dropout: DecimalString = Field("0.0", description='Dropout on the adapters\' input, for example "0.05".')


class EarlyStopping(ApiModel):
    """Stops when the validation loss no longer falls."""

    patience: int = Field(ge=1, le=100, description="Epochs without a lower validation loss before training stops.")


class Checkpoint(ApiModel):
    """When training state is saved."""

    interval_seconds: int = Field(600, ge=30, le=86400, description="Seconds between two checkpoints.")


class Training(ApiModel):
    """How the model is tuned. Absent numbers are chosen and echoed in status.resolved."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.lora) || self.method != 'Full'",
            message="training.lora belongs to method LoRA; remove it or set method: LoRA",
            check=lambda t: t.lora is None or t.method != "Full",
        ),
        Rule(
            cel="!has(self.learningRate) || (double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0)",
            message='training.learningRate must be above 0 and at most 1, as text such as "2e-4"',
            check=lambda t: t.learning_rate is None or 0 < float(t.learning_rate) <= 1,
        ),
        Rule(
            cel="!has(self.lora) || (double(self.lora.dropout) >= 0.0 && double(self.lora.dropout) < 1.0)",
            message='training.lora.dropout must be at least 0 and below 1, as text such as "0.05"',
            check=lambda t: t.lora is None or 0 <= float(t.lora.dropout) < 1,
        ),
        not_yet("self.method != 'QLoRA'", "training.method QLoRA", lambda t: t.method != "QLoRA", mend="use LoRA"),
        not_yet("!has(self.checkpoint)", "training.checkpoint", lambda t: t.checkpoint is None),
    )

    method: Literal["Full", "LoRA", "QLoRA"] = Field(
        "LoRA", description="Full changes all weights, LoRA adds adapters."
    )
    lora: LoRA | None = Field(None, description="Adapter settings; only with LoRA.")
    epochs: int = Field(3, ge=1, le=1000, description="Passes over the training rows.")
    learning_rate: DecimalString | None = Field(None, description='Peak learning rate as text, for example "2e-4".')
    batch_size: int | None = Field(None, ge=1, le=65536, description="Rows per optimizer step over all ranks.")
    max_length: int = Field(
        1024, ge=16, le=1048576, description="Tokens of prompt and completion; a longer prompt is cut from the left."
    )
    precision: Literal["Auto", "BFloat16", "Float32"] = Field(
        "Auto", description="Arithmetic of the weights; the optimizer always keeps 32-bit master weights."
    )
    seed: int = Field(7, ge=0, le=2147483647, description="Seed of row order, dropout and new weights.")
    early_stopping: EarlyStopping | None = Field(None, description="Stop when the validation loss no longer falls.")
    checkpoint: Checkpoint | None = Field(None, description="When state is saved. Not supported yet.")


class Evaluation(ApiModel):
    """How accuracy is measured, before and after alike."""

    rules: ClassVar[tuple[Rule, ...]] = (
        not_yet("!has(self.fewShot)", "evaluation.fewShot", lambda e: e.few_shot is None),
    )

    metric: Literal["Auto", "ChoiceAccuracy", "ExactMatch"] = Field(
        "Auto", description="Auto is ChoiceAccuracy where choices are known, else ExactMatch."
    )
    few_shot: int | None = Field(None, ge=1, le=64, description="Examples in a second baseline. Not supported yet.")
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Bound of a generated answer. Absent: the longest expected answer plus a margin.",
    )
    limit: int | None = Field(None, ge=1, le=10000000, description="Score at most so many test rows. Absent: all.")


class Output(ApiModel):
    """Where the results go."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _in_cluster("uri", S3_URI, optional=True),
        Rule(
            cel="!has(self.uri) || self.uri.endsWith('/')",
            message="output.uri is a folder; end it with '/'",
            check=lambda o: o.uri is None or o.uri.endswith("/"),
        ),
        not_yet(
            "!has(self.ifExists) || self.ifExists == 'Fail'",
            "output.ifExists other than Fail",
            lambda o: o.if_exists in (None, "Fail"),
        ),
    )

    uri: Uri | None = Field(None, description="A folder such as s3://bucket/name/. Absent: from the runtime.")
    if_exists: Literal["Reuse", "Fail", "Overwrite"] | None = Field(
        None, description="What to do with the results of another job at output.uri. This version always fails then."
    )
    export: Literal["Adapter", "Model", "Both"] | None = Field(
        None, description="What to store. Absent: Model for Full, Adapter for LoRA."
    )
    credentials_ref: SecretRef | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for writing the results."
    )


class Resources(ApiModel):
    """How much of the runtime's hardware the job takes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        not_yet("self.nodes == 1", "resources.nodes above 1", lambda r: r.nodes == 1, mend="set 1"),
        not_yet(
            "self.gpusPerNode <= 1", "resources.gpusPerNode above 1", lambda r: r.gpus_per_node <= 1, mend="set 0 or 1"
        ),
    )

    gpus_per_node: int = Field(1, ge=0, le=64, description="0 runs on the CPU.")
    nodes: int = Field(1, ge=1, le=1024, description="Pods that train together.")


class FineTuneJobSpec(ApiModel):
    """One fine-tune job from rows to a measured model."""

    rules: ClassVar[tuple[Rule, ...]] = (
        not_yet("!self.suspend", "suspend: true", lambda s: not s.suspend),
        not_yet("!has(self.queueName)", "queueName", lambda s: s.queue_name is None),
        Rule(
            cel="!has(self.output.export) || self.output.export == 'Model' || self.training.method != 'Full'",
            message="output.export Adapter or Both needs training.method LoRA; Full has no adapter",
            check=lambda s: s.output.export in (None, "Model") or s.training.method != "Full",
        ),
        Rule(
            cel="self.evaluation.metric != 'ChoiceAccuracy' || !has(self.dataset.template.name) || "
            "!(self.dataset.template.name in ['summarization', 'instruction', 'messages']) || "
            "has(self.dataset.template.choices)",
            message="evaluation.metric ChoiceAccuracy needs dataset.template.choices with this template",
            check=lambda s: (
                s.evaluation.metric != "ChoiceAccuracy"
                or s.dataset.template.name not in ("summarization", "instruction", "messages")
                or s.dataset.template.choices is not None
            ),
        ),
    )

    runtime_ref: RuntimeRef = Field(RuntimeRef(), description="The platform's runtime to run on.")
    suspend: bool = Field(False, description="Stop and keep what was reached. Not supported yet.")
    queue_name: str | None = Field(None, max_length=63, description="A Kueue LocalQueue. Not supported yet.")
    model: Model = Field(description="The model to start from.")
    dataset: Dataset = Field(description="The rows, how they are cut and how they become prompts.")
    training: Training = Field(Training(), description="How the model is tuned.")
    evaluation: Evaluation = Field(Evaluation(), description="How accuracy is measured, before and after alike.")
    output: Output = Field(Output(), description="Where the results go.")
    resources: Resources = Field(Resources(), description="How much of the runtime's hardware the job takes.")
    backoff_limit: int = Field(2, ge=0, le=100, description="Failed pods of a stage before the job has failed.")
    active_deadline_seconds: int | None = Field(
        None,
        ge=60,
        le=31536000,
        description="Running seconds over all stages. Absent: the runtime's maximum. May rise.",
    )
    ttl_seconds_after_finished: int = Field(
        86400, ge=0, le=31536000, description="When the child Jobs go after the end; this object is never deleted."
    )
    service_account_name: LocalName | None = Field(
        None, description="Service account of the pods, if the runtime allows it. Absent: the namespace's default."
    )
