"""An accepted connection on its way to a protocol: PROXY header, then TLS, then ALPN, each where its listener has it.

Until then it has `head_timeout`, handshake included, and is swept by the listeners. A connection over TLS is admitted
before its handshake, in all and by address: one that never finishes costs a place for that long, and no more.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from typing import Any, Final, NamedTuple, Protocol, cast

from edgecache.semantics.client_address import Trust, plain_address
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.deadlines import LINGER
from edgecache.wire.handler import Site
from edgecache.wire.protocols import HTTP_1_1, PROTOCOLS, Peer
from edgecache.wire.proxy_protocol import parse_proxy_header
from edgecache.wire.refusal import Refusal, head_size
from edgecache.wire.tls.contexts import pop_name
from edgecache.wire.tls.failures import NOT_A_POP, reason_of
from edgecache.wire.tls.read_adapter import ReadAdapter

MOST_WAITING: Final = 1024  # connections of one worker whose PROXY header is not complete
UNSENT: Final = 64 * 1024  # bytes that wait for a TLS client before it counts as slow: eight times that by default
SHORTEST: Final = 0.001  # seconds that a handshake gets at least: zero is no deadline


class ListenerSite(Site, Protocol):
    """What listeners need of the service beyond what connections do."""

    def admit(self, client: str) -> BadRequest | None:
        """Admit one more connection from `client`, or return the refusal."""

    def release(self, client: str) -> None:
        """An admitted connection has ended before it had a protocol."""

    def handshake_failed(self, reason: str) -> None:
        """A handshake failed; `reason` is one of `tls.failures.REASONS`."""


class Steps(NamedTuple):
    """What the connections of a listener go through, and the set of those that have not done so."""

    site: ListenerSite
    pending: set[AcceptedConnection]
    buffer: memoryview  # what connections over TLS read into, one after the other
    sends_header: Trust | None = None  # whether a peer begins with a PROXY header; None: no peer does
    context: Callable[[], ssl.SSLContext] | None = None  # of a handshake that begins now; None: no TLS
    for_pops: bool = False


class Step(Enum):
    """What an accepted connection waits for."""

    HEADER = auto()  # the PROXY header
    HANDSHAKE = auto()  # the end of the TLS handshake
    OVER = auto()  # nothing: it has its protocol, was refused or has ended


class AcceptedConnection(asyncio.Protocol):
    """A connection without a protocol. Mutable state: the step, and the bytes read so far."""

    transport: asyncio.Transport

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._step = Step.HEADER
        self._data = b""
        self._peer = ""  # the socket's address
        self._since = 0.0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A balancer, or a client, has connected."""
        steps = self._steps
        self.transport = cast(asyncio.Transport, transport)
        self._since = steps.site.clock()
        peername = transport.get_extra_info("peername")
        self._peer = plain_address(peername[0]) if peername else ""
        if not peername or steps.sends_header is None or not steps.sends_header(peername[0]):
            self._go_on("")
        elif len(steps.pending) >= MOST_WAITING:
            self._refuse(BadRequest(503, "too-many-connections", "too many connections are open here"))
        else:
            steps.pending.add(self)

    def data_received(self, data: bytes) -> None:
        """More of the PROXY header, perhaps with what follows it, or what follows the handshake."""
        if self._step is Step.OVER:
            return
        self._data += data
        if self._step is Step.HANDSHAKE:
            return
        try:
            header = parse_proxy_header(self._data)
        except BadRequest as error:
            self._refuse(error)
            return
        if header is not None:
            self._data = self._data[header.size :]
            self._go_on(header.client)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer has left."""
        if self._step is Step.HEADER and self._steps.context is not None:
            self._steps.site.handshake_failed("closed")
        self._settle()

    def _settle(self) -> None:
        self._step = Step.OVER
        self._steps.pending.discard(self)
        if not self.over.done():
            self.over.set_result(None)

    def _go_on(self, client: str) -> None:
        """The PROXY header is read, or there is none; it names `client`, unless that is empty."""
        if self._steps.context is None:
            self._hand_over(self.transport, HTTP_1_1, Peer(client))
        elif (refusal := self._steps.site.admit(client or self._peer)) is not None:
            self._refuse(refusal)
        else:
            self._step = Step.HANDSHAKE
            self._steps.pending.add(self)
            self._begin_handshake(client or self._peer, self._steps.context())

    def _hand_over(self, transport: asyncio.Transport, name: str, peer: Peer) -> None:
        """Leave the connection, and what is read of it, to the protocol of that name."""
        self._settle()
        protocol = PROTOCOLS[name](self._steps.site, peer)
        secured = transport is not self.transport
        transport.set_protocol(ReadAdapter(protocol, self._steps.buffer) if secured else protocol)
        protocol.connection_made(transport)
        if self._data:
            protocol.data_received(self._data)

    # --- TLS

    def _begin_handshake(self, client: str, context: ssl.SSLContext) -> None:
        """Run `start_tls` up to its only wait before anything is read, and the rest of it when the wait is over."""
        loop = asyncio.get_running_loop()
        left = self._since + self._steps.site.head_timeout - self._steps.site.clock()
        handshake = loop.start_tls(
            self.transport,
            self,
            context,
            server_side=True,
            ssl_handshake_timeout=max(SHORTEST, left),
            ssl_shutdown_timeout=LINGER,
        )
        handshake.send(None).add_done_callback(lambda _: self._end_handshake(handshake, client))
        if self._data:
            loop.call_soon(self._feed)  # just after TLS has begun

    def _end_handshake(self, handshake: Coroutine[Any, Any, asyncio.Transport | None], client: str) -> None:
        """The handshake is complete or has failed, or the peer has left."""
        site, failure = self._steps.site, "other"
        try:
            handshake.send(None)
        except StopIteration as ended:
            failure = self._hand_over_secured(ended.value, client)
        except OSError as error:  # SSLError and TimeoutError are some
            failure = reason_of(error)
        finally:
            self._settle()
            if failure:
                site.release(client)
                site.handshake_failed(failure)

    def _feed(self) -> None:
        """Hand to TLS what was read before it began."""
        data, self._data = self._data, b""
        protocol = cast(asyncio.BufferedProtocol, self.transport.get_protocol())
        while data:
            buffer = memoryview(protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]

    def _hand_over_secured(self, transport: asyncio.Transport, client: str) -> str:
        """Leave the connection to the protocol that ALPN has chosen; returns a reason for failure, or nothing."""
        secured = transport.get_extra_info("ssl_object")
        if secured is None or self._step is Step.OVER:
            return "closed"
        pop = b""
        if self._steps.for_pops and not (pop := pop_name(transport.get_extra_info("peercert"))):
            transport.abort()
            return NOT_A_POP
        self.transport.set_write_buffer_limits(high=0)  # what TLS cannot send waits in one of two buffers, not in both
        transport.set_write_buffer_limits(high=UNSENT)
        peer = Peer(client, b"https", secured.server_name.encode(), pop, admitted=True)
        self._hand_over(transport, secured.selected_alpn_protocol() or HTTP_1_1, peer)
        return ""

    # --- the end

    def _refuse(self, error: BadRequest) -> None:
        """Close, without TLS after a response of ours; over TLS there is no HTTP before the handshake."""
        site = self._steps.site
        site.refused(error)
        self._settle()
        if self._steps.context is not None:
            site.answered(Refusal(site, error, self._peer, b"https"), 0.0)
            self.transport.abort()
            return
        answer = render.refusal(error.status, error.reason, str(error))
        refused = Refusal(site, error, self._peer, b"http")
        refused.bytes_out = len(answer) - head_size(answer)
        site.answered(refused, refused.began - self._since)
        self.transport.write(answer)
        self.transport.close()

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds. A handshake has a timer of its own."""
        if self._step is not Step.HEADER or now - self._since <= self._steps.site.head_timeout:
            return
        if self._steps.context is None:
            self._refuse(BadRequest(408, "head-timeout", "the PROXY header took too long"))
        else:
            self._steps.site.handshake_failed("timeout")
            self._settle()
            self.transport.abort()

    def cut(self) -> None:
        """End at once."""
        self.transport.abort()
