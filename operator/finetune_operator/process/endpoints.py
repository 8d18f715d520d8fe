"""The operator's two HTTP ports: health for kubelet, metrics for Prometheus.

They run on the operator's own event loop, so an answer proves that the loop turns. Kopf's liveness endpoint is not
used: it opens only after the start-up handlers have ended, and while the CRDs are missing kubelet would kill an
operator that only waits.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from finetune_operator.process.engine import Engine
from finetune_operator.process.metrics import CONTENT_TYPE

__all__ = ["serving"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(engine: Engine, *, health_port: int, metrics_port: int, host: str = "0.0.0.0") -> AsyncIterator[None]:  # noqa: S104 - kubelet and Prometheus come from outside the pod
    """Serve ``/healthz`` and ``/readyz`` on one port and ``/metrics`` on the other while the block runs.

    ``/healthz`` answers 500 with the reason when only a restart can help; ``/readyz`` answers 503 with the reason until
    the cluster has been listed and the runtime of the installation stands in it.
    """

    async def health(_: web.Request) -> web.StreamResponse:
        trouble = engine.trouble()
        return web.json_response({"ok": trouble is None, "reason": trouble}, status=200 if trouble is None else 500)

    async def readiness(_: web.Request) -> web.StreamResponse:
        lacks = engine.unready()
        return web.json_response({"ok": lacks is None, "reason": lacks}, status=200 if lacks is None else 503)

    async def metrics(_: web.Request) -> web.StreamResponse:
        return web.Response(body=engine.metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    ports: list[tuple[int, dict[str, Handler]]] = [
        (health_port, {"/healthz": health, "/readyz": readiness}),
        (metrics_port, {"/metrics": metrics}),
    ]
    runners: list[web.AppRunner] = []
    try:
        for port, routes in ports:
            app = web.Application()
            app.add_routes([web.get(path, handler) for path, handler in routes.items()])
            # An idle connection is a task, and Kopf waits 5 s at its end for every task that was begun after it.
            runner = web.AppRunner(app, handle_signals=False, access_log=None, keepalive_timeout=0, shutdown_timeout=1)
            runners.append(runner)
            await runner.setup()
            await web.TCPSite(runner, host, port).start()
        yield
    finally:
        for runner in runners:
            await runner.cleanup()
