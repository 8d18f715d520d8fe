"""Plays the job controller, the scheduler and kubelet: Jobs get pods, pods run and leave reports, Jobs end.

Works on any cluster that offers a :class:`Backend`, the one in memory and a real API server alike. One tick moves each
Job by one step, so that the operator sees every state in between. It also watches the promise that matters most: never
two live pods for one FineTuneJob.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from finetune_api.digest import spec_digest
from finetune_api.names import ENV_STAGE_INPUT, LABEL_JOB_UID, LABEL_STAGE
from finetune_api.reasons import EXIT_RESUMABLE, final_exit_codes
from finetune_api.report import StageReport, encode_report
from finetune_api.stage import StageInput
from finetune_operator.cluster.protocol import Raw
from tests.support.builders import prepare_report, train_report
from tests.support.memory_gateway import MemoryCluster

__all__ = ["Backend", "End", "JobSimulator", "MemoryBackend", "report_found", "report_success"]


class Backend(Protocol):
    """What the simulator does to a cluster, with the rights of the control plane."""

    def jobs(self) -> list[Raw]:
        """All batch Jobs that carry our label."""
        ...

    def pods(self) -> list[Raw]:
        """All pods that carry our label."""
        ...

    def create_pod(self, pod: Raw) -> None:
        """Create a pod."""
        ...

    def set_status(self, kind: str, raw: Raw, status: Raw) -> None:
        """Merge-patch the status of a pod or a child."""
        ...

    def remove(self, kind: str, raw: Raw) -> None:
        """Let an object go at once."""
        ...


@dataclass(frozen=True)
class End:
    """How a pod ends."""

    exit_code: int = 0
    message: str = ""


def report_success(document: StageInput, _attempt: int) -> End:
    """Every stage succeeds and says what it must."""
    build = prepare_report if document.stage == "prepare" else train_report
    report: StageReport = build().model_copy(update={"spec_digest": spec_digest(document.spec)})
    return End(message=encode_report(report).decode())


def report_found(document: StageInput, _attempt: int) -> End:
    """The first stage finds the result of an earlier job."""
    report: StageReport = train_report(stage=document.stage, reused=True)
    return End(message=encode_report(report.model_copy(update={"spec_digest": spec_digest(document.spec)})).decode())


class JobSimulator:
    """The control plane and one node.

    Parameters
    ----------
    end
        How a pod ends, by its input and how many pods of its Job have failed before it.
    lasts
        How many ticks a pod runs, by its stage and how many pods of that stage there have been, itself included.

    Attributes
    ----------
    pods_made
        Pods that were ever made, by stage.
    violations
        Moments at which one FineTuneJob had more than one live pod.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        now: Callable[[], datetime],
        end: Callable[[StageInput, int], End] = report_success,
        lasts: Callable[[str, int], int] = lambda _stage, _number: 1,
    ) -> None:
        self._backend = backend
        self._now = now
        self._end = end
        self._lasts = lasts
        self._ticks_left: dict[str, int] = {}
        self.pods_made: Counter[str] = Counter()
        self.violations: list[str] = []

    def tick(self) -> bool:
        """Move every Job by one step; returns whether anything moved."""
        pods = self._backend.pods()
        self._check(pods)
        moved = [self._step(job, [p for p in pods if _owner(p) == _uid(job)]) for job in self._backend.jobs()]
        return any(moved)

    def _check(self, pods: list[Raw]) -> None:
        live = Counter(_label(pod, LABEL_JOB_UID) for pod in pods if _phase(pod) not in ("Succeeded", "Failed"))
        self.violations += [f"{count} live pods of {uid} at {self._now()}" for uid, count in live.items() if count > 1]

    def _step(self, job: Raw, pods: list[Raw]) -> bool:
        if "deletionTimestamp" in job["metadata"]:
            for pod in pods:
                self._backend.remove("pods", pod)
            if not pods:
                self._backend.remove("children", job)
            return True
        status = job.get("status") or {}
        if any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in status.get("conditions", [])):
            return False
        live = [pod for pod in pods if _phase(pod) not in ("Succeeded", "Failed")]
        if live:
            self._move(live[0], sum(_phase(pod) == "Failed" for pod in pods))
            return True
        self._judge(job, pods)
        return True

    def _move(self, pod: Raw, attempt: int) -> None:
        if _phase(pod) != "Running":
            self._backend.set_status(
                "pods", pod, {"phase": "Running", "containerStatuses": [_container(running=self._stamp())]}
            )
            return
        left = self._ticks_left.setdefault(
            _uid(pod), self._lasts(stage := _label(pod, LABEL_STAGE), self.pods_made[stage])
        )
        if left > 1:
            self._ticks_left[_uid(pod)] = left - 1
            return
        end = self._end(_document(pod), attempt)
        terminated = {
            "exitCode": end.exit_code,
            "reason": "Error" if end.exit_code else "Completed",
            "message": end.message,
            "startedAt": self._stamp(),
            "finishedAt": self._stamp(),
        }
        phase = "Failed" if end.exit_code else "Succeeded"
        self._backend.set_status(
            "pods", pod, {"phase": phase, "containerStatuses": [_container(terminated=terminated)]}
        )

    def _judge(self, job: Raw, pods: list[Raw]) -> None:
        codes = [p["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for p in pods]
        failed = [code for code in codes if code not in (0, EXIT_RESUMABLE)]
        started = (job.get("status") or {}).get("startTime") or self._stamp()
        status: dict[str, Any] = {"startTime": started, "active": 0, "ready": 0, "failed": len(failed)}
        if 0 in codes:
            status |= {"succeeded": 1, "completionTime": self._stamp()}
            status["conditions"] = [self._true("SuccessCriteriaMet"), self._true("Complete", "CompletionsReached")]
        elif any(code in final_exit_codes() for code in failed):
            words = f"Container trainer for pod x failed with exit code {failed[-1]} matching FailJob rule at index 2"
            status["conditions"] = [self._true(t, "PodFailurePolicy", words) for t in ("FailureTarget", "Failed")]
        elif len(failed) > job["spec"]["backoffLimit"]:
            words = "Job has reached the specified backoff limit"
            status["conditions"] = [self._true(t, "BackoffLimitExceeded", words) for t in ("FailureTarget", "Failed")]
        else:
            self._backend.create_pod(self._pod(job, len(pods)))
            status["active"] = 1
        self._backend.set_status("children", job, status)

    def _pod(self, job: Raw, number: int) -> Raw:
        stage = _label(job, LABEL_STAGE)
        self.pods_made[stage] += 1
        template = copy.deepcopy(job["spec"]["template"])
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                "name": f"{job['metadata']['name']}-{number:05d}",
                "namespace": job["metadata"]["namespace"],
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": job["metadata"]["name"],
                        "uid": _uid(job),
                        "controller": True,
                    }
                ],
            },
            "spec": {**template["spec"], "nodeName": "node-1"},
        }

    def _true(self, kind: str, reason: str = "", message: str = "") -> Raw:
        stamp = self._stamp()
        return {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastProbeTime": stamp,
            "lastTransitionTime": stamp,
        }

    def _stamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")


