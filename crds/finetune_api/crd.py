"""Makes the CRD YAML of both kinds from the pydantic types: ``python -m finetune_api.crd --write`` or ``--check``.

A tool of the repository, not of the running system. The types say what is valid, once; this module says it again in
Kubernetes' words: a structural schema, CEL rules, defaults, columns. What only the API server can know (that a field
changed, the object's name) is added here. Sources: Kubernetes, "Extend the Kubernetes API with
CustomResourceDefinitions" and "Versions in CustomResourceDefinitions".
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel

from finetune_api import GROUP, JOB_KIND, JOB_PLURAL, RUNTIME_KIND, RUNTIME_PLURAL, VERSION
from finetune_api.base import ApiModel, Rule
from finetune_api.job import MUTABLE_FIELDS, FineTuneJobSpec
from finetune_api.names import JOB_NAME_PATTERN
from finetune_api.runtime import FineTuneRuntimeSpec
from finetune_api.status import FineTuneJobStatus

__all__ = ["FILES", "job_crd", "main", "models_below", "render", "runtime_crd"]

Schema = dict[str, Any]

REPO_ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("crds", "charts/finetune-operator/files/crds")
"""Where the files are written: for kubectl, and for the chart, which can read no file outside of it."""

LIST_MAPS: Final = {"conditions": "type", "stages": "name"}
"""Lists whose entries are merged by a key (``x-kubernetes-list-type: map``); all others are replaced as a whole."""

_KEPT: Final = frozenset(
    {
        "type",
        "format",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "required",
        "description",
    }
)
_DROPPED: Final = frozenset({"title", "default", "properties", "items", "additionalProperties"})
_INT32_MAX: Final = 2**31 - 1
_HEADER: Final = (
    "# Generated from the types in crds/finetune_api by `python -m finetune_api.crd --write`; edit those.\n"
)

_NAME_MESSAGE: Final = (
    "metadata.name must be at most 40 characters of a-z, 0-9 and '-', begin with a letter and end with a letter or "
    "digit, because names of Jobs, pods and labels are derived from it"
)
_DEADLINE_RULE: Final = {
    "rule": "!has(oldSelf.activeDeadlineSeconds) || (has(self.activeDeadlineSeconds) && "
    "self.activeDeadlineSeconds >= oldSelf.activeDeadlineSeconds)",
    "message": "activeDeadlineSeconds may only be raised, or set where it was unset; keep it or choose a larger value",
    "fieldPath": ".activeDeadlineSeconds",
}


def _queue_rule(field: str) -> dict[str, str]:
    """A child stands in one queue for good; the next one, after a suspension, may stand in another."""
    return {
        "rule": f"self.suspend || oldSelf.suspend || (has(self.{field}) == has(oldSelf.{field}) && "
        f"(!has(self.{field}) || self.{field} == oldSelf.{field}))",
        "message": f"{field} may change only while the job is suspended; set suspend: true before, or with it",
        "fieldPath": f".{field}",
    }


def models_below(model: type[BaseModel]) -> dict[str, type[ApiModel]]:
    """Return the model and all models that its fields use, by class name."""
    found: dict[str, type[ApiModel]] = {}

    def visit(annotation: Any) -> None:
        is_model = isinstance(annotation, type) and issubclass(annotation, ApiModel)
        if is_model and annotation.__name__ not in found:
            found[annotation.__name__] = annotation
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in getattr(annotation, "__args__", ()):
            visit(argument)

    visit(model)
    return found


def _structural(model: type[ApiModel]) -> Schema:
    """Schema of a model as a CRD wants it: no references, no null branches, rules and defaults attached."""
    source = model.model_json_schema(by_alias=True)
    definitions, classes = source.pop("$defs", {}), models_below(model)

    def convert(node: Schema, owner: type[ApiModel] | None = None) -> Schema:
        if "anyOf" in node:  # X | None: on the wire an absent field, never null
            branches = [branch for branch in node["anyOf"] if branch != {"type": "null"}]
            if len(branches) != 1:
                raise ValueError(f"a CRD can't hold a union: {node}")
            node = {**branches[0], **{k: v for k, v in node.items() if k not in ("anyOf", "default")}}
        if "$ref" in node:
            name = node["$ref"].removeprefix("#/$defs/")
            merged = {**definitions[name], **{k: v for k, v in node.items() if k != "$ref"}}
            return convert(merged, classes[name])
        return _node(node, owner, convert)

    return convert(source, model)


def _node(node: Schema, owner: type[ApiModel] | None, convert: Any) -> Schema:
    unknown = set(node) - _KEPT - _DROPPED - {"const"}
    if unknown:
        raise ValueError(f"no rule for {sorted(unknown)} in {node}")
    out: Schema = {key: value for key, value in node.items() if key in _KEPT}
    if "const" in node:
        out["enum"] = [node["const"]]
    if node["type"] == "integer":
        out["format"] = "int32" if node.get("maximum", _INT32_MAX + 1) <= _INT32_MAX else "int64"
    if node["type"] == "array":
        out["items"] = convert(node["items"])
    if "additionalProperties" in node:
        out["additionalProperties"] = convert(node["additionalProperties"])
    if "properties" in node:
        out["properties"] = {name: _property(name, child, convert) for name, child in node["properties"].items()}
    if "default" in node:
        out["default"] = node["default"]
    if owner is not None:
        if "default" in node:
            out["default"] = _block_default(owner, node["default"])
        if owner.rules:
            out["x-kubernetes-validations"] = [_validation(rule) for rule in owner.rules]
    return out


def _property(name: str, node: Schema, convert: Any) -> Schema:
    out: Schema = convert(node)
    if name in LIST_MAPS:
        out |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [LIST_MAPS[name]]}
    elif out["type"] == "array":
        out["x-kubernetes-list-type"] = "atomic"
    elif set(out.get("properties", ())) == {"name"}:
        out["x-kubernetes-map-type"] = "atomic"  # a reference
    return out


def _block_default(owner: type[ApiModel], default: Schema) -> Schema:
    """The leaves' defaults, written out because the API server checks a default against the rules as it stands here."""
    if owner.model_validate(default) != owner():
        raise ValueError(f"the default of a {owner.__name__} block differs from its leaves' defaults")
    return owner().to_wire()


