"""Brings the model onto the local disk; ``rows.py`` does the same for the rows.

Called by ``job/dataset.py`` and ``job/base_model.py``; knows the spec's block, while ``access.py``
knows credentials and endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from finetune_api.job import Model
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.storage.access import Access, parse_role_uri
from finetune_trainer.storage.files import bytes_progress
from finetune_trainer.storage.local import LocalStore
from finetune_trainer.storage.modelcache import ModelCache, StatedFile, cache_key
from finetune_trainer.storage.modelfiles import WEIGHTS, check_shards, select_model_files
from finetune_trainer.storage.mounted import MountedStore
from finetune_trainer.storage.store import (
    OnBytes,
    Store,
    StoredFile,
    checked_key,
    download,
    revision_of,
    with_digests,
)
from finetune_trainer.storage.weights import check_weights

__all__ = ["MAX_NAME_BYTES", "FetchedModel", "fetch_model", "literal_key"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")

MAX_NAME_BYTES: Final = 200
"""Longest name that a fetched file keeps: a disk takes 255 bytes, and a file has a longer name while it is fetched."""


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A model on the local disk.

    Attributes
    ----------
    folder
        Holds the files.
    revision
        Commit of a hub model; else a digest over names, sizes and versions of the stored files.
    tensors
        Names of what is in the weights; empty where they can't be told without downloading them (one file of a hub).
    shapes
        Their shapes; empty for any model of a hub.
    """

    folder: Path
    revision: str
    tensors: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def fetch_model(
    model: Model,
    *,
    access: Access,
    folder: Path,
    progress: Progress,
    weights: bool = True,
    pinned_revision: str | None = None,
    cache: ModelCache | None = None,
) -> FetchedModel:
    """Download a model, or only what tokenising needs of it.

    Parameters
    ----------
    folder
        Where the files go; a ``file://`` or ``pvc://`` model stays where it is.
    weights
        False leaves the weights out; they are looked for all the same.
    pinned_revision
        What an earlier stage resolved: a hub model is taken at that commit, and any other has to be the same still.
    cache
        Asked for the weights before they are downloaded, and given them afterwards.

    Raises
    ------
    StageError
        ModelNotFound, UnsafeModel, ModelInvalid, AccessDenied, StorageUnavailable, and VerificationFailed when the
        model is another one than ``pinned_revision``.
    """
    uri = parse_role_uri("model", model.uri)
    if uri.scheme == "hf":
        from finetune_trainer.storage.hub import fetch_hub_model, resolve_hub_repo  # noqa: PLC0415 - few jobs need it

        settings = access.settings_for("model", model.uri)
        token = access.hub_token("model")
        hub_model = resolve_hub_repo(
            uri.path,
            revision=pinned_revision if pinned_revision and _COMMIT.fullmatch(pinned_revision) else model.revision,
            token=token,
            endpoint=settings.endpoint if settings else None,
            ca_bundle=access.ca_bundle("model") if settings else None,
        )
        place, names = f"hf://{hub_model.repo_id}", hub_model.sizes.keys()
        if weights and (cache is not None or WEIGHTS not in names):
            # The small files first: the index tells whether the large ones are all there, and the hub whether this job
            # may have them.
            fetch_hub_model(hub_model, folder, token=token, weights=False, progress=no_progress)
            check_shards(folder, names, place=place)
        if weights and cache is not None:
            stated = [StatedFile(n, hub_model.sizes[n], hub_model.digests.get(n)) for n in _tensors(names, place)]
            key = cache_key("hf", hub_model.endpoint or "", hub_model.repo_id, hub_model.commit)
            if not cache.restore(key, stated, folder, _on_bytes(progress, stated)):
                fetch_hub_model(hub_model, folder, token=token, weights=True, progress=progress)
                cache.store(key, place, stated, folder, _on_bytes(progress, stated))
        else:
            fetch_hub_model(hub_model, folder, token=token, weights=weights, progress=progress)
        fetched = FetchedModel(folder, hub_model.commit, check_shards(folder, names, place=place))
    else:
        store = access.open("model", model.uri)
        listed = {file.key: file for file in store.list()}
        if not listed:
            raise _no_such_model(access, model.uri)
        settings = access.settings("model")
        cached = _Cached(cache, (settings.endpoint if settings else None) or "") if cache and weights else None
        fetched = _fetch_stored_model(store, listed, folder, weights=weights, progress=progress, cached=cached)
    if pinned_revision is not None and fetched.revision != pinned_revision:
        raise StageError(
            Reason.VERIFICATION_FAILED,
            f"model.uri: {model.uri} has changed since the prepare stage read its tokenizer; start the job anew",
        )
    return fetched


