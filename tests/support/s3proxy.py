"""A proxy on 127.0.0.1 in front of a real S3 server, through which a test makes the storage fail.

Requests go on unchanged, with the Host header that their signature covers, so everything but the fault is the real
server's own behaviour.
"""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.support.s3server import S3Server

__all__ = ["Fault", "Refuse", "S3Proxy", "full_after", "read_only", "running_proxy"]


@dataclass(frozen=True)
class Fault:
    """An answer in place of the server's: status and S3 error code."""

    status: int
    code: str


Refuse = Callable[[str, str], Fault | None]
"""(method, path with query) -> the fault, or None to let the request through."""


@dataclass
class S3Proxy:
    """A running proxy.

    Attributes
    ----------
    endpoint
        Where it listens.
    refuse
        Decides about each request; may be replaced at any time.
    refused
        Requests that were answered with a fault.
    sent
        Bytes of objects that were read, by path.
    """

    endpoint: str
    refuse: Refuse = lambda _method, _path: None
    refused: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)


def read_only(method: str, _path: str) -> Fault | None:
    """Every write is denied, as by a bucket policy."""
    return Fault(403, "AccessDenied") if method in ("PUT", "POST", "DELETE") else None


def full_after(word: str) -> Refuse:
    """The storage is full from the first object on whose key holds ``word``."""
    full = threading.Event()

    def refuse(method: str, path: str) -> Fault | None:
        if method == "PUT" and word in path:
            full.set()
        return Fault(507, "InsufficientStorage") if full.is_set() and method in ("PUT", "POST") else None

    return refuse


@contextmanager
def running_proxy(server: S3Server) -> Iterator[S3Proxy]:
    """Run a proxy in front of ``server`` until the block ends."""
    behind = urlsplit(server.endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Stay quiet."""

        def _handle(self) -> None:
            body = self._body()
            fault = proxy.refuse(self.command, self.path)
            if fault is not None:
                proxy.refused.append(f"{self.command} {self.path}")
                text = f"<Error><Code>{fault.code}</Code><Message>no</Message></Error>".encode()
                self._answer(fault.status, [("Content-Type", "application/xml")], text)
                return
            connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect", "transfer-encoding"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            if self.command == "GET":
                proxy.sent[urlsplit(self.path).path] += len(data)
            self._answer(answer.status, answer.getheaders(), data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the base class's names

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            length = str(len(data))
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value  # an answer to HEAD names the length of what it leaves out
                elif name.lower() not in ("connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy = S3Proxy(endpoint=f"http://127.0.0.1:{listener.server_address[1]}")
    thread = threading.Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join(timeout=10)
