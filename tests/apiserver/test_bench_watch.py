"""What the start's benchmark reads of kubectl, against a real API server: the rest of it is pure or needs a cluster."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.start_bench.watch import watching
from hack.demo.kube import Kube
from tests.support.apiserver import ApiServer, binary


def test_every_change_of_an_object_is_seen_while_it_is_watched(bare_apiserver: ApiServer, namespace: str) -> None:
    kube = Kube(kubeconfig=bare_apiserver.kubeconfig, kubectl_path=str(binary("kubectl")), helm_path="")
    seen: list[tuple[dict[str, Any], float]] = []
    begin = time.time()
    with watching(kube, "configmaps", namespace, lambda item, when: seen.append((item, when))):
        for data in ({"text": "a\n}\nb"}, {"text": "2"}):
            kube.apply(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "w", "namespace": namespace},
                    "data": data,
                }
            )
            _wait_for(seen, data)
    last, when = seen[-1]
    assert (last["metadata"]["name"], last["data"]) == ("w", {"text": "2"})
    assert begin < when < time.time()


def _wait_for(seen: list[tuple[dict[str, Any], float]], data: dict[str, str]) -> None:
    end = time.monotonic() + 30
    while not any(item.get("data") == data for item, _ in seen):
        assert time.monotonic() < end, seen
        time.sleep(0.05)
