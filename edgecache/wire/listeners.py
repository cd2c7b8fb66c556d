"""A worker's listening sockets: plain, for TLS and for POPs; and who has come through them but is no client yet."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from edgecache.semantics.client_address import Trust
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.proxy_protocol import PrefacedConnection
from edgecache.wire.tls.listener import SecureListener, SecureSite

BACKLOG: Final = 4096  # connections that wait to be accepted
MOST_UNSENT: Final = 256 * 1024  # bytes of answers that the kernel holds for a client beyond what is on its way to it


class Listeners:
    """Copies of listening sockets, served for `site`."""

    def __init__(
        self,
        site: SecureSite,
        context: Callable[[bool], ssl.SSLContext],
        is_trusted: Trust,
        *,
        expects_preface: bool,
    ) -> None:
        self._site = site
        self._context = context  # of a handshake that begins now, with a POP or with anybody
        self._is_trusted = is_trusted
        self._expects_preface = expects_preface  # whether trusted peers begin with a PROXY header
        self._servers: list[tuple[asyncio.Server, socket.socket]] = []
        self._secure: list[SecureListener] = []
        self.prefaced: set[PrefacedConnection] = set()  # whose PROXY header is not complete

    async def serve(
        self, plain: Sequence[socket.socket], tls: Sequence[socket.socket], pops: Sequence[socket.socket]
    ) -> None:
        """Serve these sockets; they stay the caller's."""
        loop = asyncio.get_running_loop()
        for listener in plain:
            own = _own(listener)
            server = await loop.create_server(self._accepted, sock=own, backlog=BACKLOG)
            self._servers.append((server, own))
        for kind, listeners in ((False, tls), (True, pops)):
            self._secure += [self._secured(_own(listener), for_pops=kind) for listener in listeners]
        for secure in self._secure:
            secure.start()

    def _secured(self, listener: socket.socket, *, for_pops: bool) -> SecureListener:
        says_preface = self._is_trusted if self._expects_preface and not for_pops else None
        context = partial(self._context, for_pops)
        return SecureListener(listener, self._site, context, for_pops=for_pops, says_preface=says_preface)

    def _accepted(self) -> asyncio.Protocol:
        if self._expects_preface:
            return PrefacedConnection(self._site, self._is_trusted, self.prefaced)
        return ClientConnection(self._site)

    def sweep(self, now: float) -> None:
        """End whose PROXY header is overdue."""
        for preface in tuple(self.prefaced):
            preface.sweep(now)

    async def drain(self) -> None:
        """Accept no more but who waits already."""
        waiting = self._accept_waiting()
        for secure in self._secure:
            secure.accept(BACKLOG)
        self.close()
        for accepted in waiting:
            await self._adopt(accepted)

    async def hands_shaken(self) -> None:
        """Wait until no handshake is under way, and no PROXY header."""
        while shaking := {task for secure in self._secure for task in secure.under_way}:
            await asyncio.wait(shaking)
        while self.prefaced:  # each has its deadline
            await asyncio.wait([preface.over for preface in self.prefaced])

    def close(self) -> None:
        """Accept no more."""
        for server, _ in self._servers:
            server.close()
        self._servers.clear()
        for secure in self._secure:
            secure.close()

    async def end(self) -> None:
        """Cut who is no client yet."""
        for preface in tuple(self.prefaced):
            preface.cut()
        for secure in self._secure:
            await secure.end()

    def _accept_waiting(self) -> list[socket.socket]:
        """Who waits in the accept queues: closing a listening socket would reset them."""
        waiting: list[socket.socket] = []
        for _, listener in self._servers:
            with suppress(OSError):  # BlockingIOError: the queue is empty
                while len(waiting) < BACKLOG:
                    waiting.append(listener.accept()[0])
        return waiting

    async def _adopt(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(self._accepted, accepted)
        except OSError:
            accepted.close()


def _own(listener: socket.socket) -> socket.socket:
    """A copy of `listener`, whose connections inherit what is set here."""
    own = listener.dup()
    own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)
    return own
