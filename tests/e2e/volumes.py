"""PersistentVolumes on folders of the node, which is this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.world import Tenant

__all__ = ["claimed"]


@contextmanager
def claimed(tenant: Tenant, claim: str, folder: Path, *, mode: str = "ReadOnlyMany") -> Iterator[None]:
    """Have a claim of this name in the tenant's namespace, bound to a volume on the folder; it goes with the block."""
    name = f"e2e-{claim}-{time.time_ns() % 10**12}"
    shared = {"accessModes": [mode], "storageClassName": ""}
    volume = {
        **shared,
        "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": str(folder), "type": "Directory"},
        "claimRef": {"namespace": tenant.namespace, "name": claim},
    }
    wanted = {**shared, "resources": {"requests": {"storage": "1Gi"}}, "volumeName": name}
    metadata = {"name": claim, "namespace": tenant.namespace}
    tenant.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": wanted},
    )
    try:
        yield
    finally:
        tenant.world.kube.kubectl("delete", "pv", name, "--ignore-not-found", "--wait=false")
