"""Parses the URIs that users write, one place for both sides.

Schemes: ``s3://bucket/key``, ``hf://org/name[@revision is a field]`` and, for local runs only, ``file:///path``.
Anything that could make a prefix check lie (``..``, user info, queries, control characters) is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["CLUSTER_URI", "URI", "has_prefix", "join_uri", "parse_uri"]

Scheme = Literal["s3", "hf", "file"]

_BUCKET: Final = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_S3: Final = re.compile(rf"^s3://(?P<host>{_BUCKET})/(?P<path>[^?#\\\s\x00-\x1f\x7f]*)$")
_HF: Final = re.compile(r"^hf://(?P<host>)(?P<path>[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?)$")
_FILE: Final = re.compile(r"^file://(?P<host>)(?P<path>/[^?#\x00-\x1f\x7f]*)$")

CLUSTER_URI: Final = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^?#\\\s]*|hf://[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?)$"


@dataclass(frozen=True, slots=True)
class URI:
    """A parsed URI. ``host`` is the bucket for s3 and empty otherwise; ``path`` has no leading slash for s3 and hf."""

    scheme: Scheme
    host: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.path}" if self.scheme == "s3" else f"{self.scheme}://{self.path}"


def parse_uri(text: str) -> URI:
    """Parse ``text``.

    Raises
    ------
    ValueError
        The URI has another scheme or a form that is refused; the message says which forms work.
    """
    for scheme, pattern in (("s3", _S3), ("hf", _HF), ("file", _FILE)):
        if match := pattern.match(text):
            if any(part in {"..", "."} for part in match["path"].split("/")):
                break
            return URI(scheme, match["host"], match["path"])  # type: ignore[arg-type]  # the tuple above is typed as str
    raise ValueError(
        f"{text[:200]!r} is not a URI that this version reads; use s3://bucket/key, hf://org/name or, in a local run, "
        "file:///path, without '..', '?', '#' or spaces"
    )


def join_uri(prefix: str, *parts: str) -> str:
    """Join path parts below a prefix with single slashes."""
    return "/".join([prefix.rstrip("/"), *(part.strip("/") for part in parts[:-1]), parts[-1].lstrip("/")])


def has_prefix(uri: str, prefix: str) -> bool:
    """Tell whether ``uri`` lies at or below ``prefix``; ``s3://team-a`` does not cover ``s3://team-ab/x``."""
    base = prefix if prefix.endswith("/") else prefix + "/"
    return uri.startswith(base) or uri == prefix or uri == base.rstrip("/")
