"""What of its namespace a job names, and by which fields, so that what is missing is told with the field that names it.

Pure. ``manifests`` mounts these objects; ``holds`` tells which of them kubelet or the scheduler misses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finetune_api.job import FineTuneJobSpec
from finetune_api.names import credentials_field
from finetune_api.runtime import ModelCache
from finetune_api.uris import parse_uri
from finetune_operator.decide.manifests.job import secrets_of
from finetune_operator.decide.manifests.mounts import uris_by_field

__all__ = ["Named", "listed", "named_by"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """Objects of the namespace, by name, with what names them.

    Attributes
    ----------
    secrets, claims
        The fields of the job that name a Secret or a PersistentVolumeClaim.
    maps
        The keys of a ConfigMap, by the field that names the key.
    cache
        The PersistentVolumeClaim of the runtime's model cache.
    """

    secrets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cache: str | None = None


def named_by(spec: FineTuneJobSpec | None, cache: ModelCache | None) -> Named:
    """Return what a job names, and its runtime for it; nothing of a spec that can't be read."""
    if spec is None:
        return Named()
    secrets: dict[str, list[str]] = {}
    for role, name in secrets_of(spec).items():
        secrets.setdefault(name, []).append(credentials_field(role))
    claims: dict[str, list[str]] = {}
    maps: dict[str, dict[str, str]] = {}
    template = spec.dataset.template.file
    for where, uri in {**uris_by_field(spec), **(dict([template]) if template else {})}.items():
        parsed = parse_uri(uri)
        if parsed.scheme == "pvc":
            claims.setdefault(parsed.host, []).append(where)
        elif parsed.scheme == "configmap":
            maps.setdefault(parsed.host, {})[where] = parsed.path
    return Named(secrets=secrets, claims=claims, maps=maps, cache=cache.claim_name if cache else None)


def listed(words: Sequence[str]) -> str:
    """Join words as a sentence does: ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
