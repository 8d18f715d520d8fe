"""``FineTuneRuntime.spec``: what the platform team owns, and the snapshot of it that a job keeps.

A tenant names a runtime, never an image, a pod template or an endpoint. The snapshot (:class:`ResolvedRuntime`) is
written to the job's status before the first child and used for every child of that job, so that later edits have no
effect on it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from finetune_api.base import ApiModel, LabelName, LocalName, Rule, SecretRef, SpecModel, moved
from finetune_api.templates import RuntimeTemplate

__all__ = [
    "FineTuneRuntimeSpec",
    "Limits",
    "LiveProgress",
    "ModelCache",
    "PrepareResources",
    "PrepareRuntime",
    "ResolvedRuntime",
    "ResolvedStorage",
    "SidecarInjection",
    "StageResources",
    "StageRuntime",
    "Storage",
    "Toleration",
]

Quantity = Annotated[str, Field(max_length=32, pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
Prefix = Annotated[
    str, Field(min_length=5, max_length=1024, pattern=r"^(s3|hf|https|pvc|configmap)://[^\x00-\x20\x7f?#\\]*$")
]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$")]

SidecarInjection = Literal["Declined", "Allowed"]
"""Whether pods ask service meshes to leave them alone."""

LiveProgress = Literal["Enabled", "Disabled"]
"""Whether pods tell how far they are while they work."""

_DIGEST: Final = re.compile(r"@sha256:[0-9a-f]{64}\Z")
_LABEL_KEY: Final = "^([a-z0-9][a-z0-9.-]*/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"


class Toleration(SpecModel):
    """As in a pod (core/v1 Toleration)."""

    # The API server would refuse a pod with these, long after the runtime was accepted.
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!has(self.value) || !has(self.operator) || self.operator == 'Equal'",
            message="tolerations[].value belongs to operator Equal; remove it",
            check=lambda t: t.value is None or t.operator in (None, "Equal"),
            field="value",
        ),
        Rule(
            cel="has(self.key) || (has(self.operator) && self.operator == 'Exists')",
            message="tolerations[].key may only be left out with operator Exists; name the taint's key",
            check=lambda t: t.key is not None or t.operator == "Exists",
        ),
        Rule(
            cel="!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            message="tolerations[].tolerationSeconds belongs to effect NoExecute; remove it or set that effect",
            check=lambda t: t.toleration_seconds is None or t.effect == "NoExecute",
            field="tolerationSeconds",
        ),
    )

    key: str | None = Field(None, max_length=316, description="Taint key; absent with Exists matches all.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="Exists or Equal (the default).")
    value: str | None = Field(None, max_length=63, description="Taint value for Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Absent: all effects."
    )
    toleration_seconds: int | None = Field(None, ge=0, description="With NoExecute: how long it is tolerated.")


class StageResources(SpecModel):
    """Requests and limits of one stage's container; both are set to the same value."""

    cpu: Quantity = Field("2", description="CPU cores, for example 2 or 500m.")
    memory: Quantity = Field("8Gi", description="Memory, for example 8Gi.")
    ephemeral_storage: Quantity = Field("20Gi", description="Local disk for the model and the artifacts.")


class PrepareResources(StageResources):
    """The same with the smaller defaults of the stage that reads the data."""

    cpu: Quantity = Field("1", description="CPU cores, for example 2 or 500m.")
    memory: Quantity = Field("4Gi", description="Memory, for example 8Gi.")
    ephemeral_storage: Quantity = Field("10Gi", description="Local disk for the rows.")


