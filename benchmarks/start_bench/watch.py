"""Follows Kubernetes from outside by kubectl: watch events and log lines, each with the moment of its arrival."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hack.demo.kube import Kube

__all__ = ["log_until", "watching"]


@contextmanager
def watching(kube: Kube, kind: str, namespace: str, saw: Callable[[dict[str, Any], float], None]) -> Iterator[None]:
    """Call ``saw`` with every object of a kind and the moment, from a thread, while the block runs."""
    process = kube.popen("get", kind, "-n", namespace, "--watch", "--output-watch-events", "-o", "json")
    thread = threading.Thread(target=_read, args=(process, saw), daemon=True)
    thread.start()
    try:
        yield
    finally:
        process.terminate()
        process.wait()
        thread.join(timeout=10)
        if process.stdout is not None:
            process.stdout.close()


def _read(process: subprocess.Popen[str], saw: Callable[[dict[str, Any], float], None]) -> None:
    """With --output-watch-events kubectl writes an event a line."""
    for line in process.stdout or ():
        when = time.time()
        saw(json.loads(line)["object"], when)


def log_until(kube: Kube, namespace: str, pod: str, last: Callable[[str], bool], *, within: float) -> list[str]:
    """Read a pod's log until ``last`` says so of a line, or until the log ends.

    Raises
    ------
    TimeoutError
        It has not happened after ``within`` seconds.
    """
    process = kube.popen("logs", "-f", "-n", namespace, pod)
    # The timer ends the process, which ends the loop below.
    timer = threading.Timer(within, process.terminate)
    timer.start()
    lines: list[str] = []
    try:
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            if last(line):
                return lines
    finally:
        expired = not timer.is_alive()
        timer.cancel()
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if expired:
        raise TimeoutError(
            f"the log of {pod} did not get there within {within:.0f} s; its end:\n" + "\n".join(lines[-5:])
        )
    return lines