class MemoryBackend:
    """The simulator's hands in a :class:`MemoryCluster`."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    def jobs(self) -> list[Raw]:
        return [raw for raw in self._cluster.all("children") if _label(raw, LABEL_JOB_UID)]

    def pods(self) -> list[Raw]:
        return self._cluster.all("pods")

    def create_pod(self, pod: Raw) -> None:
        self._cluster.create("pods", {**pod, "status": {"phase": "Pending"}})

    def set_status(self, kind: str, raw: Raw, status: Raw) -> None:
        self._cluster.patch(kind, raw["metadata"]["namespace"], raw["metadata"]["name"], {"status": status})

    def remove(self, kind: str, raw: Raw) -> None:
        self._cluster.delete(kind, raw["metadata"]["namespace"], raw["metadata"]["name"])


def _container(**state: Any) -> Raw:
    if "running" in state:
        state = {"running": {"startedAt": state["running"]}}
    return {
        "name": "trainer",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": state,
    }


def _document(pod: Raw) -> StageInput:
    env = pod["spec"]["containers"][0]["env"]
    return StageInput.model_validate_json(next(e["value"] for e in env if e["name"] == ENV_STAGE_INPUT))


def _label(raw: Raw, name: str) -> str:
    return str((raw["metadata"].get("labels") or {}).get(name, ""))


def _uid(raw: Raw) -> str:
    return str(raw["metadata"]["uid"])


def _owner(raw: Raw) -> str | None:
    return next((o["uid"] for o in raw["metadata"].get("ownerReferences", []) if o.get("controller")), None)


def _phase(pod: Raw) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))
