"""Prometheus metrics of the operator, in a registry of their own.

``finetune_jobs`` is computed from the cache at scrape time; the others are counted where things happen. No label ever
carries a job's name, so the number of series is bounded by namespaces, phases and reasons.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_api import __version__
from finetune_operator.cluster.protocol import Raw
from finetune_operator.cluster.views import as_dict, as_text, metadata

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
JOB_BUCKETS: Final = (30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 28800, 86400, 259200)
RECONCILE_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)


class _Jobs(Collector):
    """Counts jobs by namespace and phase when somebody asks."""

    def __init__(self) -> None:
        self.source: Callable[[], Iterable[Raw]] = tuple

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("finetune_jobs", "FineTuneJobs by phase.", labels=["namespace", "phase"])
        tally: Tally[tuple[str, str]] = Tally()
        for job in self.source():
            phase = as_text(as_dict(job.get("status")).get("phase")) or "Pending"
            tally[as_text(metadata(job).get("namespace")) or "", phase] += 1
        for labels, count in sorted(tally.items()):
            family.add_metric(labels, count)
        yield family


class Metrics:
    """All metrics of one operator."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # left untyped; halves the series, nobody reads those
        self.registry = CollectorRegistry()
        self._jobs = _Jobs()
        self.registry.register(self._jobs)
        self._durations = Histogram(
            "finetune_job_duration_seconds",
            "Seconds from a FineTuneJob's creation to its end.",
            ["result"],
            buckets=JOB_BUCKETS,
            registry=self.registry,
        )
        self._ended = Counter(
            "finetune_jobs_ended_total",
            "FineTuneJobs that have ended, by the reason in their status.",
            ["namespace", "reason"],
            registry=self.registry,
        )
        self._reconciles = Counter(
            "finetune_reconcile_total", "Runs of the reconcile loop by result.", ["result"], registry=self.registry
        )
        self._reconcile_seconds = Histogram(
            "finetune_reconcile_duration_seconds",
            "Seconds that one run of the reconcile loop took.",
            buckets=RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "finetune_api_requests_total",
            "Requests of the reconcile loop to the Kubernetes API; code 0 had no answer.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self._resyncs = Counter(
            "finetune_resync_total", "Full lists of the cluster by result.", ["result"], registry=self.registry
        )
        self._ghosts = Counter(
            "finetune_resync_ghosts_total",
            "Objects that were gone without a watch having said so.",
            registry=self.registry,
        )
        self._reports = Counter(
            "finetune_reports_total",
            "Live reports of pods by the HTTP status that answered them.",
            ["code"],
            registry=self.registry,
        )
        self._leader = Gauge("finetune_leader", "1 while this operator may write, else 0.", registry=self.registry)
        self._depth = Gauge("finetune_workqueue_depth", "Keys that are ready to run.", registry=self.registry)
        Gauge("finetune_build_info", "1, with the version.", ["version"], registry=self.registry).labels(
            __version__
        ).set(1)

    def look_at(
        self,
        *,
        jobs: Callable[[], Iterable[Raw]],
        queue_depth: Callable[[], int],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """Say where the values come from that are computed at scrape time: known FineTuneJobs, ready keys, the role."""
        self._jobs.source = jobs
        self._leader.set_function(leads)
        self._depth.set_function(queue_depth)

    def reconciled(self, result: str, *, seconds: float) -> None:
        """Count one run of the reconcile loop."""
        self._reconciles.labels(result).inc()
        self._reconcile_seconds.observe(seconds)

    def job_ended(self, *, namespace: str, result: str, reason: str, seconds: float | None) -> None:
        """Count the end of a job; without a duration none is observed."""
        self._ended.labels(namespace, reason).inc()
        if seconds is not None:
            self._durations.labels(result).observe(seconds)

    def requested(self, verb: str, resource: str, code: int) -> None:
        """Count one request to the Kubernetes API."""
        self._requests.labels(verb, resource, str(code)).inc()

    def reported(self, code: int) -> None:
        """Count one live report."""
        self._reports.labels(str(code)).inc()

    def resynced(self, result: str, *, ghosts: int = 0) -> None:
        """Count one full list."""
        self._resyncs.labels(result).inc()
        self._ghosts.inc(ghosts)

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
