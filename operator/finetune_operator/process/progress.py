"""The HTTPS endpoint that pods post their live reports to: ``POST /v1/progress`` with a bearer token.

The token says who reports; nothing in the body does. So a pod can speak for its own job only: the API server vouches
for the pod (``tokens.py``), and our own cache leads from the pod over its Job to the FineTuneJob, by uid. What is
cheap is checked first, and everything is bounded: size, rate, time. A report is kept in memory (``reports.py``) and the
job is put into the queue when there is something to show; nothing here writes to the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, cast

from aiohttp import web

from finetune_api.live import MAX_LIVE_BYTES, LiveReply, parse_live_report
from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.protocol import ClusterError, JobKey
from finetune_operator.cluster.views import as_dict, metadata
from finetune_operator.decide.status import is_terminal
from finetune_operator.process.certificates import ServerCertificate
from finetune_operator.process.listener import BOUNDS, Bounds, listening
from finetune_operator.process.reports import MAX_JOBS, ReportBook
from finetune_operator.process.tokens import BadTokenError, PodIdentity, TokenReviews, claimed_identity

__all__ = ["PATH", "ProgressEndpoint", "Rate", "Refused", "job_of"]

log = logging.getLogger(__name__)

PATH: Final = "/v1/progress"
BODY_SECONDS: Final = 5.0
"""Time for the body of a report to arrive."""

RENEW_SECONDS: Final = 3600.0
SECONDS_A_REPORT: Final = 1.0
BURST: Final = 5
"""A pod may report once a second, and a few times at once."""


class Refused(Exception):  # noqa: N818 - an answer, and no error of ours
    """A report that is not taken.

    Attributes
    ----------
    status
        HTTP status.
    reason
        A sentence for the pod's log.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Rate:
    """How often something may happen, by key (the generic cell rate algorithm, ITU-T I.371)."""

    def __init__(self, *, seconds: float, burst: int, clock: Callable[[], float], most: int = MAX_JOBS) -> None:
        self._seconds, self._burst, self._clock, self._most = seconds, burst, clock, most
        self._due: dict[object, float] = {}

    def allows(self, key: object) -> bool:
        """Count one, if it may happen now."""
        now = self._clock()
        due = max(self._due.pop(key, now), now)
        allowed = due - now <= (self._burst - 1) * self._seconds
        self._due[key] = due + self._seconds if allowed else due
        if len(self._due) > self._most:
            del self._due[next(iter(self._due))]  # the one that has been quiet for longest
        return allowed


def job_of(pod: PodIdentity, cache: Cache) -> tuple[JobKey, str]:
    """Return key and uid of the FineTuneJob that a pod works for.

    Raises
    ------
    Refused
        It works for none, has ended, has been replaced, or its job has ended.
    """
    found = cache.owner_of(pod.namespace, pod.name)
    if found is None or found[0].uid != pod.uid:
        raise Refused(403, "the pod is not known as one of a FineTuneJob")
    view, key, uid = found
    child = next((c for c in cache.children(pod.namespace, uid) if c.uid == view.job_uid), None)
    job = cache.job(key)
    if child is None or child.owner_uid != uid or job is None or metadata(job).get("uid") != uid:
        raise Refused(403, "the pod belongs to no FineTuneJob")
    if is_terminal(as_dict(job.get("status"))):
        raise Refused(410, "the job has ended")
    newest = max(
        (one for one in cache.pods(pod.namespace, uid) if one.job_uid == child.uid),
        key=lambda one: (one.created, one.name),
    )
    if newest.uid != pod.uid or view.phase in ("Succeeded", "Failed") or child.ended is not None:
        raise Refused(410, "the pod has ended, or another one has taken its place")
    return key, uid