def _validation(rule: Rule) -> dict[str, str]:
    out = {"rule": rule.cel, "message": rule.message}
    return out | {"fieldPath": f".{rule.field}"} if rule.field else out


def _add_immutability(spec: Schema) -> None:
    """Both halves: a changed value, and a field that appears or disappears (no transition rule runs on that one).

    Defaulted and required fields can't appear or disappear, and ``self == oldSelf`` on a block covers its inside.
    """
    parent = spec["x-kubernetes-validations"]
    for name, schema in spec["properties"].items():
        if name in MUTABLE_FIELDS:
            continue
        message = f"{name} is immutable; create a new {JOB_KIND}"
        schema.setdefault("x-kubernetes-validations", []).append({"rule": "self == oldSelf", "message": message})
        if name not in spec["required"] and "default" not in schema:
            parent.append(
                {"rule": f"has(self.{name}) == has(oldSelf.{name})", "message": message, "fieldPath": f".{name}"}
            )
    parent.append(_DEADLINE_RULE)
    parent += map(_queue_rule, ("queueName", "workloadPriorityClassName"))


def _root(kind: str, description: str, properties: dict[str, Schema], validations: list[dict[str, str]]) -> Schema:
    root: Schema = {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": kind},
            "metadata": {"type": "object"},
            **properties,
        },
    }
    return root | {"x-kubernetes-validations": validations} if validations else root


def _crd(kind: str, plural: str, short: str, scope: str, version: Schema) -> Schema:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                **({"categories": ["finetune"]} if scope == "Namespaced" else {}),
            },
            "versions": [{"name": VERSION, "served": True, "storage": True, **version}],
        },
    }


def _column(name: str, path: str, description: str, *, kind: str = "string", wide: bool = False) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return column | {"priority": 1} if wide else column


_AGE: Final = _column("Age", ".metadata.creationTimestamp", "Time since creation.", kind="date")


