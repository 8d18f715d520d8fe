"""Brings ``model.adapter`` onto the local disk, and tells what its files say without opening a tensor.

An adapter is small, so both stages fetch it whole. Only peft's folder with safetensors is read, and of a setting that
changes what the adapter means, only those that this trainer knows to do right: another one is refused, never dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune_api.job import Adapter
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress
from finetune_trainer.storage.access import Access, parse_role_uri
from finetune_trainer.storage.files import bytes_progress
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.mounted import MountedStore
from finetune_trainer.storage.store import Store, StoredFile, download, revision_of, with_digests
from finetune_trainer.storage.weights import check_weights

__all__ = ["TASKS", "FetchedAdapter", "fetch_adapter"]

CONFIG: Final = "adapter_config.json"
TENSORS: Final = "adapter_model.safetensors"
_FILES: Final = (CONFIG, TENSORS)
TASKS: Final = {False: "CAUSAL_LM", True: "SEQ_2_SEQ_LM"}
"""What peft calls the task of a model without and with an encoder."""
_PICKLE: Final = "adapter_model.bin"
_LARGEST_CONFIG: Final = 4 * 1024 * 1024

_FINE: Final = frozenset(
    {
        *("alpha_pattern", "exclude_modules", "fan_in_fan_out", "layers_pattern", "layers_to_transform", "lora_alpha"),
        *("lora_dropout", "peft_type", "r", "rank_pattern", "target_modules", "target_parameters", "task_type"),
        *("use_dora", "use_rslora"),
        # What says nothing about the arithmetic.
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config"),
        *("megatron_core", "qalora_group_size", "init_lora_weights", "ensure_weight_tying", "bias"),
    }
)
"""Keys of adapter_config.json that may have any value, besides what is looked at below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedAdapter:
    """An adapter on the local disk.

    Attributes
    ----------
    uri
        What the user calls it.
    folder
        Holds the two files.
    revision
        Commit of a hub; else a digest over names, sizes and versions of the stored files.
    config
        ``adapter_config.json``, checked.
    shapes
        Of the tensors in it, by name.
    """

    uri: str
    folder: Path
    revision: str
    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]


def fetch_adapter(
    adapter: Adapter, *, access: Access, folder: Path, progress: Progress, pinned_revision: str | None = None
) -> FetchedAdapter:
    """Download an adapter and check what can be told without its base.

    Parameters
    ----------
    folder
        Where the files go; a ``file://`` or ``pvc://`` adapter stays where it is.
    pinned_revision
        What an earlier stage resolved: it has to be the same still.

    Raises
    ------
    StageError
        ModelNotFound, UnsafeModel, ModelInvalid, AccessDenied, StorageUnavailable, and VerificationFailed where it is
        another one than ``pinned_revision``.
    """
    with _named():
        where, revision = _fetch(adapter, access, folder, progress, pinned_revision)
        local = LocalStore(role="adapter", folder=where)
        sizes = {file.key: file for file in local.list() if file.key in _FILES}
        shapes = check_weights(local, [sizes[TENSORS]])
    if pinned_revision is not None and revision != pinned_revision:
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"model.adapter.uri: {adapter.uri} has changed since the prepare stage read it; start the job anew",
            tells_mend=True,
        )
    return FetchedAdapter(
        uri=adapter.uri,
        folder=where,
        revision=revision,
        config=_checked(_config(where / CONFIG), adapter.uri),
        shapes=shapes,
    )


def _fetch(adapter: Adapter, access: Access, folder: Path, progress: Progress, pinned: str | None) -> tuple[Path, str]:
    uri = parse_role_uri("adapter", adapter.uri)
    if uri.scheme == "hf":
        from finetune_trainer.storage.hub import Named, download_files, resolve_hub_repo  # noqa: PLC0415

        settings = access.settings_for("adapter", adapter.uri)
        named = Named(kind="model", uri="model.adapter.uri", revision="model.adapter.revision", role="adapter")
        token = access.hub_token("adapter")
        found = resolve_hub_repo(
            uri.path,
            revision=pinned or adapter.revision,
            token=token,
            endpoint=settings.endpoint if settings else None,
            ca_bundle=access.ca_bundle("adapter") if settings else None,
            named=named,
        )
        _check_names(found.sizes, adapter.uri)
        download_files(found, _FILES, folder, token=token, progress=progress, named=named)
        return folder, found.commit
    store: Store = access.open("adapter", adapter.uri)
    listed = {file.key: file for file in store.list()}
    _check_names(listed, adapter.uri)
    if isinstance(store, MountedStore):
        for name in _FILES:
            store.path_of(name)  # libraries open the files by themselves
    if isinstance(store, LocalStore):
        return store.folder, revision_of(with_digests(store.folder, _FILES))
    files: list[StoredFile] = [listed[name] for name in _FILES]
    download(store, files, folder, bytes_progress(progress, sum(file.size for file in files)))
    return folder, revision_of(files)


