"""Canonical JSON and the digests made of it.

``spec_digest`` names what a job asks for, so that a report can be matched with the spec that it answers. It leaves out
what does not change the result: resources, credentials, image, place of the output, when state is saved, and what a
result has to reach.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from finetune_api.job import FineTuneJobSpec, LoRA, Training

__all__ = ["canonical_json", "digest_of", "sha256_digest", "spec_content", "spec_digest"]


_GATES: Final = ("minScore", "minGain", "failOn")
"""Fields of evaluation that judge a result and don't change it: a stored one can be judged again."""
_LATER_LORA: Final = ("targetModules", "useRslora", "useDora", "initLoraWeights")
_DEFAULTS: Final = Training().to_wire()
_LATER: Final = ("scheduler", "warmupPercent", "optimizer", "weightDecay", "maxGradNorm", "validation")
"""Fields of training that came after the first stored results, which know none of them: with what was always done in
their place they are left out."""


def canonical_json(value: Any) -> bytes:
    """Serialise with sorted keys and no spaces, UTF-8 (RFC 8785; our documents hold no floats)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_digest(data: bytes) -> str:
    """Digest in the OCI form ``sha256:<hex>``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Digest of a JSON-able value."""
    return sha256_digest(canonical_json(value))


def spec_content(spec: FineTuneJobSpec, *, template: str | None = None) -> dict[str, Any]:
    """Model, dataset, training, evaluation and export in the wire's form; what is left out stands as its default.

    Two specs with the same content ask for the same result. ``template`` is the text of a runtime's own template, whose
    name says nothing.
    """
    wire = spec.to_wire()
    del wire["training"]["checkpoint"]
    # A field that came later is left out where it says what was done before: a digest of then is still the same one.
    if wire["dataset"]["template"]["paraphrases"] == "Default":
        del wire["dataset"]["template"]["paraphrases"]
    if wire["dataset"]["template"].get("messages", {}).get("thinking") == "Keep":
        del wire["dataset"]["template"]["messages"]["thinking"]
    if wire["dataset"]["nearDuplicates"] == "Report":
        del wire["dataset"]["nearDuplicates"]
    if template is not None:
        wire["dataset"]["template"]["document"] = template
    for name in _LATER:
        if _same(wire["training"].get(name), _DEFAULTS.get(name)):
            wire["training"].pop(name, None)
    if spec.training.method == "LoRA":
        lora, plain = wire["training"].setdefault("lora", LoRA().to_wire()), LoRA().to_wire()
        for name in _LATER_LORA:
            if lora.get(name) == plain.get(name):
                lora.pop(name, None)
    if "adapter" in wire["model"]:
        wire["model"]["adapter"].pop("credentialsRef", None)
    return {
        "model": {k: v for k, v in wire["model"].items() if k != "credentialsRef"},
        "dataset": {k: v for k, v in wire["dataset"].items() if k != "credentialsRef"},
        "training": wire["training"],
        "evaluation": {k: v for k, v in wire["evaluation"].items() if k not in _GATES},
        "export": wire["output"].get("export") or ("Model" if spec.training.method == "Full" else "Adapter"),
    }


def _same(value: Any, default: Any) -> bool:
    """Whether a value says what the default says; ``5.0`` says ``5``, and an empty block nothing."""
    if isinstance(value, str) and isinstance(default, str) and default[0].isdigit():
        return float(value) == float(default)
    return value == default or not value


def spec_digest(spec: FineTuneJobSpec, *, template: str | None = None) -> str:
    """Digest of :func:`spec_content`."""
    return digest_of(spec_content(spec, template=template))
