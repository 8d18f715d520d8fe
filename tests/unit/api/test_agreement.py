"""The pydantic types give the verdicts of the shared table, and the table leaves no rule and no bound out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from finetune_api.base import ApiModel
from finetune_api.crd import job_crd, models_below, runtime_crd
from finetune_api.job import FineTuneJobSpec
from finetune_api.runtime import FineTuneRuntimeSpec
from tests.support.casekit import Case
from tests.support.cases import ACCEPTED, CASES, REFUSED

MODELS: dict[str, type[ApiModel]] = {"FineTuneJob": FineTuneJobSpec, "FineTuneRuntime": FineTuneRuntimeSpec}
SCHEMAS = {"FineTuneJob": job_crd(), "FineTuneRuntime": runtime_crd()}

KEYWORDS = {
    "minimum": "greater_than_equal",
    "maximum": "less_than_equal",
    "minLength": "string_too_short",
    "maxLength": "string_too_long",
    "minItems": "too_short",
    "maxItems": "too_long",
    "maxProperties": "too_long",
    "pattern": "string_pattern_mismatch",
    "enum": "literal_error",
}
"""Keyword of the CRD's schema -> pydantic's name for its violation."""


def _violations(case: Case) -> list[tuple[str, str, str]]:
    """(path, kind, message) of everything that pydantic refuses in the spec."""
    try:
        MODELS[case.kind].model_validate(case.spec)
    except ValidationError as error:
        return [
            (re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", ".".join(map(str, e["loc"]))), e["type"], e["msg"])
            for e in error.errors()
        ]
    return []


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_pydantic_accepts(case: Case) -> None:
    assert _violations(case) == []


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_pydantic_refuses_and_names_field_and_mend(case: Case) -> None:
    violations = _violations(case)
    assert violations
    told = "; ".join(f"{path}: {message}" for path, _, message in violations)
    assert all(text in told for text in case.says), told
    assert any(path == case.field or _is_rule(kind) for path, kind, _ in violations), told


def _is_rule(kind: str) -> bool:
    return kind == "value_error"


def _rules(kind: str) -> list[str]:
    return [rule.message for model in models_below(MODELS[kind]).values() for rule in model.rules]


@pytest.mark.parametrize("kind", MODELS)
def test_every_rule_has_a_case_that_only_it_refuses(kind: str) -> None:
    proven = {
        case.says[0] for case in REFUSED if case.kind == kind and [m for _, _, m in _violations(case)] == _alone(case)
    }
    assert set(_rules(kind)) - proven == set()


def _alone(case: Case) -> list[str]:
    return [f"Value error, {case.says[0]}"]


@pytest.mark.parametrize("kind", MODELS)
def test_every_bound_of_the_schema_has_a_case_that_breaks_it(kind: str) -> None:
    broken = {
        (re.sub(r"\[\d+\]", "[]", path), violation)
        for case in REFUSED
        if case.kind == kind
        for path, violation, _ in _violations(case)
    }
    schema = SCHEMAS[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(_bounds(schema, "")) - broken == set()


def _bounds(schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for keyword, violation in KEYWORDS.items():
        if keyword in schema and not (keyword == "enum" and path.endswith("]")):
            yield path, violation
    for name in schema.get("required", ()):
        yield f"{path}.{name}".lstrip("."), "missing"
    for name, child in schema.get("properties", {}).items():
        yield from _bounds(child, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from _bounds(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        keys = {
            "dataset.template.columns": "text",
            "dataset.sources[].columns": "text",
            "resources": "train",
            "resources.train": "memory",
        }
        named = "gpu" if path.endswith("nodeSelector") else keys[path]
        yield from _bounds(schema["additionalProperties"], f"{path}.{named}")


def test_no_two_cases_are_the_same() -> None:
    assert [title for title, count in Counter(map(str, CASES)).items() if count > 1] == []
