"""kstatus' verdict about a custom resource, as Flux and Helm 4 reach it.

Written after the rules in the README of kubernetes-sigs/cli-utils ``pkg/kstatus``: deletion, then observedGeneration,
then the abnormal-true conditions Reconciling and Stalled, then Ready.
"""

from __future__ import annotations

from typing import Any, Literal

Kstatus = Literal["InProgress", "Current", "Failed", "Terminating"]


def kstatus(resource: dict[str, Any]) -> Kstatus:
    metadata, status = resource["metadata"], resource.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    seen = status.get("observedGeneration")
    if seen is not None and seen != metadata["generation"]:
        return "InProgress"
    conditions = {item["type"]: item["status"] for item in status.get("conditions", [])}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if conditions.get("Ready") in ("False", "Unknown") else "Current"