class StageRuntime(SpecModel):
    """Where the pods of one stage run, and what they get."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel=f"self.nodeSelector.all(k, size(k) <= 316 && k.matches('{_LABEL_KEY}'))",
            message="nodeSelector has a key that is no label; write it as in kubectl get nodes --show-labels",
            check=lambda s: all(len(k) <= 316 and re.fullmatch(_LABEL_KEY, k) for k in s.node_selector),
            field="nodeSelector",
        ),
    )

    node_selector: dict[str, LabelValue] = Field({}, max_length=16, description="Labels of the nodes to run on.")
    tolerations: list[Toleration] = Field([], max_length=16, description="Taints of nodes that are tolerated.")
    runtime_class_name: LocalName | None = Field(None, description="RuntimeClass of the pods.")
    resources: StageResources = Field(StageResources(), description="What the container gets.")


class PrepareRuntime(StageRuntime):
    """The same with the resources of the stage that reads the data."""

    resources: PrepareResources = Field(PrepareResources(), description="What the container gets.")


class Storage(SpecModel):
    """How an S3-compatible store, a hub or a web server is reached; the longest matching prefix wins."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.prefix.startsWith('pvc://') && !self.prefix.startsWith('configmap://')",
            message="storage[].prefix is s3://, hf:// or https://; volumes and ConfigMaps need no entry",
            check=lambda s: not s.prefix.startswith(("pvc://", "configmap://")),
            field="prefix",
        ),
        Rule(
            cel="!self.prefix.startsWith('https://') || !(has(self.endpoint) || has(self.region))",
            message="storage[].endpoint and region belong to s3:// and hf:// prefixes; an https:// one takes caBundle",
            check=lambda s: not s.prefix.startswith("https://") or (s.endpoint is None and s.region is None),
        ),
    )

    prefix: Prefix = Field(
        description="URIs below this prefix, for example s3://team-a-models/; s3:// is every bucket."
    )
    endpoint: str | None = Field(
        None,
        max_length=512,
        pattern=r"^https?://[^\x00-\x20\x7f/?#@\\]+$",
        description="Absent: AWS's own for the region.",
    )
    region: str | None = Field(None, max_length=64, pattern=r"^[a-z0-9-]+$", description="Region of the bucket.")
    addressing_style: Literal["Auto", "Path", "Virtual"] = Field(
        "Auto", description="Path is what most S3-compatible servers need; Auto is Path where endpoint is set."
    )
    ca_bundle: str | None = Field(
        None,
        max_length=16384,
        pattern="-----BEGIN CERTIFICATE-----",
        description="PEM certificates that the endpoint is checked with.",
    )


class ModelCache(SpecModel):
    """A volume in each namespace that keeps the weights of models, so that the next job need not download them."""

    claim_name: LocalName = Field(description="PersistentVolumeClaim in the namespace of the job; pods write to it.")
    max_size: Annotated[str, Field(max_length=12, pattern=r"^[1-9][0-9]{0,8}(M|G|T|Mi|Gi|Ti)$")] | None = Field(
        None, description="What the weights may take together, for example 500Gi. Absent: all of the volume."
    )

    @property
    def max_bytes(self) -> int | None:
        """``max_size`` in bytes."""
        if self.max_size is None:
            return None
        number = self.max_size.rstrip("MGTi")
        return int(number) * _UNITS[self.max_size.removeprefix(number)]


