"""Says why an endpoint could not be talked to, from the exceptions that a client wrapped into one another.

Shared by ``s3_errors.py`` and ``hub.py``; knows neither boto3 nor the hub's client. Where the exception leaves it open
whether an endpoint speaks TLS, the endpoint is asked once.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

__all__ = ["IN_RUNTIME", "Fault", "chain", "explain", "is_lasting", "speaks_tls", "tls_expected"]

IN_RUNTIME: Final = "of the FineTuneRuntime"
"""Whose fields the endpoint's settings are. A tenant can't set them."""

_PROBE_SECONDS: Final = 5
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "UNKNOWN_PROTOCOL")
"""What OpenSSL calls an answer that is not TLS."""

_EXPIRED, _NOT_YET, _NAME, _ADDRESS = 10, 9, 62, 64  # X509_V_ERR_* of OpenSSL


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong, and the sentence that tells who mends it and how."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}. {self.mend}"


def explain(error: BaseException, endpoint: str) -> Fault | None:
    """Explain why a request to ``endpoint`` got no answer; None where the exceptions don't tell."""
    causes = list(chain(error))
    return (
        _on_the_way(causes, endpoint)
        or _at_the_door(causes, endpoint)
        or _scheme(causes, endpoint)
        or _silence(causes, endpoint)
    )


def is_lasting(error: BaseException) -> bool:
    """Tell whether trying again at once is of no use: the certificate, or the scheme, is the wrong one."""
    return any(
        isinstance(cause, ssl.SSLCertVerificationError)
        or _is_name_mismatch(cause)
        or (isinstance(cause, ssl.SSLError) and _is_no_tls(cause))
        for cause in chain(error)
    )


def chain(error: BaseException) -> Iterator[BaseException]:
    """Walk through an exception and all that it was made from; clients keep those in places of their own."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        kept = getattr(one, "kwargs", None)
        inner = [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
        inner += list(kept.values()) if isinstance(kept, dict) else []
        waiting += [other for other in inner if isinstance(other, BaseException)]


def speaks_tls(endpoint: str) -> bool:
    """Ask the endpoint for a TLS handshake; whose certificate it has is no matter here."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(_address(endpoint), timeout=_PROBE_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname=urlsplit(endpoint).hostname),
        ):
            return True
    except (OSError, ValueError):
        return False


def _speaks_plainly(endpoint: str) -> bool:
    try:
        with socket.create_connection(_address(endpoint), timeout=_PROBE_SECONDS) as raw:
            raw.sendall(b"HEAD / HTTP/1.1\r\nHost: " + urlsplit(endpoint).netloc.encode() + b"\r\n\r\n")
            return raw.recv(5) == b"HTTP/"
    except (OSError, ValueError):
        return False


def _address(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _on_the_way(causes: list[BaseException], endpoint: str) -> Fault | None:
    """Nothing came as far as the endpoint."""
    if any(type(cause).__name__ in ("ProxyError", "ProxyConnectionError") for cause in causes):
        return Fault(
            f"the proxy between the pod and {endpoint} refused or did not answer",
            "The platform team corrects HTTPS_PROXY, HTTP_PROXY or NO_PROXY of the pods, or the proxy.",
        )
    if any(type(cause).__name__ == "EndpointResolutionError" for cause in causes):
        return Fault(
            f"{endpoint} is no address",
            f"The platform team corrects storage.endpoint {IN_RUNTIME}; a local run reads AWS_ENDPOINT_URL.",
        )
    return None


def _at_the_door(causes: list[BaseException], endpoint: str) -> Fault | None:
    """The name, the address or the certificate."""
    host = urlsplit(endpoint).hostname or endpoint
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause.verify_code, endpoint, host)
        if _is_name_mismatch(cause):
            return _certificate(_NAME, endpoint, host)
        if isinstance(cause, socket.gaierror):
            return Fault(
                f"no address is known for the name in {endpoint}, or for the bucket's below it (DNS)",
                f"The platform team corrects storage.endpoint {IN_RUNTIME} (or storage.region, where no endpoint is "
                "set); with addressingStyle Virtual the name BUCKET.HOST has to resolve, Path does without. A local "
                "run reads AWS_ENDPOINT_URL and AWS_REGION.",
            )
        if isinstance(cause, ConnectionRefusedError):
            return Fault(
                f"nothing listens at {endpoint} (connection refused)",
                f"The platform team starts the storage, or corrects host and port in storage.endpoint {IN_RUNTIME}; a "
                "local run reads AWS_ENDPOINT_URL.",
            )
    return None


