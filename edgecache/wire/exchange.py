"""One request and its answer, as the request path sees them: whose they are and what has been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Forward, Refused, Result, Tier
from edgecache.semantics.rope import Content, Piece, Rope, whole_of
from edgecache.wire.body import Body
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.body_charge import LARGE
from edgecache.wire.body_readers import Cursor
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1 import serializer as render

if TYPE_CHECKING:
    from edgecache.telemetry.observed import StoredResponse
    from edgecache.telemetry.tracing import Trace
    from edgecache.wire.h1.server import ClientConnection
    from edgecache.wire.upstream_connection import UpstreamConnection


BURST: Final = 128 * 1024  # bytes that a client gets before the others have their turn, however fast it is
COPIED: Final = 16 * 1024  # bytes that are copied rather than written in three parts


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
    why: Forward | None = None  # it was not answered out of memory
    tier: Tier | None = None  # who the answer came from, if `result` does not tell
    failure = ""  # why the answer is one of our own: a fixed word
    refused: Refused | None = None  # why the answer from upstream is not stored, if its body does not tell
    answered_with: Body | None = None  # the body of that answer
    answered_on: UpstreamConnection | None = None  # the connection that it came on
    upstream_status = 0  # of that answer; 0 = there was none
    entry: StoredResponse | None = None  # what is stored of the answer, or will be
    head_out = b""  # of the answer, as it was sent
    first_byte = 0.0  # monotonic seconds: when the answer began, if that was before its end
    trace: Trace | None = None  # the ids of one that is sampled
    regional_asked = upstream_asked = 0.0  # epoch seconds; 0 = it was not
    regional_took = upstream_took = 0.0  # seconds until the answer, or its head, was there; 0 = until the end
    started = False
    alone = False  # nobody but its client has any use for the answer: no cache, no other client
    inquiry: Cancellable | None = None  # to be cancelled if the client leaves before the end
    _cursor: tuple[Body, Cursor] | None = None
    _chunked = False
    _length: int | None = None  # bytes that the head has promised, if the body follows
    _burst = 0  # bytes of the body that were sent in this turn of the event loop, or in some before
    extra = b""  # field lines that end the head of the answer: what only a POP is told
    ask_for_rest: Callable[[Exchange, int], None] | None = None  # how to get the answer's rest by another way

    def __init__(self, connection: ClientConnection, request: Request, raw: bytes, body: Body | None) -> None:
        self.request = request
        self.raw = raw  # the head's exact bytes
        self.body = body  # of the request; None where it has none
        self.client = connection.peer  # its address
        self.began = connection.site.clock()
        self.head_in = len(raw)
        self.opened_on: ClientConnection | None = connection  # the same, as long as the exchange lives
        self._connection: ClientConnection | None = connection

    @property
    def gone(self) -> bool:
        """Whether nobody waits for this answer any more: it is complete, or the client has left."""
        return self._connection is None

    @property
    def not_stored(self) -> Refused | None:
        """Why the answer from upstream is not stored, as far as is known; None of one that is, or came from a tier."""
        return self.refused if self.answered_with is None else self.answered_with.refused

    @property
    def writable(self) -> bool:
        """Whether the client keeps up, and has not had its share of this turn of the event loop."""
        return self._connection is None or (self._connection.writable and self._burst < BURST)

    def refused_by(self, error: BadRequest, size: int = 0) -> None:
        """It is refused, by an answer of ours with `size` bytes of content that the connection sends."""
        self.status, self.bytes_out = error.status, size
        self.result, self.failure = Result.ERROR, error.reason

    def interim(self, head: bytes) -> None:
        """Send a 1xx response; HTTP/1.0 knows none (RFC 9110 §15.2)."""
        if self._connection is not None and not self.started and not self.request.http_1_0:
            self._connection.transport.write(head)

    def reply(self, status: int, head: bytes, content: Content = b"") -> None:
        """The whole answer: `head` is status line and fields, with Content-Length where it needs one."""
        connection = self._connection
        if connection is None:
            return
        if self.started:  # another answer has begun: this one cannot be told from its rest
            self.abort()
            return
        size = len(content)
        self.status, self.started, self.bytes_out = status, True, size
        head += self.extra + connection.ending(self.request, head)
        self.head_out = head
        if size > SLICE or isinstance(content, Rope):
            # not all at once: what waits for a slow client is a slice, and it is known who reads what
            connection.transport.write(head)
            self.bytes_out, self._length, self.first_byte = 0, size, connection.site.clock()
            self._read(Body.of(content, connection.site.room))
            return
        if size <= COPIED:
            connection.transport.write(head + content)
        else:
            connection.transport.write(head)
            connection.transport.write(content)
            if size >= LARGE:
                connection.site.room.sent(content, connection.transport)
        self._connection = self._cursor = None
        connection.exchange_done(self)

    def start(self, status: int, head: bytes, length: int | None) -> None:
        """Begin an answer whose body follows by `write` and `finish`; `length` None = unknown."""
        connection = self._connection
        if connection is None:
            return
        self.status, self.started, self._length = status, True, length
        if length is None:
            if self.request.http_1_0:  # RFC 9112 §6.3 step 8
                connection.closing = True
            else:
                self._chunked = True
                head += b"Transfer-Encoding: chunked\r\n"
        self.head_out = head + self.extra + connection.ending(self.request, head)
        self.first_byte = connection.site.clock()
        connection.transport.write(self.head_out)

    def stream(self, status: int, head: bytes, length: int | None, body: Body) -> None:
        """Answer with `body` as it arrives; of a HEAD's answer only the head is sent."""
        if self._connection is None:
            body.discard()
            return
        if self.request.method == b"HEAD" or status in (204, 304):
            self.reply(status, head)
            body.discard()  # it goes on if it is stored
            return
        if body.finished and len(body.pieces) <= 1 and body.size == length:  # all there: one write
            self.reply(status, head, body.pieces[0] if body.pieces else b"")
            return
        self.start(status, head, length)
        self._read(body)

    def _read(self, body: Body, skip: int = 0) -> None:
        cursor = body.read_into(self, skip=skip)
        if not self.gone:  # it waits for more, or for the client to take what is there
            self._cursor = (body, cursor)

    @property
    def reads(self) -> Content | None:
        """The complete content that the client is still reading, if it is one."""
        content = self._cursor[0].content if self._cursor is not None else None
        return None if content is None else whole_of(content)

    def write(self, piece: Piece) -> None:
        """A piece of the answer's body."""
        connection = self._connection
        if connection is not None and piece:
            size = len(piece)
            self.bytes_out += size
            self._burst += size
            if self._burst >= BURST > self._burst - size:
                asyncio.get_running_loop().call_soon(self._have_a_turn)
            if not self._chunked:
                connection.transport.write(piece)
            elif size <= COPIED:
                connection.transport.write(render.chunk(piece))
            else:  # what waits for the client is what is stored, and no copy of it
                connection.transport.writelines((b"%x\r\n" % size, piece, b"\r\n"))

    def _have_a_turn(self) -> None:
        self._burst = 0
        self.resume()

    def finish(self) -> None:
        """The answer's body is complete."""
        if self._connection is None:
            return
        if self._length is not None and self.bytes_out != self._length:  # RFC 9112 §8: the client must see that
            self.abort()
            return
        if self._chunked:
            self._connection.transport.write(render.LAST_CHUNK)
        self._complete()

    def abort(self) -> None:
        """The answer cannot be completed: the connection is cut, which no client takes for an end."""
        if self._connection is not None:
            self.failure = "cut-short"
            self._connection.cut()

    def goes_alone(self, at: int) -> bool:
        """Whether the rest from byte `at` on comes by another way: others must not wait for this client."""
        if self.ask_for_rest is None or self._connection is None:
            return False
        self._cursor = None
        self.ask_for_rest(self, at)  # no cycle: what a miss leaves behind is freed at once
        return True

    def go_on_with(self, rest: Body, skip: int = 0) -> None:
        """The rest of the answer's body comes from here, after `skip` bytes."""
        if self._connection is None:
            rest.discard()
        else:
            self._read(rest, skip)

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

    def become_tunnel(self, receive: Callable[[bytes], None], on_room: Callable[[], None]) -> None:
        """Take the connection out of HTTP (RFC 9110 §7.8): `receive` gets all further bytes."""
        if self._connection is not None:
            self.started = True
            self._connection.become_tunnel(receive, on_room)

    def _complete(self) -> None:
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None:
            connection.exchange_done(self)

    def __repr__(self) -> str:
        return f"<Exchange {self.request.method.decode()} {'gone' if self.gone else 'open'} {self.status}>"