def job_crd() -> Schema:
    """Return the CustomResourceDefinition of FineTuneJob."""
    spec, status = _structural(FineTuneJobSpec), _structural(FineTuneJobStatus)
    _add_immutability(spec)
    # Without it tools that wait would take an object that the operator hasn't seen yet for finished (kstatus).
    status["default"] = {"observedGeneration": -1}
    name_rule = {"rule": f"self.metadata.name.matches('{JOB_NAME_PATTERN}')", "message": _NAME_MESSAGE}
    version = {
        "schema": {
            "openAPIV3Schema": _root(
                JOB_KIND,
                "A fine-tune of a language model: from rows to a model with an accuracy measured before and after.",
                {"spec": spec, "status": status},
                [name_rule],
            )
        },
        "subresources": {"status": {}},
        "selectableFields": [{"jsonPath": ".spec.runtimeRef.name"}, {"jsonPath": ".status.phase"}],
        "additionalPrinterColumns": [
            _column("Phase", ".status.phase", "How far the job is."),
            _column(
                "Reason",
                '.status.conditions[?(@.type=="Succeeded")].reason',
                "Why the job waits, failed or is done.",
            ),
            _column("%", ".status.progress.percent", "Share of the work that is done.", kind="integer"),
            _column("Base", ".status.results.baseline.score", "Score of the untouched model."),
            _column("Test", ".status.results.test.score", "Score of the tuned model on the same rows."),
            _AGE,
            _column(
                "ETA",
                ".status.progress.etaSeconds",
                "Seconds until training and scoring are over, as of the newest report.",
                kind="integer",
                wide=True,
            ),
            _column(
                "Gain", ".status.results.gain", "How much better the tuned model is; above 0 is better.", wide=True
            ),
            _column(
                "FewShot", ".status.results.fewShot.score", "Score of the untouched model with examples.", wide=True
            ),
            _column("Queue", ".spec.queueName", "The LocalQueue of Kueue that admits its Jobs.", wide=True),
            _column("Model", ".spec.model.uri", "The model to start from.", wide=True),
        ],
    }
    return _crd(JOB_KIND, JOB_PLURAL, "ftj", "Namespaced", version)


def runtime_crd() -> Schema:
    """Return the CustomResourceDefinition of FineTuneRuntime."""
    version = {
        "schema": {
            "openAPIV3Schema": _root(
                RUNTIME_KIND,
                "One kind of hardware with the trainer image, storage and limits for it; owned by the platform team.",
                {"spec": _structural(FineTuneRuntimeSpec)},
                [],
            )
        },
        "additionalPrinterColumns": [
            _column("Image", ".spec.image", "The trainer's image."),
            _AGE,
            _column("Output", ".spec.outputPrefix", "Where results go by default.", wide=True),
        ],
    }
    return _crd(RUNTIME_KIND, RUNTIME_PLURAL, "ftr", "Cluster", version)


FILES: Final = {f"{GROUP}_{JOB_PLURAL}.yaml": job_crd, f"{GROUP}_{RUNTIME_PLURAL}.yaml": runtime_crd}
"""File name -> the function that makes its content."""


def render() -> Iterator[tuple[str, str]]:
    """Yield path (below the repository's root) and text of every generated file."""
    for folder, (name, make) in itertools.product(FOLDERS, FILES.items()):
        yield f"{folder}/{name}", _HEADER + yaml.safe_dump(make(), width=1000, allow_unicode=True)


def _is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def main(argv: list[str] | None = None) -> int:
    """Write the files, or tell which ones are stale; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m finetune_api.crd", description="Generates the CRD YAML.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the files")
    action.add_argument("--check", action="store_true", help="exit with 1 if a file is not what would be written")
    arguments = parser.parse_args(argv)
    stale = [(name, text) for name, text in render() if not _is_current(REPO_ROOT / name, text)]
    for name, text in stale:
        if arguments.write:
            (REPO_ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (REPO_ROOT / name).write_text(text)
        print(f"{'wrote' if arguments.write else 'stale'}: {name}")
    if stale and arguments.check:
        print("run python -m finetune_api.crd --write", file=sys.stderr)
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
