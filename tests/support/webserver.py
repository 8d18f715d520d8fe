"""A web server over TLS on 127.0.0.1 that gives files, leads on and stumbles as a test says."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["WebServer", "running_web"]


@dataclass
class WebServer:
    """What the server gives.

    Attributes
    ----------
    files
        Content by path.
    redirects
        Where a path leads on to.
    statuses
        Answers to give to a path before any other, one a request.
    cut
        Paths whose answer ends in its middle, so many times.
    packed
        Paths whose answer says that it is packed for its way.
    requests
        Path and headers of each request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    packed: set[str] = field(default_factory=set)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: WebServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Stay quiet."""

    def do_GET(self) -> None:
        web, path = self.web, self.path
        web.requests.append((path, {name.lower(): value for name, value in self.headers.items()}))
        if web.statuses.get(path):
            return self._send(web.statuses[path].pop(0), b"")
        if path in web.redirects:
            return self._send(302, b"", Location=web.redirects[path])
        if path not in web.files:
            return self._send(404, b"")
        data = web.files[path]
        more = {"Content-Encoding": "gzip"} if path in web.packed else {}
        if web.cut.get(path, 0) > 0:
            web.cut[path] -= 1
            self.close_connection = True
            return self._send(200, data[: len(data) // 2], length=len(data), **more)
        return self._send(200, data, **more)

    def _send(self, status: int, data: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        told = {"Content-Length": str(len(data) if length is None else length), "Set-Cookie": "session=1", **headers}
        for name, value in told.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def running_web(certificate: Path | None) -> Iterator[WebServer]:
    """Run a server until the block ends; over TLS with a PEM file of key and certificate."""
    web = WebServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    web.address = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
