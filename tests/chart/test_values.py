"""The chart's values: the schema refuses what it doesn't know, and README.md tells the truth about them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from finetune_api.crd import runtime_crd
from tests.support.helm import CHART, refusal, render

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
README = (CHART / "README.md").read_text()
FREE = {"resources", "podSecurityContext", "securityContext"}
"""Kubernetes' own types; told as one row, and checked by the API server."""


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in FREE:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _table() -> dict[str, str]:
    return dict(re.findall(r"^\| `([A-Za-z.]+)` \| [^|]+ \| `([^`]*)` \|$", README, re.MULTILINE))


def test_the_readme_lists_every_value_and_no_other() -> None:
    assert list(_table()) == [path for path, _ in _leaves(VALUES)]


def test_the_readme_gives_the_true_defaults() -> None:
    told = {path: yaml.safe_load(default) for path, default in _table().items()}
    assert told == dict(_leaves(VALUES))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replicas": 0}, "at '/replicas'"),
        ({"replica": 2}, "additional properties 'replica' not allowed"),
        ({"leaderElection": {"leaseSeconds": 2}}, "at '/leaderElection/leaseSeconds'"),
        ({"image": {"repo": "x"}}, "at '/image': additional properties 'repo' not allowed"),
        ({"image": {"digest": "sha256:123"}}, "at '/image/digest'"),
        ({"image": {"repository": ""}}, "at '/image/repository'"),
        ({"image": {"pullPolicy": "Sometimes"}}, "value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ({"logLevel": "debug"}, "value must be one of 'DEBUG', 'INFO', 'WARNING', 'ERROR'"),
        ({"workers": 0}, "at '/workers'"),
        ({"crds": {"install": True}}, "additional properties 'install' not allowed"),
        ({"crds": {"enabled": "yes"}}, "at '/crds/enabled': got string, want boolean"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "at '/metrics/serviceMonitor/interval'"),
        ({"networkPolicy": {"apiServerPorts": []}}, "at '/networkPolicy/apiServerPorts'"),
        (
            {"runtime": {"storage": [{"prefix": "s3://", "endpont": "x"}]}},
            "additional properties 'endpont' not allowed",
        ),
        ({"runtime": {"storage": [{"endpoint": "https://h"}]}}, "missing property 'prefix'"),
        ({"runtime": {"train": {"resources": {"memory": "16 GB"}}}}, "at '/runtime/train/resources/memory'"),
        ({"runtime": {"prepare": {"nodes": {}}}}, "at '/runtime/prepare': additional properties 'nodes' not allowed"),
        ({"runtime": {"nodeSelector": {}}}, "at '/runtime': additional properties 'nodeSelector' not allowed"),
        ({"runtime": {"sidecarInjection": "Never"}}, "at '/runtime/sidecarInjection'"),
        ({"runtime": {"terminationGracePeriodSeconds": 0}}, "at '/runtime/terminationGracePeriodSeconds'"),
        ({"runtime": {"limits": {"gpus": 4}}}, "additional properties 'gpus' not allowed"),
    ],
    ids=str,
)
def test_a_value_that_would_be_ignored_or_wrong_is_refused(values: Mapping[str, Any], told: str) -> None:
    assert told in refusal(values)


def test_values_of_a_parent_chart_are_let_through() -> None:
    assert render({"global": {"imageRegistry": "r.example"}})


def test_the_schema_knows_every_default_value() -> None:
    def known(schema: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
        for key, child in schema.get("properties", {}).items():
            yield f"{prefix}{key}"
            yield from known(child, f"{prefix}{key}.")

    assert {path for path, _ in _leaves(VALUES)} <= set(known(SCHEMA))


def _shape(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a schema allows, without words and defaults."""
    kept = (
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "maxProperties",
        "pattern",
        "required",
    )
    shape = {key: schema[key] for key in kept if key in schema}
    shape["type"] = [
        t for t in ([schema["type"]] if isinstance(schema["type"], str) else schema["type"]) if t != "null"
    ]
    if "enum" in schema:
        shape["enum"] = [value for value in schema["enum"] if value is not None]
    if "items" in schema:
        shape["items"] = _shape(schema["items"])
    if "properties" in schema:
        shape["properties"] = {key: _shape(child) for key, child in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        shape["additionalProperties"] = _shape(schema["additionalProperties"])
    return shape


def test_the_schema_of_the_runtime_is_that_of_its_definition_but_for_what_that_refuses() -> None:
    definition = runtime_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    taken = {key: child for key, child in definition.items() if not child["description"].startswith("Refused")}
    assert {"train", "nodeSelector", "resources"} & set(taken) == {"train"}
    expected = {key: _shape(child) for key, child in taken.items() if key != "image"}
    values = SCHEMA["properties"]["runtime"]["properties"]
    actual = {
        key: _shape(child) for key, child in values.items() if key not in {"create", "name", "annotations", "image"}
    }
    assert actual == expected


def test_the_schema_is_closed_all_the_way_down() -> None:
    def open_objects(schema: Mapping[str, Any], path: str) -> Iterator[str]:
        if "properties" in schema and schema.get("additionalProperties") is not False:
            yield path
        for key, child in schema.get("properties", {}).items():
            yield from open_objects(child, f"{path}.{key}")
        if "items" in schema:
            yield from open_objects(schema["items"], f"{path}[]")

    assert list(open_objects(SCHEMA, "")) == []
