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
from enum import Enum, auto
from math import inf
from socket import SO_LINGER, SOL_SOCKET
from typing import Final, cast

from edgecache.semantics.client_address import plain_address
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Result
from edgecache.semantics.rope import Content
from edgecache.wire.body import Body
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1 import deadlines
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.body_framing import BadBody
from edgecache.wire.h1.connection_state import (
    CLOSED,
    DATA,
    EMPTIED,
    HOLDING,
    IDLE,
    LINGERING,
    READING_BODY,
    READING_HEAD,
    REQUEST,
    RESPONDING,
    RESPONSE_COMPLETE,
    TUNNEL,
    Event,
    next_state,
)
from edgecache.wire.h1.request_body import IncomingBody
from edgecache.wire.h1.response_writer import H1ResponseWriter
from edgecache.wire.handler import Site
from edgecache.wire.refusal import Refusal, head_size

log = logging.getLogger("edgecache")
MAX_PIPELINED: Final = 64 * 1024  # bytes read ahead of the request being answered
MOST_AT_ONCE: Final = 32  # pipelined requests taken in one turn of the event loop
MOST_HELD: Final = 64 * 1024  # bytes of a body that are here before anything of it goes upstream
FIRST: Final = b"A"  # no known head begins with a lesser byte; the tags that may precede a head do
RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: send RST, and drop what was not sent
BODY_STATES: Final = (HOLDING, READING_BODY)  # a request's body is coming in


_numbers = itertools.count(1)


class Pause(Enum):
    """Why the connection is not read from."""

    READ_AHEAD = auto()  # much is buffered behind the request under way
    BODY = auto()  # the readers of the request's body do not keep up, or a tunnel's origin