@dataclass(frozen=True, slots=True)
class _Cached:
    """The cache, and the server that the store is on."""

    cache: ModelCache
    endpoint: str

    def key(self, store: Store, revision: str) -> str:
        """Name of the entry for what lies in ``store`` at ``revision``."""
        return cache_key("s3", self.endpoint, store.uri, revision)


def _fetch_stored_model(
    store: Store,
    listed: Mapping[str, StoredFile],
    folder: Path,
    *,
    weights: bool,
    progress: Progress,
    cached: _Cached | None,
) -> FetchedModel:
    names = select_model_files(listed, place=store.uri, weights=weights)
    every = select_model_files(listed, place=store.uri)
    if isinstance(store, MountedStore):
        for name in every:
            store.path_of(name)  # the libraries below open the folder by themselves
    if isinstance(store, LocalStore):
        check_shards(store.folder, listed, place=store.uri)
        shapes = check_weights(store, _weights(listed, every))
        return FetchedModel(store.folder, revision_of(with_digests(store.folder, every)), frozenset(shapes), shapes)
    _check_names(names, store.uri)
    on_bytes = bytes_progress(progress, sum(listed[name].size for name in names))
    small = select_model_files(listed, place=store.uri, weights=False)
    download(store, [listed[name] for name in small], folder, on_bytes)
    check_shards(folder, listed, place=store.uri)  # before the large files
    shapes = check_weights(store, _weights(listed, every))
    large = [listed[name] for name in names if name not in small]
    revision = revision_of(listed[name] for name in every)
    if cached is None or not all(file.version for file in large):  # of no version is nothing known
        download(store, large, folder, on_bytes)
    else:
        key = cached.key(store, revision)
        _through_cache(cached.cache, key, store=store, large=large, folder=folder, progress=progress)
    return FetchedModel(folder, revision, frozenset(shapes), shapes)


def _through_cache(
    cache: ModelCache, key: str, *, store: Store, large: list[StoredFile], folder: Path, progress: Progress
) -> None:
    """Bring weights that the job has just read the heads of, so it may read them: out of the cache, or into it too."""
    stated = [StatedFile(file.key, file.size) for file in large]
    if cache.restore(key, stated, folder, _on_bytes(progress, stated)):
        return
    download(store, large, folder, _on_bytes(progress, stated))
    # What was written there in the meantime would lie in the cache as what was listed before.
    now = {file.key: file for file in store.list()}
    if all(now.get(file.key) == file for file in large):
        cache.store(key, store.uri, stated, folder, _on_bytes(progress, stated))


def _on_bytes(progress: Progress, files: Iterable[StatedFile]) -> OnBytes:
    return bytes_progress(progress, sum(file.size for file in files))


def _tensors(names: Iterable[str], place: str) -> list[str]:
    return [name for name in select_model_files(names, place=place) if name.endswith(".safetensors")]


def _weights(listed: Mapping[str, StoredFile], every: Iterable[str]) -> list[StoredFile]:
    return [listed[name] for name in every if name.endswith(".safetensors")]


def _no_such_model(access: Access, uri: str) -> StageError:
    """Explain a folder that holds nothing."""
    hint = literal_key(uri)
    try:
        store, key = access.open_file("model", uri)
        if store.size(key) is not None:
            hint = "; it is a file, name the folder that holds it"
    except StageError:
        pass  # the URI of a folder, or reading is refused where listing is not
    return StageError(Reason.MODEL_NOT_FOUND, f"model.uri: there are no files at {uri}{hint}")


def literal_key(uri: str) -> str:
    """Say how a key of S3 is read, where its writer may have meant it otherwise; empty where there is no doubt."""
    bucket_and_key = uri.removeprefix("s3://") if uri.startswith("s3://") else ""
    if "//" in bucket_and_key:
        return "; a key is taken as it is written, so '//' is not '/'"
    escaped = re.search("%[0-9A-Fa-f]{2}", bucket_and_key)
    return f"; a key is taken as it is written, so {escaped[0]} is three characters" if escaped else ""


def _check_names(names: Iterable[str], place: str) -> None:
    """Refuse what can't become a file on a disk."""
    for name in names:
        try:
            checked_key(name)
        except StageError as error:
            raise StageError(Reason.MODEL_INVALID, f"model.uri: at {place}, {error.message}") from None
        if len(name.encode()) > MAX_NAME_BYTES:
            raise StageError(
                Reason.MODEL_INVALID, f"model.uri: {place} has a file whose name is too long for a disk: {name[:60]!r}…"
            )
