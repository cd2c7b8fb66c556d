"""The side that clients speak to: one `ClientConnection` per connection; its requests become `Exchange`s.

Requests of one connection are answered in their order: the next is read when the last is answered, however many were
pipelined. There is no timer per connection: the worker's sweep asks each connection what is overdue.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import select
import struct
from collections.abc import Callable
from contextlib import suppress
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
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.body_framing import BadBody, BodyReader, body_reader
from edgecache.wire.handler import Site
from edgecache.wire.refusal import Refusal, head_size

log = logging.getLogger("edgecache")
MAX_PIPELINED: Final = 64 * 1024  # bytes read ahead of the request being answered
MOST_AT_ONCE: Final = 32  # pipelined requests taken in one turn of the event loop
MOST_HELD: Final = 64 * 1024  # bytes of a body that are here before anything of it goes upstream
LONGEST_HELD: Final = 1.0  # seconds that this may take in chunks; slower ones are passed on as they come
LINGER: Final = 2.0  # seconds that a refused client's bytes are read and thrown away, so that it can read the refusal
FIRST: Final = b"A"  # no head that is known begins with less; what doors put before a head may
AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: reset, and drop what was not sent
DRAIN_IDLE: Final = 1.0  # seconds without a request after which a draining server may close without cutting one off


_numbers = itertools.count(1)


class ClientConnection(asyncio.Protocol):
    """One client's connection. Mutable state: what was read ahead, the exchange under way, and since when we wait."""

    __slots__ = (
        "_advancing",
        "_ahead",
        "_at",
        "_body",
        "_body_bytes",
        "_buffer",
        "_ended",
        "_exchange",
        "_fresh",
        "_held",
        "_lingering",
        "_paused",
        "_ready",
        "_resting",
        "_scanned",
        "_since",
        "_stalled",
        "_tunnel",
        "_tunnel_room",
        "closing",
        "number",
        "peer",
        "peer_pop",
        "scheme",
        "server_name",
        "site",
        "tag",
        "transport",
        "writable",
    )

    transport: asyncio.Transport
    admitted = False  # before `connection_made`

    def __init__(self, site: Site, scheme: bytes = b"http", client: str = "") -> None:
        self.site = site
        self.number = next(_numbers)  # no other of this process has it
        self.scheme = scheme
        self.peer = client  # the address, if it is another than the socket's
        self.peer_pop = b""  # the POP that the peer has proved to be
        self.server_name = b""  # that TLS has asked for
        self.tag = b""  # what, beside a head's bytes, decides the answer; begins as no head does
        self.writable = True
        self.closing = False  # close when the answer under way is sent
        self._ready = True  # nothing under way, nothing read ahead: the next bytes may be a known head
        self._fresh = True  # no request yet
        self._buffer = b""
        self._at = 0  # bytes of the buffer that are used up
        self._scanned = 0  # place in the buffer up to which there is no end of a head
        self._exchange: Exchange | None = None
        self._body: BodyReader | None = None  # of the request under way, while it still comes in
        self._body_bytes = 0  # of it, so far
        self._resting = False  # the body's reader has done its share of this turn of the event loop
        self._held = False  # the exchange waits until its body is known to be well-formed
        self._tunnel: Callable[[bytes], None] | None = None
        self._tunnel_room: Callable[[], None] | None = None  # told when a tunnel's client can take more
        self._advancing = False
        self._lingering = False
        self._ended = False  # the client will send no more
        self._paused = False
        self._ahead = False  # it is paused because much is here already
        self._since = 0.0  # monotonic seconds: the last time that something moved
        self._stalled = 0  # bytes waiting in the transport at the last sweep

    # --- what the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = cast(asyncio.Transport, transport)
        if not self.peer and (peer := transport.get_extra_info("peername")):
            self.peer = plain_address(peer[0])
        self._since = self.site.clock()
        if (refusal := self.site.joined(self)) is not None:
            self._turn_away(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.site.left(self)
        exchange, self._exchange = self._exchange, None
        self._ready = False
        if exchange is not None:
            exchange.leave()
            if exchange.status != 101:
                exchange.result, exchange.failure = Result.ABORTED, exchange.failure or "client-left"
            self.site.answered(exchange, self.site.clock() - exchange.began)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        self.site.bytes_in.value += len(data)
        if self._ready:
            if data >= FIRST and self.site.answer_known(self, data):
                self._since = 0.0  # the next sweep notes the time
                self._fresh = False
                return
            self._ready = False
            self._since = self.site.clock()
            self._buffer, self._at, self._scanned = data, 0, 0
        elif self._tunnel is not None:
            self.moved()
            self._tunnel(data)
            return
        elif self._lingering:
            return
        else:
            self._buffer = self._buffer[self._at :] + data
            self._scanned = max(0, self._scanned - self._at)
            self._at = 0
        self._advance()

    def eof_received(self) -> bool:
        """The client will send no more; what it has asked is still answered, but for what is of use to it alone.

        It may be gone, which looks no different before something is sent to it: then nobody needs the origin's work.
        """
        if self._resting:  # the body's rest is here, perhaps
            self._ended = True
            return True
        if self._tunnel is not None or self._body is not None or (self._exchange is None and not self._has_more()):
            return False
        if self._exchange is not None and self._exchange.alone and not self.site.finish_abandoned:
            return False
        self._ended = True
        return True

    def _has_more(self) -> bool:
        """Whether the head of one more request is here."""
        return self._buffer.find(b"\r\n\r\n", self._at) >= 0

    def pause_writing(self) -> None:
        """The client does not keep up."""
        self.writable = False
        self._ready = False

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writable = True
        if self._tunnel_room is not None:
            self._tunnel_room()
        elif self._exchange is not None:
            self._exchange.resume()
        else:
            self._advance()

    # --- requests, one after the other

    def _advance(self) -> None:
        """Go on with what has been read, until something must be waited for; a bug is one failed request."""
        if self._advancing:
            return
        self._advancing = True
        try:
            self._take_requests()
        except Exception:
            log.exception("a bug: a request could not be handled")
            self.refuse(BadRequest(500, "internal", "the request failed here"), self._buffer[self._at :])
        finally:
            self._advancing = False

    def _take_requests(self) -> None:
        taken = 0
        while self._at < len(self._buffer) and not self._lingering:
            if self._resting:
                break
            if self._body is not None:
                self._feed_body()
            elif self._exchange is not None or not self.writable:
                break
            elif taken >= MOST_AT_ONCE:  # let others have their turn
                asyncio.get_running_loop().call_soon(self._advance)
                return
            elif not self._next_request():
                break
            else:
                taken += 1
        ahead = len(self._buffer) - self._at
        if not ahead:
            self._buffer, self._at, self._scanned = b"", 0, 0
        waits = self._exchange is not None or not self.writable
        if waits and ahead > MAX_PIPELINED and not self._paused:
            self._paused = self._ahead = True
            self.transport.pause_reading()
        elif self._paused and (not waits or (self._ahead and self._body is not None and not self._resting)):
            self._paused = self._ahead = False  # the body's rest has to come
            self.transport.resume_reading()
        self._ready = not waits and not ahead and not self.closing and not self._lingering
        if (
            self._ended
            and not (self._lingering or self._resting)
            and (self._body is not None or not (waits or self._has_more()))
        ):
            self.transport.close()  # what is left will never be whole

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
        self._fresh = False
        self._begin(request, raw)
        return True

    def _begin(self, request: Request, raw: bytes) -> None:
        body = None
        if request.framing.length != 0:
            body = Body(self)
            self._body = body_reader(request.framing, bounded=True)
            self._body_bytes = 0
            self._since = self.site.clock()
        if not request.keep_alive or self.site.draining:
            self.closing = True
        exchange = self._exchange = Exchange(self, request, raw, body)
        if body is not None and not (request.expects_continue and self._at == len(self._buffer)):
            self._held = True  # upstream nobody waits for a slow client, nor is told what may prove to be malformed
        else:
            self.site.answer(exchange)

    def adopt(self, exchange: Exchange) -> None:
        """Begin an exchange that the site has made, for a request without a body that it knew."""
        self._ready = self._fresh = False
        self._exchange = exchange

    def _feed_body(self) -> None:
        reader, exchange = self._body, self._exchange
        assert reader is not None, "only called while a body comes in"
        data, self._buffer, self._at, self._scanned = self._buffer[self._at :], b"", 0, 0
        self._since = self.site.clock()
        try:
            pieces = reader.feed(data)
            self._body_bytes += sum(map(len, pieces))
            if self.site.max_request_body and self._body_bytes > self.site.max_request_body:
                raise BadBody("body-too-large", "the request's body is too large", status=413)
        except BadBody as error:
            self._body = None
            self.refuse(BadRequest(error.status, error.reason, str(error)))
            return
        body = exchange.body if exchange is not None else None
        if reader.tired:
            self._buffer, self._resting = reader.rest, True
            asyncio.get_running_loop().call_soon(self._go_on)
        elif reader.done:
            self._body, self._buffer = None, reader.rest
        if body is not None:
            for piece in pieces:
                body.write(piece)
            if reader.done:
                body.finish()
            if self._held and (reader.done or body.size > MOST_HELD):
                self._let_go()

    def _go_on(self) -> None:
        """Others have had their turn."""
        self._resting = False
        if not self.transport.is_closing():
            self._advance()

    def _let_go(self) -> None:
        self._held = False
        if self._exchange is not None:
            self.site.answer(self._exchange)

    def exchange_done(self, exchange: Exchange) -> None:
        """The answer to `exchange` has been handed to the transport."""
        now = self._since = self.site.clock()
        self.site.answered(exchange, now - exchange.began)
        self._exchange = None
        if self._body is not None or (self._ended and not self._has_more()):  # what follows is no request
            self.closing = True
        if not (self.closing or self._buffer or self._paused):
            self._ready = self.writable
        elif self.closing:
            self._close_gently()
        elif self._at < len(self._buffer) or self._paused:
            if not self._advancing:
                asyncio.get_running_loop().call_soon(self._advance)
        else:
            self._ready = self.writable

    def refuse(self, error: BadRequest, head: bytes = b"", waited: float = 0.0) -> None:
        """Answer with an error of ours, and close (the bytes that follow cannot be trusted).

        `head` is what has come of a head that became no request, in `waited` seconds. A HEAD is answered without
        content (RFC 9110 §9.3.2); an answer that has begun is cut.
        """
        self.site.refused(error)
        exchange = self._exchange
        if exchange is not None and exchange.started:
            exchange.failure = error.reason
            self.cut()
            return
        self._exchange = None  # before it is told: it must not answer too
        refused = exchange or Refusal(self.site, error, self.peer, self.scheme, head, self)
        refused.began -= waited
        head_only = refused.request.method == b"HEAD"
        answer = render.refusal(error.status, error.reason, str(error), head_only=head_only)
        self.transport.write(answer)
        if exchange is not None:
            exchange.leave()
        self._tell_of(refused, error, answer)
        self._close_gently()

    def _tell_of(self, exchange: Exchange, error: BadRequest, answer: bytes) -> None:
        """Have the refused `exchange` counted and logged, with what is sent."""
        exchange.head_out = answer[: head_size(answer)]
        exchange.refused_by(error, len(answer) - len(exchange.head_out))
        self.site.answered(exchange, self.site.clock() - exchange.began)

    def ending(self, request: Request, head: bytes) -> bytes:
        """What ends `head`: fields that are the connection's business (RFC 9112 §9.3), and the empty line."""
        hsts = self.site.hsts
        if hsts and (request.scheme != b"https" or request.child is not None or render.says_hsts(head)):
            hsts = b""
        last = self._body is not None or (self._ended and not self._has_more())
        if last or self.closing or self.site.draining:
            self.closing = True
            return hsts + b"Connection: close\r\n\r\n"
        return hsts + (b"Connection: keep-alive\r\n\r\n" if request.http_1_0 else b"\r\n")

    @property
    def tls_version(self) -> str:
        """Of a connection over TLS that is open; else empty."""
        secured = self.transport.get_extra_info("ssl_object") if self.scheme == b"https" else None
        return (secured.version() or "") if secured is not None else ""

    @property
    def reads(self) -> Content | None:
        """The complete content that the client is still reading, if it is one."""
        return self._exchange.reads if self._exchange is not None else None

    @property
    def began(self) -> float:
        """Monotonic seconds: when the request under way began; infinity if there is none."""
        return self._exchange.began if self._exchange is not None else inf

    @property
    def since(self) -> float:
        """Monotonic seconds: the last time that something moved."""
        return self._since

    # --- the end

    def cut(self) -> None:
        """End the connection at once, visibly unfinished: an end in good order may be taken for the answer's."""
        self._reset()

    def _reset(self) -> None:
        """End with RST: what the kernel still holds is not kept for a client that may never take it."""
        socket = self.transport.get_extra_info("socket")
        if socket is not None:
            with suppress(OSError):  # it may be closed already
                socket.setsockopt(SOL_SOCKET, SO_LINGER, AT_ONCE)
        self.transport.abort()

    def _turn_away(self, error: BadRequest) -> None:
        """Answer before any request, and close without waiting: what is short must not be held by it."""
        self.site.refused(error)
        self.closing = self._lingering = True
        self._ready = False
        answer = render.refusal(error.status, error.reason, str(error))
        self._tell_of(Refusal(self.site, error, self.peer, self.scheme, b"", self), error, answer)
        self.transport.write(answer)
        self.transport.close()

    def _close_gently(self) -> None:
        """Close so that the client can read the answer even if it is still sending (RFC 9112 §9.6)."""
        self.closing = self._lingering = True
        self._ready = False
        self._buffer = b""
        self._since = self.site.clock()
        if self._paused:
            self._paused = False
            self.transport.resume_reading()
        if not self._ended and self.transport.can_write_eof() and not self.transport.is_closing():
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
            if waited > self.site.tunnel_timeout:
                self.cut()
            return
        if self._lingering:
            if waited > LINGER:
                self.transport.abort()
        elif self.transport.get_write_buffer_size():
            self._sweep_writing(now, waited)
        elif self._body is not None:
            self._sweep_body(now, waited)
        elif self._exchange is None and self._at < len(self._buffer):
            if waited > self.site.head_timeout:
                error = BadRequest(408, "head-timeout", "the head took too long")
                self.refuse(error, self._buffer[self._at :], waited)
        elif self._exchange is None:
            patience = self.site.head_timeout if self._fresh else self.site.idle_timeout
            short = self.site.draining or self.site.crowded
            if waited > (min(DRAIN_IDLE, patience) if short else patience) and not self._has_unread():
                self.transport.close()

    def _has_unread(self) -> bool:
        """Whether bytes have come that the event loop has not handed over yet: closing now would lose a request."""
        if self.transport.is_closing():
            return False
        waiting = select.poll()
        waiting.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(waiting.poll(0))

    def _sweep_body(self, now: float, waited: float) -> None:
        """A request's body must keep moving, and at no less than the lowest rate once it has had its time."""
        if self._paused or self._exchange is None:
            return
        if self._held and self._exchange.request.framing.chunked and now - self._exchange.began > LONGEST_HELD:
            self._let_go()
        took = now - self._exchange.began
        too_slow = took > self.site.body_timeout and self._body_bytes < took * self.site.min_rate
        if waited > self.site.body_timeout or too_slow:
            self.refuse(BadRequest(408, "body-timeout", "the body took too long"))

    def _sweep_writing(self, now: float, waited: float) -> None:
        """A client that takes nothing for too long is cut off."""
        waiting = self.transport.get_write_buffer_size()
        if waiting != self._stalled:
            self._stalled, self._since = waiting, now
        elif waited > self.site.body_timeout:
            self._reset()

    # --- back-pressure on the request's body, and leaving HTTP

    def pause_reading(self) -> None:
        """The origin does not keep up with the request's body."""
        self._paused, self._ahead = True, False
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The origin has caught up."""
        self._paused = self._ahead = False
        self._since = self.site.clock()
        self.transport.resume_reading()

    def abandoned(self) -> None:
        """Nobody takes the request's body any more: what comes of it is thrown away."""

    def moved(self) -> None:
        """Bytes have gone through a tunnel: the next sweep notes the time."""
        self._since = 0.0

    def become_tunnel(self, receive: Callable[[bytes], None], on_room: Callable[[], None]) -> None:
        """Hand all further bytes to `receive`; tell `on_room` when the client can take more again."""
        self._tunnel, self._tunnel_room = receive, on_room
        data, self._buffer = self._buffer[self._at :], b""
        if self._paused:  # it has sent much before it had the answer
            self.resume_reading()
        if data:
            receive(data)
        if self._ended:  # it has left before there was a tunnel
            self.transport.close()
