"""A tenant of a real API server: a namespace, a runtime of its own, jobs, and the control plane that serves them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from finetune_operator.cluster.protocol import Raw
from finetune_operator.cluster.views import condition, is_finished
from tests.support.apiserver import ApiServer
from tests.support.builders import runtime_spec
from tests.support.job_simulator import JobSimulator
from tests.support.lives import LIVES, Life
from tests.support.operator_process import ServerBackend, eventually

__all__ = ["JOB", "Tenant"]

JOB = "support-intent"
_numbers = itertools.count(1)


class Tenant:
    """A namespace in which pods end as a life says, and a person acts on the job ``support-intent``."""

    def __init__(self, api: ApiServer, life: Life = LIVES["two stages"]) -> None:
        self.api = api
        self.life = life
        self.namespace = api.create_namespace(f"tenant-{next(_numbers)}")
        self.backend = ServerBackend(api, self.namespace)
        self.simulator = JobSimulator(self.backend, now=lambda: datetime.now(UTC), end=life.end, lasts=life.lasts)

    # --- what the tenant and the platform team do ---------------------------------------------------------------------

    def add_runtime(self, **changes: Any) -> None:
        """Create the runtime that the tenant's jobs name."""
        self._post("finetuneruntimes", "FineTuneRuntime", self.namespace, runtime_spec(**changes))

    def submit(self, spec: Raw | None = None, name: str = JOB) -> Raw:
        """Create a FineTuneJob."""
        spec = {**(self.life.spec if spec is None else spec), "runtimeRef": {"name": self.namespace}}
        return self._post(f"namespaces/{self.namespace}/finetunejobs", "FineTuneJob", name, spec)

    def edit(self, name: str = JOB, **spec: Any) -> None:
        """Change fields of a job's spec."""
        kind = "application/merge-patch+json"
        status, answer = self.api.request("PATCH", self._path(name), {"spec": spec}, content_type=kind)
        assert status == 200, answer

    def delete(self, name: str = JOB) -> None:
        """Delete a job; no garbage collector runs here."""
        assert self.api.request("DELETE", self._path(name))[0] == 200

    # --- what there is ------------------------------------------------------------------------------------------------

    def job(self, name: str = JOB) -> Raw:
        """A job as stored."""
        return dict(self.api.request("GET", self._path(name))[1])

    def status(self, name: str = JOB) -> Raw:
        """Its status."""
        return dict(self.job(name)["status"])

    def condition(self, kind: str) -> tuple[Any, Any]:
        """Status and reason of one of its conditions."""
        found = condition(self.status(), kind)
        return found.get("status"), found.get("reason")

    def reason(self) -> Any:
        """The reason of its summary condition."""
        return self.condition("Succeeded")[1]

    def finished(self) -> bool:
        """Whether the job has ended."""
        return is_finished(self.job())

    def events(self) -> list[Raw]:
        """All Events of the namespace."""
        return list(self.api.request("GET", f"/api/v1/namespaces/{self.namespace}/events")[1]["items"])

    # --- time ---------------------------------------------------------------------------------------------------------

    def moves(self) -> None:
        """The control plane moves by a step, then the person of this life looks at the job."""
        self.simulator.tick()
        if edit := self.life.person(self.job()):
            self.edit(**edit)

    def until(self, met: Callable[[], Any], within: float = 60.0) -> Any:
        """Let the control plane move until something is so."""
        return eventually(met, within=within, during=self.moves)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"/apis/finetune.dev/v1alpha1/namespaces/{self.namespace}/finetunejobs/{name}"

    def _post(self, path: str, kind: str, name: str, spec: Raw) -> Raw:
        body = {"apiVersion": "finetune.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        status, answer = self.api.request("POST", f"/apis/finetune.dev/v1alpha1/{path}", body)
        assert status == 201, answer
        return dict(answer)
