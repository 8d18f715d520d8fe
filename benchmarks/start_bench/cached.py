"""The same start on a runtime with a model cache: a volume of the node's disk, its claim, and a runtime with them.

``make bench-start CACHE=1``. The round that isn't counted fills the cache; every counted one must have its weights from
there, or the benchmark ends.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from hack.demo.kube import Kube

__all__ = ["RUNTIME", "cache_objects", "is_hit", "with_cache"]

RUNTIME: Final = "bench-start-cached"
CLAIM: Final = "bench-models"
WITHIN: Final = 60.0


def cache_objects(runtime: Mapping[str, Any], namespace: str, folder: str) -> list[dict[str, Any]]:
    """The volume and its claim, bound by name, and a runtime as ``runtime`` with them as its cache."""
    shared = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {
        **shared,
        "capacity": {"storage": "20Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
        "hostPath": {"path": folder, "type": "Directory"},
        "claimRef": {"namespace": namespace, "name": CLAIM},
    }
    claim = {**shared, "resources": {"requests": {"storage": "20Gi"}}, "volumeName": RUNTIME}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": RUNTIME}, "spec": volume},
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": namespace},
            "spec": claim,
        },
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneRuntime",
            "metadata": {"name": RUNTIME},
            "spec": {**runtime, "modelCache": {"claimName": CLAIM}},
        },
    ]


def is_hit(lines: Iterable[str]) -> bool:
    """Whether the trainer's log says that the weights are from the cache."""
    return any(json.loads(line)["event"] == "model_cache_hit" for line in lines)


@contextmanager
def with_cache(kube: Kube, namespace: str) -> Iterator[None]:
    """Have the cached runtime while the block runs; what stands in the cluster and on the disk goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-models-"))
    folder.chmod(0o777)  # no driver gives a folder of the node to the group of the pods
    try:
        kube.apply(*cache_objects(_default_runtime(kube), namespace, str(folder)))
        yield
    finally:
        for kind, name, place in (
            ("finetuneruntime", RUNTIME, []),
            ("persistentvolumeclaim", CLAIM, ["-n", namespace]),
            ("persistentvolume", RUNTIME, []),
        ):
            kube.kubectl("delete", kind, name, *place, "--ignore-not-found", "--wait=false")
        shutil.rmtree(folder, ignore_errors=True)


def _default_runtime(kube: Kube) -> dict[str, Any]:
    """The chart's runtime, which the operator applies when it has started."""
    end = time.monotonic() + WITHIN
    while (found := kube.get("finetuneruntime", "default")) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"the operator has applied no FineTuneRuntime default within {WITHIN:.0f} s")
        time.sleep(1)
    spec: dict[str, Any] = found["spec"]
    return spec
