"""One round: a FineTuneJob from apply to its first forward pass, then a bare pod with the same image and model."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from benchmarks.common import ROOT
from benchmarks.start_bench.bare_pod import BARE_STAGES, bare_moments, bare_pod
from benchmarks.start_bench.cached import RUNTIME, is_hit
from benchmarks.start_bench.timeline import FIRST_FORWARD, STAGES, durations, log_moments, pod_moments
from benchmarks.start_bench.watch import log_until, watching
from hack.demo.demo import MODEL
from hack.demo.install import Images, S3Access, ensure_bucket
from hack.demo.kube import Kube

__all__ = ["Bench", "Round", "in_order"]

BUCKET: Final = "bench-results"
SECRET: Final = "bench-s3"  # noqa: S105 - a name, not a secret
WITHIN: Final = 300.0


@dataclass(frozen=True)
class Round:
    """Seconds by stage; their sum is the time from apply to the first forward pass.

    ``cached`` is the job on a runtime with a model cache, where that is measured.
    """

    operator: dict[str, float]
    bare: dict[str, float]
    cached: dict[str, float] | None = None


@dataclass
class _Seen:
    """The first moment of each kind that a watch showed, and the pod's name."""

    moments: dict[str, float] = field(default_factory=dict)
    pod: str | None = None

    def child(self, _job: Mapping[str, Any], when: float) -> None:
        """Note a child Job."""
        self.moments.setdefault("child Job created", when)

    def see_pod(self, pod: Mapping[str, Any], when: float) -> None:
        """Note a pod; its log can be read once it has left Pending."""
        for name, moment in pod_moments(pod, when).items():
            self.moments.setdefault(name, moment)
        if pod.get("status", {}).get("phase") not in (None, "Pending"):
            self.pod = pod["metadata"]["name"]


@dataclass(frozen=True)
class Bench:
    """Where it runs: a namespace with the tenant's Secret on the development cluster.

    Attributes
    ----------
    limits
        CPU and memory of the runtime's train stage; the bare pod gets the same.
    """

    kube: Kube
    s3: S3Access
    images: Images
    namespace: str
    limits: dict[str, str]

    def round(self, *, cached: bool = False, first: bool = False) -> Round:
        """Measure one after the other; the ``first`` round fills the cache."""
        return Round(
            operator=self.operator(),
            bare=self.bare(),
            cached=self.operator(RUNTIME, must_hit=not first) if cached else None,
        )

    def operator(self, runtime: str = "default", *, must_hit: bool = False) -> dict[str, float]:
        """Apply the example job without a GPU, so that one pod does everything; end it after its first batch."""
        name, folder = "start", f"start/{uuid.uuid4().hex[:12]}/"
        with self._watched(jobs=True) as seen:
            start = time.time()
            self.kube.apply(self._job(name, folder, runtime))
            seen.moments["applied"] = time.time()
            lines = self._log(seen, _is_first_batch)
        moments = seen.moments | log_moments(lines)
        if FIRST_FORWARD not in moments:
            raise RuntimeError("the stage ended before its first forward pass; its log:\n" + "\n".join(lines[-10:]))
        if must_hit and not is_hit(lines):
            raise RuntimeError("the weights were not in the cache; the log:\n" + "\n".join(lines[-20:]))
        self._end("finetunejob", name)
        self._empty(folder)
        # Watches and kubectl are asynchronous: the child may be seen before kubectl has returned.
        return durations(in_order(moments, STAGES), start=start, stages=STAGES)

    def bare(self) -> dict[str, float]:
        """The same model in the same image, by the library alone."""
        pod = bare_pod(
            name="bare",
            namespace=self.namespace,
            image=self.images.trainer,
            s3=self.s3,
            secret=SECRET,
            bucket=MODEL[0],
            prefix=MODEL[1],
            limits=self.limits,
        )
        with self._watched(jobs=False) as seen:
            start = time.time()
            self.kube.apply(pod)
            seen.moments["applied"] = time.time()
            lines = self._log(seen, lambda line: FIRST_FORWARD in line)
        moments = seen.moments | bare_moments(lines)
        if FIRST_FORWARD not in moments:
            raise RuntimeError("the bare pod failed; its log:\n" + "\n".join(lines[-10:]))
        self._end("pod", "bare")
        return durations(in_order(moments, BARE_STAGES), start=start, stages=BARE_STAGES)

    @contextmanager
    def _watched(self, *, jobs: bool) -> Iterator[_Seen]:
        seen = _Seen()
        with ExitStack() as stack:
            stack.enter_context(watching(self.kube, "pods", self.namespace, seen.see_pod))
            if jobs:
                stack.enter_context(watching(self.kube, "jobs.batch", self.namespace, seen.child))
            time.sleep(2)  # kubectl tells of no watch that stands
            yield seen

    def _log(self, seen: _Seen, last: Callable[[str], bool]) -> list[str]:
        end = time.monotonic() + WITHIN
        while seen.pod is None:
            if time.monotonic() > end:
                raise TimeoutError(f"no pod ran within {WITHIN:.0f} s; seen: {seen.moments}")
            time.sleep(0.05)
        return log_until(self.kube, self.namespace, seen.pod, last, within=WITHIN)

    def _job(self, name: str, folder: str, runtime: str) -> dict[str, Any]:
        job: dict[str, Any] = yaml.safe_load((ROOT / "examples/support-topic.yaml").read_text())
        job["metadata"] = {"name": name, "namespace": self.namespace}
        spec = job["spec"]
        spec["runtimeRef"] = {"name": runtime}
        spec["resources"] = {"gpusPerNode": 0}
        spec["output"]["uri"] = f"s3://{BUCKET}/{folder}"
        for part in ("model", "dataset", "output"):
            spec[part]["credentialsRef"] = {"name": SECRET}
        return job

    def _end(self, kind: str, name: str) -> None:
        self.kube.kubectl("delete", kind, name, "-n", self.namespace, "--cascade=foreground", "--wait")

    def _empty(self, folder: str) -> None:
        client = self.s3.client()
        ensure_bucket(client, BUCKET)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=folder)
        for key in [item["Key"] for page in pages for item in page.get("Contents", [])]:
            client.delete_object(Bucket=BUCKET, Key=key)


def _is_first_batch(line: str) -> bool:
    entry = json.loads(line)
    return bool(entry["event"] == "progress" and entry.get("step") == "baseline")


def in_order(moments: Mapping[str, float], stages: tuple[str, ...]) -> dict[str, float]:
    """Pull a moment that was seen late to the next one's: a watch may tell of it after the pod's own log did."""
    ordered, latest = dict(moments), float("inf")
    for stage in reversed(stages):
        latest = ordered[stage] = min(ordered[stage], latest)
    return ordered
