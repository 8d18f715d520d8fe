"""Parses the URIs that users write, one place for both sides.

Schemes: ``s3://bucket/key``, ``hf://org/name[@revision is a field]``, ``https://host/path``, ``pvc://claim/path``,
``configmap://name/key``, ``hf://datasets/org/name[/config][@revision][#split]`` and, for local runs only,
``file:///path``. Anything that could make a prefix check lie
(``..``, user info, queries, control characters) is refused here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "CLUSTER_URI",
    "DOT_SEGMENT",
    "FILES_URI",
    "HUB_ROWS",
    "MOUNTED",
    "PLACED_URI",
    "ROWS_URI",
    "S3_URI",
    "URI",
    "HubRows",
    "has_prefix",
    "hub_rows",
    "join_uri",
    "parse_uri",
]

Scheme = Literal["s3", "hf", "https", "pvc", "configmap", "file"]

# The patterns below mean the same to Python, to Go (CEL and schemas of the API server) and to Rust (pydantic): explicit
# classes instead of \s, whose meaning differs, and in Python fullmatch, since its $ also matches before a newline.
_KEY: Final = r"[^\x00-\x20\x7f?#\\]"
_SEGMENT: Final = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_S3_BODY: Final = rf"s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9]/{_KEY}*"
_HF_BODY: Final = rf"hf://{_SEGMENT}(/{_SEGMENT})?"
HUB_ROWS: Final = "hf://datasets/"
"""How the URI of a dataset of a hub begins; the hub lets no organisation have that name."""
_HUB_ROWS_BODY: Final = (
    rf"{HUB_ROWS}{_SEGMENT}(/{_SEGMENT}(/[A-Za-z0-9_][A-Za-z0-9._+-]*)?)?(@[A-Za-z0-9][A-Za-z0-9._/-]*)?"
    "(#[A-Za-z0-9_]+([.][A-Za-z0-9_]+)*)?"
)
# No escaped '.', '/' or '\\': a server undoes the escape, and the path would be another one than a prefix check saw.
_ESCAPED: Final = "%[013467-9A-Fa-f][0-9A-Fa-f]|%2[0-9A-Da-d]|%5[0-9ABabD-Fd-f]"
_HTTPS_BODY: Final = (
    r"https://[a-z0-9][a-z0-9.-]{0,252}(:[0-9]{1,5})?/"
    rf"([^\x00-\x20\x7f?#\\%]|{_ESCAPED})*([^\x00-\x20\x7f?#\\%/]|{_ESCAPED})"
)
_OBJECT: Final = "[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
_STEP: Final = r"[^\x00-\x20\x7f?#\\/]+"
_PVC_BODY: Final = rf"pvc://{_OBJECT}/({_STEP}/)*({_STEP})?"
# As the API server takes keys: none begins with '..', since kubelet keeps its own links there.
_CONFIGMAP_BODY: Final = rf"configmap://{_OBJECT}/[.]?[-_A-Za-z0-9][-._A-Za-z0-9]{{0,251}}"

S3_URI: Final = f"^{_S3_BODY}$"
PLACED_URI: Final = f"^({_S3_BODY}|{_PVC_BODY}|{_CONFIGMAP_BODY})$"
"""Where the tenant's own rows can lie: a file or a folder in S3 or on a volume, a key of a ConfigMap."""
FILES_URI: Final = f"^({_S3_BODY}|{_PVC_BODY}|{_CONFIGMAP_BODY}|{_HUB_ROWS_BODY})$"
"""Where the rows of one part can lie: the same, or a split of a dataset of the hub."""
ROWS_URI: Final = f"^({_S3_BODY}|{_PVC_BODY}|{_CONFIGMAP_BODY}|{_HTTPS_BODY}|{_HUB_ROWS_BODY})$"
"""Where a pod can read rows: the same, or a file on the web."""
CLUSTER_URI: Final = f"^({_S3_BODY}|{_HF_BODY}|{_PVC_BODY})$"
"""Where a pod can read a model: S3, the hub, a volume."""

