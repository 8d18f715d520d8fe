"""``FineTuneJob.spec``: what a user writes.

Every block but the listed mutable fields is immutable; the CRD generator derives those rules from
:data:`MUTABLE_FIELDS`. A field whose behaviour this version lacks is refused by a :func:`~finetune_api.base.not_yet`
rule, never accepted and ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from finetune_api.base import DecimalString, LabelName, LocalName, Rule, SecretRef, SpecModel, not_yet
from finetune_api.dataset import (
    BadRows,
    Dataset,
    DatasetFiles,
    InlineTemplate,
    PromptSource,
    Split,
    Template,
    Uri,
    uri_rule,
)
from finetune_api.metrics import CHOICE_METRICS, MetricName
from finetune_api.sources import own_parts
from finetune_api.templates import OPEN_TEMPLATES
from finetune_api.training import Checkpoint, EarlyStopping, LoRA, Training, Validation
from finetune_api.trust import WARNING_TYPES, WarningType
from finetune_api.uris import CLUSTER_URI, S3_URI

__all__ = [
    "MUTABLE_FIELDS",
    "Adapter",
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
    "PromptSource",
    "Resources",
    "RuntimeRef",
    "Split",
    "Template",
    "Training",
    "Validation",
]

MUTABLE_FIELDS: Final = frozenset(
    {"suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "queueName", "workloadPriorityClassName"}
)
"""Fields of spec that may change after creation; those of the queue only while the job is suspended."""


_HAS_VALIDATION: Final = (
    f"has(self.dataset.split.by) || {own_parts('self.dataset')} || "
    "(has(self.dataset.files) && has(self.dataset.files.validation)) || "
    "(has(self.dataset.split.validationPercent) ? self.dataset.split.validationPercent > 0 : "
    "(!has(self.dataset.split.trainPercent) && !has(self.dataset.split.testPercent)))"
)
"""CEL, on the spec: there are validation rows, or a column or the hub says whether there are."""
_OVER_CHOICES: Final = f"{', '.join(CHOICE_METRICS[:-1])} and {CHOICE_METRICS[-1]}"


class RuntimeRef(SpecModel):
    """Names the FineTuneRuntime to run on."""

    name: LocalName = Field("default", description="Name of a cluster-scoped FineTuneRuntime.")


class Adapter(SpecModel):
    """A LoRA adapter on the model, as peft stores it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule("uri", CLUSTER_URI, "model.adapter.uri", example="s3://bucket/folder/adapter/"),
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message="model.adapter.revision belongs to hf:// adapters only; remove it, or version the path itself",
            check=lambda a: a.revision is None or a.uri.startswith("hf://"),
            field="revision",
        ),
    )

    uri: Uri = Field(description="Where the adapter lies, as model.uri; an earlier job's is <its output.uri>adapter/.")
    revision: str | None = Field(
        None, max_length=128, pattern=r"^[A-Za-z0-9._/-]+$", description="Branch, tag or commit of an hf:// adapter."
    )
    credentials_ref: SecretRef | None = Field(None, description="As model.credentialsRef.")


