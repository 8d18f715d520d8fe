"""A file from the web, by https alone: no credentials, a bounded number of redirects, never to another scheme.

Beside the stores, which are folders; ``rows.py`` compares the digest that the spec names with what came.
"""

from __future__ import annotations

import random
import ssl
import time
from pathlib import Path
from typing import Final

import httpx2

from finetune_api.reasons import Reason
from finetune_trainer.errors import StageError
from finetune_trainer.storage.connection import explain, is_lasting
from finetune_trainer.storage.store import OnBytes

__all__ = ["fetch_web_file"]

_ATTEMPTS: Final = 5
_REDIRECTS: Final = 5
_TIMEOUT_SECONDS: Final = 60
_CHUNK: Final = 2**18
_BUSY: Final = frozenset({408, 425, 429})
_GONE: Final = frozenset({404, 410})
_REFUSED: Final = frozenset({401, 403, 407, 451})


class _PassingError(Exception):
    """What another try may mend."""


def fetch_web_file(uri: str, path: Path, *, field: str, ca_bundle: Path | None, on_bytes: OnBytes | None) -> None:
    """Download a file as the server stores it; ``path`` is complete or absent afterwards.

    Parameters
    ----------
    field
        That names the URI, for messages.
    ca_bundle
        PEM file to check the server with; None is the system's.

    Raises
    ------
    StageError
        DatasetNotFound, AccessDenied, StorageUnavailable.
    """
    context = ssl.create_default_context(cafile=str(ca_bundle) if ca_bundle else None)
    temporary = path.with_name(path.name + ".part")
    try:
        with httpx2.Client(verify=context, follow_redirects=False, timeout=_TIMEOUT_SECONDS) as client:
            for attempt in range(_ATTEMPTS):
                try:
                    _download(client, uri, temporary, field=field, on_bytes=on_bytes)
                    break
                except (_PassingError, httpx2.TransportError) as error:
                    if attempt == _ATTEMPTS - 1 or is_lasting(error):
                        raise _unavailable(uri, field, error) from error
                time.sleep(random.uniform(0, min(2**attempt, 10)))  # noqa: S311 - jitter, not a secret
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _download(client: httpx2.Client, uri: str, path: Path, *, field: str, on_bytes: OnBytes | None) -> None:
    address = httpx2.URL(uri)
    for _ in range(_REDIRECTS + 1):
        client.cookies.clear()
        # Packed on its way, the bytes would have another digest than the file.
        with client.stream("GET", address, headers={"Accept-Encoding": "identity"}) as answer:
            if answer.is_redirect:
                address = _next(answer, uri, field)
                continue
            _check_status(answer.status_code, uri, field)
            with path.open("wb") as file:
                for chunk in answer.iter_raw(_CHUNK):
                    file.write(chunk)
                    if on_bytes:
                        on_bytes(len(chunk))
            return
    raise StageError(
        Reason.DATASET_NOT_FOUND,
        f"{field}: {uri} leads on more than {_REDIRECTS} times; name the address at the end",
        tells_mend=True,
    )


def _next(answer: httpx2.Response, uri: str, field: str) -> httpx2.URL:
    """Where a redirect leads; it is not quoted whole, since it may be signed."""
    try:
        address = answer.url.join(answer.headers["location"])
    except (httpx2.InvalidURL, KeyError):
        raise StageError(Reason.DATASET_NOT_FOUND, f"{field}: {uri} leads on to no address") from None
    if address.scheme != "https" or not address.host:
        raise StageError(
            Reason.ACCESS_DENIED,
            f"{field}: {uri} leads on to {address.scheme or 'no'}:// at {address.host or 'no host'}, and only https:// "
            "is followed; name an address that stays with it",
            tells_mend=True,
        )
    return address.copy_with(username=None, password=None, fragment=None)


def _check_status(status: int, uri: str, field: str) -> None:
    if status in _GONE:
        raise StageError(Reason.DATASET_NOT_FOUND, f"{field}: there is no file at {uri} ({status})")
    if status in _REFUSED:
        raise StageError(
            Reason.ACCESS_DENIED,
            f"{field}: reading {uri} was refused: {status}; https:// is read without credentials, so put the file into "
            "S3 if it must not be public",
            tells_mend=True,
        )
    if status >= 500 or status in _BUSY:
        raise _PassingError(f"the server answered {status}")
    if status != 200:
        raise StageError(Reason.DATASET_NOT_FOUND, f"{field}: the server gives no file at {uri} ({status})")


def _unavailable(uri: str, field: str, error: Exception) -> StageError:
    if isinstance(error, _PassingError):
        return StageError(Reason.STORAGE_UNAVAILABLE, f"{field}: reading {uri} failed: {error}")
    host = "https://" + uri.removeprefix("https://").partition("/")[0]
    fault = explain(error, host)
    what = fault.what if fault else f"no answer ({type(error).__name__})"
    if fault and "authority" in fault.what:
        mend = (
            "The platform team puts that authority's certificate (PEM) into storage of the FineTuneRuntime, as "
            f"caBundle of prefix {host}/; a local run takes it from SSL_CERT_FILE."
        )
    else:
        mend = f"Correct the host in {field}, or ask the platform team whether pods may reach it."
    return StageError(Reason.STORAGE_UNAVAILABLE, f"{field}: reading {uri} failed: {what}. {mend}", tells_mend=True)
