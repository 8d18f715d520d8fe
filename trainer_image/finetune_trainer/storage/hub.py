"""Repositories of a Hugging Face hub: resolve the revision, look at the listing, download what is needed.

Models stand here too; ``hubrows.py`` knows the datasets. The hub client is imported here only. Its own progress bars
stay off; the size of the folder is what is reported.
"""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Final, Literal, TypeVar

import httpx2
from huggingface_hub import DatasetInfo, HfApi, ModelInfo, set_client_factory, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars

from finetune_api.names import Role, credentials_field
from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.process.console import Progress, no_progress
from finetune_trainer.storage.connection import explain, is_lasting
from finetune_trainer.storage.modelfiles import select_model_files

__all__ = ["MODEL", "HubRepo", "Named", "download_files", "fetch_hub_model", "resolve_hub_repo"]

DEFAULT_HUB: Final = "https://huggingface.co"

_ATTEMPTS: Final = 5
_T = TypeVar("_T")
_trusted: list[Path | None] = [None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """How the spec names a repository; for messages, and for where the hub keeps it."""

    kind: Literal["model", "dataset"]
    uri: str = "model.uri"
    revision: str = "model.revision"
    role: Role = "model"
    missing: Reason = Reason.MODEL_NOT_FOUND
    prefix: str = "hf://"


MODEL: Final = Named(kind="model")


@dataclass(frozen=True, slots=True)
class HubRepo:
    """A model or dataset of a hub at one commit.

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


def resolve_hub_repo(
    repo_id: str,
    *,
    revision: str | None,
    token: str | None,
    endpoint: str | None,
    ca_bundle: Path | None = None,
    named: Named = MODEL,
) -> HubRepo:
    """Ask the hub which commit ``revision`` is and which files it has.

    Raises
    ------
    StageError
        ModelNotFound or DatasetNotFound, AccessDenied, StorageUnavailable.
    """
    disable_progress_bars()
    _trust(ca_bundle)
    endpoint = endpoint or os.environ.get("HF_ENDPOINT") or None
    place = f"{named.prefix}{repo_id}"
    with _errors(place, revision, endpoint, named):
        api = HfApi(endpoint=endpoint, token=token)
        info = _retried(
            lambda: api.repo_info(repo_id, repo_type=named.kind, revision=revision, files_metadata=True, timeout=30)
        )
    if not isinstance(info, ModelInfo | DatasetInfo) or info.sha is None:
        raise StageError(named.missing, f"{named.uri}: the hub names no commit for {place}")
    siblings = info.siblings or []
    return HubRepo(
        repo_id=repo_id,
        commit=info.sha,
        sizes={file.rfilename: file.size or 0 for file in siblings},
        endpoint=endpoint,
        digests={file.rfilename: file.lfs.sha256 for file in siblings if file.lfs is not None},
    )


def _trust(ca_bundle: Path | None) -> None:
    """Have the client, of which the process has one, check servers with these certificates; None is the system's."""
    if ca_bundle is None and _trusted[0] is None:
        return
    _trusted[0] = ca_bundle
    context = ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)
    set_client_factory(lambda: httpx2.Client(verify=context, follow_redirects=True, timeout=60))


def fetch_hub_model(model: HubRepo, folder: Path, *, token: str | None, weights: bool, progress: Progress) -> None:
    """Download the needed files of ``model`` into ``folder``.

    Raises
    ------
    StageError
        As :func:`~finetune_trainer.storage.modelfiles.select_model_files` and :func:`resolve_hub_repo`.
    """
    place = f"hf://{model.repo_id}"
    names = select_model_files(model.sizes, place=place, weights=weights)
    download_files(model, names, folder, token=token, progress=progress)


def download_files(
    repo: HubRepo,
    names: Sequence[str],
    folder: Path,
    *,
    token: str | None,
    progress: Progress = no_progress,
    named: Named = MODEL,
) -> None:
    """Download files into ``folder``, each under the name that it has in the repository.

    Raises
    ------
    StageError
        As :func:`resolve_hub_repo`.
    """
    place = f"{named.prefix}{repo.repo_id}"
    with (
        _errors(place, repo.commit, repo.endpoint, named),
        _watched(folder, sum(repo.sizes[name] for name in names), progress),
    ):
        snapshot_download(
            repo.repo_id,
            repo_type=named.kind,
            revision=repo.commit,
            endpoint=repo.endpoint,
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
def _errors(place: str, revision: str | None, endpoint: str | None, named: Named) -> Iterator[None]:
    """Turn the client's exceptions into reasons. Its messages can hold request details, so none is passed on."""
    at = f"{place} at revision {revision!r}" if revision else place
    try:
        yield
    except GatedRepoError as error:
        raise StageError(
            Reason.ACCESS_DENIED,
            f"{named.uri}: {place} is gated; accept its terms and name a Secret with HF_TOKEN in "
            f"{credentials_field(named.role)}",
        ) from error
    except RevisionNotFoundError as error:
        raise StageError(named.missing, f"{named.revision}: {place} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise StageError(
            named.missing,
            f"{named.uri}: the hub has no {named.kind} {place} that these credentials may read; a private "
            f"{named.kind} needs {credentials_field(named.role)} with HF_TOKEN",
        ) from error
    except HFValidationError as error:
        raise StageError(Reason.INVALID_SPEC, f"{named.uri}: {place} is not org/name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise StageError(Reason.ACCESS_DENIED, f"reading {at} ({named.uri}) was refused: {status}") from error
        if status == 404:
            raise StageError(named.missing, f"{named.uri}: the hub has no {at}") from error
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
