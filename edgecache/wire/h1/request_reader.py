"""The half of an HTTP/1 connection that reads requests: the buffer, heads and bodies, and when it is read from."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum, auto
from typing import Final

from edgecache.semantics.message import Request
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1.body_framing import BadBody
from edgecache.wire.h1.connection_state import (
    EMPTIED,
    HOLDING,
    IDLE,
    READING_BODY,
    READING_HEAD,
    TRANSITIONS,
    Event,
)
from edgecache.wire.h1.hop_by_hop import Hop
from edgecache.wire.h1.request_body import IncomingBody
from edgecache.wire.h1.response_writer import H1ResponseWriter

log = logging.getLogger("edgecache")
MAX_PIPELINED: Final = 64 * 1024  # bytes read ahead of the request being answered
MOST_AT_ONCE: Final = 32  # pipelined requests taken in one turn of the event loop
MOST_HELD: Final = 64 * 1024  # bytes of a body that are here before anything of it goes upstream
BODY_STATES: Final = (HOLDING, READING_BODY)  # a request's body is coming in


class Pause(Enum):
    """Why the connection is not read from."""

    READ_AHEAD = auto()  # much is buffered behind the request under way
    BODY = auto()  # the readers of the request's body do not keep up, or a tunnel's origin


class H1RequestReader(H1ResponseWriter):
    """Reads requests one after the other: the next when the last is answered, however many were pipelined."""

    __slots__ = (
        "_advancing",
        "_at",
        "_buffer",
        "_eof",
        "_pause",
        "_scanned",
        "_waits_turn",
        "exchange",
        "fresh",
        "incoming",
        "since",
        "state",
    )

    scheme: bytes

    def _begin_reading(self) -> None:
        self._buffer = b""
        self._at = 0  # bytes of the buffer that are used up
        self._scanned = 0  # place in the buffer up to which there is no end of a head
        self._advancing = False
        self._waits_turn = False  # in the run queue
        self._eof = False  # the client has sent FIN
        self._pause: Pause | None = None  # why it is not read from
        self.state = IDLE
        self.fresh = True  # no request yet
        self.exchange: Exchange | None = None
        self.incoming: IncomingBody | None = None  # the body of the request under way
        self.since = 0.0  # monotonic seconds: the last progress; 0 = since the last sweep

    def _on(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    def _has_head(self) -> bool:
        """Whether the head of one more request is buffered."""
        return self._buffer.find(b"\r\n\r\n", self._at) >= 0

    def wait_for_turn(self) -> None:
        """Use up what is buffered in one of the next turns of the event loop: bursts take turns."""
        if not self._waits_turn:
            self._waits_turn = True
            self.site.run_queue.add(self._have_turn)

    def _have_turn(self) -> None:
        self._waits_turn = False
        self.advance()

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
        for _ in range(MOST_AT_ONCE):
            if self._at == len(self._buffer) or not self._take():
                return
        asyncio.get_running_loop().call_soon(self.advance)  # the other connections have their turn

    def _take(self) -> bool:
        """Take a request off the buffer, or a part of its body; False if neither is there or has its turn."""
        if self.state in BODY_STATES and not self.resting:
            self._read_body()
            return True
        return self.state is READING_HEAD and self._next_request()

    def _after_requests(self) -> None:
        """Settle whether the connection is idle, is read from, and stays open."""
        if self._at == len(self._buffer):
            self._buffer, self._at, self._scanned = b"", 0, 0
            if self.state is READING_HEAD:
                self._on(EMPTIED)
        if self._pause is not None or self.unread > MAX_PIPELINED:
            self._pause_or_read()
        if self._eof and self._is_incomplete():
            self.close()

    def _pause_or_read(self) -> None:
        waits = self.exchange is not None or not self.writable
        if self._pause is None:
            if waits:
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
        buffer, start = self._buffer, self._at
        if buffer.startswith(b"\r\n", start):  # RFC 9112 §2.2: one empty line before a request is forgiven
            start += 2
        end = buffer.find(b"\r\n\r\n", max(start, self._scanned - 3)) + 4
        try:
            if end < 4:
                self.site.heads.check_unfinished(buffer[start:], max(0, self._scanned - start))
                self._scanned = len(buffer)
                return False
            raw = buffer[start:end]
            self._at = self._scanned = end
            request, hop = self.site.heads.parse(raw, self.scheme)
        except BadRequest as error:
            self.refuse(error, buffer[start:])
            return False
        self.fresh = False
        self._begin(request, hop, raw)
        return True

    def _begin(self, request: Request, hop: Hop, raw: bytes) -> None:
        """Begin the exchange of `request`, whose head is `raw`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close between two requests."""
        raise NotImplementedError

    def refuse(self, error: BadRequest, head: bytes = b"", waited: float = 0.0) -> None:
        """Answer with an error of ours, and close."""
        raise NotImplementedError

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

    @property
    def buffered(self) -> bytes:
        """The bytes that have come and are not used up."""
        return self._buffer[self._at :]

    @property
    def unread(self) -> int:
        """The number of buffered bytes."""
        return len(self._buffer) - self._at

    @property
    def waits_turn(self) -> bool:
        """Whether what is buffered is in the run queue."""
        return self._waits_turn

    @property
    def resting(self) -> bool:
        """Whether the buffered part of the request's body is read in the next turn of the event loop."""
        return self.incoming is not None and self.incoming.resting

    @property
    def reading_paused(self) -> bool:
        """Whether the connection is not read from."""
        return self._pause is not None

    # --- back-pressure on the request's body

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
