"""The side that clients speak to: one `ClientConnection` per connection, one `Exchange` per request on it.

Requests of one connection are answered in their order: the next is read when the last is answered, however many were
pipelined. There is no timer per connection: the worker's sweep asks each connection what is overdue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Protocol, cast

from edgecache.body import Body, Cursor
from edgecache.rules.message import Request
from edgecache.rules.reasons import Result
from edgecache.wire import h1_render as render
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1_body import BadBody, BodyReader, body_reader

log = logging.getLogger("edgecache")
MAX_PIPELINED: Final = 64 * 1024  # bytes read ahead of the request being answered
LINGER: Final = 2.0  # seconds that a refused client's bytes are read and thrown away, so that it can read the refusal
DRAIN_IDLE: Final = 1.0  # seconds without a request after which a draining server may close without cutting one off


class Site(Protocol):
    """What a connection needs of the service behind it."""

    draining: bool
    head_timeout: float
    body_timeout: float
    idle_timeout: float

    def joined(self, connection: ClientConnection) -> None:
        """A client has connected."""

    def left(self, connection: ClientConnection) -> None:
        """A client's connection has ended."""

    def answer_known(self, connection: ClientConnection, raw: bytes) -> bool:
        """Answer the request whose head is exactly `raw` if it is known; whether it was."""

    def parse(self, raw: bytes, scheme: bytes) -> Request:
        """The request whose head is `raw`; raises `BadRequest`."""

    def check_unfinished(self, start: bytes, scanned: int) -> None:
        """Raise `BadRequest` if `start` can no longer become a head; its first `scanned` bytes were checked before."""

    def answer(self, exchange: Exchange) -> None:
        """See to it that `exchange` is answered, now or later."""

    def answered(self, exchange: Exchange, took: float) -> None:
        """An answer is complete, after `took` seconds: count and log it."""

    def refused(self, error: BadRequest) -> None:
        """A request was refused: count it."""

    def clock(self) -> float:
        """Monotonic seconds."""


class Cancellable(Protocol):
    """Something under way that nobody may want any more."""

    def cancel(self) -> None:
        """Stop."""


class Exchange:
    """One request and its answer. It is a `Sink` for the answer's body.

    One is made for every request that is not a known hit: what most never set lies in the class.
    """

    status = 0
    bytes_out = 0
    cache_status = b""
    result = Result.PASS
    started = False
    inquiry: Cancellable | None = None  # to be cancelled if the client leaves before the end
    _cursor: tuple[Body, Cursor] | None = None
    _chunked = False

    def __init__(self, connection: ClientConnection, request: Request, raw: bytes, body: Body | None) -> None:
        self.request = request
        self.raw = raw  # the head's exact bytes
        self.body = body  # of the request; None where it has none
        self.began = connection.site.clock()
        self._connection: ClientConnection | None = connection

    @property
    def gone(self) -> bool:
        """Whether nobody waits for this answer any more: it is complete, or the client has left."""
        return self._connection is None

    @property
    def writable(self) -> bool:
        """Whether the client keeps up."""
        return self._connection is None or self._connection.writable

    @property
    def client(self) -> str:
        """The address of the peer."""
        return self._connection.peer if self._connection is not None else ""

    def interim(self, head: bytes) -> None:
        """Send a 1xx response; HTTP/1.0 knows none (RFC 9110 §15.2)."""
        if self._connection is not None and not self.started and not self.request.http_1_0:
            self._connection.transport.write(head)

    def reply(self, status: int, head: bytes, content: bytes = b"") -> None:
        """The whole answer: `head` is status line and fields, with Content-Length where it needs one."""
        connection = self._connection
        if connection is None:
            return
        if self.started:  # another answer has begun: this one cannot be told from its rest
            self.abort()
            return
        size = len(content)
        self.status, self.started, self.bytes_out = status, True, size
        head += connection.persistence(self.request)
        if size <= 16384:
            connection.transport.write(head + content)
        else:
            connection.transport.write(head)
            connection.transport.write(content)
        self._connection = self._cursor = None
        connection.exchange_done(self)

    def start(self, status: int, head: bytes, length: int | None) -> None:
        """Begin an answer whose body follows by `write` and `finish`; `length` None = unknown."""
        connection = self._connection
        if connection is None:
            return
        self.status, self.started = status, True
        if length is None:
            if self.request.http_1_0:  # RFC 9112 §6.3 step 8
                connection.closing = True
            else:
                self._chunked = True
                head += b"Transfer-Encoding: chunked\r\n"
        connection.transport.write(head + connection.persistence(self.request))

    def stream(self, status: int, head: bytes, length: int | None, body: Body) -> None:
        """Answer with `body` as it arrives; of a HEAD's answer only the head is sent."""
        if self._connection is None:
            body.discard()
            return
        if self.request.method == b"HEAD" or status in (204, 304):
            self.reply(status, head)
            return
        if body.finished and len(body.pieces) <= 1 and length is not None:  # all there: one write
            self.reply(status, head, body.pieces[0] if body.pieces else b"")
            return
        self.start(status, head, length)
        cursor = body.read_into(self)
        if not self.gone and not body.ended:
            self._cursor = (body, cursor)

    def write(self, piece: bytes) -> None:
        """A piece of the answer's body."""
        connection = self._connection
        if connection is not None and piece:
            self.bytes_out += len(piece)
            connection.transport.write(render.chunk(piece) if self._chunked else piece)

    def finish(self) -> None:
        """The answer's body is complete."""
        if self._connection is None:
            return
        if self._chunked:
            self._connection.transport.write(render.LAST_CHUNK)
        self._complete()

    def abort(self) -> None:
        """The answer cannot be completed: the connection is cut, which no client takes for an end."""
        if self._connection is not None:
            self._connection.cut()

    def resume(self) -> None:
        """The client can take more."""
        if self._cursor is not None:
            body, cursor = self._cursor
            body.taken(cursor)

    def leave(self) -> None:
        """The client is gone."""
        self._connection = None
        if self._cursor is not None:
            body, cursor = self._cursor
            self._cursor = None
            body.leave(cursor)
            if not body.ended:
                body.taken(cursor)
        if self.body is not None:
            self.body.fail()
        if self.inquiry is not None:
            self.inquiry.cancel()

    @property
    def connection(self) -> ClientConnection | None:
        """The client's connection, or None if the client has left or is answered."""
        return self._connection

    def become_tunnel(self, receive: Callable[[bytes], None]) -> None:
        """Take the connection out of HTTP (RFC 9110 §7.8): `receive` gets all further bytes."""
        if self._connection is not None:
            self.started = True
            self._connection.become_tunnel(receive)

    def _complete(self) -> None:
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None:
            connection.exchange_done(self)

    def __repr__(self) -> str:
        return f"<Exchange {self.request.method.decode()} {'gone' if self.gone else 'open'} {self.status}>"


