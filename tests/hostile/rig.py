"""A client's connection without sockets: the product's protocol object, a transport that records, a site that notes.

For what sockets add nothing to: cuts at every byte, and inputs by the hundred thousand.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, NamedTuple

from edgecache.semantics.field_codec import pack
from edgecache.semantics.forwarding import Gateway, downstream_lines, upstream_lines
from edgecache.semantics.message import Request, Response
from edgecache.storage.memory_budget import Account
from edgecache.telemetry.metrics import Counter
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1 import serializer as render
from edgecache.wire.h1.head import RequestHeads
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.head_limits import HeadLimits
from edgecache.wire.response import FullResponse
from edgecache.wire.run_queue import RunQueue
from edgecache.wire.upstream_request import UpstreamRequest
from hostile.readers import Seen

GATEWAY = Gateway(b"test")
OK = FullResponse(200, b"", b"ok", 2)


class Outcome(NamedTuple):
    """What came of some bytes: the requests that were taken whole, and the refusal that ended the connection."""

    taken: tuple[Seen, ...]
    status: int  # of the refusal; 0 = none
    reason: str
    closing: bool  # no further request will be taken

    @property
    def gist(self) -> tuple[tuple[Seen, ...], int, bool]:
        """All but the reason: two faults in one head may be named in either order."""
        return self.taken, self.status, self.closing


class Collected:
    """The `Sink` of a request's body: it answers once the body is whole."""

    writable = True

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.content = bytearray()
        self.whole = False

    def write(self, piece: bytes) -> None:
        """A piece."""
        self.content += piece

    def finish(self) -> None:
        """The body is whole."""
        self.whole = True
        self.exchange.send(OK)

    def abort(self) -> None:
        """The body will never be whole."""


class Transport(asyncio.Transport):
    """A transport that remembers what was written and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.ended = False

    def write(self, data: Any) -> None:
        """Bytes to the client."""
        self.written += data

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def can_write_eof(self) -> bool:
        """As TCP."""
        return True

    def write_eof(self) -> None:
        """FIN."""
        self.ended = True

    def is_closing(self) -> bool:
        """Whether it was closed or aborted."""
        return self.ended

    def close(self) -> None:
        """FIN."""
        self.ended = True

    def abort(self) -> None:
        """RST."""
        self.ended = True

    def pause_reading(self) -> None:
        """Not looked at."""

    def resume_reading(self) -> None:
        """Not looked at."""


class NoQueue(RunQueue):
    """Requests are handled as they come: no event loop turns."""

    def has_room(self) -> bool:
        """Always."""
        return True

    has_room_for_a_hit = has_room


class Bench:
    """The `Site` of the connections under test: it takes every request, and notes refusals and questions upstream."""

    draining = False
    head_timeout = body_timeout = idle_timeout = 10.0
    min_rate = max_request_body = 0
    on_deliver = body_limit = None
    run_queue = NoQueue()
    room = Account(1 << 20, 1 << 20, lambda left: True)

    def __init__(self, limits: HeadLimits | None = None) -> None:
        heads = RequestHeads(limits or HeadLimits())
        self.heads = heads
        self.bytes_in = Counter()
        self.reasons: list[tuple[int, str]] = []
        self.exchanges: list[tuple[Exchange, Collected | None]] = []

    def answer_known(self, connection: ClientConnection, raw: bytes) -> bool:
        """Nothing is known."""
        return False

    def answer(self, exchange: Exchange) -> None:
        """Take a request: answer it, once its body is whole."""
        if exchange.body is None:
            self.exchanges.append((exchange, None))
            exchange.send(OK)
        else:
            sink = Collected(exchange)
            self.exchanges.append((exchange, sink))
            exchange.body.read_into(sink)

    def answered(self, exchange: Exchange, took: float) -> None:
        """Not looked at."""

    def refused(self, error: BadRequest) -> None:
        """Note a refusal."""
        self.reasons.append((error.status, error.reason))

    def joined(self, connection: ClientConnection) -> None:
        """Not looked at."""

    def left(self, connection: ClientConnection) -> None:
        """Not looked at."""

    def clock(self) -> float:
        """It stands still."""
        return 1.0

    # What a test asks…

    def play(self, *pieces: bytes) -> Outcome:
        """Send `pieces`, one read each, on a new connection; the event loop need not turn for it."""
        self.exchanges.clear()
        self.reasons.clear()
        transport = Transport()
        connection = ClientConnection(self)  # type: ignore[arg-type]
        connection.connection_made(transport)
        for piece in pieces:
            connection.data_received(piece)
            while not transport.ended and connection.exchange is None and connection.unread:
                before = connection.unread
                connection.advance()  # what `call_soon` would do in its next turn
                if before == connection.unread:
                    break
        status, reason = self.reasons[-1] if self.reasons else (0, "")
        assert len(self.reasons) < 2, f"refused twice: {self.reasons}"
        return Outcome(tuple(self._taken()), status, reason, transport.ended or connection.closing)

    def _taken(self) -> list[Seen]:
        taken = []
        for exchange, sink in self.exchanges:
            if sink is None or sink.whole:
                request = exchange.request
                taken.append(Seen(request.method, request.target, request.host, bytes(sink.content if sink else b"")))
        return taken

    def forwarded(self) -> bytes:
        """What the origin would be sent for the requests taken whole, in order, as `Upstream` makes it."""
        out = bytearray()
        for exchange, sink in self.exchanges:
            if sink is None or sink.whole:
                out += question(exchange.request, bytes(sink.content) if sink else b"")
        return bytes(out)


def question(request: Request, body: bytes = b"") -> bytes:
    """The bytes that `Upstream` and `OriginConnection` send for `request`."""
    lines = upstream_lines(request, request.fields, GATEWAY, "127.0.0.1")
    sent = UpstreamRequest(
        request.method, request.target, lines, length=request.framing.length, upgrade=request.upgrade
    )
    head = render.request_head(sent)
    if request.framing.chunked:
        return head + (render.chunk(body) if body else b"") + render.LAST_CHUNK
    return head + body


def passed_on(response: Response) -> bytes:
    """The head of `response` as it is passed on to a client, without what this POP adds, and the empty line."""
    fields = pack(downstream_lines(response.fields))
    return render.response_head(response.status, response.reason, fields, response.content_length)


def problem_of(written: bytes) -> dict[str, Any]:
    """The problem details in a refusal."""
    found = re.search(rb"\r\n\r\n(\{.*\})\Z", written, re.DOTALL)
    assert found is not None, f"no problem details in {written!r}"
    problem: dict[str, Any] = json.loads(found[1])
    return problem
