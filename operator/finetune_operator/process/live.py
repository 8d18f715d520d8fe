"""Puts the endpoint for live reports together, and lets an operator run without it.

Live reports only inform. So an installation without the rights for them, or without the Secret, has jobs that run and
tell nothing while they do, and one line in the operator's log that says what to mend.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from finetune_operator.cluster.protocol import ClusterError, ClusterGateway, ConflictError, UnavailableError
from finetune_operator.decide.plan import ReportEndpoint
from finetune_operator.process.certificates import Authority, ServerCertificate, found_or_made
from finetune_operator.process.engine import Engine
from finetune_operator.process.progress import PATH, ProgressEndpoint
from finetune_operator.process.settings import Settings
from finetune_operator.process.tokens import TokenReviews

__all__ = ["taking_reports"]

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0


@asynccontextmanager
async def taking_reports(engine: Engine, gateway: ClusterGateway, settings: Settings) -> AsyncIterator[None]:
    """Take live reports while the block runs, if the settings say where pods reach the endpoint.

    Raises
    ------
    OSError
        The port can't be had.
    """
    authority = await _authority(gateway, settings) if settings.progress_url else None
    if authority is None:
        yield
        return
    clock = asyncio.get_running_loop().time
    endpoint = ProgressEndpoint(
        cache=engine.cache,
        reviews=TokenReviews(gateway, clock=clock),
        book=engine.reports,
        wake=engine.queue.add_after,
        clock=clock,
        counted=engine.metrics.reported,
    )
    host = urlsplit(settings.progress_url).hostname or ""
    certificate = ServerCertificate(authority, host, now=gateway.now)
    async with endpoint.serving(certificate, port=settings.progress_port):
        engine.endpoint = ReportEndpoint(url=settings.progress_url + PATH, ca=authority.pem, since=gateway.now())
        try:
            yield
        finally:
            engine.endpoint = None


async def _authority(gateway: ClusterGateway, settings: Settings) -> Authority | None:
    """Return the certificate authority; None where the installation doesn't let the operator have one."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await found_or_made(
                gateway,
                namespace=settings.namespace,
                name=settings.progress_secret,
                folder=Path(settings.progress_ca_dir),
                now=gateway.now,
            )
        except (UnavailableError, ConflictError) as error:
            log.warning(
                "%s; trying again in %.0f s",
                error,
                pause,
                extra={"event": "ApiUnavailable", "fields": {"code": error.code}},
            )
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
        except ClusterError as error:
            log.error(  # noqa: TRY400 - the message says it all
                "No live reports are taken, because Secret %s/%s could not be patched: %s; upgrade the chart's "
                "release, which makes the Secret and the right to patch it, and restart the operator",
                settings.namespace,
                settings.progress_secret,
                error.message,
                extra={"event": "NoLiveReports"},
            )
            return None
