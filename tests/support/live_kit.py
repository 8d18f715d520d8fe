"""What the tests of live reports share: tokens as Kubernetes makes them, a job with a pod in a cache, an endpoint."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp

from finetune_api.names import PROGRESS_AUDIENCE, child_labels, child_name
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.protocol import JobKey, Raw
from finetune_operator.process.certificates import Authority, ServerCertificate, new_authority
from finetune_operator.process.listener import Bounds
from finetune_operator.process.progress import PATH, ProgressEndpoint
from finetune_operator.process.reports import ReportBook
from finetune_operator.process.tokens import TokenReviews
from tests.support.memory_gateway import MemoryCluster, MemoryGateway

__all__ = ["REPORT", "Bench", "Pod", "client_context", "review_of", "token_of"]

REPORT: Final[dict[str, Any]] = {"v": 1, "sequence": 1, "phase": "Training", "percent": 10}


@dataclass(frozen=True)
class Pod:
    """One pod of one job, as a token names it."""

    job: str = "support-intent"
    namespace: str = "team-a"
    job_uid: str = "0d5ac3c4-0000-4000-8000-000000000001"
    uid: str = "7c1f0e52-0000-4000-8000-000000000001"
    child_uid: str = "5e1b8a17-0000-4000-8000-000000000001"
    name: str = "support-intent-0d5ac3c4-train-x7k2p"


def token_of(pod: Pod, audience: str = PROGRESS_AUDIENCE, *, salt: str = "") -> str:
    """A token that claims to be of a pod; only the cluster's ``tokens`` make it good."""
    claims = {
        "aud": [audience],
        "kubernetes.io": {"namespace": pod.namespace, "pod": {"name": pod.name, "uid": pod.uid}},
        "salt": salt,
    }
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{part}.c2lnbmVk"


def review_of(pod: Pod, audience: str = PROGRESS_AUDIENCE) -> Raw:
    """Status of the TokenReview of a good token, as Kubernetes 1.34 answers."""
    return {
        "authenticated": True,
        "audiences": [audience],
        "user": {
            "username": f"system:serviceaccount:{pod.namespace}:default",
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod.name],
                "authentication.kubernetes.io/pod-uid": [pod.uid],
            },
        },
    }


def client_context(authority: Authority) -> ssl.SSLContext:
    """TLS as a pod does it: the operator's authority and no other."""
    return ssl.create_default_context(cadata=authority.pem)


@dataclass
class Bench:
    """An endpoint with everything it needs, on a port of this machine."""

    bounds: Bounds = field(default_factory=Bounds)
    cache: Cache = field(default_factory=Cache)
    cluster: MemoryCluster = field(default_factory=lambda: MemoryCluster(now=lambda: datetime.now(UTC)))
    authority: Authority = field(default_factory=lambda: new_authority(datetime.now(UTC)))
    woken: list[tuple[JobKey, float]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    port: int = 0
    gateway: Any = None
    seconds: float = 0.0
    """Added to the clock of rates and verdicts."""

    def add(self, pod: Pod, *, token: str | None = None, created: int = 0, **status: Any) -> str:
        """Put a job with a running pod into the cache; returns a token that is good for it."""
        stamp = (datetime(2026, 3, 1, tzinfo=UTC) + timedelta(seconds=created)).strftime("%Y-%m-%dT%H:%M:%SZ")
        labels = child_labels(pod.job, pod.job_uid, "train")
        job = {"metadata": {"namespace": pod.namespace, "name": pod.job, "uid": pod.job_uid}, "status": status}
        child = {
            "metadata": {
                "namespace": pod.namespace,
                "name": child_name(pod.job, pod.job_uid, "train"),
                "uid": pod.child_uid,
                "labels": labels,
                "ownerReferences": [{"uid": pod.job_uid, "controller": True}],
            }
        }
        raw = {
            "metadata": {
                "namespace": pod.namespace,
                "name": pod.name,
                "uid": pod.uid,
                "labels": labels,
                "creationTimestamp": stamp,
                "ownerReferences": [{"uid": pod.child_uid, "controller": True}],
            },
            "status": {"phase": "Running"},
        }
        self.cache.put("jobs", job)
        self.cache.put("children", child)
        self.cache.put("pods", raw)
        token = token or token_of(pod)
        self.cluster.tokens[token] = review_of(pod)
        return token

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Bench]:
        """Serve while the block runs."""
        loop = asyncio.get_running_loop()

        def clock() -> float:
            return loop.time() + self.seconds

        self.book = ReportBook(now=lambda: datetime.now(UTC), clock=clock)
        endpoint = ProgressEndpoint(
            cache=self.cache,
            reviews=TokenReviews(self.gateway or MemoryGateway(self.cluster), clock=clock),
            book=self.book,
            wake=lambda key, wait: self.woken.append((key, wait)),
            clock=clock,
            counted=self.answers.append,
        )
        certificate = ServerCertificate(self.authority, "localhost", now=lambda: datetime.now(UTC))
        async with endpoint.serving(certificate, port=0, host="127.0.0.1", bounds=self.bounds) as self.port:
            yield self

    async def post(
        self, token: str | None, body: dict[str, Any] | bytes = REPORT, *, path: str = PATH
    ) -> tuple[int, dict[str, Any]]:
        """Post a report; returns status and answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://localhost:{self.port}{path}", data=data, headers=headers, ssl=client_context(self.authority)
            ) as answer,
        ):
            return answer.status, await answer.json(content_type=None) if answer.status != 404 else {}