class ClientConnection(asyncio.Protocol):
    """One client's connection. Mutable state: what was read ahead, the exchange under way, and since when we wait."""

    __slots__ = (
        "_body",
        "_buffer",
        "_exchange",
        "_lingering",
        "_paused",
        "_ready",
        "_scanned",
        "_since",
        "_stalled",
        "_tunnel",
        "closing",
        "peer",
        "scheme",
        "site",
        "transport",
        "writable",
    )

    transport: asyncio.Transport

    def __init__(self, site: Site, scheme: bytes = b"http") -> None:
        self.site = site
        self.scheme = scheme
        self.peer = ""
        self.writable = True
        self.closing = False  # close when the answer under way is sent
        self._ready = True  # nothing under way, nothing read ahead: the next bytes may be a known head
        self._buffer = b""
        self._scanned = 0  # bytes of the buffer known to hold no end of a head
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None  # of the request under way, while it still comes in
        self._tunnel: Callable[[bytes], None] | None = None
        self._lingering = False
        self._paused = False
        self._since = 0.0  # monotonic seconds: the last time that something moved
        self._stalled = 0  # bytes waiting in the transport at the last sweep

    # --- what the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.peer = peer[0] if peer else ""
        self._since = self.site.clock()
        self.site.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.site.left(self)
        exchange, self._exchange = self._exchange, None
        self._ready = False
        if exchange is not None:
            exchange.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._ready:
            if self.site.answer_known(self, data):
                self._since = 0.0  # the next sweep notes the time
                return
            self._ready = False
            self._since = self.site.clock()
            self._buffer = data
        elif self._tunnel is not None:
            self._tunnel(data)
            return
        elif self._lingering:
            return
        else:
            self._buffer += data
        try:
            self._advance()
        except Exception:
            log.exception("a bug: a request could not be handled")
            self.refuse(BadRequest(500, "internal", "the request failed here"))

    def eof_received(self) -> bool:
        """The client will send no more; an answer under way is still sent."""
        if self._tunnel is not None or self._exchange is None or self._body is not None:
            return False
        self.closing = True
        return True

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.writable = False
        self._ready = False

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writable = True
        if self._exchange is not None:
            self._exchange.resume()
        else:
            self._advance()

    # --- requests, one after the other

    def _advance(self) -> None:
        """Go on with what has been read, until something must be waited for."""
        while self._buffer and not self._lingering:
            if self._body is not None:
                self._feed_body()
            elif self._exchange is not None or not self.writable:
                break
            elif not self._next_request():
                return
        if self._exchange is not None and len(self._buffer) > MAX_PIPELINED and not self._paused:
            self._paused = True
            self.transport.pause_reading()
        self._ready = self._exchange is None and not self._buffer and self.writable and not self.closing

    def _next_request(self) -> bool:
        """Take one request off the buffer; False if its head is not complete or it was refused."""
        buffer = self._buffer
        if buffer[:2] == b"\r\n":  # RFC 9112 §2.2: one empty line before a request is forgiven
            buffer = self._buffer = buffer[2:]
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3)) + 4
        try:
            if end < 4:
                self.site.check_unfinished(buffer, self._scanned)
                self._scanned = len(buffer)
                return False
            raw = buffer[:end]
            self._buffer, self._scanned = buffer[end:], 0
            request = self.site.parse(raw, self.scheme)
        except BadRequest as error:
            self.refuse(error)
            return False
        self._begin(request, raw)
        return True

    def _begin(self, request: Request, raw: bytes) -> None:
        body = None
        if request.framing.length != 0:
            body = Body(self)
            self._body = body_reader(request.framing)
        if not request.keep_alive or self.site.draining:
            self.closing = True
        exchange = self._exchange = Exchange(self, request, raw, body)
        self.site.answer(exchange)

    def begin(self, request: Request, raw: bytes) -> Exchange:
        """An exchange for a request without a body that the site knows already."""
        self._ready = False
        exchange = self._exchange = Exchange(self, request, raw, None)
        return exchange

    def _feed_body(self) -> None:
        reader, exchange = self._body, self._exchange
        assert reader is not None, "only called while a body comes in"
        data, self._buffer = self._buffer, b""
        self._since = self.site.clock()
        try:
            pieces = reader.feed(data)
        except BadBody as error:
            self._body = None
            if exchange is not None and exchange.body is not None:
                exchange.body.fail()
            self.refuse(BadRequest(400, error.reason, str(error)))
            return
        body = exchange.body if exchange is not None else None
        if reader.done:
            self._body, self._buffer = None, reader.rest
        if body is not None:
            for piece in pieces:
                body.write(piece)
            if reader.done:
                body.finish()

    def exchange_done(self, exchange: Exchange) -> None:
        """The answer to `exchange` has been handed to the transport."""
        now = self._since = self.site.clock()
        self.site.answered(exchange, now - exchange.began)
        self._exchange = None
        if self._body is not None:  # answered before its body had come: what follows is not a request
            self.closing = True
        if self.closing:
            self._close_gently()
            return
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self._buffer:
            asyncio.get_running_loop().call_soon(self._advance)
        else:
            self._ready = self.writable

    def refuse(self, error: BadRequest) -> None:
        """Answer with an error of ours, and close (the bytes that follow cannot be trusted)."""
        self.site.refused(error)
        if self._exchange is None or not self._exchange.started:
            content = render.problem(error.status, error.reason, str(error))
            head = render.status_line(error.status) + render.field_block(
                (
                    (b"Content-Type", b"application/problem+json"),
                    (b"Content-Length", b"%d" % len(content)),
                    (b"Cache-Control", b"no-store"),
                    (b"Connection", b"close"),
                )
            )
            self.transport.write(head + b"\r\n" + content)
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            exchange.leave()
        self._close_gently()

    def persistence(self, request: Request) -> bytes:
        """What ends a head: the Connection field where one is needed (RFC 9112 §9.3), and the empty line."""
        if self.closing or self.site.draining or self._body is not None:
            self.closing = True
            return b"Connection: close\r\n\r\n"
        return b"Connection: keep-alive\r\n\r\n" if request.http_1_0 else b"\r\n"

    # --- the end

    def cut(self) -> None:
        """End the connection at once, visibly unfinished."""
        self.transport.abort()

    def _close_gently(self) -> None:
        """Close so that the client can read the answer even if it is still sending (RFC 9112 §9.6)."""
        self.closing = self._lingering = True
        self._ready = False
        self._buffer = b""
        self._since = self.site.clock()
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if self.transport.can_write_eof() and not self.transport.is_closing():
            self.transport.write_eof()
        else:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        if self._since == 0.0:
            self._since = now
            return
        waited = now - self._since
        if self._tunnel is not None:
            return
        if self._lingering:
            if waited > LINGER:
                self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self._sweep_writing(now, waited)
        elif self._exchange is not None:
            if self._body is not None and waited > self.site.body_timeout and not self._paused:
                self.refuse(BadRequest(408, "body-timeout", "the body took too long"))
        elif self._buffer:
            if waited > self.site.head_timeout:
                self.refuse(BadRequest(408, "head-timeout", "the head took too long"))
        elif waited > (DRAIN_IDLE if self.site.draining else self.site.idle_timeout):
            self.transport.close()

    def _sweep_writing(self, now: float, waited: float) -> None:
        waiting = self.transport.get_write_buffer_size()
        if waiting != self._stalled:
            self._stalled, self._since = waiting, now
        elif waited > self.site.body_timeout:
            self.transport.abort()

    # --- back-pressure on the request's body, and leaving HTTP

    def pause_reading(self) -> None:
        """The origin does not keep up with the request's body."""
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The origin has caught up."""
        self._paused = False
        self._since = self.site.clock()
        self.transport.resume_reading()

    def abandoned(self) -> None:
        """Nobody takes the request's body any more: what comes of it is thrown away."""

    def become_tunnel(self, receive: Callable[[bytes], None]) -> None:
        """Hand all further bytes to `receive`."""
        self._tunnel = receive
        if self._buffer:
            data, self._buffer = self._buffer, b""
            receive(data)