def _certificate(code: int, endpoint: str, host: str) -> Fault:
    if code in (_EXPIRED, _NOT_YET):
        when = "has expired" if code == _EXPIRED else "is not valid yet"
        return Fault(
            f"the certificate of {endpoint} {when}",
            "Whoever runs the storage renews it; if it is in order there, the clock of the pod's node is wrong.",
        )
    if code in (_NAME, _ADDRESS):
        return Fault(
            f"the certificate of {endpoint} is for another name than {host}, or than the bucket's below it",
            f"The platform team writes a name that the certificate has into storage.endpoint {IN_RUNTIME}, or sets "
            "storage.addressingStyle to Path.",
        )
    return Fault(
        f"the certificate of {endpoint} is self-signed, or of an authority that is not trusted here",
        f"The platform team puts that authority's certificate (PEM) into storage.caBundle {IN_RUNTIME}; a local run "
        "takes it from AWS_CA_BUNDLE.",
    )


def _is_no_tls(error: ssl.SSLError) -> bool:
    return any(word in f"{error.reason} {error}".replace(" ", "_").upper() for word in _NO_TLS)


def _is_name_mismatch(error: BaseException) -> bool:
    """Tell whether it is urllib3's own comparison of names that failed, which is no exception of ``ssl``."""
    return type(error).__name__ == "CertificateError"


def _scheme(causes: list[BaseException], endpoint: str) -> Fault | None:
    """http:// where TLS is spoken, or https:// where it is not."""
    if endpoint.startswith("https://"):
        broken = [cause for cause in causes if isinstance(cause, ssl.SSLError)]
        if any(_is_no_tls(cause) for cause in broken) or (broken and _speaks_plainly(endpoint)):
            return Fault(
                f"{endpoint} speaks no TLS, use http://",
                f"The platform team corrects storage.endpoint {IN_RUNTIME}; a local run reads AWS_ENDPOINT_URL.",
            )
        if broken:
            return Fault(
                f"{endpoint} and the trainer agree on no TLS ({broken[0].reason or 'handshake failed'})",
                "Whoever runs the storage allows TLS 1.2 or newer, and asks for no client certificate.",
            )
        return None
    closed = any(isinstance(cause, ConnectionError) or type(cause).__name__ == "BadStatusLine" for cause in causes)
    return tls_expected(endpoint) if closed and speaks_tls(endpoint) else None


def tls_expected(endpoint: str) -> Fault:
    """Say that an http:// endpoint wants https://."""
    return Fault(
        f"{endpoint} expects TLS, use https://",
        f"The platform team corrects storage.endpoint {IN_RUNTIME}, and sets storage.caBundle where its "
        "certificate is of an authority of its own; a local run takes them from AWS_ENDPOINT_URL and AWS_CA_BUNDLE.",
    )


def _silence(causes: list[BaseException], endpoint: str) -> Fault | None:
    if any("timeout" in type(cause).__name__.lower() for cause in causes):
        return Fault(
            f"{endpoint} did not answer in time",
            "The platform team looks whether a network policy or a firewall drops what pods send there.",
        )
    if any(isinstance(cause, ConnectionError) for cause in causes):
        return Fault(
            f"{endpoint} closed the connection without an answer",
            f"The platform team looks at the storage's log, and whether storage.endpoint {IN_RUNTIME} is its S3 port.",
        )
    return None