_UNITS: Final = {"M": 10**6, "G": 10**9, "T": 10**12, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

STALL_TIMEOUT_SECONDS: Final = 3600
"""An hour: longer than the longest step that shows no progress of its own, such as loading a large model."""


class Limits(SpecModel):
    """Upper bounds for every job on this runtime."""

    gpus_per_node: int = Field(8, ge=0, le=64, description="Largest resources.gpusPerNode.")
    nodes: int = Field(1, ge=1, le=1024, description="Largest resources.nodes.")
    active_deadline_seconds: int = Field(
        86400, ge=60, le=31536000, description="Largest activeDeadlineSeconds, and its value where a job has none."
    )
    pending_timeout_seconds: int = Field(
        600,
        ge=1,
        le=86400,
        description="How long a job waits for a runtime, a Secret, quota or an image before it fails.",
    )
    stall_timeout_seconds: int = Field(
        STALL_TIMEOUT_SECONDS,
        ge=60,
        le=86400,
        description="Time without any sign of progress after which a pod ends as Stalled and another is tried.",
    )


_OLD_AMOUNTS: Final = (
    "prepare.cpu=1",
    "prepare.memory=4Gi",
    "prepare.ephemeralStorage=10Gi",
    "train.cpu=2",
    "train.memory=8Gi",
    "train.ephemeralStorage=20Gi",
)
"""What the field ``resources`` held where nobody had written anything."""


def _old_amounts(resources: dict[str, dict[str, str]] | None) -> bool:
    return all(
        f"{stage}.{name}={amount}" in _OLD_AMOUNTS
        for stage, amounts in (resources or {}).items()
        for name, amount in amounts.items()
    )


def _moved_to_stages(field: str, check: Callable[[Any], bool], *, empty: str = "") -> Rule:
    return moved(field, f"train.{field} (and prepare.{field})", check, empty=empty)


class FineTuneRuntimeSpec(SpecModel):
    """One kind of hardware with the trainer image, storage and limits for it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.allowUnpinnedImage || self.image.matches('@sha256:[0-9a-f]{64}$')",
            message="image must name a digest (…@sha256:…), or set allowUnpinnedImage: true on a test cluster",
            check=lambda r: r.allow_unpinned_image or bool(_DIGEST.search(r.image)),
            field="image",
        ),
        Rule(
            cel="self.storage.all(a, self.storage.exists_one(b, b.prefix == a.prefix))",
            message="storage has two entries with the same prefix; remove one",
            check=lambda r: len({s.prefix for s in r.storage}) == len(r.storage),
            field="storage",
        ),
        Rule(
            cel="self.templates.all(a, self.templates.exists_one(b, b.name == a.name))",
            message="templates has two entries with the same name; remove one",
            check=lambda r: len({t.name for t in r.templates}) == len(r.templates),
            field="templates",
        ),
        _moved_to_stages("nodeSelector", lambda r: not r.node_selector, empty="size(self.nodeSelector) == 0"),
        _moved_to_stages("tolerations", lambda r: not r.tolerations, empty="size(self.tolerations) == 0"),
        _moved_to_stages("runtimeClassName", lambda r: r.runtime_class_name is None),
        _moved_to_stages(
            "resources",
            lambda r: _old_amounts(r.resources),
            empty="self.resources.all(s, self.resources[s].all(k, s + '.' + k + '=' + self.resources[s][k] in "
            f"{list(_OLD_AMOUNTS)}))",
        ),
    )

    image: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$",
        description="The trainer's image by digest.",
    )
    allow_unpinned_image: bool = Field(False, description="Accept an image without a digest.")
    image_pull_secrets: list[SecretRef] = Field([], max_length=8, description="Pull secrets in the job's namespace.")
    allowed_service_accounts: list[LocalName] = Field(
        [], max_length=32, description="Values that serviceAccountName may have; unset is always allowed."
    )
    allowed_namespaces: list[Annotated[str, Field(max_length=63)]] | None = Field(
        None, max_length=256, description="Namespaces that may use this runtime. Absent: all."
    )
    allowed_uri_prefixes: list[Prefix] | None = Field(
        None, max_length=64, description="Prefixes that model, dataset and output URIs must lie below. Absent: all."
    )
    prepare: PrepareRuntime = Field(
        PrepareRuntime(), description="The stage that reads the data before a GPU is asked for."
    )
    train: StageRuntime = Field(
        StageRuntime(), description="The stage that trains; it reads the data too where a job asks for no GPU."
    )
    gpu_resource_name: str = Field(
        "nvidia.com/gpu",
        max_length=253,
        pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
        description="Extended resource of a GPU.",
    )
    sidecar_injection: SidecarInjection = Field(
        "Declined", description="Declined: pods ask Istio and Linkerd for no proxy. Allowed: the mesh decides."
    )
    termination_grace_period_seconds: int = Field(
        180, ge=1, le=3600, description="Time that a pod gets to save its state after SIGTERM."
    )
    storage: list[Storage] = Field([], max_length=32, description="How S3-compatible stores are reached.")
    output_prefix: Prefix | None = Field(
        None, description="Where results go when a job names no output.uri: <prefix>/<namespace>/<name>/."
    )
    model_cache: ModelCache | None = Field(
        None, description="Keeps weights of s3:// and hf:// models on a volume. Absent: each pod downloads them."
    )
    templates: list[RuntimeTemplate] = Field(
        [], max_length=16, description="Templates that jobs on this runtime can name beside the library's."
    )
    progress: LiveProgress = Field(
        "Enabled", description="Disabled: pods of jobs post no live reports, and get no token for it."
    )
    limits: Limits = Field(Limits(), description="Upper bounds for every job.")
    simulated_gpus: bool = Field(
        False, description="For test clusters: nothing backs gpuResourceName, and the CPU computes in its place."
    )
    prepare_queue_name: LabelName | None = Field(
        None,
        description="LocalQueue of Kueue, in each job's namespace, for the stage that reads the data of jobs that name "
        "a queue. Absent: the job's own.",
    )

    # Fields of earlier versions: without a schema the API server would drop them unread, and with them what they say.
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] | None = Field(
        None, max_length=16, description="Refused: moved to train.nodeSelector and prepare.nodeSelector."
    )
    tolerations: list[Toleration] | None = Field(
        None, max_length=16, description="Refused: moved to train.tolerations and prepare.tolerations."
    )
    runtime_class_name: str | None = Field(
        None, max_length=253, description="Refused: moved to train.runtimeClassName and prepare.runtimeClassName."
    )
    resources: dict[str, Annotated[dict[str, Annotated[str, Field(max_length=32)]], Field(max_length=3)]] | None = (
        Field(None, max_length=2, description="Refused: moved to train.resources and prepare.resources.")
    )


class ResolvedStorage(ApiModel):
    """The storage entries that this job's URIs need, one a role; absent: AWS or the hub."""

    model: Storage | None = Field(None, description="For model.uri.")
    adapter: Storage | None = Field(None, description="For model.adapter.uri.")
    dataset: Storage | None = Field(None, description="For dataset.uri and files.")
    output: Storage | None = Field(None, description="For the results.")


class ResolvedRuntime(ApiModel):
    """What a job keeps of its FineTuneRuntime."""

    name: LocalName = Field(description="Name of the FineTuneRuntime.")
    generation: int = Field(ge=0, description="Its generation when it was read.")
    image: str = Field(max_length=512, description="The trainer's image.")
    image_pull_secrets: list[SecretRef] = Field([], max_length=8, description="Pull secrets.")
    prepare: PrepareRuntime = Field(description="Nodes and resources of the stage that reads the data.")
    train: StageRuntime = Field(description="Nodes and resources of the stage that trains.")
    gpu_resource_name: str = Field(max_length=253, description="Extended resource of a GPU.")
    simulated_gpus: bool = Field(False, description="Nothing backs the GPUs; the CPU computes in their place.")
    sidecar_injection: SidecarInjection = Field("Declined", description="Whether service meshes may add a proxy.")
    termination_grace_period_seconds: int = Field(ge=1, description="Time to save state after SIGTERM.")
    storage: ResolvedStorage = Field(ResolvedStorage(), description="How this job's stores are reached.")
    template: RuntimeTemplate | None = Field(None, description="The runtime's template that the job names.")
    model_cache: ModelCache | None = Field(None, description="The volume that keeps weights.")
    progress: LiveProgress = Field("Enabled", description="Whether pods post live reports.")
    prepare_queue_name: LabelName | None = Field(None, description="LocalQueue of the stage that reads the data.")
    output_uri: str = Field(max_length=1024, description="Where the results go.")
    active_deadline_seconds: int = Field(ge=1, description="The runtime's largest activeDeadlineSeconds.")
    pending_timeout_seconds: int = Field(ge=1, description="How long the job waits for something missing.")
    stall_timeout_seconds: int = Field(
        STALL_TIMEOUT_SECONDS, ge=1, description="Time without progress after which a pod ends as Stalled."
    )
