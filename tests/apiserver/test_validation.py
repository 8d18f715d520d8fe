"""The API server gives the verdicts of the shared table: schema, defaults and CEL rules of the generated CRDs."""

from __future__ import annotations

import pytest

from tests.apiserver.conftest import Objects
from tests.support.casekit import MINIMAL, Case
from tests.support.cases import ACCEPTED, REFUSED


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
