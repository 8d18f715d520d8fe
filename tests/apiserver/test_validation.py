"""The API server gives the verdicts of the shared table: schema, defaults and CEL rules of the generated CRDs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from finetune_api.crd import job_crd
from tests.apiserver.conftest import Objects
from tests.support.casekit import MINIMAL, Case, edited
from tests.support.cases import ACCEPTED, REFUSED

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("case", ACCEPTED, ids=str)
def test_the_api_server_accepts(shared_objects: Objects, case: Case) -> None:
    status, body = shared_objects.create(case.spec, kind=case.kind, dry_run=True)
    assert status == 201, body["message"]


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_the_api_server_refuses_and_names_field_and_mend(shared_objects: Objects, case: Case) -> None:
    status, body = shared_objects.create(case.spec, kind=case.kind, dry_run=True)
    assert status == 422, body
    causes = body["details"]["causes"]
    told = "; ".join(f"{cause.get('field')}: {cause['message']}" for cause in causes)
    assert f"spec.{case.field}" in [cause.get("field") for cause in causes], told
    assert all(text in told for text in case.says), told


NAMES = ["a", "support-intent", "a" * 40, "a-0"]
BAD_NAMES = ["0a", "a.b", "a" * 41, "a-b-" + "c" * 37]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_room_for_child_names_is_accepted(shared_objects: Objects, name: str) -> None:
    status, body = shared_objects.create(MINIMAL["FineTuneJob"], name=name, dry_run=True)
    assert status == 201, body["message"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_another_name_is_refused_with_what_is_allowed(shared_objects: Objects, name: str) -> None:
    status, body = shared_objects.create(MINIMAL["FineTuneJob"], name=name, dry_run=True)
    assert status == 422
    assert "metadata.name must be at most 40 characters of a-z, 0-9 and '-'" in body["message"]


def _decimals(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Fields of a schema that hold a number as text, with what is said of them."""
    if str(schema.get("pattern", "")).startswith("^[-+]?[0-9]+"):
        yield path.lstrip("."), schema["description"]
    for name, below in schema.get("properties", {}).items():
        yield from _decimals(below, f"{path}.{name}")


SPEC: Final = job_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
DECIMALS: Final = dict(_decimals(SPEC))


@pytest.mark.parametrize("field", DECIMALS)
@pytest.mark.parametrize(("value", "kind"), [(0.05, "number"), (1, "integer")])
def test_a_number_without_quotes_is_refused_in_the_words_that_the_pages_explain(
    shared_objects: Objects, field: str, value: float, kind: str
) -> None:
    """No schema takes a fraction both ways, so the answer is the API server's own; people search for it."""
    status, body = shared_objects.create(edited(MINIMAL["FineTuneJob"], {field: value}), dry_run=True)
    assert status == 422
    words = "in body must be of type string: "
    assert f'spec.{field} {words}"{kind}"' in body["message"]
    assert "as text in quotes" in DECIMALS[field]
    for page in ("training.md", "troubleshooting.md"):
        assert f'spec.training.learningRate {words}"number"' in (DOCS / page).read_text()


def test_an_edit_of_spec_is_refused_in_the_words_that_the_page_explains(objects: Objects) -> None:
    assert objects.create(MINIMAL["FineTuneJob"])[0] == 201
    status, body = objects.patch("case", {"spec": {"training": {"epochs": 9}}}, dry_run=True)
    assert status == 422
    words = "training is immutable; create a new FineTuneJob"
    assert words in body["message"]
    assert f"`{words}`" in (DOCS / "troubleshooting.md").read_text()


def test_the_network_policy_of_the_page_is_accepted(shared_objects: Objects) -> None:
    found = re.search(r"```yaml\n(.*?)```", (DOCS / "operating.md").read_text(), re.DOTALL)
    assert found
    policy = yaml.safe_load(found[1])
    policy["metadata"]["namespace"] = shared_objects.namespace
    path = f"/apis/networking.k8s.io/v1/namespaces/{shared_objects.namespace}/networkpolicies"
    status, body = shared_objects.api.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", policy)
    assert status == 201, body
