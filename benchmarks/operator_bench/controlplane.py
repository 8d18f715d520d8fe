"""A whole control plane on 127.0.0.1 with simulated nodes: etcd, API server, controller-manager, scheduler, kwok.

Neither root nor containerd is needed, because no container runs. What the operator asks of the API server stands in the
audit log. Sits on the API server of the tests and on the binaries of ``hack/devcluster``.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.operator_bench.simulated_pods import IMAGE, kwok_config, node
from tests.support.apiserver import ApiServer, binary
from tests.support.operator_process import OPERATOR_RULES, OperatorProcess

__all__ = ["BINARIES", "OPERATOR_USER", "ControlPlane"]

BINARIES: Final = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok")
SYSTEM: Final = "finetune-system"
OPERATOR_USER: Final = f"system:serviceaccount:{SYSTEM}:finetune-operator"
NODES: Final = 10
READY_SECONDS: Final = 60.0

AUDIT_POLICY: Final = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata", "users": [OPERATOR_USER]}, {"level": "None"}],
}


@dataclass(frozen=True)
class ControlPlane:
    """A running control plane with the CRDs, a runtime, ready nodes and an operator.

    Attributes
    ----------
    api
        The API server.
    operator
        The operator's process, with the rights of the chart and its default settings.
    audit_log
        One line of JSON for each request of the operator.
    """

    api: ApiServer
    operator: OperatorProcess
    audit_log: Path

    @classmethod
    @contextmanager
    def started(cls, scratch: Path, *, run_seconds: float = 0) -> Iterator[ControlPlane]:
        """Start everything and end it with the block.

        Parameters
        ----------
        scratch
            An existing folder; the audit log stays there.
        run_seconds
            How long each simulated pod runs.
        """
        for name in BINARIES:
            binary(name)  # builds what the cache lacks, before any clock runs
        policy, audit_log = scratch / "audit-policy.json", scratch / "audit.jsonl"
        policy.write_text(json.dumps(AUDIT_POLICY))
        flags = (f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}")
        with ApiServer.started(*flags) as api, _logs_of_a_failure(api):
            api.apply_crds()
            _start_controllers(api, scratch, run_seconds=run_seconds)
            _add_nodes(api)
            api.create_namespace(SYSTEM)
            _add_runtime(api)
            kubeconfig = api.service_account("finetune-operator", namespace=SYSTEM, rules=OPERATOR_RULES)
            with OperatorProcess.started(kubeconfig) as operator:
                yield cls(api, operator, audit_log)

    def pids(self) -> dict[str, int]:
        """Process ids by part; the operator is ``operator``."""
        return {"operator": self.operator.process.pid, **self.api.pids()}


@contextmanager
def _logs_of_a_failure(api: ApiServer) -> Iterator[None]:
    """Show how each part's log ends before the folder with the logs goes."""
    try:
        yield
    except Exception:
        for log in sorted(api.folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        raise


def _start_controllers(api: ApiServer, scratch: Path, *, run_seconds: float) -> None:
    stages, scheduler = scratch / "kwok.yaml", scratch / "scheduler.json"
    stages.write_text(kwok_config(run_seconds=run_seconds))
    # The defaults of scheduler and controller-manager (50 and 20 requests a second) would be measured otherwise.
    limits = {"qps": 500, "burst": 1000}
    content = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(api.kubeconfig), **limits},
    }
    scheduler.write_text(json.dumps(content))
    api.start(
        "kube-controller-manager",
        f"--kubeconfig={api.kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--kube-api-qps={limits['qps']}",
        f"--kube-api-burst={limits['burst']}",
        "--concurrent-job-syncs=50",
        # Its default folder is one of the machine.
        f"--flex-volume-plugin-dir={scratch / 'volume-plugins'}",
    )
    api.start("kube-scheduler", f"--config={scheduler}", "--secure-port=0")
    api.start(
        "kwok",
        f"--kubeconfig={api.kubeconfig}",
        f"--config={stages}",
        "--manage-all-nodes=true",
        "--node-lease-duration-seconds=40",  # without it the nodes fall silent and are taken for dead after 50 s
    )


def _add_nodes(api: ApiServer) -> None:
    names = [f"node-{number}" for number in range(NODES)]
    for name in names:
        status, body = api.request("POST", "/api/v1/nodes", node(name))
        if status != 201:
            raise RuntimeError(f"{name} was not created: {body}")
    deadline = time.monotonic() + READY_SECONDS
    while waiting := [name for name in names if not _takes_pods(api, name)]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{', '.join(waiting)}: not ready after {READY_SECONDS:.0f} s")
        time.sleep(0.2)


def _takes_pods(api: ApiServer, name: str) -> bool:
    """A new node is tainted by the API server's admission until the controller-manager has seen it ready."""
    _, body = api.request("GET", f"/api/v1/nodes/{name}")
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in body["status"].get("conditions", []))
    return ready and not body["spec"].get("taints")


def _add_runtime(api: ApiServer) -> None:
    status, body = api.request(
        "POST",
        "/apis/finetune.dev/v1alpha1/finetuneruntimes",
        {
            "apiVersion": "finetune.dev/v1alpha1",
            "kind": "FineTuneRuntime",
            "metadata": {"name": "default"},
            "spec": {
                "image": IMAGE,
                "outputPrefix": "s3://results/tuned/",
                "storage": [{"prefix": "s3://", "endpoint": "http://s3.example.com:9000", "addressingStyle": "Path"}],
            },
        },
    )
    if status != 201:
        raise RuntimeError(f"the runtime was not created: {body}")
