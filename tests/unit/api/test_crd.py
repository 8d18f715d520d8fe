"""The generated CRDs: current, bounded, explained, small."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api import crd
from finetune_api.base import ApiModel, Rule, SpecModel
from finetune_api.job import FineTuneJobSpec
from finetune_api.runtime import FineTuneRuntimeSpec

CRDS = {"FineTuneJob": crd.job_crd(), "FineTuneRuntime": crd.runtime_crd()}
SPECS: dict[str, type[ApiModel]] = {"FineTuneJob": FineTuneJobSpec, "FineTuneRuntime": FineTuneRuntimeSpec}


def _root(kind: str) -> dict[str, Any]:
    schema: dict[str, Any] = CRDS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def _nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        if (path, name) not in {("", "apiVersion"), ("", "kind"), ("", "metadata")}:
            yield from _nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from _nodes(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from _nodes(schema["additionalProperties"], f"{path}.*")


def _places(kind: str) -> Iterator[tuple[str, type[ApiModel]]]:
    """Path below spec -> the model that describes it, found by walking the types."""

    def models_in(annotation: Any) -> Iterator[type[ApiModel]]:
        if isinstance(annotation, type) and issubclass(annotation, ApiModel):
            yield annotation
        for argument in getattr(annotation, "__args__", ()):
            yield from models_in(argument)

    def walk(model: type[ApiModel], path: str) -> Iterator[tuple[str, type[ApiModel]]]:
        yield path, model
        for field in model.model_fields.values():
            for below in models_in(field.annotation):
                yield from walk(below, f"{path}.{field.alias}")

    yield from walk(SPECS[kind], "")


def test_the_files_for_kubectl_and_for_the_chart_are_what_the_types_say() -> None:
    assert {Path(name).parent.as_posix() for name, _ in crd.render()} == {"crds", "charts/finetune-operator/files/crds"}
    assert [name for name, text in crd.render() if (crd.REPO_ROOT / name).read_text() != text] == []


def test_check_names_a_stale_file_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(crd, "REPO_ROOT", tmp_path)
    assert crd.main(["--check"]) == 1
    assert crd.main(["--write"]) == 0
    assert crd.main(["--check"]) == 0
    path = tmp_path / "crds" / "finetune.dev_finetunejobs.yaml"
    path.write_text(path.read_text() + "# edited\n")
    capsys.readouterr()
    assert crd.main(["--check"]) == 1
    assert capsys.readouterr().out == "stale: crds/finetune.dev_finetunejobs.yaml\n"


@pytest.mark.parametrize("kind", CRDS)
def test_everything_is_bounded(kind: str) -> None:
    unbounded = []
    for path, node in _nodes(_root(kind)):
        bound = {"string": "maxLength", "array": "maxItems"}.get(node["type"])
        if "additionalProperties" in node:
            bound = "maxProperties"
        if bound and bound not in node and "enum" not in node:
            unbounded.append(path)
    assert unbounded == []


@pytest.mark.parametrize("kind", CRDS)
def test_every_field_is_explained(kind: str) -> None:
    nodes = [(path, node) for path, node in _nodes(_root(kind)) if not path.endswith((".*", "[]"))]
    assert [path for path, node in nodes if len(node.get("description", "")) < 8] == []


@pytest.mark.parametrize("kind", CRDS)
def test_every_integer_says_its_width(kind: str) -> None:
    for path, node in _nodes(_root(kind)):
        if node["type"] == "integer":
            wide = node.get("maximum", 2**63 - 1) > 2**31 - 1
            assert node["format"] == ("int64" if wide else "int32"), path


@pytest.mark.parametrize("kind", CRDS)
def test_no_schema_lets_unknown_fields_through(kind: str) -> None:
    for path, node in _nodes(_root(kind)):
        assert not any(key.startswith("x-kubernetes-preserve") or key == "x-kubernetes-int-or-string" for key in node)
        assert node["type"] in {"object", "array", "string", "integer", "boolean"}, path


@pytest.mark.parametrize("name", [name for name, _ in crd.render()])
def test_client_side_apply_has_room_for_the_file(name: str) -> None:
    """It keeps the object in an annotation, as JSON without spaces; all annotations share 256 KiB."""
    kept = json.dumps(yaml.safe_load((crd.REPO_ROOT / name).read_text()), separators=(",", ":"), ensure_ascii=False)
    assert len(kept.encode()) < 262_144 / 2


@pytest.mark.parametrize("kind", CRDS)
def test_every_rule_of_a_type_stands_in_the_schema_where_the_type_is_used(kind: str) -> None:
    by_path = dict(_nodes(_root(kind)["properties"]["spec"]))
    for path, model in _places(kind):
        node = by_path[path]
        stated = {(v["rule"], v["message"]) for v in node.get("items", node).get("x-kubernetes-validations", ())}
        assert {(rule.cel, rule.message) for rule in model.rules} <= stated, path


@pytest.mark.parametrize("kind", CRDS)
def test_the_message_of_a_rule_begins_with_the_path_of_its_field(kind: str) -> None:
    """That of a type which stands in several places begins at the type itself, or a little above it."""
    used = Counter(id(rule) for _, model in _places(kind) for rule in model.rules)
    for path, model in _places(kind):
        for rule in model.rules:
            named = "." + rule.message.partition(" ")[0].rstrip(",:").replace("[]", "") + "."
            if used[id(rule)] == 1:
                assert named.startswith(f"{path}."), rule.message
            else:
                assert f"{path}.{rule.field}.".endswith(named) or named.startswith(f".{path.rpartition('.')[2]}."), (
                    rule.message
                )


def test_a_union_of_two_types_is_no_schema() -> None:
    class Loose(SpecModel):
        value: int | str

    with pytest.raises(ValueError, match="union"):
        crd._structural(Loose)


def test_a_rule_without_a_field_has_no_field_path() -> None:
    rule = Rule(cel="true", message="m", check=lambda _: True)
    assert crd._validation(rule) == {"rule": "true", "message": "m"}


REFUSED = [
    (path, model, rule)
    for kind in SPECS
    for path, model in _places(kind)
    for rule in model.rules
    if "not supported by this version" in rule.message or "has moved" in rule.message
]


def test_there_are_refused_values() -> None:
    assert REFUSED


@pytest.mark.parametrize(("path", "model", "rule"), REFUSED, ids=lambda value: str(getattr(value, "field", ""))[:40])
def test_kubectl_explain_says_of_what_is_refused_that_it_is(path: str, model: type[ApiModel], rule: Rule) -> None:
    described = {field.alias: field.description or "" for field in model.model_fields.values()}
    words = "Refused: moved to " if "has moved" in rule.message else "efused by this version"
    assert words in described[rule.field], f"{path}.{rule.field}"