class ClientConnection(H1ResponseWriter, asyncio.Protocol):
    """One client's connection. Mutable state: `state`, the buffer, the exchange under way, and the time of progress."""

    __slots__ = (
        "_advancing",
        "_at",
        "_buffer",
        "_eof",
        "_pause",
        "_scanned",
        "_tunnel",
        "_tunnel_room",
        "admitted",
        "exchange",
        "fresh",
        "incoming",
        "number",
        "peer",
        "peer_pop",
        "scheme",
        "server_name",
        "since",
        "site",
        "stalled",
        "state",
        "tag",
        "transport",
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
        self.tag = b""  # precedes a head's bytes where it decides the answer too; begins as no head does
        self.admitted = False  # it counts as a connection already
        self.state = IDLE
        self.writable = True
        self.closing = False  # the connection closes after the response under way (RFC 9112 §9.6)
        self.fresh = True  # no request yet
        self.exchange: Exchange | None = None
        self.incoming: IncomingBody | None = None  # the body of the request under way
        self.since = 0.0  # monotonic seconds: the last progress; 0 = since the last sweep
        self.stalled = 0  # bytes waiting in the transport at the last sweep
        self._buffer = b""
        self._at = 0  # bytes of the buffer that are used up
        self._scanned = 0  # place in the buffer up to which there is no end of a head
        self._chunked = False
        self._advancing = False
        self._eof = False  # the client has sent FIN
        self._pause: Pause | None = None  # why it is not read from
        self._tunnel: Callable[[bytes], None] | None = None
        self._tunnel_room: Callable[[], None] | None = None  # called when a tunnel's client can take more

    def _on(self, event: Event) -> None:
        self.state = next_state(self.state, event)

    # --- the transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        if not self.peer and (peer := transport.get_extra_info("peername")):
            self.peer = plain_address(peer[0])
        self.since = self.site.clock()
        if (refusal := self.site.joined(self)) is not None:
            self._turn_away(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._on(Event.CLOSE)
        self.site.left(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.leave()
            if exchange.status != 101:
                exchange.result, exchange.failure = Result.ABORTED, exchange.failure or "client-left"
            self.site.answered(exchange, self.site.clock() - exchange.began)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.site.bytes_in.value += len(data)
        if self.state is IDLE:
            if data >= FIRST and self.site.answer_known(self, data):
                self.since = 0.0
                self.fresh = False
                return
            self._on(DATA)
            self.since = self.site.clock()
            self._buffer, self._at, self._scanned = data, 0, 0
        elif self.state is TUNNEL:
            assert self._tunnel is not None, "set with the state"
            self.moved()
            self._tunnel(data)
            return
        elif self.state is LINGERING or self.state is CLOSED:
            return
        else:
            self._buffer = self._buffer[self._at :] + data
            self._scanned = max(0, self._scanned - self._at)
            self._at = 0
        self.advance()

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

    def _has_head(self) -> bool:
        """Whether the head of one more request is buffered."""
        return self._buffer.find(b"\r\n\r\n", self._at) >= 0

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

    def advance(self) -> None:
        """Use up what is buffered until the connection must wait; a bug costs one request, and the connection."""
        if self._advancing:
            return
        self._advancing = True
        try:
            self._take_requests()
            self._after_requests()
        except Exception:
            log.exception("a bug: a request could not be handled")
            self.refuse(BadRequest(500, "internal", "the request failed here"), self._buffer[self._at :])
        finally:
            self._advancing = False

    def _take_requests(self) -> None:
        taken = 0
        while self._at < len(self._buffer):
            if self.state in BODY_STATES:
                if self.resting:
                    return
                self._read_body()
            elif self.state is not READING_HEAD:
                return
            elif taken >= MOST_AT_ONCE:  # the other connections have their turn
                asyncio.get_running_loop().call_soon(self.advance)
                return
            elif not self._next_request():
                return
            else:
                taken += 1

    def _after_requests(self) -> None:
        """Settle whether the connection is idle, is read from, and stays open."""
        ahead = len(self._buffer) - self._at
        if not ahead:
            self._buffer, self._at, self._scanned = b"", 0, 0
            if self.state is READING_HEAD:
                self._on(EMPTIED)
        if ahead > MAX_PIPELINED or self._pause is not None:
            self._pause_or_read(ahead)
        if self._eof and self._is_incomplete():
            self._on(Event.CLOSE)
            self.transport.close()

    def _pause_or_read(self, ahead: int) -> None:
        waits = self.exchange is not None or not self.writable
        if self._pause is None:
            if waits and ahead > MAX_PIPELINED:
                self._pause = Pause.READ_AHEAD
                self.transport.pause_reading()
            return
        body_waits = self._pause is Pause.READ_AHEAD and self.state in BODY_STATES and not self.resting
        if not waits or body_waits:
            self._pause = None
            self.transport.resume_reading()

    def _is_incomplete(self) -> bool:
        """After FIN: whether what is buffered will never be a whole request."""
        if self.state in BODY_STATES:
            return not self.resting
        return self.state in (IDLE, READING_HEAD) and not self._has_head()

    def _next_request(self) -> bool:
        """Take one request off the buffer; False if its head is not complete or it was refused."""
        buffer = self._buffer
        start = self._at
        if buffer.startswith(b"\r\n", start):  # RFC 9112 §2.2: one empty line before a request is forgiven
            start += 2
        end = buffer.find(b"\r\n\r\n", max(start, self._scanned - 3)) + 4
        try:
            if end < 4:
                self.site.check_unfinished(buffer[start:], max(0, self._scanned - start))
                self._scanned = len(buffer)
                return False
            raw = buffer[start:end]
            self._at = self._scanned = end
            request = self.site.parse(raw, self.scheme)
            most = self.site.max_request_body
            if most and (request.framing.length or 0) > most:
                raise BadRequest(413, "body-too-large", "the request's body is too large")
        except BadRequest as error:
            self.refuse(error, buffer[start:])
            return False
        self.fresh = False
        self._begin(request, raw)
        return True

    def _begin(self, request: Request, raw: bytes) -> None:
        if not request.keep_alive or self.site.draining:
            self.closing = True
        if request.framing.length == 0:
            self._on(REQUEST)
            exchange = self.exchange = Exchange(self, request, raw, None)
            self.site.answer(exchange)
            return
        body = Body(self)
        self.incoming = IncomingBody(request.framing, body, self.site.max_request_body)
        self.since = self.site.clock()
        exchange = self.exchange = Exchange(self, request, raw, body)
        if request.expects_continue and not self.unread:
            self._on(Event.REQUEST_STREAMED)
            self.site.answer(exchange)
        else:  # a slow client keeps no upstream connection, and upstream gets nothing of a malformed body
            self._on(Event.REQUEST_HELD)

    def adopt(self, exchange: Exchange) -> None:
        """Begin an exchange that the site has made, for a known request without a body."""
        assert self.state is IDLE, "a known head comes between requests"
        self.state = RESPONDING  # for every one of them, hence without a call
        self.fresh = False
        self.exchange = exchange

    def _read_body(self) -> None:
        incoming, exchange = self.incoming, self.exchange
        assert incoming is not None, "set before the state"
        assert exchange is not None, "without one, no body is read"
        data, self._buffer, self._at, self._scanned = self._buffer[self._at :], b"", 0, 0
        self.since = self.site.clock()
        try:
            pieces = incoming.parse(data)
        except BadBody as error:
            self.refuse(BadRequest(error.status, error.reason, str(error)))
            return
        held = self.state is HOLDING
        self._buffer = incoming.rest
        if incoming.resting:
            asyncio.get_running_loop().call_soon(self._read_on)
        elif incoming.complete:
            self._on(Event.BODY_COMPLETE)
        incoming.deliver(pieces)
        if held and incoming.complete:
            self.site.answer(exchange)
        elif held and incoming.size > MOST_HELD:
            self.release_body()

    def _read_on(self) -> None:
        """The other connections have had their turn."""
        if self.incoming is not None:
            self.incoming.resting = False
        if not self.transport.is_closing():
            self.advance()

    def release_body(self) -> None:
        """Have the request answered though its body is still coming in."""
        assert self.exchange is not None, "it is held"
        self._on(Event.BODY_RELEASED)
        self.site.answer(self.exchange)

    def exchange_done(self, exchange: Exchange) -> None:
        """The response of `exchange` has been handed to the transport."""
        now = self.since = self.site.clock()
        self.site.answered(exchange, now - exchange.began)
        self.exchange = None
        if self.state in BODY_STATES or (self._eof and not self._has_head()):  # what follows is no request
            self.closing = True
        if self.closing:
            self._close_gently()
            return
        usual = self.state is RESPONDING and self.incoming is None and self._pause is None
        if usual and self.writable and not self._buffer:
            self.state = IDLE  # as usual, hence without a call
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
        exchange.head_out = answer[: head_size(answer)]
        exchange.refused_by(error, len(answer) - len(exchange.head_out))
        self.site.answered(exchange, self.site.clock() - exchange.began)

    def ending(self, request: Request) -> bytes:
        """The end of a head: the fields of the connection (RFC 9112 §9.3), and the empty line."""
        last = self.state in BODY_STATES or (self._eof and not self._has_head())
        if last or self.closing or self.site.draining:
            self.closing = True
            return b"Connection: close\r\n\r\n"
        return b"Connection: keep-alive\r\n\r\n" if request.http_1_0 else b"\r\n"

    # --- what others may know

    @property
    def tls_version(self) -> str:
        """The version of an open connection over TLS; else empty."""
        secured = self.transport.get_extra_info("ssl_object") if self.scheme == b"https" else None
        return (secured.version() or "") if secured is not None else ""

    @property
    def reads(self) -> Content | None:
        """The complete content that the client is still reading, if it is one."""
        return self.exchange.reads if self.exchange is not None else None

    @property
    def began(self) -> float:
        """Monotonic seconds: when the request under way began; infinity if there is none."""
        return self.exchange.began if self.exchange is not None else inf

    @property
    def buffered(self) -> bytes:
        """The bytes that have come and are not used up."""
        return self._buffer[self._at :]

    @property
    def unread(self) -> int:
        """The number of buffered bytes."""
        return len(self._buffer) - self._at

    @property
    def resting(self) -> bool:
        """Whether the buffered part of the request's body is read in the next turn of the event loop."""
        return self.incoming is not None and self.incoming.resting

    @property
    def reading_paused(self) -> bool:
        """Whether the connection is not read from."""
        return self._pause is not None

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

    def pause_reading(self) -> None:
        """The origin does not keep up with the request's body."""
        self._pause = Pause.BODY
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The origin has caught up."""
        self._pause = None
        self.since = self.site.clock()
        self.transport.resume_reading()

    def abandoned(self) -> None:
        """The request's body has no reader any more: the rest of it is discarded."""

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
