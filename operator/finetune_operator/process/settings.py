"""Settings: what an administrator may set by environment variable, and how Kopf has to behave.

Read once by ``__main__``. Kopf is used for its watches only, so everything of it that writes to the cluster, posts,
peers or scans is off; the values and their reasons stand beside each other.
"""

from __future__ import annotations

import random
import socket
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

import kopf

from finetune_api.names import LABEL_JOB_UID
from finetune_operator.decide.leader import MOST_SECONDS, Terms
from finetune_operator.process.stateless import NoDifferences, NoProgress

__all__ = ["Backoffs", "Settings", "SettingsError", "configure_kopf"]

LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")


class SettingsError(ValueError):
    """An environment variable holds a value that can't be used; the message names it and the mend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """The operator's own settings.

    Attributes
    ----------
    health_port, metrics_port
        ``FINETUNE_HEALTH_PORT`` (8080) and ``FINETUNE_METRICS_PORT`` (9090), on all addresses of the pod.
    log_level
        ``FINETUNE_LOG_LEVEL``: DEBUG, INFO, WARNING or ERROR.
    workers
        ``FINETUNE_WORKERS`` (16): how many jobs are worked on at once.
    resync_seconds
        ``FINETUNE_RESYNC_SECONDS`` (300): time between two full lists of the cluster.
    runtime_file
        ``FINETUNE_RUNTIME_FILE``: JSON manifest of the FineTuneRuntime that the installation brings; empty: none.
    progress_url
        ``FINETUNE_PROGRESS_URL``: ``https://<host>:<port>`` by which pods reach the endpoint for live reports; empty:
        there is none.
    progress_port
        ``FINETUNE_PROGRESS_PORT`` (8443), on all addresses of the pod.
    progress_secret, namespace
        ``FINETUNE_PROGRESS_SECRET`` and ``FINETUNE_NAMESPACE``: where the endpoint's certificate authority lies.
    progress_ca_dir
        ``FINETUNE_PROGRESS_CA_DIR``: where kubelet mounts that Secret.
    lease
        ``FINETUNE_LEASE``: name of the Lease, in ``FINETUNE_NAMESPACE``, whose holder alone works; empty: there is none
        and this operator works at once.
    identity
        Who holds it: ``FINETUNE_POD_NAME`` (the host's) and ``FINETUNE_POD_UID`` (random). A container that kubelet
        starts anew goes on with the Lease of its pod, since the one before it has ended by then.
    terms
        ``FINETUNE_LEASE_SECONDS`` (15), ``FINETUNE_LEASE_RENEW_SECONDS`` (10), ``FINETUNE_LEASE_RETRY_SECONDS`` (2).
    """

    health_port: int = 8080
    metrics_port: int = 9090
    log_level: str = "INFO"
    workers: int = 16
    resync_seconds: int = 300
    runtime_file: str = ""
    progress_url: str = ""
    progress_port: int = 8443
    progress_secret: str = "finetune-operator-progress"  # noqa: S105 - its name
    progress_ca_dir: str = "/etc/finetune/progress"
    namespace: str = ""
    lease: str = ""
    identity: str = ""
    terms: Terms = field(default_factory=Terms)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the ``FINETUNE_*`` variables; absent or empty ones have their defaults.

        Raises
        ------
        SettingsError
            A value can't be used.
        """
        defaults = cls()
        if environment.get("FINETUNE_PROGRESS_URL") and not environment.get("FINETUNE_NAMESPACE"):
            raise SettingsError("FINETUNE_NAMESPACE is not set; FINETUNE_PROGRESS_URL needs it")
        lease = environment.get("FINETUNE_LEASE", "")
        if lease and not environment.get("FINETUNE_NAMESPACE"):
            raise SettingsError("FINETUNE_NAMESPACE is not set; FINETUNE_LEASE needs it")
        level = (environment.get("FINETUNE_LOG_LEVEL") or defaults.log_level).upper()
        if level not in LOG_LEVELS:
            raise SettingsError(f"FINETUNE_LOG_LEVEL is {level!r}; use one of {', '.join(LOG_LEVELS)}")
        return cls(
            health_port=_whole(environment, "FINETUNE_HEALTH_PORT", defaults.health_port, 1, 65535),
            metrics_port=_whole(environment, "FINETUNE_METRICS_PORT", defaults.metrics_port, 1, 65535),
            log_level=level,
            workers=_whole(environment, "FINETUNE_WORKERS", defaults.workers, 1, 256),
            resync_seconds=_whole(environment, "FINETUNE_RESYNC_SECONDS", defaults.resync_seconds, 1, 86400),
            runtime_file=environment.get("FINETUNE_RUNTIME_FILE", ""),
            progress_url=_https(environment, "FINETUNE_PROGRESS_URL"),
            progress_port=_whole(environment, "FINETUNE_PROGRESS_PORT", defaults.progress_port, 1, 65535),
            progress_secret=environment.get("FINETUNE_PROGRESS_SECRET") or defaults.progress_secret,
            progress_ca_dir=environment.get("FINETUNE_PROGRESS_CA_DIR") or defaults.progress_ca_dir,
            namespace=environment.get("FINETUNE_NAMESPACE", ""),
            lease=lease,
            identity=_identity(environment) if lease else "",
            terms=_terms(environment, defaults.terms),
        )


def _whole(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise SettingsError(f"{name} is {text!r}; use a whole number from {least} to {most}")
    return int(text)


def _identity(environment: Mapping[str, str]) -> str:
    pod = environment.get("FINETUNE_POD_NAME") or socket.gethostname()
    return f"{pod}_{environment.get('FINETUNE_POD_UID') or uuid.uuid4()}"


def _terms(environment: Mapping[str, str], defaults: Terms) -> Terms:
    lease = _whole(environment, "FINETUNE_LEASE_SECONDS", defaults.lease, 3, MOST_SECONDS)
    renew = _whole(environment, "FINETUNE_LEASE_RENEW_SECONDS", defaults.renew, 2, lease - 1)
    # Two tries at least before the leader has to stop writing.
    retry = _whole(environment, "FINETUNE_LEASE_RETRY_SECONDS", defaults.retry, 1, renew // 2)
    return Terms(lease=lease, renew=renew, retry=retry)


def _https(environment: Mapping[str, str], name: str) -> str:
    text = (environment.get(name) or "").rstrip("/")
    if text and not (text.startswith("https://") and urlsplit(text).hostname):
        raise SettingsError(f"{name} is {text!r}; use https://<host>:<port>")
    return text


class Backoffs:
    """Pauses between Kopf's tries of one request: jittered, at most 30 s each, about ten minutes in all.

    Finite, so that missing rights end the process where they can be seen; long, so that the upgrade of a control plane
    does not. Kopf iterates over it anew for every request.
    """

    def __iter__(self) -> Iterator[float]:
        for pause in (1.0, 2.0, 4.0, 8.0, 16.0, *[30.0] * 19):
            yield pause * random.uniform(0.75, 1.25)  # noqa: S311 - spreads load, keeps no secret


def configure_kopf(settings: kopf.OperatorSettings) -> None:
    """Set Kopf up for watching and nothing else."""
    settings.peering.standalone = True  # a stray peering object would pause the operator for ever
    settings.scanning.disabled = True  # no watch on CRDs and namespaces, no right to them needed
    settings.persistence.diffbase_storage = NoDifferences()
    settings.persistence.progress_storage = NoProgress()
    settings.posting.enabled = False  # apply.py records Events, under names that do not multiply
    settings.queueing.worker_limit = 256
    settings.queueing.idle_timeout = 0.5  # a worker holds its place for so long after its last event
    settings.queueing.exit_timeout = 2.0
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 300  # a clean reconnect now and then, from the last version
    settings.watching.client_timeout = 330
    settings.watching.inactivity_timeout = 70  # above the minute between two bookmarks of a silent watch
    settings.watching.reconnect_backoff = 1.0
    settings.watching.label_selectors["batch", "v1", "jobs"] = LABEL_JOB_UID
    settings.watching.label_selectors["", "v1", "pods"] = LABEL_JOB_UID
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = Backoffs()
    settings.execution.max_workers = 1  # no handler of ours is synchronous
    settings.process.ultimate_exiting_timeout = 25  # below the pod's grace period of 30 s
