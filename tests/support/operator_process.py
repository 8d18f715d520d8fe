"""The operator as it runs in production, as far as a test can: its own process, its own rights, a real API server.

:data:`OPERATOR_RULES` are the rights that it gets, no more. :class:`ServerBackend` lets the job simulator play the
control plane on that server.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from finetune_operator.cluster.protocol import Raw
from tests.support.apiserver import REPO_ROOT, ApiServer
from tests.support.guard import ending_with_us

__all__ = ["LEASE_RULES", "OPERATOR_RULES", "OperatorProcess", "ServerBackend", "eventually"]

OPERATOR_RULES: Final = (
    {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetunejobs", "finetuneruntimes"],
        "verbs": ["get", "list", "watch"],
    },
    {
        "apiGroups": ["finetune.dev"],
        "resources": ["finetuneruntimes"],
        "resourceNames": ["default"],
        "verbs": ["create", "patch"],
    },
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs/status"], "verbs": ["patch"]},
    {"apiGroups": ["finetune.dev"], "resources": ["finetunejobs/finalizers"], "verbs": ["update"]},
    {
        "apiGroups": ["batch"],
        "resources": ["jobs"],
        "verbs": ["get", "list", "watch", "create", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch", "get", "list"]},
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
)
LEASE_RULES: Final = (
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["finetune-operator"],
        "verbs": ["get", "create", "update"],
    },
)
LABEL: Final = "labelSelector=finetune.dev/job-uid"


def eventually(
    met: Callable[[], Any], *, within: float = 60.0, every: float = 0.05, during: Callable[[], Any] = lambda: None
) -> Any:
    """Wait until ``met`` returns something true, and return it; call ``during`` between two looks."""
    end = time.monotonic() + within
    while not (found := met()):
        if time.monotonic() > end:
            raise AssertionError(f"not met within {within:.0f} s")
        during()
        time.sleep(every)
    return found


class OperatorProcess:
    """A running ``python -m finetune_operator``."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, health_port: int, metrics_port: int) -> None:
        self.process = process
        self.log = log
        self.health_port = health_port
        self.metrics_port = metrics_port

    @classmethod
    @contextmanager
    def started(cls, kubeconfig: Path, *, wait: bool = True, **settings: str) -> Iterator[OperatorProcess]:
        """Start the operator and end it with the block, if it still runs then."""
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            ports = one.getsockname()[1], two.getsockname()[1]
        log = kubeconfig.parent / f"operator-{ports[0]}.log"
        path = os.pathsep.join(str(REPO_ROOT / folder) for folder in ("crds", "operator"))
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(kubeconfig.parent),
            "KUBECONFIG": str(kubeconfig),
            "PYTHONPATH": path,
            "FINETUNE_HEALTH_PORT": str(ports[0]),
            "FINETUNE_METRICS_PORT": str(ports[1]),
            **settings,
        }
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*ending_with_us(), sys.executable, "-m", "finetune_operator"],
                stdout=stream,
                stderr=stream,
                env=environment,
            )
        operator = cls(process, log, *ports)
        try:
            if wait:
                eventually(lambda: operator.get("/readyz")[0] == 200 and operator.records("Started"))
            yield operator
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def get(self, path: str, *, metrics: bool = False) -> tuple[int, str]:
        """HTTP GET on the health or the metrics port; status 0 if nobody listens."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.metrics_port if metrics else self.health_port, timeout=5
        )
        with suppress(ConnectionError):
            connection.request("GET", path)
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
            return response.status, text
        return 0, ""

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; returns the exit code and how many seconds the end took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30), time.monotonic() - began

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.wait()

    def records(self, event: str | None = None) -> list[dict[str, Any]]:
        """Log records so far; a line that is no JSON object fails the test."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if event is None or line.get("event") == event]

    def unexpected(self) -> list[dict[str, Any]]:
        """Log records at ERROR and above."""
        return [line for line in self.records() if line["level"] in ("ERROR", "CRITICAL")]


class ServerBackend:
    """The simulator's hands on a real API server, in one namespace."""

    def __init__(self, api: ApiServer, namespace: str) -> None:
        self._api = api
        self._paths = {
            "children": f"/apis/batch/v1/namespaces/{namespace}/jobs",
            "pods": f"/api/v1/namespaces/{namespace}/pods",
        }

    def jobs(self) -> list[Raw]:
        return self._items("children")

    def pods(self) -> list[Raw]:
        return self._items("pods")

    def create_pod(self, pod: Raw) -> None:
        self._do("POST", self._paths["pods"], pod)

    def set_status(self, kind: str, raw: Raw, status: Raw) -> None:
        self._do("PATCH", f"{self._path(kind, raw)}/status", {"status": status})

    def remove(self, kind: str, raw: Raw) -> None:
        if kind == "pods":
            self._do("DELETE", self._path(kind, raw), {"gracePeriodSeconds": 0})
        else:
            self._do("PATCH", self._path(kind, raw), {"metadata": {"finalizers": None}})

    def _path(self, kind: str, raw: Raw) -> str:
        return f"{self._paths[kind]}/{raw['metadata']['name']}"

    def _items(self, kind: str) -> list[Raw]:
        items: list[Raw] = self._do("GET", f"{self._paths[kind]}?{LABEL}")["items"]
        return items

    def _do(self, method: str, path: str, body: Any = None) -> Any:
        content_type = "application/merge-patch+json" if method == "PATCH" else "application/json"
        status, answer = self._api.request(method, path, body, content_type=content_type)
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {answer}")
        return answer
