"""An HTTP proxy in front of a real API server that harms watch streams: what a network or a busy server does to them.

It runs on loopback in a thread of its own. Lists, reads and writes pass unharmed; of watches it cuts connections in
mid-stream, holds events back, leaves some out, and says once per kind that the version is too old (410 Gone).
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
from aiohttp import web

from tests.support.apiserver import ApiServer

__all__ = ["FAULTS", "Fault", "FaultProxy"]

Fault = Literal["cut", "late", "dropped", "gone"]
FAULTS: Final[tuple[Fault, ...]] = ("cut", "late", "dropped", "gone")

CUT_AFTER: Final = 3
"""Events after which a stream is cut."""
DROP_EACH: Final = 2
LATE_SECONDS: Final = 0.7
_HOP_BY_HOP: Final = frozenset({"connection", "content-encoding", "content-length", "host", "transfer-encoding"})


class FaultProxy:
    """A proxy that does ``faults`` to the watches that go through it.

    Attributes
    ----------
    url
        ``http://127.0.0.1:<port>``.
    done
        How often each fault was done.
    """

    def __init__(self, api: ApiServer, faults: tuple[Fault, ...]) -> None:
        self._api = api
        self._faults = faults
        self._told_gone: set[str] = set()
        self.url = ""
        self.done: Counter[Fault] = Counter()

    @classmethod
    @contextmanager
    def started(cls, api: ApiServer, *faults: Fault) -> Iterator[FaultProxy]:
        """Run a proxy while the block runs."""
        proxy = cls(api, faults)
        loop = asyncio.new_event_loop()
        stop, ready = asyncio.Event(), threading.Event()

        async def serve() -> None:
            async with proxy._serving():
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="fault proxy")
        thread.start()
        try:
            assert ready.wait(timeout=20), "the proxy does not start"
            yield proxy
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(timeout=20)
            loop.close()

    def kubeconfig(self, original: Path) -> Path:
        """Write a kubeconfig that leads through the proxy."""
        content = json.loads(original.read_text())
        content["clusters"][0]["cluster"] = {"server": self.url}
        path = original.with_name(f"{original.stem}-{self.url.rpartition(':')[2]}.kubeconfig")
        path.write_text(json.dumps(content))
        return path

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        context = ssl.create_default_context(cafile=str(self._api.ca_file))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:
            self._session = session
            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            try:
                yield
            finally:
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        body, url = await request.read(), self._api.url + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=body or None) as answer:
            if request.query.get("watch") in ("true", "1") and answer.status == 200:
                return await self._watch(request, answer)
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def _watch(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        if self._does("gone", first=request.path not in self._told_gone):
            self._told_gone.add(request.path)
            await stream.write(_GONE)
            return stream
        count = 0
        async for line in _lines(answer):
            if json.loads(line)["type"] != "BOOKMARK":
                count += 1
                if self._does("cut", first=count > CUT_AFTER) and request.transport is not None:
                    request.transport.abort()
                    return stream
                if self._does("dropped", first=count % DROP_EACH == 0):
                    continue
                if self._does("late", first=True):
                    await asyncio.sleep(LATE_SECONDS)
            await stream.write(line)
        return stream

    def _does(self, fault: Fault, *, first: bool) -> bool:
        """Whether a fault is due, counted if so."""
        due = fault in self._faults and first
        self.done[fault] += due
        return due


_STATUS: Final[dict[str, Any]] = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 1 (2)",
    "reason": "Expired",
    "code": 410,
}
_GONE: Final = json.dumps({"type": "ERROR", "object": _STATUS}).encode() + b"\n"


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Whole lines of a stream, however long they are."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line + b"\n"
