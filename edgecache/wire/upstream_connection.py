"""Connections to servers, whatever protocol they speak: what a pool needs of one, and what one needs of its pool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import NamedTuple, Protocol

from edgecache.wire.errors import OriginError
from edgecache.wire.upstream_request import UpstreamCall


class UpstreamConnection(asyncio.BaseProtocol):
    """One connection to a server. A subclass speaks one protocol."""

    __slots__ = ("asked_at", "closed", "idle_since", "leaves_at", "origin_text", "peer", "transport", "writable")

    transport: asyncio.Transport
    peer: str  # the server's address
    closed: bool  # the transport has ended, or is about to
    writable: bool
    asked_at: float  # monotonic seconds: when the last request was sent
    idle_since: float  # monotonic seconds; 0 = the next sweep notes it; infinity = it never was
    leaves_at: float  # monotonic seconds: its greatest age
    origin_text: str  # where it leads to, as a URL

    def __init__(self, origin_text: str) -> None:
        self.origin_text = origin_text
        self.peer = ""
        self.closed, self.writable = False, True
        self.asked_at, self.idle_since, self.leaves_at = 0.0, inf, inf

    def send(self, call: UpstreamCall, now: float) -> None:
        """Send a request, at `now` in monotonic seconds; only on a connection that is new or idle."""
        raise NotImplementedError

    @property
    def has_ended(self) -> bool:
        """Whether this connection, which is idle, takes no request any more: a system call."""
        raise NotImplementedError

    def is_sending(self, call: UpstreamCall) -> bool:
        """Whether the request body of `call` is still being sent here."""
        raise NotImplementedError

    def belongs_to(self, call: UpstreamCall) -> bool:
        """Whether `call` is under way here, or this is the tunnel that it has become."""
        raise NotImplementedError

    def held_for(self, now: float) -> float:
        """For how many seconds the response's readers have held it back; negative infinity if they do not."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """End what is overdue; `now` in monotonic seconds."""
        raise NotImplementedError

    def retire(self) -> None:
        """Take no other request: end now if none is under way, else after the response; a tunnel stays."""
        raise NotImplementedError

    def shed(self) -> None:
        """Cut a response short whose readers take nothing: other requests wait for the connection."""
        raise NotImplementedError

    def become_tunnel(self, receive: Callable[[bytes | None], None], on_room: Callable[[], None]) -> None:
        """Hand all further bytes to `receive`, and None at the end; call `on_room` when more can be sent again."""
        raise NotImplementedError

    def end_tunnel(self) -> None:
        """Send what the client sent before it left, then end."""
        raise NotImplementedError

    def close(self) -> None:
        """End the connection; a response under way fails."""
        raise NotImplementedError


class UpstreamPool(Protocol):
    """What a connection needs of the pool that it belongs to."""

    first_byte_timeout: float
    between_bytes_timeout: float
    tunnel_timeout: float  # seconds between two events of a stream
    min_rate: int  # bytes per second, of responses whose length is known or that are kept
    fastest: float  # seconds: the least time in which a response has begun; 0 = none has
    origin_text: str  # where its connections lead to, as a URL

    def clock(self) -> float:
        """Monotonic seconds."""

    def timed(self, took: float) -> None:
        """A response has begun, so many seconds after its request."""

    def failed(self, reason: str) -> None:
        """Count a failure of the server; `reason` is a fixed word."""

    def idle(self, connection: UpstreamConnection) -> None:
        """`connection` can take another request."""

    def closed(self, connection: UpstreamConnection) -> None:
        """`connection` has ended."""

    def unanswered(
        self, call: UpstreamCall, error: OriginError, connection: UpstreamConnection, *, unread: bool
    ) -> None:
        """A kept `connection` ended before a byte of the response; `unread`: not because of the request."""


class ResponseRules(NamedTuple):
    """How the responses of one pool are read, whatever protocol brings them."""

    hidden: frozenset[bytes] = frozenset()  # fields that are not passed on to clients
    unbelieved: frozenset[bytes] = frozenset()  # fields that only a POP may send
    tagging: frozenset[bytes] = frozenset()  # further fields that bear tags
    max_fields: int = 100  # field lines
    max_head: int = 32 * 1024  # bytes; nginx takes 4 or 8 KiB by default, curl 300 KiB


ConnectionFactory = Callable[[UpstreamPool], UpstreamConnection]
ProtocolFactory = Callable[[ResponseRules], ConnectionFactory]  # one `ConnectionFactory` for each pool
