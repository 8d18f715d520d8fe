"""Volumes for the URIs of a job that name a PersistentVolumeClaim or a ConfigMap of its namespace, and for its reports.

Pure; ``job.py`` puts them into the pod. kubelet mounts them read-only, as it does Secrets, so the operator needs no
right to read any of them. A claim is mounted whole: with a subPath kubelet would make the folder where it is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import (
    ANNOTATION_PROGRESS_CA,
    MODEL_CACHE_DIR,
    PROGRESS_AUDIENCE,
    PROGRESS_CA_FILE,
    PROGRESS_DIR,
    PROGRESS_TOKEN_FILE,
    StageName,
    mount_path,
)
from finetune_api.runtime import ModelCache
from finetune_api.uris import URI, parse_uri

__all__ = ["TOKEN_SECONDS", "Mount", "dataset_uris", "mounts_of", "reporting", "uris_by_field"]

TOKEN_SECONDS: Final = 3600
"""Life of a pod's token for live reports; kubelet puts a new one into the file when a fifth of it is left."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the pod, and where the container has it."""

    volume: dict[str, Any]
    volume_mount: dict[str, Any]


def dataset_uris(spec: FineTuneJobSpec) -> dict[str, str]:
    """Every URI of the dataset that the user wrote, by field."""
    dataset, files = spec.dataset, spec.dataset.files
    uris = {"dataset.uri": dataset.uri}
    if files is not None:
        uris |= {
            "dataset.files.train": files.train,
            "dataset.files.validation": files.validation,
            "dataset.files.test": files.test,
        }
    if dataset.template.promptsource is not None:
        uris["dataset.template.promptsource.uri"] = dataset.template.promptsource.uri
    uris |= {f"dataset.sources[{number}].uri": one.uri for number, one in enumerate(dataset.sources or [])}
    return {field: uri for field, uri in uris.items() if uri is not None}


def _read_uris(spec: FineTuneJobSpec) -> list[URI]:
    """What is read with the rows; a template in a ConfigMap is the tenant's own text, so it stands in no URI."""
    named = spec.dataset.template.file
    return [parse_uri(uri) for uri in dict.fromkeys([*dataset_uris(spec).values(), *([named[1]] if named else [])])]


def uris_by_field(spec: FineTuneJobSpec) -> dict[str, str]:
    """Every URI that the user wrote, by field."""
    return {
        "model.uri": spec.model.uri,
        **({"model.adapter.uri": spec.model.adapter.uri} if spec.model.adapter else {}),
        **dataset_uris(spec),
        **({"output.uri": spec.output.uri} if spec.output.uri is not None else {}),
    }


def mounts_of(spec: FineTuneJobSpec, stage: StageName, cache: ModelCache | None = None) -> tuple[Mount, ...]:
    """Return what the pods of a stage mount: the volumes of model and adapter in both, of rows where they are read.

    The volume of the model cache goes where weights are read: one that only GPU nodes have would draw prepare there.
    """
    adapter = spec.model.adapter
    reads_rows = stage == "prepare" or spec.resources.gpus_per_node == 0
    uris = [parse_uri(spec.model.uri), *([parse_uri(adapter.uri)] if adapter else [])]
    uris += _read_uris(spec) if reads_rows else []
    claims = dict.fromkeys(uri.host for uri in uris if uri.scheme == "pvc")
    maps = dict.fromkeys(uri.host for uri in uris if uri.scheme == "configmap")
    return (
        *(_claim(f"claim-{number}", name) for number, name in enumerate(claims)),
        *(_config_map(f"configmap-{number}", name, uris) for number, name in enumerate(maps)),
        *([_model_cache(cache.claim_name)] if cache is not None and stage == "train" else []),
    )


def reporting() -> Mount:
    """Return what a pod needs for live reports: a token that is good for nothing else, and whom to trust."""
    token = {"audience": PROGRESS_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": PROGRESS_TOKEN_FILE}
    field = {"fieldPath": f"metadata.annotations['{ANNOTATION_PROGRESS_CA}']"}
    sources = [
        {"serviceAccountToken": token},
        {"downwardAPI": {"items": [{"path": PROGRESS_CA_FILE, "fieldRef": field}]}},
    ]
    return _mount("progress", {"projected": {"defaultMode": 0o440, "sources": sources}}, PROGRESS_DIR)


def _model_cache(claim: str) -> Mount:
    """The one volume of the tenant that pods write to."""
    return Mount(
        {"name": "model-cache", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "model-cache", "mountPath": MODEL_CACHE_DIR},
    )


def _claim(volume: str, name: str) -> Mount:
    source = {"persistentVolumeClaim": {"claimName": name, "readOnly": True}}
    return _mount(volume, source, mount_path("pvc", name))


def _config_map(volume: str, name: str, uris: list[URI]) -> Mount:
    """The keys that are named, and no others: a missing one is waited for then, as a missing Secret is."""
    keys = dict.fromkeys(uri.path for uri in uris if uri.scheme == "configmap" and uri.host == name)
    source = {"name": name, "defaultMode": 0o440, "items": [{"key": key, "path": key} for key in keys]}
    return _mount(volume, {"configMap": source}, mount_path("configmap", name))


def _mount(volume: str, source: dict[str, Any], path: str) -> Mount:
    return Mount({"name": volume, **source}, {"name": volume, "mountPath": path, "readOnly": True})
