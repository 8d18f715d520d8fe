"""An S3 store that answers what no real one can be made to: server errors, refused conditions, an unknown authority."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from finetune_api.runtime import ResolvedStorage, Storage
from finetune_trainer.storage.access import Access
from finetune_trainer.storage.store import Store

__all__ = ["requests_to_a_fake_store"]


def requests_to_a_fake_store(
    access: Access,
    credentials: Path,
    *,
    fails: int = 0,
    attempts: int = 3,
    use: Callable[[Store], object] = lambda store: store.list(),
    certificate: Path | None = None,
    trusted: bool = False,
    refuse_conditions: bool = False,
) -> list[dict[str, str]]:
    """Use a store that answers 503 ``fails`` times, and return what it was asked."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Stay quiet."""

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append({**headers, "method": self.command, "path": self.path})
            body, status = b"<ListBucketResult/>", 200
            if len(seen) <= fails:
                body, status = b"<Error><Code>SlowDown</Code></Error>", 503
            elif refuse_conditions and "if-none-match" in headers:
                body, status = b"<Error><Code>NotImplemented</Code></Error>", 501
            elif self.path == "/bucket/x/f" and self.command in {"HEAD", "GET"}:
                body, status = b"" if self.command == "HEAD" else b"<Error><Code>NoSuchKey</Code></Error>", 404
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = answer  # noqa: N815 - the base class's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        pem = certificate.read_text() if certificate else ""
        pem = pem[pem.index("-----BEGIN CERTIFICATE") :] if pem else ""
        settings = Storage(
            prefix="s3://",
            # By name, since a bucket can only be part of a name; the certificate is for the address.
            endpoint=f"{'https://127.0.0.1' if certificate else 'http://localhost'}:{server.server_port}",
            ca_bundle=pem if trusted else None,
        )
        fake = Access(
            storage=ResolvedStorage(output=settings),
            credentials_dir=credentials,
            scratch=credentials.parent,
            max_attempts=attempts,
        )
        use(fake.open("output", "s3://bucket/x/"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    return seen
