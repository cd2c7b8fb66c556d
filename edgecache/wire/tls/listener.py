"""TLS on a listening socket: a connection is admitted, proves itself, and only then becomes a `ClientConnection`.

It counts from the moment it is accepted, in all and by address, and has `head_timeout` for everything up to the end of
the handshake, a PROXY header included: who never finishes costs a place for that long, and no more.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from edgecache.semantics.client_address import Trust, plain_address
from edgecache.tasks import spawn
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1.connection_state import Event
from edgecache.wire.h1.deadlines import LINGER
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.handler import Site
from edgecache.wire.proxy_protocol import FIXED, LONGEST_V2, read_preface
from edgecache.wire.refusal import Refusal
from edgecache.wire.tls.contexts import pop_name

MOST_AT_ONCE: Final = 16  # connections accepted in one turn of the event loop
PAUSE: Final = 1.0  # seconds, where the machine has no room for one more
UNSENT: Final = 64 * 1024  # bytes that wait for a client before it counts as slow: eight times that by default
NO_ROOM: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
FAILURES: Final = {  # what OpenSSL calls it, in our words: a closed set, for metrics
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no-certificate",
    "CERTIFICATE_VERIFY_FAILED": "bad-certificate",
    "UNSUPPORTED_PROTOCOL": "version",
    "WRONG_VERSION_NUMBER": "version",
    "NO_SHARED_CIPHER": "cipher",
    "HTTP_REQUEST": "plain-http",
}
NOT_A_POP: Final = "not-a-pop"
REASONS: Final = (*dict.fromkeys(FAILURES.values()), NOT_A_POP, "timeout", "closed", "other")


class SecureSite(Site, Protocol):
    """What secured connections need beyond what plain ones do."""

    def admit(self, client: str) -> BadRequest | None:
        """Let one more connection from `client` in, or say why not."""

    def release(self, client: str) -> None:
        """One that was let in has ended before it was a client's."""

    def handshake_failed(self, reason: str) -> None:
        """A handshake failed; `reason` is one of `REASONS`."""


class SecureConnection(ClientConnection):
    """A client's connection over TLS; of a POP, if `for_pops`. It is admitted before its handshake."""

    __slots__ = ("_for_pops", "fit")

    admitted = True

    def __init__(self, site: Site, client: str, *, for_pops: bool = False) -> None:
        super().__init__(site, b"https", client)
        self._for_pops = for_pops
        self.fit = False  # the handshake is over, and the peer is who it has to be

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The handshake is over."""
        secured = transport.get_extra_info("ssl_object")
        self.server_name = secured.server_name.encode()
        if self._for_pops:
            self.peer_pop = pop_name(transport.get_extra_info("peercert"))
            if not self.peer_pop:
                self._on(Event.CLOSE)
                cast(asyncio.Transport, transport).abort()
                return
        self.tag = b"\t%b\t%b\n" % (self.server_name, self.peer_pop)
        self.fit = True
        cast(asyncio.WriteTransport, transport).set_write_buffer_limits(high=UNSENT)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        if self.fit:
            super().connection_lost(exc)


class SecureListener:
    """Accepts on one socket. Mutable state: who has not finished the handshake, and whether it accepts."""

    def __init__(
        self,
        listener: socket.socket,
        site: SecureSite,
        context: Callable[[], ssl.SSLContext],
        *,
        for_pops: bool = False,
        says_preface: Trust | None = None,
    ) -> None:
        self._socket = listener
        self._site = site
        self._context = context  # the one of the moment
        self._for_pops = for_pops
        self._says_preface = says_preface  # whether a peer begins with a PROXY header; None: nobody does
        self._accepting = False
        self.under_way: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Accept from now on."""
        self._socket.setblocking(False)
        self._accepting = True
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self.accept, MOST_AT_ONCE)

    def close(self) -> None:
        """Accept no more, and close the socket."""
        if self._socket.fileno() >= 0:
            self._accepting = False
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()

    def accept(self, most: int) -> None:
        """Accept up to `most` of those that wait."""
        for _ in range(most):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in NO_ROOM:
                    self._pause()
                    return
                continue  # it has left again
            accepted.setblocking(False)
            task = spawn(self._receive(accepted, plain_address(address[0])), "handshake")
            self.under_way.add(task)
            task.add_done_callback(self.under_way.discard)

    def _pause(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket.fileno())
        loop.call_later(PAUSE, lambda: self.start() if self._accepting else None)

    async def _receive(self, accepted: socket.socket, peer: str) -> None:
        """Make a client out of an accepted connection, or close it."""
        try:
            async with asyncio.timeout(self._site.head_timeout):
                client = await self._admitted(accepted, peer)
                await self._shake_hands(accepted, client)
        except BadRequest as error:
            self._site.refused(error)
            self._site.answered(Refusal(self._site, error, peer, b"https"), 0.0)  # closed without a word of HTTP
        except OSError as error:  # SSLError and TimeoutError are some
            self._site.handshake_failed(reason_of(error))

    async def _admitted(self, accepted: socket.socket, peer: str) -> str:
        """The address of the client, who is let in; raises BadRequest or OSError, and closes, if it is not."""
        try:
            client = peer
            if self._says_preface is not None and self._says_preface(peer):
                client = await _preface_of(accepted) or peer
            if refusal := self._site.admit(client):
                raise refusal
        except BaseException:
            accepted.close()
            raise
        return client

    async def _shake_hands(self, accepted: socket.socket, client: str) -> None:
        """The event loop closes the socket from here on."""
        connection = SecureConnection(self._site, client, for_pops=self._for_pops)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._context(),
                ssl_handshake_timeout=self._site.head_timeout,
                ssl_shutdown_timeout=LINGER,
            )
        finally:
            if not connection.fit:
                self._site.release(client)
        if not connection.fit:
            self._site.handshake_failed(NOT_A_POP if self._for_pops else "closed")

    async def end(self) -> None:
        """Cut who has not finished the handshake."""
        for task in tuple(self.under_way):
            task.cancel()
        if self.under_way:
            await asyncio.wait(self.under_way)


def reason_of(error: OSError) -> str:
    """Why a handshake failed, in a word of `REASONS`."""
    if isinstance(error, ssl.SSLError):
        return FAILURES.get(error.reason or "", "other")
    if isinstance(error, TimeoutError) or (type(error) is ConnectionAbortedError and "too long" in str(error)):
        return "timeout"
    return "closed" if isinstance(error, ConnectionError) else "other"


async def _preface_of(accepted: socket.socket) -> str:
    """The client that the PROXY header names, empty if none; what follows the header stays in the socket."""
    have = 0
    while True:
        await _readable(accepted, have + 1)
        data = accepted.recv(FIXED + LONGEST_V2, socket.MSG_PEEK)
        if len(data) <= have:
            raise ConnectionResetError("it left before it said all")
        have = len(data)
        preface = read_preface(data)
        if preface is not None:
            accepted.recv(preface.size)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return preface.client


async def _readable(accepted: socket.socket, size: int) -> None:
    """Wait until `size` bytes are there, or the end."""
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    loop = asyncio.get_running_loop()
    there: asyncio.Future[None] = loop.create_future()
    loop.add_reader(accepted.fileno(), _wake, there)
    try:
        await there
    finally:
        loop.remove_reader(accepted.fileno())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
