"""A worker's listening sockets: plain, for TLS and for POPs. One accept loop, the event loop's, serves all of them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from edgecache.semantics.client_address import Trust
from edgecache.wire.accepted import AcceptedConnection, ListenerSite, Steps
from edgecache.wire.protocols import Peer, http_1_1
from edgecache.wire.run_queue import RunQueue
from edgecache.wire.tls.read_adapter import READ_AT_ONCE

BACKLOG: Final = 4096  # connections that wait to be accepted
MOST_UNSENT: Final = 256 * 1024  # bytes of responses that the kernel holds for a client beyond what is on its way to it

Factory = Callable[[], asyncio.Protocol]


class Listeners:
    """Copies of listening sockets, served for `site`. Mutable state: the servers, and connections without a protocol.

    `context` gives the TLS context of a handshake that begins now, with a POP or with any client.
    """

    def __init__(
        self,
        site: ListenerSite,
        context: Callable[[bool], ssl.SSLContext],
        is_trusted: Trust,
        *,
        expects_header: bool,
    ) -> None:
        self.pending: set[AcceptedConnection] = set()
        self._run_queue = site.run_queue
        self._servers: list[tuple[asyncio.Server, socket.socket, Factory]] = []
        sends_header = is_trusted if expects_header else None
        steps = Steps(site, self.pending, memoryview(bytearray(READ_AT_ONCE)), sends_header)
        tls = steps._replace(context=partial(context, False))
        pops = steps._replace(sends_header=None, context=partial(context, True), for_pops=True)
        self._plain: Factory = partial(AcceptedConnection, steps) if expects_header else partial(http_1_1, site, Peer())
        self._tls, self._pops = partial(AcceptedConnection, tls), partial(AcceptedConnection, pops)

    async def serve(
        self, plain: Sequence[socket.socket], tls: Sequence[socket.socket], pops: Sequence[socket.socket]
    ) -> None:
        """Serve these sockets; they stay the caller's."""
        loop = asyncio.get_running_loop()
        for made, listeners in ((self._plain, plain), (self._tls, tls), (self._pops, pops)):
            factory = partial(_accepted, self._run_queue, made)
            for listener in listeners:
                own = _own(listener)
                server = await loop.create_server(factory, sock=own, backlog=BACKLOG)
                self._servers.append((server, own, factory))

    def sweep(self, now: float) -> None:
        """End the connections whose PROXY header is overdue."""
        for connection in tuple(self.pending):
            connection.sweep(now)

    async def drain(self) -> None:
        """Accept the connections that wait in the accept queues, which closing would reset, and no more."""
        waiting = [(accepted, factory) for _, own, factory in self._servers for accepted in _waiting(own)]
        self.close()
        for accepted, factory in waiting:
            await _adopt(accepted, factory)

    async def settled(self) -> None:
        """Wait until no connection is without its protocol; each has its deadline."""
        while self.pending:
            await asyncio.wait([connection.over for connection in self.pending])

    def close(self) -> None:
        """Accept no more."""
        for server, _, _ in self._servers:
            server.close()
        self._servers.clear()

    async def end(self) -> None:
        """Cut the connections that have no protocol yet."""
        for connection in tuple(self.pending):
            connection.cut()
        await self.settled()


def _accepted(run_queue: RunQueue, factory: Factory) -> asyncio.Protocol:
    """The protocol of a connection that was just accepted."""
    run_queue.note_accepted()
    return factory()


def _own(listener: socket.socket) -> socket.socket:
    """A copy of `listener`, whose connections inherit what is set here."""
    own = listener.dup()
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)
    return own


def _waiting(listener: socket.socket) -> list[socket.socket]:
    """The connections in the accept queue of `listener`."""
    waiting: list[socket.socket] = []
    with suppress(OSError):  # BlockingIOError: the queue is empty
        while len(waiting) < BACKLOG:
            waiting.append(listener.accept()[0])
    return waiting


async def _adopt(accepted: socket.socket, factory: Factory) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(factory, accepted)
    except OSError:
        accepted.close()
