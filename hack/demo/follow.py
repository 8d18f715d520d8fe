"""Streams one FineTuneJob to a terminal: its phases and what its pods log, until it has ended."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from finetune_api.names import LABEL_JOB_UID
from hack.demo.kube import Kube

__all__ = ["finished", "follow", "readable"]

QUIET: Final = frozenset({"ts", "level", "job", "stage", "event"})
UNSAID: Final = frozenset({"step_started", "progress", "report"})
"""Events that repeat what a person sees anyway."""


def finished(job: dict[str, Any]) -> bool:
    """Tell whether the job has ended, well or not."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(c["type"] == "Finished" and c["status"] == "True" for c in conditions)


def readable(line: str) -> str | None:
    """One JSON log line of the trainer as a person reads it, any other line as it is; None for what needs no saying."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict):
        return line
    event, stage = entry.get("event"), entry.get("stage", "-")
    if event in UNSAID:
        return None
    if event == "step_finished":
        return f"[{stage}] {entry['step']}: {entry['seconds']:.1f} s"
    if event == "train":
        return (
            f"[{stage}] step {entry['step']}/{entry['total_steps']}  loss {entry['train_loss']:.4f}  "
            f"{entry['tokens_per_second']:.0f} tokens/s"
        )
    details = " ".join(f"{key}={value}" for key, value in entry.items() if key not in QUIET and value is not None)
    return f"[{stage}] {event} {details}".rstrip()


class _Logs:
    """Follows the log of every pod of the job, once each."""

    def __init__(self, kube: Kube, namespace: str, say: Callable[[str], None]) -> None:
        self._kube, self._namespace, self._say = kube, namespace, say
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []

    def add(self, pod: str, *, ended: bool) -> None:
        if pod in self._running:
            return
        process = self._kube.popen("logs", "-f", "-n", self._namespace, pod)
        self._running[pod] = process
        thread = threading.Thread(target=self._pump, args=(process,), daemon=True)
        thread.start()
        self._threads.append(thread)
        if ended:
            thread.join(timeout=30)  # or its lines would mingle with those of the pod after it

    def _pump(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101  # popen() was asked for a pipe
        for line in process.stdout:
            if text := readable(line.rstrip()):
                self._say("  " + text)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(timeout=5)
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
            process.wait()
            assert process.stdout is not None  # noqa: S101  # as above
            process.stdout.close()


def follow(
    kube: Kube, namespace: str, name: str, *, say: Callable[[str], None], timeout: float = 1800, pause: float = 1.0
) -> dict[str, Any]:
    """Print what happens until the job has ended.

    Returns
    -------
    dict
        The job as it stands at its end.

    Raises
    ------
    TimeoutError
        It has not ended after ``timeout`` seconds.
    """
    start, last, logs = time.monotonic(), "", _Logs(kube, namespace, say)
    try:
        while time.monotonic() - start < timeout:
            job = kube.get("finetunejob", name, namespace)
            if job is None:
                raise RuntimeError(f"FineTuneJob {namespace}/{name} was deleted")
            line = _state(job)
            if line != last:
                say(f"{time.monotonic() - start:6.0f} s  {line}")
                last = line
            pods = kube.list("pods", namespace, f"{LABEL_JOB_UID}={job['metadata']['uid']}")
            for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"])):
                phase = pod["status"].get("phase")
                if phase != "Pending":
                    logs.add(pod["metadata"]["name"], ended=phase in {"Succeeded", "Failed"})
            if finished(job):
                return job
            time.sleep(pause)
    finally:
        logs.close()
    raise TimeoutError(f"FineTuneJob {namespace}/{name} has not ended after {timeout:.0f} s; last seen: {last}")


def _state(job: dict[str, Any]) -> str:
    status = job.get("status", {})
    succeeded: dict[str, Any] = next((c for c in status.get("conditions", []) if c["type"] == "Succeeded"), {})
    message = succeeded.get("message", "")
    return f"{status.get('phase', 'Pending')}" + (f": {message}" if message else "")
