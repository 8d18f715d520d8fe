"""Listens for TLS connections in a way that whoever floods it takes little from the rest of the operator.

``asyncio.Server`` accepts whatever comes, and a TLS handshake costs more CPU than all that follows. Here a connection
is accepted only when there is a place for it, at a bounded rate; one sender has a share of the places; and every
connection ends after some seconds, whatever it waits for. What finds no place waits in the kernel.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, cast

__all__ = ["BOUNDS", "Bounds", "listening"]

log = logging.getLogger(__name__)

PAUSE_AFTER_ERROR: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What connections may take.

    Attributes
    ----------
    connections, a_peer
        Places, and those that one address may have.
    backlog
        Connections that may wait in the kernel for a place; one beyond them waits for seconds to be tried again.
    a_second
        Connections that are accepted in a second.
    handshake_seconds, seconds
        Time for the handshake, and for all that comes after it.
    """

    connections: int = 128
    a_peer: int = 32
    backlog: int = 1024
    a_second: int = 200
    handshake_seconds: float = 5.0
    seconds: float = 10.0


BOUNDS: Final = Bounds()


class _Timed(asyncio.Protocol):
    """Hands everything on to a protocol, and ends the connection when its time is over."""

    def __init__(self, inner: asyncio.Protocol, seconds: float, ended: Callable[[], None]) -> None:
        self._inner, self._seconds, self._ended = inner, seconds, ended
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, _abort, cast(asyncio.Transport, transport))
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._ended()
        self._inner.connection_lost(exc)


@asynccontextmanager
async def listening(
    protocol: Callable[[], asyncio.Protocol],
    *,
    host: str,
    port: int,
    context: ssl.SSLContext,
    bounds: Bounds = BOUNDS,
) -> AsyncIterator[int]:
    """Accept connections while the block runs; yields the port.

    Raises
    ------
    OSError
        The port can't be had.
    """
    listener = socket.create_server((host, port), backlog=bounds.backlog)
    listener.setblocking(False)
    connections: set[asyncio.Task[None]] = set()
    accepting = asyncio.create_task(_accept(listener, protocol, context, bounds, connections), name="live reports")
    try:
        yield listener.getsockname()[1]
    finally:
        for task in (accepting, *connections):
            task.cancel()
        await asyncio.gather(accepting, *connections, return_exceptions=True)
        listener.close()


async def _accept(
    listener: socket.socket,
    protocol: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext,
    bounds: Bounds,
    connections: set[asyncio.Task[None]],
) -> None:
    loop = asyncio.get_running_loop()
    places, peers = asyncio.Semaphore(bounds.connections), Counter[str]()
    while True:
        await places.acquire()
        try:
            connection, address = await loop.sock_accept(listener)
        except OSError as error:  # no descriptors left, or the peer is gone already
            places.release()
            log.warning("A connection could not be accepted: %s", error, extra={"event": "AcceptFailed"})
            await asyncio.sleep(PAUSE_AFTER_ERROR)
            continue
        peer = str(address[0])
        if peers[peer] >= bounds.a_peer:
            connection.close()
            places.release()
        else:
            peers[peer] += 1

            def over(_: asyncio.Task[None], peer: str = peer) -> None:
                places.release()
                peers[peer] -= 1
                if not peers[peer]:
                    del peers[peer]

            task = asyncio.create_task(_serve(connection, protocol, context, bounds), name="live report")
            connections.add(task)
            task.add_done_callback(connections.discard)
            task.add_done_callback(over)
        await asyncio.sleep(1 / bounds.a_second)


async def _serve(
    connection: socket.socket, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext, bounds: Bounds
) -> None:
    """Hold a place for as long as a connection lasts."""
    over = asyncio.Event()
    transport: asyncio.Transport | None = None
    try:
        with suppress(OSError):  # of a peer that speaks no TLS, doesn't trust us, or has gone
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Timed(protocol(), bounds.seconds, over.set),
                connection,
                ssl=context,
                ssl_handshake_timeout=bounds.handshake_seconds,
                ssl_shutdown_timeout=1.0,
            )
            await over.wait()
    finally:
        if transport is not None:
            _abort(transport)
        elif not over.is_set():
            connection.close()


def _abort(transport: asyncio.Transport) -> None:
    """End a connection; nothing where it has ended.

    Some releases of Python 3.11 raise then: closing a TLS connection twice makes its transport forget it.
    """
    with suppress(AttributeError):
        transport.abort()
