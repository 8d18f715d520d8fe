"""A minimal HTTP client: health questions to the parts, and a few calls to the API server as admin.

The tool needs five API calls in all. Doing them here instead of through kubectl saves a process start each (a second
`up` takes a fraction of a second because of it).
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from .settings import API_URL, Paths
from .shell import DevclusterError

# The parts are on a private link: a proxy that is set for the machine's way out must never be asked for them.
_NO_PROXY = urllib.request.ProxyHandler({})


def _tls(paths: Paths, *, as_admin: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(paths.pki / "ca.crt"))
    if as_admin:
        context.load_cert_chain(paths.pki / "admin.crt", paths.pki / "admin.key")
    return context


def answers(paths: Paths, url: str, timeout: float = 2.0) -> bool:
    """Whether a GET is answered with 200."""
    handlers: list[urllib.request.BaseHandler] = [_NO_PROXY]
    if url.startswith("https:"):
        if not (paths.pki / "sa.key").exists():
            return False
        handlers.append(urllib.request.HTTPSHandler(context=_tls(paths, as_admin=False)))
    try:
        with urllib.request.build_opener(*handlers).open(url, timeout=timeout) as reply:
            return int(reply.status) == 200
    except OSError:
        return False


def call(
    paths: Paths, method: str, path: str, body: object | None = None, content_type: str = "application/json"
) -> dict[str, Any]:
    """One call to the API server; the answer's own message becomes the error."""
    request = urllib.request.Request(API_URL + path, method=method)  # noqa: S310 - a fixed https address
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", content_type)
    opener = urllib.request.build_opener(_NO_PROXY, urllib.request.HTTPSHandler(context=_tls(paths, as_admin=True)))
    try:
        with opener.open(request, timeout=30) as reply:
            document = json.load(reply)
    except urllib.error.HTTPError as error:
        raise DevclusterError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')[:500]}") from error
    except OSError as error:
        raise DevclusterError(f"the API server at {API_URL} doesn't answer ({error}); run: devcluster up") from error
    if not isinstance(document, dict):
        raise DevclusterError(f"{method} {path}: not an object")
    return document


def apply(paths: Paths, path: str, document: dict[str, Any]) -> None:
    """Server-side apply, so that `up` can say the same thing again and again."""
    call(paths, "PATCH", f"{path}?fieldManager=devcluster&force=true", document, "application/apply-patch+yaml")
