"""A small S3 store whose keys are bytes, as in S3 itself, and whose answers a test may replace.

The real server of the tests keeps objects as files, so ``a//b`` and ``a/b`` are one object there. Here they are two.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote
from xml.sax.saxutils import escape

__all__ = ["Answer", "S3Stub", "error_answer", "running_stub"]


@dataclass(frozen=True)
class Answer:
    """What is sent: status, headers and body. A negative status closes the connection without a word."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def error_answer(status: int, code: str, more: str = "", **headers: str) -> Answer:
    """An S3 error; ``more`` is XML beside the code."""
    body = f"<Error><Code>{code}</Code><Message>no, and a secret: canary</Message>{more}</Error>".encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, body, {"Content-Type": "application/xml", **named})


@dataclass
class S3Stub:
    """A running store.

    Attributes
    ----------
    endpoint
        Where it listens.
    objects
        ``bucket/key`` as it is in the request's path, decoded once.
    answer
        Called with method and path before anything else; an answer replaces the store's own.
    asked
        Method and raw path of every request.
    dated
        What the store takes for the time, in its answers' Date.
    """

    endpoint: str
    objects: dict[str, bytes] = field(default_factory=dict)
    answer: Callable[[str, str], Answer | None] = lambda _method, _path: None
    asked: list[str] = field(default_factory=list)
    dated: str | None = None

    def handle(self, method: str, raw: str, body: bytes, wanted: str | None) -> Answer:
        """Answer one request."""
        self.asked.append(f"{method} {raw}")
        replaced = self.answer(method, raw)
        if replaced is not None:
            return replaced
        # Not urlsplit for the path: it takes "//bucket" for a host.
        path, _, query = raw.partition("?")
        name = unquote(path)[1:]
        if method == "PUT":
            self.objects[name] = body
            return Answer(200, headers={"ETag": f'"{_etag(body)}"'})
        if method == "DELETE":
            self.objects.pop(name, None)
            return Answer(204)
        asked = parse_qs(query, keep_blank_values=True)
        if "list-type" in asked:
            return self._list(name.split("/", 1)[0], asked.get("prefix", [""])[0])
        if name not in self.objects:
            return error_answer(404, "NoSuchKey")
        return _object(self.objects[name], wanted)

    def _list(self, bucket: str, prefix: str) -> Answer:
        found = sorted(name for name in self.objects if name.startswith(f"{bucket}/{prefix}"))
        items = "".join(
            f"<Contents><Key>{escape(name.split('/', 1)[1])}</Key><Size>{len(self.objects[name])}</Size>"
            f"<ETag>{_etag(self.objects[name])}</ETag></Contents>"
            for name in found
        )
        return Answer(200, f"<ListBucketResult>{items}</ListBucketResult>".encode())


def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def _object(body: bytes, wanted: str | None) -> Answer:
    headers = {"ETag": f'"{_etag(body)}"', "Last-Modified": "Wed, 25 Nov 2026 10:00:00 GMT"}
    if wanted is None:
        return Answer(200, body, headers)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    end = min(int(last) if last else len(body) - 1, len(body) - 1)
    headers["Content-Range"] = f"bytes {first}-{end}/{len(body)}"
    return Answer(206, body[int(first) : end + 1], headers)


@contextmanager
def running_stub(certificate: Path | None = None) -> Iterator[S3Stub]:
    """Run a store until the block ends; with a certificate (and its key) it speaks TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Stay quiet."""

        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            raw = self.requestline.split(" ")[1]  # self.path has its leading slashes made one
            answer = stub.handle(self.command, raw, body, self.headers.get("Range"))
            if answer.status < 0:
                self.close_connection = True
                return
            self.send_response_only(answer.status)
            self.send_header("Date", stub.dated or self.date_time_string())
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - the base class's names

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that hangs up, or speaks another language, is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    stub = S3Stub(endpoint=f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
