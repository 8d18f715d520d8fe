"""A small model hub on 127.0.0.1 that speaks the part of the Hugging Face API which a download needs."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["HubServer", "running_hub"]


@dataclass
class HubServer:
    """What the hub holds, and what was asked of it.

    Attributes
    ----------
    repos
        Files of each model, ``org/name`` -> name -> content; of each dataset, ``datasets/org/name``.
    commits
        Commit that each revision stands for.
    tokens
        When set, requests need one of these.
    gated
        Models and datasets whose terms were not accepted.
    failures
        Answer so many requests with 503 before working.
    history
        What a commit had that is not ``repos``' newest: commit -> repository -> files.
    """

    endpoint: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {"main": "a" * 40, "v1": "b" * 40})
    tokens: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    failures: int = 0
    history: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def downloaded(self) -> set[str]:
        """Names of the files that were fetched with GET."""
        return {
            line.split("/resolve/")[1].split("/", 1)[1]
            for line in self.requests
            if line.startswith("GET") and "/resolve/" in line
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _send(self, status: int, content: bytes, *, body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _error(self, status: int, code: str, *, body: bool) -> None:
        self._send(status, b"{}", body=body, headers={"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, *, body: bool) -> None:  # noqa: PLR0911 - one return an outcome
        hub, path = self.hub, urlsplit(self.path).path
        hub.requests.append(f"{self.command} {unquote(path)}")
        if hub.failures > 0:
            hub.failures -= 1
            return self._error(503, "ServiceUnavailable", body=body)
        parts = [unquote(part) for part in path.strip("/").split("/")]  # a revision may hold slashes, escaped
        api = parts[0] == "api"
        kind = "datasets/" if "datasets" in parts[:2] else ""
        parts = parts[2:] if api else parts[1:] if kind else parts
        repo, rest = kind + "/".join(parts[:2]), parts[2:]
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo not in hub.repos or (hub.tokens and token not in hub.tokens):
            return self._error(404 if token else 401, "RepoNotFound", body=body)
        if repo in hub.gated:
            return self._error(403, "GatedRepo", body=body)
        revision = rest[1] if len(rest) > 1 else "main"
        commit = hub.commits.get(revision, revision if revision in hub.commits.values() else None)
        if commit is None:
            return self._error(404, "RevisionNotFound", body=body)
        files = hub.history.get(commit, {}).get(repo, hub.repos[repo])
        if api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)} for name, data in files.items()
            ]
            return self._json(tree, body=body)
        if api:
            siblings = [
                {"rfilename": name, "size": len(data), "blobId": _oid(data), **_lfs(name, data)}
                for name, data in files.items()
            ]
            return self._json(
                {"id": repo.removeprefix(kind), "modelId": repo, "sha": commit, "siblings": siblings}, body=body
            )
        name = "/".join(rest[2:])
        if name not in files:
            return self._error(404, "EntryNotFound", body=body)
        headers = {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        return self._send(200, files[name], body=body, headers=headers)

    def _json(self, value: object, *, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), body=body, headers={"Content-Type": "application/json"})


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()  # noqa: S324 - git's object ids are SHA-1


def _lfs(name: str, data: bytes) -> dict[str, object]:
    """What the hub states of a file that it keeps outside Git, as it does weights."""
    if not name.endswith(".safetensors"):
        return {}
    return {"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}}


@contextmanager
def running_hub(certificate: Path | None = None) -> Iterator[HubServer]:
    """Run a hub until the block ends; over TLS with a PEM file of key and certificate."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    hub.endpoint = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
