"""A protocol that is not HTTP/1: messages in memory, many exchanges at once on one connection.

It stands in for HTTP/2 and HTTP/3: each exchange is a stream with a window of its own, and is reset alone.
"""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Never

from edgecache.semantics.field_codec import unpack
from edgecache.semantics.message import NO_BODY, FieldLine, Fields, Framing, Request
from edgecache.semantics.stored_response import HOP_BY_HOP
from edgecache.wire.body import Body
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.exchange_deadlines import is_stuck, late_body

SITE = b"www.example.test"
WIDE = 1 << 30  # bytes: a window that is never used up
_numbers = count(1)


class ShutDown(Exception):
    """The connection takes no further stream."""


class Stream:
    """One exchange: the `ResponseWriter` of its response, the `Source` of its request's body, and what its client sees.

    The client takes as many bytes as its window has; `read` adds to it.
    """

    tag = peer_pop = server_name = b""
    fingerprint: bytes | None = None
    tls_version = ""

    def __init__(self, connection: Connection, window: int) -> None:
        self.site = connection.site
        self.budget = self.site.room
        self.peer, self.number = connection.peer, connection.number
        self.connection = connection
        self.exchange: Exchange | None = None
        self.since, self.unsent = self.site.clock(), 0
        self.status = 0
        self.fields = Fields(())
        self.length: int | None = None
        self.content = bytearray()  # that the client has taken
        self.interims: list[int] = []
        self.was_reset = self.paused = False
        self.upload: Body | None = None
        self.over = asyncio.Event()  # the client has the whole response, or will not get it
        self._window = window
        self._waiting = bytearray()
        self._complete = False

    def clock(self) -> float:
        """Monotonic seconds."""
        return self.site.clock()

    # --- the response, as the request path writes it

    @property
    def room(self) -> bool:
        """Whether nothing waits for the client."""
        return not self._waiting

    def head(self, status: int, fields: bytes, length: int | None, reason: bytes) -> int:
        """The head, as a message of its own."""
        assert not self.status, "one response"
        self.status, self.fields, self.length = status, unpack(fields), length
        return len(fields)

    def send(self, status: int, fields: bytes, length: int | None, reason: bytes, content: Any) -> int:
        """A whole response."""
        size = self.head(status, fields, length, reason)
        self.data(content)
        self.end()
        return size

    def data(self, piece: Any) -> None:
        """A piece of the content."""
        self._waiting += piece
        self._flush()

    def end(self) -> None:
        """The content is complete."""
        self._complete = True
        self._flush()

    def reset(self) -> None:
        """The client sees that it is incomplete; the other streams go on."""
        self.was_reset = True
        self._lose()

    def interim(self, status: int, fields: bytes, reason: bytes) -> None:
        """A 1xx response."""
        self.interims.append(status)

    def exchange_done(self, exchange: Exchange) -> None:
        """The response is written, if not yet taken."""
        assert exchange is self.exchange
        self._end_exchange()
        self.connection.look()

    def shut_down(self) -> None:
        """Take no further stream."""
        self.connection.shut = True

    def write_serialized(self, response: bytes) -> Never:
        """Nothing is known by its fingerprint."""
        raise AssertionError("a response of another protocol")

    def send_serialized(self, head: bytes, content: Any) -> Never:
        """Nothing is known by its fingerprint."""
        raise AssertionError("a response of another protocol")

    def adopt(self, exchange: Exchange) -> Never:
        """Nothing is known by its fingerprint."""
        raise AssertionError("an exchange of the fast path")

    def tunnel(self, exchange: Exchange, origin: object, fields: bytes, reason: bytes) -> Never:
        """Nothing asks for an upgrade."""
        raise AssertionError("a tunnel")

    def _flush(self) -> None:
        size = min(self._window, len(self._waiting))
        self.content += self._waiting[:size]
        del self._waiting[:size]
        self._window -= size
        if self._complete and not self._waiting:
            self.over.set()

    # --- the request's body, as the request path slows it down

    def pause_reading(self) -> None:
        """The client is to send nothing for now."""
        self.paused = True

    def resume_reading(self) -> None:
        """The client may send more."""
        self.paused, self.since = False, self.clock()

    def abandoned(self) -> None:
        """Nobody reads the rest."""

    # --- what the client does

    def read(self, size: int) -> None:
        """Take so many bytes more."""
        self._window += size
        self._flush()
        if self.room and self.exchange is not None:
            self.exchange.resume()

    def write(self, data: bytes) -> None:
        """Send a piece of the request's body."""
        assert self.upload is not None
        self.since = self.clock()
        self.upload.write(data)

    def finish(self) -> None:
        """The request's body is complete."""
        assert self.upload is not None
        self.upload.finish()

    def cancel(self) -> None:
        """Want nothing more of this exchange."""
        self._lose()

    # --- its end

    def sweep(self, now: float) -> None:
        """Its deadlines."""
        if self._waiting:
            if is_stuck(self, len(self._waiting), now):
                self.reset()
        elif self.exchange is not None and self.upload is not None and not self.upload.ended and not self.paused:
            refusal = late_body(self.exchange, self, self.upload.size, now)
            if refusal is not None:
                self._refuse(self.exchange, refusal)

    def _refuse(self, exchange: Exchange, error: BadRequest) -> None:
        self.site.refused(error)
        exchange.leave()
        if not self.status:
            self.send(error.status, b"", 0, b"", b"")
            exchange.refused_by(error)
        self._end_exchange()

    def _lose(self) -> None:
        self._waiting.clear()
        self.over.set()
        if self.exchange is not None:
            self.exchange.leave()
            self._end_exchange()
        self.connection.look()

    def _end_exchange(self) -> None:
        exchange, self.exchange = self.exchange, None
        assert exchange is not None
        self.site.answered(exchange, self.clock() - exchange.began)

    @property
    def closed(self) -> bool:
        """Whether either side has no more to send."""
        return self.exchange is None and not self._waiting


