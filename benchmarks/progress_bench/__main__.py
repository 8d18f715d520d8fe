"""Live reports of many jobs at once: how long from a pod's wish to tell something until status says it.

    python -m benchmarks.progress_bench [--jobs 1000] [--rounds 8]

A real API server and etcd, the operator as a process of its own with the chart's rights, and pods that are objects
without a container. Each pod's part is played as the trainer plays it (``pods.py``): over TLS, with a token that the
API server made for that pod, with the trainer's timeouts and pauses. All begin at the same moment. A round is a tenth
of the training, which is what status is written for; the report of the last round is the pod's last.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.common import finish, machine, percentile, table, versions
from benchmarks.operator_bench.client import Client
from benchmarks.operator_bench.processes import cpu_seconds, peak_mib
from benchmarks.progress_bench.pods import Reports, Shown, report, reporting
from finetune_api.names import ANNOTATION_PROGRESS_CA, LABEL_JOB_NAME
from tests.support.apiserver import ApiServer
from tests.support.builders import cpu_spec
from tests.support.live_server import ACCOUNT, SYSTEM, listening_settings, operator_rights, pod_token
from tests.support.lives import FOR_EVER, LIVES
from tests.support.operator_process import OperatorProcess, eventually
from tests.support.tenant import Tenant

SETTLE_SECONDS: Final = 120
"""After the last report; what status doesn't say by then is lost."""

RUNNING: Final = replace(LIVES["one stage"], lasts=lambda _stage, _number: FOR_EVER)


@dataclass(frozen=True)
class Place:
    """An API server with an operator that listens, and a tenant."""

    api: ApiServer
    tenant: Tenant
    operator: OperatorProcess
    port: int

    def start(self, jobs: int) -> dict[str, str]:
        """Submit jobs and wait until their pods run; returns a token by job."""
        self.tenant.add_runtime(allowedServiceAccounts=[ACCOUNT])
        account = {"apiVersion": "v1", "kind": "ServiceAccount"}
        self.api.apply({**account, "metadata": {"name": ACCOUNT, "namespace": self.tenant.namespace}})
        for number in range(jobs):
            self.tenant.submit(cpu_spec(serviceAccountName=ACCOUNT), f"job-{number}")
        eventually(lambda: len(self.tenant.backend.jobs()) == jobs, within=600, every=1)
        for _ in range(2):
            self.tenant.simulator.tick()
        eventually(lambda: self._prepared() == jobs, within=600, every=1)
        return {_job(pod): pod_token(self.api, pod) for pod in self.tenant.backend.pods()}

    def authority(self) -> str:
        """The operator's certificate, as its pods have it."""
        return str(self.tenant.backend.pods()[0]["metadata"]["annotations"][ANNOTATION_PROGRESS_CA])

    def _prepared(self) -> int:
        path = f"/apis/finetune.dev/v1alpha1/namespaces/{self.tenant.namespace}/finetunejobs"
        items = self.api.request("GET", path)[1]["items"]
        return sum(item.get("status", {}).get("phase") == "Preparing" for item in items)


def _job(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["labels"][LABEL_JOB_NAME])


@contextmanager
def place() -> Iterator[Place]:
    """Start it all, and end it with the block."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ApiServer.started() as api:
        api.apply_crds()
        api.create_namespace(SYSTEM)
        kubeconfig = operator_rights(api)
        with OperatorProcess.started(kubeconfig, **listening_settings(port)) as operator:
            yield Place(api, Tenant(api, RUNNING), operator, port)


async def drive(at: Place, tokens: dict[str, str], rounds: int) -> tuple[Reports, Shown]:
    """Let all pods report at once, until status says what each told last or the time for that is over."""
    reports, shown = Reports(), Shown()
    url = f"https://localhost:{at.port}/v1/progress"
    async with (
        Client.watching(at.api, at.tenant.namespace, shown),
        reporting(len(tokens), at.authority()) as sessions,
    ):
        await asyncio.gather(
            *(
                report(session, url, token, job, rounds=rounds, into=reports)
                for session, (job, token) in zip(sessions, tokens.items(), strict=True)
            )
        )
        for _ in range(2 * SETTLE_SECONDS):
            if all(shown.said(job) == step for job, step in reports.told.items()):
                break
            await asyncio.sleep(0.5)
    return reports, shown


def figures_of(reports: Reports, shown: Shown) -> dict[str, Any]:
    """What came out, of the moments that were noted."""
    waits = []
    for (job, step), wanted in reports.wanted.items():
        said = shown.first(job, step)
        if said is not None:
            waits.append(said - wanted)
    lost = sum(shown.said(job) != step for job, step in reports.told.items())
    return {
        "reports": sum(reports.answers.values()),
        "not_taken": sum(count for answer, count in reports.answers.items() if answer != "200"),
        "told_to_status_p50_seconds": percentile(waits, 50),
        "told_to_status_p99_seconds": percentile(waits, 99),
        "told_to_status_max_seconds": percentile(waits, 100),
        "status_writes_seen": sum(len(said) for said in shown.steps.values()),
        "last_reports_lost": lost,
    }


def main() -> int:
    """Run the benchmark; returns the exit code: 1 if a pod's last report is not in status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.progress_bench", description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=8, choices=range(1, 10), metavar="1-9")
    arguments = parser.parse_args()
    with place() as at:
        tokens = at.start(arguments.jobs)
        print(f"{len(tokens)} pods run; they begin to report", file=sys.stderr, flush=True)
        pid = at.operator.process.pid
        began, used = time.monotonic(), cpu_seconds(pid)
        reports, shown = asyncio.run(drive(at, tokens, arguments.rounds))
        seconds = time.monotonic() - began
        found = {
            "jobs": arguments.jobs,
            "rounds": arguments.rounds,
            "wall_seconds": round(seconds, 1),
            **figures_of(reports, shown),
            "operator_cpu_share": round((cpu_seconds(pid) - used) / seconds, 3),
            "operator_peak_mib": round(peak_mib(pid), 1),
        }
        errors = at.operator.unexpected()
    answers = table(["answer", "times"], sorted(reports.answers.items()))
    text = f"{table(['figure', 'value'], list(found.items()))}\n\n{answers}"
    if found["last_reports_lost"] or errors:
        print(text)
        print(f"lost: {found['last_reports_lost']}, errors in the operator's log: {errors[:3]}", file=sys.stderr)
        return 1
    finish("progress", {**found, "machine": machine(), "versions": versions("aiohttp", "kubernetes")}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
