"""The FineTuneRuntime that an installation brings, and what is left to do until it stands in the cluster.

Pure. A chart can't make an object of a kind that it defines itself: Helm looks every kind up before it creates the
first object. So the chart hands the manifest over in a file, and ``process/installer.py`` brings it to the API server.
The digest of that manifest stands on the object, which makes the rules of a Helm release of it: an edit by hand stays
until the values change, and what somebody else has made under the name is left alone.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from finetune_api import API_VERSION, GROUP, RUNTIME_KIND
from finetune_api.base import SUBDOMAIN
from finetune_api.digest import digest_of

__all__ = ["MANIFEST_DIGEST", "InstalledRuntime", "Step", "next_step", "read_manifest"]

MANIFEST_DIGEST: Final = f"{GROUP}/manifest-digest"
"""Annotation with the digest of the manifest that was applied last."""

Step = Literal["create", "renew", "nothing", "foreign"]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstalledRuntime:
    """What shall stand in the cluster: its name, the digest of the manifest as given, and the manifest that says so."""

    name: str
    digest: str
    manifest: dict[str, Any]


def read_manifest(text: str) -> InstalledRuntime:
    """Read the manifest of a FineTuneRuntime, in JSON.

    Raises
    ------
    ValueError
        It is none; the message says what is wrong.
    """
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    manifest = manifest if isinstance(manifest, dict) else {}
    if (manifest.get("apiVersion"), manifest.get("kind")) != (API_VERSION, RUNTIME_KIND):
        raise ValueError(f"is not a {RUNTIME_KIND} of {API_VERSION}")
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not re.fullmatch(SUBDOMAIN, name):
        raise ValueError("has no metadata.name that an object can have")
    digest = digest_of(manifest)
    annotations = {**(metadata.get("annotations") or {}), MANIFEST_DIGEST: digest}
    marked = {**manifest, "metadata": {**metadata, "annotations": annotations}}
    return InstalledRuntime(name=name, digest=digest, manifest=marked)


def next_step(runtime: InstalledRuntime, stored: dict[str, Any] | None) -> Step:
    """Say what has to be done, given the object of that name as it stands (None: there is none).

    ``nothing`` also while the object is being deleted: once it has gone, it is made anew. ``foreign``: it carries no
    digest, so somebody else made it.
    """
    if stored is None:
        return "create"
    metadata = stored.get("metadata") or {}
    applied = (metadata.get("annotations") or {}).get(MANIFEST_DIGEST)
    if applied is None:
        return "foreign"
    if applied == runtime.digest or metadata.get("deletionTimestamp") is not None:
        return "nothing"
    return "renew"
