"""Lets an operator work at once, or once it leads where several share a Lease.

Between ``__main__`` and the parts: a standby has listed the cluster and hears its watches, so that it can take over
within a moment; it has no endpoint for live reports, to which pods come again (``docs/operating.md``).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from finetune_operator.cluster.gateway import KubernetesGateway
from finetune_operator.process.engine import Engine
from finetune_operator.process.leader import Elector
from finetune_operator.process.live import taking_reports
from finetune_operator.process.settings import Settings

__all__ = ["elector_of", "leave_at_once", "working"]

log = logging.getLogger(__name__)


def leave_at_once(told: str) -> None:
    """End the process without a moment in which it could still write; kubelet starts a new one, as a standby."""
    log.critical("%s; this process ends", told, extra={"event": "LeaseLost"})
    logging.shutdown()
    os._exit(1)


def elector_of(
    settings: Settings, gateway: KubernetesGateway, engine: Engine, *, lost: Callable[[str], None] = leave_at_once
) -> Elector | None:
    """Return what holds the Lease of the settings, and fence the gateway with it; None where they name none."""
    if not settings.lease:
        return None

    def waits(holder: str) -> None:
        if engine.stand_by():
            log.info("Standing by", extra={"event": "StandingBy", "fields": {"leader": holder}})

    elector = Elector(
        gateway,
        namespace=settings.namespace,
        name=settings.lease,
        me=settings.identity,
        terms=settings.terms,
        stamp=lambda: gateway.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        lost=lost,
        waits=waits,
    )
    gateway.may_write = engine.may_write = elector.may_write
    return elector


@asynccontextmanager
async def working(
    engine: Engine, gateway: KubernetesGateway, settings: Settings, elector: Elector | None
) -> AsyncIterator[None]:
    """Run the engine while the block runs; it works once it leads, or at once where there is no Lease."""
    if elector is None:
        async with taking_reports(engine, gateway, settings), engine.running():
            yield
        return
    try:
        async with engine.running(leads=False):
            engine.spawn("lease", elector.run())
            engine.spawn("leader", _leading(engine, gateway, settings, elector))
            yield
    finally:
        await elector.release()  # after the last write


async def _leading(engine: Engine, gateway: KubernetesGateway, settings: Settings, elector: Elector) -> None:
    await elector.leads.wait()
    async with taking_reports(engine, gateway, settings):
        engine.lead()
        await asyncio.Event().wait()
