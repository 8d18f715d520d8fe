"""Follows what the trainer in a pod logs, so that a test can act at a certain step and read the pod's last words."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.e2e.world import Tenant

__all__ = ["Entry", "PodLog", "events", "whole_log"]

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


def whole_log(tenant: Tenant, pod: Entry) -> list[Entry]:
    """The log of a pod that has ended."""
    text = tenant.world.kube.kubectl("logs", "-n", tenant.namespace, pod["metadata"]["name"])
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def events(entries: list[Entry], name: str) -> list[Entry]:
    """The entries of one kind."""
    return [entry for entry in entries if entry.get("event") == name]