class ProgressEndpoint:
    """Takes live reports.

    Parameters
    ----------
    wake
        Called with a job, and in how many seconds it is to be looked at.
    counted
        Called with the HTTP status of every answer.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        reviews: TokenReviews,
        book: ReportBook,
        wake: Callable[[JobKey, float], None],
        clock: Callable[[], float],
        counted: Callable[[int], None] = lambda _status: None,
    ) -> None:
        self._cache, self._reviews, self._book = cache, reviews, book
        self._wake, self._counted = wake, counted
        self._reports = Rate(seconds=SECONDS_A_REPORT, burst=BURST, clock=clock)
        self._unknown = Rate(seconds=SECONDS_A_REPORT, burst=BURST, clock=clock)

    @asynccontextmanager
    async def serving(
        self,
        certificate: ServerCertificate,
        *,
        port: int,
        host: str = "0.0.0.0",  # noqa: S104 - pods come from outside
        bounds: Bounds = BOUNDS,
    ) -> AsyncIterator[int]:
        """Take reports while the block runs; yields the port."""
        app = web.Application(client_max_size=MAX_LIVE_BYTES)
        app.add_routes([web.post(PATH, self._handle)])
        runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            keepalive_timeout=0,
            shutdown_timeout=1,
            lingering_time=0.5,
            max_line_size=MAX_LIVE_BYTES,
            max_field_size=MAX_LIVE_BYTES,
        )
        await runner.setup()
        server = runner.server
        assert server is not None  # noqa: S101 - it is set up
        renewing = asyncio.create_task(_renew(certificate), name="certificate")
        try:
            protocol = cast(Callable[[], asyncio.Protocol], server)
            async with listening(protocol, host=host, port=port, context=certificate.context, bounds=bounds) as actual:
                yield actual
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            seconds = await self._take(request)
        except Refused as refused:
            self._counted(refused.status)
            answer = web.json_response({"message": refused.reason}, status=refused.status)
            if refused.status == 401:
                answer.headers["WWW-Authenticate"] = "Bearer"
        else:
            self._counted(200)
            answer = web.json_response(LiveReply(next_seconds=seconds).to_wire())
        answer.force_close()  # a place is for those who have something to say
        return answer

    async def _take(self, request: web.Request) -> int:
        """Take one report; return in how many seconds the next one is wanted.

        Raises
        ------
        Refused
            It is not taken.
        """
        if (request.content_length or 0) > MAX_LIVE_BYTES:
            raise Refused(413, f"a report has at most {MAX_LIVE_BYTES} bytes")
        pod = await self._sender(request.headers.get("Authorization", ""))
        key, uid = job_of(pod, self._cache)
        if not self._reports.allows(pod.uid):
            raise Refused(429, "the pod reports too often")
        report = parse_live_report(await _body(request))
        if report is None:
            raise Refused(400, "the body is no live report of version 1")
        wait = self._book.take(key, uid, pod.uid, report)
        if wait is not None:
            self._wake(key, wait)
        return max(1, min(3600, round(self._book.pace)))

    async def _sender(self, authorization: str) -> PodIdentity:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        claimed = claimed_identity(token) if scheme.lower() == "bearer" else None
        if claimed is None:
            raise Refused(401, "a bearer token of a pod for our audience is needed")
        known = self._reviews.known(token)
        if known is not None:
            return known
        job_of(claimed, self._cache)  # before the API server is asked: what the token claims may be nothing to us
        if not self._unknown.allows(claimed.uid):
            raise Refused(429, "too many tokens of one pod")
        try:
            pod = await self._reviews.identify(token)
        except BadTokenError:
            raise Refused(401, "the API server does not vouch for the token") from None
        except ClusterError as error:
            log.warning("A token could not be reviewed: %s", error, extra={"event": "TokenNotReviewed"})
            raise Refused(503, "the token could not be reviewed; try again later") from None
        return pod


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise Refused(408, f"the report did not arrive within {BODY_SECONDS:.0f} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise Refused(413, f"a report has at most {MAX_LIVE_BYTES} bytes") from None
    except ConnectionError:
        raise Refused(400, "the sender has gone before its report was read") from None


async def _renew(certificate: ServerCertificate) -> None:
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        try:
            renewed = certificate.renew()
        except Exception:
            log.exception("The certificate could not be renewed", extra={"event": "CertificateNotRenewed"})
            continue
        if renewed:
            log.info("The certificate for live reports was renewed", extra={"event": "CertificateRenewed"})
