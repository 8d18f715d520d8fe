"""What a test does to the machine under the cluster, as a node or a registry that misbehaves would."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["halted", "kill_trainer", "pushed_tag", "tag_of"]

MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


def kill_trainer(pod: dict[str, Any]) -> None:
    """SIGKILL the trainer's processes in a pod, from outside, as the kernel does."""
    assert _signal(pod, signal.SIGKILL), f"no process of the trainer in pod {pod['metadata']['name']}"


@contextmanager
def halted(pod: dict[str, Any]) -> Iterator[None]:
    """Hold the trainer in a pod still, so that however slow the machine is it goes on only afterwards."""
    assert _signal(pod, signal.SIGSTOP), f"no process of the trainer in pod {pod['metadata']['name']}"
    try:
        yield
    finally:
        _signal(pod, signal.SIGCONT)


def _signal(pod: dict[str, Any], number: signal.Signals) -> int:
    """Send a signal to the trainer's processes in a pod; return how many there are."""
    uid = pod["metadata"]["uid"]
    reached = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # a process that has just ended
            if uid in (folder / "cgroup").read_text() and b"finetune" in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), number)
                reached += 1
    return reached


def tag_of(image: str, tag: str) -> str:
    """The reference of ``image`` (by digest) under a tag in the same repository."""
    return f"{image.partition('@')[0]}:{tag}"


@contextmanager
def pushed_tag(image: str, tag: str) -> Iterator[None]:
    """Push an image that the registry has under one more tag; the tag is removed afterwards."""
    place, digest = image.split("@")
    registry, _, repository = place.partition("/")
    manifests = f"http://{registry}/v2/{repository}/manifests"
    with _request("GET", f"{manifests}/{digest}", Accept=MANIFESTS) as got:
        kind, body = got.headers["Content-Type"], got.read()
    with _request("PUT", f"{manifests}/{tag}", body, **{"Content-Type": kind}):
        pass
    try:
        yield
    finally:
        with _request("DELETE", f"{manifests}/{tag}"):
            pass


def _request(method: str, url: str, body: bytes | None = None, **headers: str) -> Any:
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - always http
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the registry is on this machine
    return direct.open(request, timeout=30)
