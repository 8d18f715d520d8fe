"""What has to be done so that the FineTuneRuntime of the installation stands in the cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_operator.decide.installation import MANIFEST_DIGEST, next_step, read_manifest
from tests.support.builders import runtime_spec

MANIFEST: dict[str, Any] = {
    "apiVersion": "finetune.dev/v1alpha1",
    "kind": "FineTuneRuntime",
    "metadata": {"name": "default", "annotations": {"team": "platform"}},
    "spec": runtime_spec(),
}
RUNTIME = read_manifest(json.dumps(MANIFEST))


def stored(**annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "default", "annotations": annotations}, "spec": {"image": "edited by hand"}}


def test_the_manifest_is_marked_with_its_digest_and_is_else_as_it_was_given() -> None:
    annotations = RUNTIME.manifest["metadata"]["annotations"]
    assert annotations == {"team": "platform", MANIFEST_DIGEST: RUNTIME.digest}
    assert RUNTIME.manifest["spec"] == MANIFEST["spec"]
    assert RUNTIME.name == "default"


def test_the_digest_follows_the_content_and_not_the_order_of_its_keys() -> None:
    assert read_manifest(json.dumps(dict(reversed(MANIFEST.items())))).digest == RUNTIME.digest
    other = {**MANIFEST, "spec": runtime_spec(terminationGracePeriodSeconds=7)}
    assert read_manifest(json.dumps(other)).digest != RUNTIME.digest


@pytest.mark.parametrize(
    ("there", "step"),
    [
        (None, "create"),
        (stored(**{MANIFEST_DIGEST: RUNTIME.digest}), "nothing"),
        (stored(**{MANIFEST_DIGEST: "sha256:" + "0" * 64}), "renew"),
        (stored(), "foreign"),
        ({"metadata": {"name": "default"}}, "foreign"),
    ],
    ids=["missing", "as applied, edited or not", "applied from other values", "no digest", "no annotations"],
)
def test_what_stands_there_says_what_is_to_be_done(there: dict[str, Any] | None, step: str) -> None:
    assert next_step(RUNTIME, there) == step


def test_an_object_that_is_going_is_waited_for() -> None:
    there = stored(**{MANIFEST_DIGEST: "sha256:" + "0" * 64})
    there["metadata"]["deletionTimestamp"] = "2026-03-01T08:00:00Z"
    assert next_step(RUNTIME, there) == "nothing"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image: x", "is not JSON"),
        ("[]", "is not a FineTuneRuntime of finetune.dev/v1alpha1"),
        (json.dumps({**MANIFEST, "kind": "FineTuneJob"}), "is not a FineTuneRuntime of finetune.dev/v1alpha1"),
        (json.dumps({**MANIFEST, "metadata": {}}), "has no metadata.name"),
        (json.dumps({**MANIFEST, "metadata": None}), "has no metadata.name"),
        (json.dumps({**MANIFEST, "metadata": {"name": "a/../b"}}), "has no metadata.name"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_with_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_manifest(text)
