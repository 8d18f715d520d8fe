"""Models from a Hugging Face hub: resolve the revision, look at the listing, download what is needed.

The hub client is imported here only. Its own progress bars stay off; the size of the folder is what is reported.
"""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Final, TypeVar

import httpx2
from huggingface_hub import HfApi, set_client_factory, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress
from finetune_trainer.storage.connection import explain, is_lasting
from finetune_trainer.storage.modelfiles import select_model_files

__all__ = ["HubModel", "fetch_hub_model", "resolve_hub_model"]

DEFAULT_HUB: Final = "https://huggingface.co"

_ATTEMPTS: Final = 5
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of a hub at one commit.

    Attributes
    ----------
    repo_id
        ``org/name``.
    commit
        The commit that the requested revision stood for.
    sizes
        Bytes of each file; 0 where the hub doesn't say.
    endpoint
        Address of the hub; None is the client's default.
    digests
        SHA-256 in hex of the large files, as the hub states it.
    """

    repo_id: str
    commit: str
    sizes: dict[str, int]
    endpoint: str | None
    digests: dict[str, str] = field(default_factory=dict)


def resolve_hub_model(
    repo_id: str, *, revision: str | None, token: str | None, endpoint: str | None, ca_bundle: Path | None = None
) -> HubModel:
    """Ask the hub which commit ``revision`` is and which files it has.

    Raises
    ------
    StageError
        ModelNotFound, AccessDenied, StorageUnavailable.
    """
    disable_progress_bars()
    if ca_bundle is not None:
        context = ssl.create_default_context(cafile=str(ca_bundle))
        set_client_factory(lambda: httpx2.Client(verify=context, follow_redirects=True, timeout=60))
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
    place = f"hf://{repo_id}"
    with _errors(place, revision, endpoint):
        api = HfApi(endpoint=endpoint, token=token)
        info = _retried(lambda: api.model_info(repo_id, revision=revision, files_metadata=True, timeout=30))
    if info.sha is None:
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.uri: the hub names no commit for {place}")
    siblings = info.siblings or []
    return HubModel(
        repo_id=repo_id,
        commit=info.sha,
        sizes={file.rfilename: file.size or 0 for file in siblings},
        endpoint=endpoint,
        digests={file.rfilename: file.lfs.sha256 for file in siblings if file.lfs is not None},
    )


def fetch_hub_model(model: HubModel, folder: Path, *, token: str | None, weights: bool, progress: Progress) -> None:
    """Download the needed files of ``model`` into ``folder``.

    Raises
    ------
    StageError
        As :func:`~finetune_trainer.storage.modelfiles.select_model_files` and :func:`resolve_hub_model`.
    """
    place = f"hf://{model.repo_id}"
    names = select_model_files(model.sizes, place=place, weights=weights)
    with (
        _errors(place, model.commit, model.endpoint),
        _watched(folder, sum(model.sizes[name] for name in names), progress),
    ):
        snapshot_download(
            model.repo_id,
            revision=model.commit,
            endpoint=model.endpoint,
            token=token,
            local_dir=folder,
            allow_patterns=[_literal(name) for name in names],
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StageError(Reason.STORAGE_UNAVAILABLE, f"{place}: {missing[0]} was listed and not delivered")


def _literal(name: str) -> str:
    """Quote a name for fnmatch."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _retried(call: Callable[[], _T]) -> _T:
    """Repeat what a moment may mend: no connection, or the server's own fault."""
    for attempt in range(_ATTEMPTS):
        try:
            return call()
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code < 500 or attempt == _ATTEMPTS - 1:
                raise
        except httpx2.TransportError as error:
            if attempt == _ATTEMPTS - 1 or is_lasting(error):
                raise
        time.sleep(random.uniform(0, min(2**attempt, 10)))  # noqa: S311 - jitter, not a secret
    raise AssertionError("unreachable")


@contextmanager
def _errors(place: str, revision: str | None, endpoint: str | None) -> Iterator[None]:
    """Turn the client's exceptions into reasons. Its messages can hold request details, so none is passed on."""
    at = f"{place} at revision {revision!r}" if revision else place
    try:
        yield
    except GatedRepoError as error:
        raise StageError(
            Reason.ACCESS_DENIED, f"model.uri: {place} is gated; accept its terms and name a Secret with HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise StageError(Reason.MODEL_NOT_FOUND, f"model.revision: {place} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise StageError(
            Reason.MODEL_NOT_FOUND,
            f"model.uri: the hub has no model {place} that these credentials may read; a private model needs "
            "model.credentialsRef with HF_TOKEN",
        ) from error
    except HFValidationError as error:
        raise StageError(Reason.INVALID_SPEC, f"model.uri: {place} is not org/name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise StageError(Reason.ACCESS_DENIED, f"reading {at} (model.uri) was refused: {status}") from error
        if status == 404:
            raise StageError(Reason.MODEL_NOT_FOUND, f"model.uri: the hub has no {at}") from error
        raise StageError(Reason.STORAGE_UNAVAILABLE, f"reading {at} failed: {status or 'no answer'}") from error
    except (httpx2.HTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        fault = explain(error, endpoint or DEFAULT_HUB)
        if fault is not None:
            raise StageError(
                Reason.STORAGE_UNAVAILABLE,
                f"reading {at} failed: the hub can't be reached: {fault.what}. {fault.mend}",
                tells_mend=True,
            ) from error
        raise StageError(
            Reason.STORAGE_UNAVAILABLE, f"reading {at} failed: the hub can't be reached ({type(error).__name__})"
        ) from error


@contextmanager
def _watched(folder: Path, total: int, progress: Progress) -> Iterator[None]:
    """Report the size of ``folder`` until the block ends."""
    ended = Event()

    def watch() -> None:
        while not ended.wait(0.5):
            progress(min(_size(folder), total), total)

    thread = Thread(target=watch, name="download-progress", daemon=True)
    thread.start()
    try:
        yield
        progress(total, total)
    finally:
        ended.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed from its temporary name between the two calls
            continue
    return total
