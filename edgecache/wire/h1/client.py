"""The side that speaks to an origin: one `OriginConnection` per connection, one `UpstreamCall` per request on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final, cast

from edgecache.semantics.message import Response, is_event_stream
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError, OriginTimeout, WireError
from edgecache.wire.h1 import hop_by_hop, stale_connection
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.body_framing import BodyReader, body_reader
from edgecache.wire.h1.client_state import State, checked
from edgecache.wire.h1.response_pace import Pace
from edgecache.wire.h1.upload import Upload
from edgecache.wire.upstream_connection import UpstreamConnection, UpstreamPool
from edgecache.wire.upstream_request import UpstreamCall

if TYPE_CHECKING:
    from edgecache.wire.h1.client_factory import Http1

log = logging.getLogger("edgecache")
MEASURED: Final = 3  # requests of each connection whose answers are timed
REPEATED: Final = 64 * 1024  # bytes of a safe request's body that are kept until its answer begins
LOOKED_AT: Final = frozenset((206, 304, 408))  # statuses that may be no answer to the request
IDLE: Final = State.IDLE  # to name a member by its class costs a call of Python before Python 3.12
AWAITING_HEAD: Final = State.AWAITING_HEAD
CLOSED: Final = ("closed", "the upstream closed the connection")
MAX_INTERIM: Final = 32  # 1xx responses before a final one


class OriginConnection(UpstreamConnection, asyncio.BufferedProtocol):
    """One connection to a server; the `Source` of its responses' bodies. `client_state.py` has its states."""

    __slots__ = (
        "_body",
        "_buffer",
        "_call",
        "_fin",
        "_interim_count",
        "_known_head",
        "_pool",
        "_reader",
        "_resting",
        "_reusable",
        "_reused",
        "_room",
        "_shared",
        "_taken",
        "_tunnel",
        "_tunnel_call",
        "_tunnel_room",
        "_unread",
        "_upload",
        "pace",
        "retired",
        "state",
        "used",
    )

    def __init__(self, pool: UpstreamPool, shared: Http1) -> None:
        super().__init__(pool.origin_text)
        self._pool = pool
        self._shared = shared
        self._known_head = shared.heads.known
        self.state = IDLE
        self.used = 0  # requests sent on it
        self._reused = False  # it was idle before the request under way
        self._unread = False  # it ended too soon to have ended because of that request
        self.retired = False  # it takes no other request
        self._buffer = b""
        self._room = shared.buffer.after(0)  # where to read into
        self.pace = Pace(pool)
        self._call: UpstreamCall | None = None
        self._tunnel_call: UpstreamCall | None = None  # that became the tunnel
        self._reader: BodyReader | None = None  # of the response under way, once its head is there
        self._body: Body | None = None
        self._upload: Upload | None = None  # of the request under way, while its body is being sent
        self._resting = False  # others have their turn before the rest of what is here is read
        self._reusable = True  # so far
        self._interim_count = self._taken = 0  # bytes of the response that readers have taken as they came
        self._fin = False  # the server has said that it sends no more
        self._tunnel: Callable[[bytes | None], None] | None = None
        self._tunnel_room: Callable[[], None] | None = None  # called when a tunnel's server can take more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The server has accepted."""
        self.transport = cast(asyncio.Transport, transport)

    def _enter(self, state: State) -> None:
        self.state = checked(self.state, state)

    # --- the request

    @property
    def has_ended(self) -> bool:
        """Whether this connection, which is idle, has been closed by the server, or brings what is no response."""
        return self.closed or stale_connection.has_ended(self.transport)

    def send(self, call: UpstreamCall, now: float) -> None:
        """Send a request, at `now` in monotonic seconds; only on a connection that is new or idle."""
        assert self.state is IDLE, "one request at a time"
        self.state = AWAITING_HEAD  # for every request, hence without a call
        request = call.upstream_request
        self._call = call
        call.asked_on = self
        self.used += 1
        self._reused = self.idle_since != inf
        self.asked_at = now
        self.pace.deadline = 0.0
        self.transport.write(request.h1 or render.request_head(request))
        if request.body is not None:
            if self._reused and request.is_safe:
                request.body.keep_up_to(REPEATED)
            self._upload = Upload(self, chunked=request.length is None)
            self._upload.begin(request.body)

    def upload_complete(self) -> None:
        """The request's body is sent."""
        self._upload = None
        if self._reader is not None and self._reader.done:
            self._release()

    def upload_cut(self) -> None:
        """The request's body ends early: the server must see that."""
        self._upload = None
        if self.state is AWAITING_HEAD:
            self._fail(OriginError("client-left", "the request's body was cut short"))
        self.close()

    def pause_writing(self) -> None:
        """The origin does not keep up with the request's body."""
        self.writable = False

    def resume_writing(self) -> None:
        """The origin has caught up."""
        self.writable = True
        if self._tunnel_room is not None:
            self._tunnel_room()
        elif self._upload is not None:
            self._upload.go_on()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to read into, and how much at once."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes were read; 0: go on with what is in the buffer."""
        data = bytes(self._room[:nbytes])
        try:
            if self._reader is not None or self._buffer or self.used <= MEASURED or not self._read_known(data):
                self._receive(data)
        except Exception as error:
            self._break_off(error)

    def _receive(self, data: bytes) -> None:
        if self._call is None:
            if self._tunnel is not None:
                self._tunnel(data)
            else:  # unasked: whatever it is, it is no response
                self.close()
        elif self._reader is not None:
            self._read_body(data)
        else:
            if self.used <= MEASURED and not self._buffer:
                self._pool.timed(self._pool.clock() - self.asked_at)
                if self._read_known(data):
                    return
            self._buffer = self._buffer + data if self._buffer else data
            self._read_heads()

    def _break_off(self, error: Exception) -> None:
        """The response under way cannot be read, or cannot be handled."""
        call, failure = self._call, OriginError("internal", "the request failed here")
        if isinstance(error, WireError):
            self._let_down(error.reason)
            call, failure = None, OriginError(error.reason, str(error))
        else:
            log.error("a bug: an answer of the upstream could not be handled", exc_info=error)
        self._fail(failure)
        if call is not None:
            call.fail(failure)
        self.close()

    def _read_known(self, data: bytes) -> bool:
        """Take an answer that is all there in one read, under a head seen before; whether it was one."""
        call, end = self._call, data.find(b"\r\n\r\n") + 4
        response = self._known_head(data[:end])
        if response is None or response.framing.length != len(data) - end or call is None or self._upload is not None:
            return False
        if call.upstream_request.method == b"HEAD" or response.status in LOOKED_AT:
            return False
        call.on_whole(response, data[end:])
        self._call = None
        self._interim_count = 0
        self.state = IDLE
        if self._reusable and response.keep_alive and not self.closed:
            self.pace.deadline = inf
            self._pool.idle(self)
        else:
            self.close()
        return True

    def _read_heads(self) -> None:
        while self._reader is None and self._call is not None:
            end = self._buffer.find(b"\r\n\r\n") + 4
            if (end if end >= 4 else len(self._buffer)) > self._shared.max_head:
                raise OriginError("head-too-large", "the upstream's head is too large")
            if end < 4:
                return
            raw, self._buffer = self._buffer[:end], self._buffer[end:]
            response = self._shared.heads.parse(raw, self._call.upstream_request.method)
            if response.status >= 200:
                self._begin_answer(response)
            elif response.status == 101:
                self._switch(response)
                return
            else:
                self._interim_count += 1
                if self._interim_count > MAX_INTERIM:
                    raise OriginError("too-many-interim", "the upstream sends only interim responses")
                self._reusable = self._reusable and response.keep_alive
                self._call.on_interim(response)

    def _switch(self, response: Response) -> None:
        call = self._call
        protocol = response.fields.get(b"upgrade") or b""
        if call is None or not call.upstream_request.upgrade or protocol.lower() != b"websocket":
            raise OriginError("unasked-upgrade", "the upstream switched protocols without a request")
        self._enter(State.SWITCHED)
        self.pace.deadline = inf
        call.on_answer(response._replace(fields=hop_by_hop.response_end_to_end(response.fields)), Body())

    def _begin_answer(self, response: Response) -> None:
        call = self._call
        assert call is not None, "only called while a request is under way"
        asked_early = self._reused and not self._interim_count and not call.retried
        if asked_early and stale_connection.is_farewell(call.upstream_request, response):
            self._call = None
            self._pool.unanswered(call, OriginError(*CLOSED), self, unread=True)
            self.close()
            return
        if not call.upstream_request.may_be_answered(response.status):
            raise OriginError("unasked-status", "the upstream sent a response that was not requested")
        self._reusable = self._reusable and response.keep_alive
        length = response.framing.length
        if length is not None and length == len(self._buffer):  # all there, in one read
            content, self._buffer = self._buffer, b""
            self._enter(State.ANSWERED)
            call.on_whole(response, content)
            self._end_answer()
            return
        self._enter(State.READING_BODY)
        reader = self._reader = body_reader(response.framing)
        body = self._body = Body(self)
        self.pace.begin(sized=length is not None, quiet=is_event_stream(response))
        call.on_answer(response, body)
        if reader.done:
            self._end_answer()
        elif self._buffer:
            self._read_body(b"")

    def _read_body(self, data: bytes) -> None:
        reader, body = self._reader, self._body
        if reader is None or body is None:
            return
        self._taken += len(data)
        self._room = self._shared.buffer.after(self._taken)
        self.pace.moved()
        if self._buffer:  # what was left over in the last turn of the event loop, or came with the head
            data, self._buffer = self._buffer + data, b""
        for piece in reader.feed(data):
            body.write(piece)
        if reader.done:
            self._buffer = reader.rest
            self._end_answer()
        elif reader.tired:
            self._buffer = reader.rest
            self._rest()

    def _rest(self) -> None:
        """Let others have their turn before the rest of what is here is read."""
        if not self._resting:
            self._resting = True
            asyncio.get_running_loop().call_soon(self._go_on)
        if not self.pace.is_held and not self.transport.is_closing():
            self.transport.pause_reading()

    def _go_on(self) -> None:
        self._resting = False
        if not self.pace.is_held and not self.closed and self._reader is not None:
            self.transport.resume_reading()
            self.buffer_updated(0)

    def _end_answer(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            self._enter(State.ANSWERED)
            body.finish()
        if self._upload is None:
            self._release()
        else:
            self.close()  # answered before the request was complete: what of it the server has read is not known

    def _release(self) -> None:
        if self._call is None:
            return
        self._enter(IDLE)
        self._call, self._reader, self._upload = None, None, None
        self.pace.deadline = inf
        self._interim_count = self._taken = 0  # as on a connection that is new
        self._room = self._shared.buffer.after(0)
        if self._reusable and not self._buffer and not self.closed:
            self._pool.idle(self)
        else:  # bytes after the answer: an answer to nothing
            self.close()

    def eof_received(self) -> bool:
        """The origin will send no more. Over TLS only its `close_notify` says so (RFC 9112 §9.8)."""
        self._fin = True
        if self._call is None and self._tunnel is None:
            self.closed = True
        elif self._unheard:
            after = self._pool.clock() - self.asked_at
            self._unread = stale_connection.closed_unread(self.transport, after, self._pool.fastest)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        by_us, self.closed = self.closed, True
        if not by_us and self._call is not None:
            self._read_what_came(exc)
        if self._tunnel is not None:
            self._tunnel(None)
        elif self._reader is not None and self._body is not None and self._reader.end() and self._fin and exc is None:
            self._end_answer()
        else:
            whole = self.state is State.ANSWERED or self.state is State.SWITCHED
            if not (by_us or whole or self._call is None or self._unheard):
                self._let_down("closed")
            self._fail(OriginError(*CLOSED), unread=self._unread or exc is not None)
        self._pool.closed(self)

    def _read_what_came(self, exc: Exception | None) -> None:
        """An origin that answers early resets what it does not read: its answer, which came before, is still here."""
        while self._reader is not None and self._reader.tired and self._buffer:
            self.buffer_updated(0)
        if exc is not None:
            self._buffer += b"".join(stale_connection.unread(self.transport))
            if self._buffer:
                self.buffer_updated(0)

    @property
    def _unheard(self) -> bool:
        """Whether this connection was idle before, and not a byte has come of the answer under way."""
        return self._reused and self.state is AWAITING_HEAD and not (self._buffer or self._interim_count)

    def _fail(self, error: OriginError, *, unread: bool = False) -> None:
        call, self._call = self._call, None
        self.pace.deadline = inf
        if self._upload is not None:
            self._upload.leave()
            self._upload = None
        if self._body is not None:
            body, self._body = self._body, None
            body.fail()
        elif call is not None and self.state is AWAITING_HEAD and not call.cancelled:
            if self._unheard:
                self._pool.unanswered(call, error, self, unread=unread)
            else:
                call.fail(error)

    def close(self) -> None:
        """End the connection; an answer under way fails."""
        self.pace.deadline = inf
        self.closed = True
        self.transport.abort()

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        if reason := self.pace.overdue(now, self._body, answered=self.state is not AWAITING_HEAD):
            self._let_down(reason)
            self._fail(OriginTimeout(reason, "the upstream did not answer in time"))
            self.close()

    def _let_down(self, reason: str) -> None:
        if self._call is None or not self._call.is_check:
            self._pool.failed(reason)

    def is_sending(self, call: UpstreamCall) -> bool:
        """Whether the body of `call` still goes out here."""
        return self._upload is not None and self._call is call

    def belongs_to(self, call: UpstreamCall) -> bool:
        """Whether `call` is under way here, or has become the tunnel that this is."""
        return not self.closed and (here := self._tunnel_call or self._call) is not None and here.is_for(call)

    def held_for(self, now: float) -> float:
        """For how many seconds the answer's readers have held it back; negative infinity if they do not."""
        return self.pace.held_for(now)

    def retire(self) -> None:
        """Take no other request: end now if none is under way, else after the answer; a tunnel stays."""
        self.retired, self._reusable = True, False
        if self._call is None and self._tunnel is None and not self.closed:
            self.close()

    def shed(self) -> None:
        """Others need the connection more than readers that take nothing: their answer is cut short."""
        self._fail(OriginError("held-back", "the readers of the answer took nothing"))
        self.close()

    # --- back-pressure on the answer's body, and leaving HTTP

    def pause_reading(self) -> None:
        """The readers of the response do not keep up; the server is not to blame for the time."""
        self.pace.hold(self._body)
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """The readers have caught up."""
        if not self.pace.resume():
            self._taken = 0
            self._room = self._shared.buffer.after(0)
        if self._reader is not None and self._reader.tired:
            self._rest()
        elif not self.transport.is_closing():
            self.transport.resume_reading()

    abandoned = close  # nobody reads the answer any more

    def end_tunnel(self) -> None:
        """The client has gone: what it sent before still goes out, in its time."""
        self.pace.deadline = self._pool.clock() + self._pool.between_bytes_timeout
        if not self.transport.is_closing():
            self.transport.close()

    def become_tunnel(self, receive: Callable[[bytes | None], None], on_room: Callable[[], None]) -> None:
        """Hand all further bytes to `receive`, and None at the end; tell `on_room` when more can be taken again."""
        self._enter(State.TUNNEL)
        self._tunnel, self._tunnel_room = receive, on_room
        self._tunnel_call, self._call = self._call, None
        if self._buffer:
            data, self._buffer = self._buffer, b""
            receive(data)
