"""One request and its answer, as the request path sees them: whose they are and what has been sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgecache.semantics.field_codec import pack
from edgecache.semantics.message import Request, Response
from edgecache.semantics.outcomes import Forward, Refused, Result, Tier
from edgecache.semantics.rope import Content, Piece, Rope, whole_of
from edgecache.semantics.rules.debug_fields import Times
from edgecache.wire.body import Body
from edgecache.wire.body_buffer import SLICE
from edgecache.wire.body_readers import Cursor
from edgecache.wire.errors import BadRequest
from edgecache.wire.response import FullResponse

if TYPE_CHECKING:
    from edgecache.telemetry.exchange import StoredResponse
    from edgecache.telemetry.request_metrics import Tally
    from edgecache.telemetry.tracing import Trace
    from edgecache.wire.response_writer import ResponseWriter
    from edgecache.wire.upstream_connection import UpstreamConnection


BURST: Final = 128 * 1024  # bytes that a client gets before the others have their turn, however fast it is


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
    fields_out = b""  # of the response, packed
    head_out = 0  # bytes of its head, as it was sent
    first_byte = 0.0  # monotonic seconds: when the answer began, if that was before its end
    tally: Tally | None = None  # where it is counted, if that is known before its end
    trace: Trace | None = None  # the ids of one that is sampled
    regional_asked = upstream_asked = 0.0  # epoch seconds; 0 = it was not
    regional_took = upstream_took = 0.0  # seconds until the answer, or its head, was there; 0 = until the end
    started = False
    admission: Any = None  # what the middleware of access has found; None: it was not asked
    limited_as: Any = None  # by what the middleware of limits has counted it, if that reads a token
    alone = False  # nobody but its client has any use for the answer: no cache, no other client
    whole_only = False  # its response could not be had in slices
    storable = True  # the response may go into a store; False: rules forbid it, or its key was not made
    upstream_call: Cancellable | None = None  # to be cancelled if the client leaves before the end
    _cursor: tuple[Body, Cursor] | None = None
    _length: int | None = None  # bytes that the head has promised, if the body follows
    _burst = 0  # bytes of the body that were sent in this turn of the event loop, or in some before
    extra = b""  # packed fields that end the head of the response: what only a POP is told
    ask_for_rest: Callable[[Exchange, int], None] | None = None  # how to get the answer's rest by another way

    def __init__(self, writer: ResponseWriter, request: Request, head_in: int = 0, body: Body | None = None) -> None:
        self.request = request
        self.fingerprint = writer.fingerprint  # what the fast path may remember it by; None: nothing
        self.body = body  # of the request; None where it has none
        self.client = writer.peer  # its address
        self.began = writer.clock()
        self.head_in = head_in  # bytes of the request's head
        self.opened_on: ResponseWriter | None = writer  # for the log: it outlasts the response
        self._writer: ResponseWriter | None = writer

    @property
    def gone(self) -> bool:
        """Whether nobody waits for this answer any more: it is complete, or the client has left."""
        return self._writer is None

    def content_up_to(self, most: int) -> bytes | None:
        """The content of the request; None if it is not all here yet, or has more than `most` bytes."""
        if self.body is None:
            return b""
        return b"".join(self.body.pieces) if self.body.finished and self.body.size <= most else None

    @property
    def not_stored(self) -> Refused | None:
        """Why the answer from upstream is not stored, as far as is known; None of one that is, or came from a tier."""
        return self.refused if self.answered_with is None else self.answered_with.refused

    @property
    def writable(self) -> bool:
        """Whether the client keeps up, and has not had its share of this turn of the event loop."""
        return self._writer is None or (self._writer.room and self._burst < BURST)

    def refused_by(self, error: BadRequest, size: int = 0) -> None:
        """It is refused, by an answer of ours with `size` bytes of content that the connection sends."""
        self.status, self.bytes_out = error.status, size
        self.result, self.failure = Result.ERROR, error.reason

    def interim(self, response: Response) -> None:
        """Send a 1xx response (RFC 9110 §15.2)."""
        if self._writer is not None and not self.started:
            self._writer.interim(response.status, pack(response.fields), response.reason)

    def send(self, response: FullResponse) -> None:
        """Answer with `response`; with its head only if the method is HEAD."""
        writer = self._writer
        if writer is None:
            return
        if self.started:  # another response has begun: this one cannot be told from its rest
            self.abort()
            return
        status, fields, content, length, reason, _ = response
        if self.request.method == b"HEAD":
            content = b""
        if len(content) > SLICE or isinstance(content, Rope):
            self._begin(writer, status, fields, length, reason, self._slices(writer, content))
            return
        fields = self.fields_out = self._delivered(writer, status, fields)
        self.status, self.started, self.bytes_out = status, True, len(content)
        self.head_out = writer.send(status, fields, length, reason, content)
        self._writer = self._cursor = None
        writer.exchange_done(self)

    @staticmethod
    def _slices(writer: ResponseWriter, content: Content) -> Body:
        """`content`, not all at once: what waits for a slow client is a slice, and it is known who reads what."""
        body = Body.of(content)
        body.count_readers_in(writer.budget)
        return body

    def stream(self, status: int, fields: bytes, length: int | None, body: Body, reason: bytes = b"") -> None:
        """Answer with `body` as it arrives; `length` None: it is not known. A HEAD is answered with the head only."""
        writer = self._writer
        if writer is None:
            body.discard()
            return
        if self.request.method == b"HEAD" or status in (204, 304):
            self.send(FullResponse(status, fields, b"", length, reason))
            body.discard()  # it goes on if it is stored
            return
        if body.finished and len(body.pieces) <= 1 and body.size == length:  # all there: one write
            self.send(FullResponse(status, fields, body.pieces[0] if body.pieces else b"", length, reason))
            return
        self._begin(writer, status, fields, length, reason, body)

    def _begin(
        self, writer: ResponseWriter, status: int, fields: bytes, length: int | None, reason: bytes, body: Body
    ) -> None:
        self.status, self.started, self._length = status, True, length
        fields = self.fields_out = self._delivered(writer, status, fields)
        self.head_out = writer.head(status, fields, length, reason)
        self.first_byte = writer.clock()
        self._read(body)

    def _delivered(self, writer: ResponseWriter, status: int, fields: bytes) -> bytes:
        """`fields` as rules change them, with those for POPs only, and those that middleware adds."""
        request, added = self.request, writer.site.on_deliver
        if request.policy is not None and request.child is None:
            fields = self._by_rules(request, status, fields)
        fields += self.extra
        return fields if added is None else fields + added(request.scheme, fields, request.child is not None)

    def _by_rules(self, request: Request, status: int, fields: bytes) -> bytes:
        """`fields` as the rules of the request's site change them."""
        if not request.policy.changes_fields:
            return fields
        entry = self.entry if status == 304 else None
        times = Times(self.upstream_took, self.regional_took)
        changed: bytes = request.policy.delivered(
            status, self.result.value, fields, request.scheme, b"" if entry is None else entry.content_type, times
        )
        return changed

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
        writer = self._writer
        if writer is not None and piece:
            size = len(piece)
            self.bytes_out += size
            self._burst += size
            if self._burst >= BURST > self._burst - size:
                asyncio.get_running_loop().call_soon(self._have_a_turn)
            writer.data(piece)

    def _have_a_turn(self) -> None:
        self._burst = 0
        self.resume()

    def finish(self) -> None:
        """The answer's body is complete."""
        if self._writer is None:
            return
        if self._length is not None and self.bytes_out != self._length:  # RFC 9112 §8: the client must see that
            self.abort()
            return
        self._writer.end()
        self._complete()

    def abort(self) -> None:
        """The response cannot be completed, and the client must see that."""
        if self._writer is not None:
            self.failure = "cut-short"
            self._writer.reset()

    def cut(self) -> None:
        """End the response at once, visibly unfinished: its client reads too slowly."""
        if self._writer is not None:
            self._writer.reset()

    @property
    def since(self) -> float:
        """Monotonic seconds: the last progress of the connection or stream; infinity if there is none any more."""
        return self._writer.since if self._writer is not None else inf

    def goes_alone(self, at: int) -> bool:
        """Whether the rest from byte `at` on comes by another way: others must not wait for this client."""
        if self.ask_for_rest is None or self._writer is None:
            return False
        self._cursor = None
        self.ask_for_rest(self, at)  # no cycle: what a miss leaves behind is freed at once
        return True

    def go_on_with(self, rest: Body, skip: int = 0) -> None:
        """The rest of the answer's body comes from here, after `skip` bytes."""
        if self._writer is None:
            rest.discard()
        else:
            self._read(rest, skip)

    def resume(self) -> None:
        """The client can take more."""
        if self._cursor is not None:
            body, cursor = self._cursor
            body.taken(cursor)

    def leave(self) -> None:
        """The client has gone before the end: nothing more is done for it."""
        self._writer = None
        if self._cursor is not None:
            body, cursor = self._cursor
            self._cursor = None
            body.leave(cursor)
            if not body.ended:
                body.taken(cursor)
        if self.body is not None:
            self.body.fail()
        if self.upstream_call is not None:
            self.upstream_call.cancel()
        if self.status != 101:
            self.result, self.failure = Result.ABORTED, self.failure or "client-left"

    @property
    def connection(self) -> ResponseWriter | None:
        """The way to the client, or None if the client has left or is answered."""
        return self._writer

    def switch_protocols(self, response: Response, origin: UpstreamConnection) -> None:
        """Accept the upgrade with the 101 `response` (RFC 9110 §7.8): all else passes to and from `origin`."""
        writer = self._writer
        if writer is not None:
            self.status, self.started = response.status, True
            writer.tunnel(self, origin, pack(response.fields), response.reason)

    def _complete(self) -> None:
        writer, self._writer, self._cursor = self._writer, None, None
        if writer is not None:
            writer.exchange_done(self)

    def __repr__(self) -> str:
        return f"<Exchange {self.request.method.decode()} {'gone' if self.gone else 'open'} {self.status}>"
