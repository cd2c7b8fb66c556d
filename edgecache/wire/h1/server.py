"""The server side of HTTP/1: a `ClientConnection` per connection, whose requests become `Exchange`s.

Requests of one connection are answered in their order: the next is read when the last is answered, however many were
pipelined. What the connection does is its `state` (`connection_state.py`); the worker's sweep checks its deadlines
(`deadlines.py`), so that no connection has a timer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import select
import struct
from collections.abc import Callable
from contextlib import suppress
from socket import SO_LINGER, SOL_SOCKET
from typing import Final, cast

from edgecache.semantics.client_address import plain_address
from edgecache.semantics.message import Request
from edgecache.wire.body import Body
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1 import deadlines
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.connection_state import (
    CLOSED,
    DATA,
    IDLE,
    LINGERING,
    READING_HEAD,
    REQUEST,
    RESPONDING,
    RESPONSE_COMPLETE,
    TRANSITIONS,
    TUNNEL,
    Event,
)
from edgecache.wire.h1.hop_by_hop import Hop
from edgecache.wire.h1.request_body import IncomingBody
from edgecache.wire.h1.request_reader import BODY_STATES, MAX_PIPELINED, H1RequestReader
from edgecache.wire.handler import Site
from edgecache.wire.refusal import Refusal, head_size

log = logging.getLogger("edgecache")


FIRST: Final = b"A"  # no known head begins with a lesser byte; the tags that may precede a head do
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: send RST, and drop what was not sent

_numbers = itertools.count(1)


class ClientConnection(H1RequestReader, asyncio.Protocol):
    """One client's connection. Mutable state: `state`, the buffer, the exchange under way, and the time of progress."""

    __slots__ = (
        "_tunnel",
        "_tunnel_room",
        "admitted",
        "fingerprint",
        "number",
        "peer",
        "peer_pop",
        "scheme",
        "server_name",
        "site",
        "tag",
        "transport",
        "unsent",
        "writable",
    )

    transport: asyncio.Transport

    def __init__(self, site: Site, scheme: bytes = b"http", client: str = "") -> None:
        self.site = site
        self.number = next(_numbers)  # unique in this process
        self.scheme = scheme
        self.peer = client  # the address, if it is another than the socket's
        self.peer_pop = b""  # the POP that the peer has proved to be
        self.server_name = b""  # the name in the TLS handshake
        self.tag = b""  # precedes the fingerprints of heads: the name of the TLS handshake; begins as no head does
        self.fingerprint: bytes | None = None  # the head under way, if the connection persists after it
        self.admitted = False  # it counts as a connection already
        self.writable = True
        self.closing = self.http_1_0 = False
        self.unsent = 0  # bytes in the transport at the last sweep
        self._chunked = False
        self._begin_reading()
        self._tunnel: Callable[[bytes], None] | None = None
        self._tunnel_room: Callable[[], None] | None = None  # called when a tunnel's client can take more

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        self.write_serialized = self.transport.write
        if not self.peer and (peer := transport.get_extra_info("peername")):
            self.peer = plain_address(peer[0])
        self.since = self.site.clock()
        if (refusal := self.site.joined(self)) is not None:
            self._turn_away(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._on(Event.CLOSE)
        self.site.left(self)
        self.site.room.closed(self.transport)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.leave()
            self.site.answered(exchange, self.site.clock() - exchange.began)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.site.bytes_in.value += len(data)
        if self.state is not IDLE:
            self._receive_more(data)
        elif data >= FIRST and self.site.answer_known(self, data):
            self.since = 0.0
            self.fresh = False
        else:
            self._on(DATA)
            self.since = self.site.clock()
            self._buffer, self._at, self._scanned = data, 0, 0
            (self.advance if self.site.run_queue.has_room() else self.wait_for_turn)()

    def _receive_more(self, data: bytes) -> None:
        """Bytes for a tunnel, or of a request that has begun to come or waits for its turn."""
        if self.state is TUNNEL:
            assert self._tunnel is not None, "set with the state"
            self.moved()
            self._tunnel(data)
        elif self.state is not LINGERING and self.state is not CLOSED:
            self._buffer = self._buffer[self._at :] + data
            self._scanned = max(0, self._scanned - self._at)
            self._at = 0
            if self.unread > MAX_PIPELINED or self.state is not READING_HEAD or self.site.run_queue.has_room():
                self.advance()
            else:
                self.wait_for_turn()

    def eof_received(self) -> bool:
        """The client has sent FIN: its requests are still answered, except where the response is of use to it alone.

        A client that has gone looks no different before something is sent to it; then the origin's work is wasted.
        """
        if not self.transport.can_write_eof():  # TLS closes both directions at once
            return False
        if self.resting:  # the rest of the body may be buffered
            self._eof = True
            return True
        if self.state is TUNNEL or self.state in BODY_STATES or (self.exchange is None and not self._has_head()):
            return False
        if self.exchange is not None and self.exchange.alone and not self.site.finish_abandoned:
            return False
        self._eof = True
        return True

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.writable = False
        self._on(Event.PAUSE_WRITING)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writable = True
        self._on(Event.RESUME_WRITING)
        if self._tunnel_room is not None:
            self._tunnel_room()
        elif self.exchange is not None:
            self.exchange.resume()
        else:
            self.advance()

    # --- requests, one after the other

    def _begin(self, request: Request, hop: Hop, raw: bytes) -> None:
        if not hop.keep_alive or self.site.draining:
            self.closing = True
        self.http_1_0 = hop.http_1_0
        self.fingerprint = raw if hop.usual else None
        if request.framing.length != 0:
            self._begin_with_body(request, raw)
            return
        self._on(REQUEST)
        exchange = self.exchange = Exchange(self, request, len(raw))
        self.site.answer(exchange)

    def _begin_with_body(self, request: Request, raw: bytes) -> None:
        site, length, body = self.site, request.framing.length, Body(self)
        most = site.max_request_body
        if site.body_limit is not None:
            most = site.body_limit(request, self.peer, most)
            if most and length is not None and length > most:
                self.refuse(BadRequest(413, "body-too-large", "the request's body is too large"), raw)
                return
        self.incoming = IncomingBody(request.framing, body, most)
        self.since = site.clock()
        exchange = self.exchange = Exchange(self, request, len(raw), body)
        if request.expects_continue and not self.unread:
            self._on(Event.REQUEST_STREAMED)
            self.site.answer(exchange)
        else:  # a slow client keeps no upstream connection, and upstream gets nothing of a malformed body
            self._on(Event.REQUEST_HELD)

    def adopt(self, exchange: Exchange) -> None:
        """Begin an exchange made by the fast path, for a known request without a body."""
        self.state = TRANSITIONS[self.state][REQUEST]
        self.fresh = self.http_1_0 = False
        self.exchange = exchange

    def exchange_done(self, exchange: Exchange) -> None:
        """The response of `exchange` has been handed to the transport."""
        now = self.since = self.site.clock()
        self.site.answered(exchange, now - exchange.began)
        self.exchange = None
        usual = self.state is RESPONDING and self.incoming is None and self._pause is None and self.writable
        if usual and not self.closing and not self._eof and self._at == len(self._buffer):
            self.state = IDLE  # as usual: RESPONSE_COMPLETE and nothing else
        elif self.closing or self.state in BODY_STATES or (self._eof and not self._has_head()):  # no request follows
            self._close_gently()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """A response is complete, and the connection persists."""
        self._on(RESPONSE_COMPLETE)
        self.incoming = None
        if self.state is not IDLE:
            return
        more = self._at < len(self._buffer)
        if more:
            self._on(DATA)
        if not self.writable:
            self._on(Event.PAUSE_WRITING)
        if (more or self._pause is not None) and not self._advancing:
            asyncio.get_running_loop().call_soon(self.advance)

    def refuse(self, error: BadRequest, head: bytes = b"", waited: float = 0.0) -> None:
        """Answer with an error of ours, and close (the bytes that follow cannot be trusted).

        `head` is the beginning of a head that became no request, in `waited` seconds. A HEAD is answered without
        content (RFC 9110 §9.3.2); a response that has begun is cut.
        """
        self.site.refused(error)
        exchange = self.exchange
        if exchange is not None and exchange.started:
            exchange.failure = error.reason
            self.cut()
            return
        self.exchange = None  # before `leave`: it must not answer too
        refused = exchange or Refusal(self.site, error, self.peer, self.scheme, head, self)
        refused.began -= waited
        head_only = refused.request.method == b"HEAD"
        answer = render.refusal(error.status, error.reason, str(error), head_only=head_only)
        self.transport.write(answer)
        if exchange is not None:
            exchange.leave()
        self._record_refusal(refused, error, answer)
        self._close_gently()

    def _record_refusal(self, exchange: Exchange, error: BadRequest, answer: bytes) -> None:
        """Have the refused `exchange` counted and logged, with what is sent."""
        size = exchange.head_out = head_size(answer)
        exchange.fields_out = answer[:size]
        exchange.refused_by(error, len(answer) - size)
        self.site.answered(exchange, self.site.clock() - exchange.began)

    def ending(self) -> bytes:
        """The end of a head: the fields of the connection (RFC 9112 §9.3), and the empty line."""
        last = self.state in BODY_STATES or (self._eof and not self._has_head())
        if last or self.closing or self.site.draining:
            self.closing = True
            return b"Connection: close\r\n\r\n"
        return b"Connection: keep-alive\r\n\r\n" if self.http_1_0 else b"\r\n"

    # --- what others may know

    def persists(self) -> bool:
        """Whether the head of the response under way ends without a field of the connection."""
        last = self.closing or self._eof or self.http_1_0 or self.site.draining
        return not last and self.state not in BODY_STATES

    @property
    def tls_version(self) -> str:
        """The version of an open connection over TLS; else empty."""
        secured = self.transport.get_extra_info("ssl_object") if self.scheme == b"https" else None
        return (secured.version() or "") if secured is not None else ""

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The exchanges under way: in HTTP/1, one at most."""
        return (self.exchange,) if self.exchange is not None else ()

    @property
    def has_unreceived(self) -> bool:
        """Whether the kernel has bytes that the event loop has not handed over: closing now would lose a request."""
        if self.transport.is_closing():
            return False
        waiting = select.poll()
        waiting.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(waiting.poll(0))

    # --- the end

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        deadlines.check(self, now)

    def close(self) -> None:
        """Close between two requests."""
        self._on(Event.CLOSE)
        self.transport.close()

    def cut(self) -> None:
        """End with RST, visibly unfinished; the kernel drops what it holds for a client that may never take it."""
        self._on(Event.CLOSE)
        socket = self.transport.get_extra_info("socket")
        if socket is not None:
            with suppress(OSError):  # it may be closed already
                socket.setsockopt(SOL_SOCKET, SO_LINGER, RESET)
        self.transport.abort()

    def _turn_away(self, error: BadRequest) -> None:
        """Answer before any request, and close without waiting: the connection must not hold what is short."""
        self.site.refused(error)
        self.closing = True
        self._on(Event.LAST_RESPONSE)
        answer = render.refusal(error.status, error.reason, str(error))
        self._record_refusal(Refusal(self.site, error, self.peer, self.scheme, b"", self), error, answer)
        self.transport.write(answer)
        self.transport.close()

    def _close_gently(self) -> None:
        """Close so that the client can read the response even if it is still sending (RFC 9112 §9.6)."""
        self.closing = True
        self._on(Event.LAST_RESPONSE)
        self._buffer, self._at = b"", 0
        self.since = self.site.clock()
        if self._pause is not None:
            self._pause = None
            self.transport.resume_reading()
        if not self._eof and self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()

    # --- back-pressure on the request's body, and leaving HTTP

    def moved(self) -> None:
        """Bytes have gone through a tunnel: the next sweep notes the time."""
        self.since = 0.0

    def become_tunnel(self, receive: Callable[[bytes], None], on_room: Callable[[], None]) -> None:
        """Hand all further bytes to `receive`; call `on_room` when the client can take more again."""
        self._on(Event.UPGRADED)
        self._tunnel, self._tunnel_room = receive, on_room
        data, self._buffer, self._at = self._buffer[self._at :], b"", 0
        if self._pause is not None:  # the client has sent much before it had the response
            self.resume_reading()
        if data:
            receive(data)
        if self._eof:  # the client has sent FIN before there was a tunnel
            self.transport.close()