class Connection:
    """One connection of a client that opens streams."""

    peer = "192.0.2.9"
    admitted = False

    def __init__(self, site: Any) -> None:
        self.site = site
        self.number = next(_numbers)
        self.shut = False
        self.streams: list[Stream] = []
        assert self.site.joined(self) is None

    @property
    def exchanges(self) -> list[Exchange]:
        """Those under way."""
        return [stream.exchange for stream in self.streams if stream.exchange is not None]

    def open(
        self,
        target: bytes,
        *lines: FieldLine,
        method: bytes = b"GET",
        upload: int | None = 0,
        window: int = WIDE,
    ) -> Stream:
        """Begin an exchange; `upload` is the length of the request's body, None if that is unknown."""
        if self.shut or self.site.draining:
            raise ShutDown
        stream = Stream(self, window)
        framing = NO_BODY
        if upload != 0:
            framing = Framing(upload) if isinstance(upload, int) else Framing(None, chunked=True)
            stream.upload = Body(stream)
        request = Request(method, target, SITE, Fields(lines).without(HOP_BY_HOP), framing)
        stream.exchange = Exchange(stream, request, 0, stream.upload)
        self.streams.append(stream)
        self.site.answer(stream.exchange)
        return stream

    async def whole(self, target: bytes, *lines: FieldLine, method: bytes = b"GET") -> Stream:
        """The exchange of a request without a body, once it is over."""
        stream = self.open(target, *lines, method=method)
        async with asyncio.timeout(10):
            await stream.over.wait()
        return stream

    def sweep(self, now: float) -> None:
        """The deadlines of its streams, and its own end."""
        for stream in list(self.streams):
            stream.sweep(now)
        self.look()

    def look(self) -> None:
        """Forget streams that are over; leave if none is to come."""
        self.streams = [stream for stream in self.streams if not stream.closed]
        if (self.shut or self.site.draining) and not self.streams:
            self.site.left(self)

    def cut(self) -> None:
        """End with all streams."""
        self.shut = True
        for stream in list(self.streams):
            stream.reset()
        self.look()