class Model(SpecModel):
    """The model to start from."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule("uri", CLUSTER_URI, "model.uri", example="hf://org/name or s3://bucket/folder/"),
        Rule(
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            message="model.revision belongs to hf:// models only; remove it, or version the path itself",
            check=lambda m: m.revision is None or m.uri.startswith("hf://"),
            field="revision",
        ),
        Rule(
            cel="!self.uri.startsWith('hf://datasets/')",
            message="model.uri names a dataset; a model of the hub is hf://org/name",
            check=lambda m: not m.uri.startswith("hf://datasets/"),
            field="uri",
        ),
    )

    uri: Uri = Field(
        description="Where the model lies: s3://bucket/prefix/, hf://org/name or pvc://claim/path/. Safetensors only."
    )
    revision: str | None = Field(
        None, max_length=128, pattern=r"^[A-Za-z0-9._/-]+$", description="Branch, tag or commit of an hf:// model."
    )
    credentials_ref: SecretRef | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or HF_TOKEN for an hf:// model."
    )
    adapter: Adapter | None = Field(
        None,
        description="A LoRA adapter that is part of the model from the start: LoRA goes on training it, Full merges "
        "it. The baseline has it.",
    )


class Evaluation(SpecModel):
    """How accuracy is measured, before and after alike."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.minScore) || (double(self.minScore) >= 0.0 && (double(self.minScore) <= 1.0 || "
            "self.metric == 'Perplexity'))",
            message='evaluation.minScore must be from 0 to 1, as text such as "0.9"; 90 percent are "0.9"',
            check=lambda e: (
                e.min_score is None or 0 <= float(e.min_score) <= (math.inf if e.metric == "Perplexity" else 1)
            ),
            field="minScore",
        ),
        Rule(
            cel="!has(self.minGain) || (double(self.minGain) >= -1.0 && double(self.minGain) <= 1.0) || "
            "self.metric == 'Perplexity'",
            message='evaluation.minGain must be from -1 to 1, as text such as "0.05"; 5 points are "0.05"',
            check=lambda e: e.min_gain is None or -1 <= float(e.min_gain) <= 1 or e.metric == "Perplexity",
            field="minGain",
        ),
        Rule(
            cel="!has(self.failOn) || self.failOn.all(a, self.failOn.exists_one(b, a == b))",
            message="evaluation.failOn must not repeat a warning; remove the duplicate",
            check=lambda e: e.fail_on is None or len(set(e.fail_on)) == len(e.fail_on),
            field="failOn",
        ),
        Rule(
            cel="has(self.fewShot) || !has(self.failOn) || !self.failOn.exists(a, a in ['NotAboveFewShot', "
            "'NoFewShot'])",
            message="evaluation.failOn names a warning about the few-shot baseline, which is not measured; set "
            "evaluation.fewShot too",
            check=lambda e: e.few_shot is not None or not {"NotAboveFewShot", "NoFewShot"} & set(e.fail_on or ()),
            field="failOn",
        ),
        Rule(
            cel="!has(self.stop) || size(self.stop) > 0",
            message="evaluation.stop is empty; remove it or give a text",
            check=lambda e: e.stop is None or len(e.stop) > 0,
            field="stop",
        ),
    )

    metric: Literal["Auto", MetricName] = Field(
        "Auto",
        description="Auto is the metric of a named template or prompt; else ChoiceAccuracy where choices are known, "
        "and ExactMatch where answers are open.",
    )
    min_score: DecimalString | None = Field(
        None,
        description='What the score has to reach (Perplexity: what it may be at most), as text in quotes, "0.9"; else '
        "the job ends as NotAccepted, with its results.",
    )
    min_gain: DecimalString | None = Field(
        None,
        description='What the gain over the untouched model has to reach, as text in quotes, "0.05"; else the job ends '
        "as NotAccepted, with its results.",
    )
    fail_on: list[WarningType] | None = Field(
        None,
        min_length=1,
        max_length=len(WARNING_TYPES),
        description="Warnings of status.results that end the job as NotAccepted, with its results.",
    )
    few_shot: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Score the untouched model a second time with so many examples of train in each prompt.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=8192,
        description="Bound of a generated answer. Absent: the longest expected answer plus a margin.",
    )
    stop: list[Annotated[str, Field(min_length=1, max_length=32)]] | None = Field(
        None,
        max_length=4,
        description="Texts that end a generated answer, before and after training alike. Absent: the first line end "
        "where every expected answer is a single line. The model's own end tokens always end it.",
    )
    limit: int | None = Field(None, ge=1, le=10000000, description="Score at most so many test rows. Absent: all.")


class Output(SpecModel):
    """Where the results go."""

    rules: ClassVar[tuple[Rule, ...]] = (
        uri_rule("uri", S3_URI, "output.uri", example="s3://bucket/folder/", optional=True),
        Rule(
            cel="!has(self.uri) || self.uri.endsWith('/')",
            message="output.uri is a folder; end it with '/'",
            check=lambda o: o.uri is None or o.uri.endswith("/"),
            field="uri",
        ),
    )

    uri: Uri | None = Field(None, description="A folder such as s3://bucket/name/. Absent: from the runtime.")
    if_exists: Literal["Reuse", "Fail", "Overwrite"] = Field(
        "Reuse",
        description="What to do where another job has written. Reuse takes a complete result of the same spec, model "
        "and rows as this job's own, and fails otherwise; Overwrite replaces it.",
    )
    export: Literal["Adapter", "Model", "Both"] | None = Field(
        None, description="What to store. Absent: Model for Full, Adapter for LoRA."
    )
    credentials_ref: SecretRef | None = Field(
        None, description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for writing the results."
    )


