"""Follows what the trainer in a pod logs, so that a test can act at a certain step and read the pod's last words."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.e2e.world import Tenant, until

__all__ = ["Entry", "PodLog", "Pods", "events", "is_step", "saved", "trained", "whole_log"]

Entry = dict[str, Any]


class PodLog:
    """The JSON lines of one pod, from its first on, also those that it writes while it is being stopped."""

    def __init__(self, tenant: Tenant, pod: Entry) -> None:
        self.entries: list[Entry] = []
        self._process = tenant.world.kube.popen("logs", "-f", "-n", tenant.namespace, pod["metadata"]["name"])
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                with self._changed:
                    self.entries.append(json.loads(line))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, what: str, met: Callable[[Entry], bool], *, timeout: float) -> Entry:
        """Return the first entry that fits, as soon as it is written."""
        end, looked = time.monotonic() + timeout, 0
        with self._changed:
            while True:
                for entry in self.entries[looked:]:
                    looked += 1
                    if met(entry):
                        return entry
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    raise AssertionError(f"{what}: not in the pod's log, which ends with {self.entries[-3:]}")
                self._changed.wait(left)

    def close(self, timeout: float = 90) -> list[Entry]:
        """Wait until the pod has ended and return all that it wrote."""
        self._thread.join(timeout)
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self.entries


class Pods:
    """The pods of one job in their order, each followed from its start to its end."""

    def __init__(self, tenant: Tenant, name: str) -> None:
        self.tenant, self.name = tenant, name
        self.logs: list[PodLog] = []
        self._uids: set[str] = set()

    def next(self) -> tuple[Entry, PodLog]:
        """Wait for a pod that was not there before."""

        def fresh() -> Entry | None:
            pod = self.tenant.running_pod(self.name, timeout=400)
            return pod if pod["metadata"]["uid"] not in self._uids else None

        pod = until("another pod runs", fresh, timeout=400, pause=1)
        assert pod is not None
        self._uids.add(pod["metadata"]["uid"])
        self.logs.append(PodLog(self.tenant, pod))
        return pod, self.logs[-1]

    def trains_to(self, step: int) -> Entry:
        """Wait for the next pod to have done a step; return the pod."""
        pod, log = self.next()
        log.wait_for(f"step {step} is done", lambda entry: is_step(entry) and entry["step"] >= step, timeout=240)
        return pod

    def close(self) -> list[list[Entry]]:
        """Wait until all have ended and return what each of them wrote."""
        return [log.close() for log in self.logs]


def whole_log(tenant: Tenant, pod: Entry) -> list[Entry]:
    """The log of a pod that has ended."""
    text = tenant.world.kube.kubectl("logs", "-n", tenant.namespace, pod["metadata"]["name"])
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def events(entries: list[Entry], name: str) -> list[Entry]:
    """The entries of one kind."""
    return [entry for entry in entries if entry.get("event") == name]


def is_step(entry: Entry) -> bool:
    """Tell whether an entry is about a step of training."""
    return entry.get("event") == "train"


def trained(entries: list[Entry]) -> list[int]:
    """The steps that a pod has done."""
    return [entry["step"] for entry in entries if is_step(entry)]


def saved(entries: list[Entry]) -> list[int]:
    """The steps whose state a pod has stored."""
    return [entry["step"] for entry in events(entries, "checkpoint_saved")]