DOT_SEGMENT: Final = "/[.][.]?(/|$)"
"""A path element that climbs or stays; it would make a prefix check lie."""

_PATTERNS: Final[tuple[tuple[Scheme, re.Pattern[str]], ...]] = (
    ("s3", re.compile(_S3_BODY)),
    ("hf", re.compile(f"{_HF_BODY}|{_HUB_ROWS_BODY}")),
    ("https", re.compile(_HTTPS_BODY)),
    ("pvc", re.compile(_PVC_BODY)),
    ("configmap", re.compile(_CONFIGMAP_BODY)),
    ("file", re.compile(r"file:///[^\x00-\x1f\x7f?#]*")),
)
_WITH_HOST: Final = ("s3", "https", "pvc", "configmap")
MOUNTED: Final = ("pvc", "configmap")
"""Schemes of what kubelet mounts into the pod."""


@dataclass(frozen=True, slots=True)
class URI:
    """A parsed URI.

    ``host`` is the bucket for s3, host and port for https, the object's name for pvc and configmap, and empty
    otherwise; only the path of file has a leading
    slash.
    """

    scheme: Scheme
    host: str
    path: str

    def __str__(self) -> str:
        place = f"{self.host}/{self.path}" if self.scheme in _WITH_HOST else self.path
        return f"{self.scheme}://{place}"


def parse_uri(text: str) -> URI:
    """Parse ``text``.

    Raises
    ------
    ValueError
        The URI has another scheme or a form that is refused; the message says which forms work.
    """
    for scheme, pattern in _PATTERNS:
        if pattern.fullmatch(text) and not re.search(DOT_SEGMENT, text):
            rest = text.removeprefix(f"{scheme}://")
            host, _, key = rest.partition("/") if scheme in _WITH_HOST else ("", "", rest)
            return URI(scheme, host, key)
    raise ValueError(
        f"{text[:200]!r} is not a URI that this version reads; use s3://bucket/key, hf://org/name, "
        "hf://datasets/org/name/config@revision#split, https://host/path, pvc://claim/path, configmap://name/key or, "
        "in a local run, file:///path, without '..', '?', '#' or spaces"
    )


@dataclass(frozen=True, slots=True)
class HubRows:
    """What the URI of a dataset of a hub names; None is the hub's own choice."""

    repo: str
    config: str | None
    revision: str | None
    split: str | None

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{HUB_ROWS}{self.repo}{config}{revision}" + (f"#{self.split}" if self.split else "")


def hub_rows(uri: str) -> HubRows | None:
    """Take the URI of a dataset of a hub apart; None for any other."""
    if not uri.startswith(HUB_ROWS):
        return None
    rest, _, split = uri.removeprefix(HUB_ROWS).partition("#")
    path, _, revision = rest.partition("@")
    org, _, more = path.partition("/")
    name, _, config = more.partition("/")
    return HubRows(f"{org}/{name}" if name else org, config or None, revision or None, split or None)


def join_uri(prefix: str, *parts: str) -> str:
    """Join path parts below a prefix with single slashes; the prefix itself stays as it is, to the last slash."""
    base = prefix if prefix.endswith("/") else prefix + "/"
    return base + "/".join([*(part.strip("/") for part in parts[:-1]), parts[-1].lstrip("/")])


def has_prefix(uri: str, prefix: str) -> bool:
    """Tell whether ``uri`` lies at or below ``prefix``; ``s3://team-a`` does not cover ``s3://team-ab/x``.

    A dataset of a hub is covered whatever its revision and split are, unless the prefix names a revision itself.
    """
    base = prefix if prefix.endswith("/") else prefix + "/"
    if uri.startswith(HUB_ROWS):
        uri = uri.partition("#")[0]
        if "@" in prefix:
            return uri == base[:-1]
        uri = uri.partition("@")[0]
    return uri.startswith(base) or uri == base[:-1]
