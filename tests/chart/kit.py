"""What the tests of the chart's templates share: single objects of a render, and the rights of the operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.support.helm import RUNTIME_VALUES, render

__all__ = ["OPERATOR_RULES", "RUNTIME", "Values", "container", "kinds", "one"]

Values = Mapping[str, Any]
RUNTIME = RUNTIME_VALUES["runtime"]


def kinds(objects: list[dict[str, Any]]) -> list[str]:
    return sorted(o["kind"] for o in objects)


def one(
    kind: str, values: Values | None = None, *, name: str = "", release: str = "finetune-operator"
) -> dict[str, Any]:
    found = [
        o for o in render(values, release=release) if o["kind"] == kind and (not name or o["metadata"]["name"] == name)
    ]
    assert len(found) == 1
    return found[0]


def container(values: Values | None = None) -> dict[str, Any]:
    (container,) = one("Deployment", values)["spec"]["template"]["spec"]["containers"]
    return dict(container)


OPERATOR_RULES = [
    {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetunejobs", "finetuneruntimes"],
        "verbs": ["get", "list", "watch"],
    },
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs/status"], "verbs": ["patch"]},
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs/finalizers"], "verbs": ["update"]},
    {
        "apiGroups": ["batch"],
        "resources": ["jobs"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["get", "list", "create", "patch"]},
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list"]},
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloadpriorityclasses"], "verbs": ["get"]},
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
]