def _check_names(names: Mapping[str, Any], place: str) -> None:
    """Refuse what is no adapter of peft with safetensors."""
    top = {name for name in names if "/" not in name}
    if not names:
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.adapter.uri: there are no files at {place}")
    if CONFIG not in top:
        below = next((name for name in sorted(names) if name.endswith("/" + CONFIG)), None)
        if "config.json" in top:
            raise _invalid(
                f"{place} is a whole model (config.json) and no adapter; name it as model.uri, and leave model.adapter "
                "out"
            )
        hint = f"; there is one below {below.removesuffix(CONFIG)}, name that folder" if below else ""
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.adapter.uri: {place} has no {CONFIG}{hint}", tells_mend=True)
    if TENSORS not in top:
        if _PICKLE in top:
            raise StageError(
                Reason.UNSAFE_MODEL,
                f"model.adapter.uri: {place} has its weights as {_PICKLE}, a format that can run code; store them as "
                f"{TENSORS} (peft's save_pretrained does)",
                tells_mend=True,
            )
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.adapter.uri: {place} has no {TENSORS}")


def _config(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()[: _LARGEST_CONFIG + 1]
        value = json.loads(text) if len(text) <= _LARGEST_CONFIG else None
    except (OSError, ValueError) as error:
        raise _invalid(f"{CONFIG} can't be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(value, dict):
        raise _invalid(f"{CONFIG} is not a JSON object")
    return value


def _checked(config: dict[str, Any], place: str) -> dict[str, Any]:
    """Refuse settings under which continuing or merging would be another thing than the adapter means."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _invalid(f"{place} is an adapter of kind {str(kind)[:40]}; only LoRA can be continued")
    if config.get("task_type") not in (None, *TASKS.values()):
        told = " or ".join(TASKS.values())
        raise _invalid(f"{place} is for task_type {str(config['task_type'])[:40]}, and a job tunes {told}")
    if config.get("bias", "none") != "none":
        raise _invalid(
            f"{CONFIG} of {place} has bias {str(config['bias'])[:20]}, so biases of the base belong to the adapter; "
            "merge it into its base and name the merged model as model.uri"
        )
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool) and start not in (None, "gaussian"):
        raise _invalid(
            f"{CONFIG} of {place} has init_lora_weights {str(start)[:40]!r}: it is for a base that was changed when "
            "the adapter began (as PiSSA does); save it with peft's path_initial_model_for_weight_conversion, which "
            "makes a plain LoRA of it"
        )
    for name, lowest in (("r", 1), ("lora_alpha", 1)):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < lowest or value != int(value):
            raise _invalid(f"{CONFIG} of {place} has {name} {str(value)[:40]}, which is no whole number above 0")
    for name in sorted(set(config) - _FINE):
        if config[name] not in (None, False, {}, []):
            raise _invalid(
                f"{CONFIG} of {place} sets {name[:40]}, which this version can't continue; merge the adapter into its "
                "base and name the merged model as model.uri"
            )
    return config


def _invalid(what: str) -> StageError:
    return StageError(Reason.MODEL_INVALID, f"model.adapter.uri: {what}", tells_mend=True)


@contextmanager
def _named() -> Iterator[None]:
    """Let what is said of a model be said of the adapter: the hub and the heads of files know the model's fields."""
    try:
        yield
    except StageError as error:
        if error.message.startswith("model.adapter."):
            raise
        message = error.message
        for field in ("uri", "revision"):
            message = message.replace(f"model.{field}", f"model.adapter.{field}")
        raise StageError(error.reason, message, tells_mend=error.tells_mend) from error