class Resources(SpecModel):
    """How much of the runtime's hardware the job takes."""

    rules: ClassVar[tuple[Rule, ...]] = (
        not_yet("self.nodes == 1", "resources.nodes above 1", lambda r: r.nodes == 1, field="nodes", mend="set 1"),
        not_yet(
            "self.gpusPerNode <= 1",
            "resources.gpusPerNode above 1",
            lambda r: r.gpus_per_node <= 1,
            field="gpusPerNode",
            mend="set 0 or 1",
        ),
    )

    gpus_per_node: int = Field(1, ge=0, le=64, description="0 runs on the CPU. More than 1 is refused by this version.")
    nodes: int = Field(
        1, ge=1, le=1024, description="Pods that train together. More than 1 is refused by this version."
    )


def _needs_validation(field: str, cel: str, absent: Callable[[Training], bool]) -> Rule:
    """Refuse a field of training that says something about validation rows where there are none."""
    return Rule(
        cel=f"{cel} || {_HAS_VALIDATION}",
        message=f"training.{field} needs validation rows; raise dataset.split.validationPercent, or give "
        "dataset.files.validation",
        check=lambda s: (
            absent(s.training)
            or s.dataset.split.by is not None
            or s.dataset.has_own_parts
            or s.dataset.percents.validation > 0
            or bool(s.dataset.files and s.dataset.files.validation)
        ),
        field=f"training.{field}",
    )


class FineTuneJobSpec(SpecModel):
    """One fine-tune job from rows to a measured model."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.workloadPriorityClassName) || has(self.queueName)",
            message="workloadPriorityClassName orders a queue of Kueue, and queueName names none; set queueName too",
            check=lambda s: s.workload_priority_class_name is None or s.queue_name is not None,
            field="workloadPriorityClassName",
        ),
        Rule(
            cel="!has(self.output.export) || self.output.export == 'Model' || self.training.method != 'Full'",
            message="output.export Adapter or Both needs training.method LoRA; Full has no adapter",
            check=lambda s: s.output.export in (None, "Model") or s.training.method != "Full",
            field="output.export",
        ),
        *(
            _needs_validation(field, cel, absent)
            for field, cel, absent in (
                ("earlyStopping", "!has(self.training.earlyStopping)", lambda t: t.early_stopping is None),
                ("selectBy", "self.training.selectBy == 'Auto'", lambda t: t.select_by == "Auto"),
                ("validation", "!has(self.training.validation)", lambda t: t.validation is None),
            )
        ),
        Rule(
            cel="!has(self.evaluation.fewShot) || !has(self.dataset.template.name) || self.dataset.template.name != "
            "'messages'",
            message="evaluation.fewShot is not for template messages, whose rows are conversations already; leave "
            "it out",
            check=lambda s: s.evaluation.few_shot is None or s.dataset.template.name != "messages",
            field="evaluation.fewShot",
        ),
        Rule(
            cel=f"!(self.evaluation.metric in {list(CHOICE_METRICS)}) || !has(self.dataset.template.name) || "
            f"!(self.dataset.template.name in {list(OPEN_TEMPLATES)}) || "
            "has(self.dataset.template.choices)",
            message=f"evaluation.metric needs dataset.template.choices with this template for {_OVER_CHOICES}; give "
            "them, or choose another metric",
            check=lambda s: (
                s.evaluation.metric not in CHOICE_METRICS
                or s.dataset.template.name not in OPEN_TEMPLATES
                or s.dataset.template.choices is not None
            ),
            field="evaluation.metric",
        ),
    )

    runtime_ref: RuntimeRef = Field(RuntimeRef(), description="The platform's runtime to run on.")
    suspend: bool = Field(
        False, description="Stops the job: its pods save their state and go. Set to false, it goes on from there."
    )
    queue_name: LabelName | None = Field(
        None,
        description="LocalQueue of Kueue that admits the job's Jobs. Absent: none does. May change while the job is "
        "suspended.",
    )
    workload_priority_class_name: LabelName | None = Field(
        None,
        description="WorkloadPriorityClass of Kueue: who goes first in the queue, and who makes room for whom. May "
        "change while the job is suspended.",
    )
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
        description="Seconds over all stages in which a Job of it wants a pod or has one: waiting for a node counts, "
        "suspension does not. Absent: the runtime's maximum. May rise until the end.",
    )
    ttl_seconds_after_finished: int = Field(
        86400, ge=0, le=31536000, description="When the child Jobs go after the end; this object is never deleted."
    )
    service_account_name: LocalName | None = Field(
        None, description="Service account of the pods, if the runtime allows it. Absent: the namespace's default."
    )
