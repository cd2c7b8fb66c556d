"""What a connection to an origin needs of the pool that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from edgecache.wire.errors import OriginError
from edgecache.wire.h1.head import ResponseHeads
from edgecache.wire.read_buffer import ReadBuffer
from edgecache.wire.upstream_request import Inquiry

if TYPE_CHECKING:
    from edgecache.wire.h1.client import OriginConnection


class Pool(Protocol):
    """What a connection needs of the pool that it belongs to."""

    first_byte_timeout: float
    between_bytes_timeout: float
    tunnel_timeout: float  # seconds between two events of a stream
    min_rate: int  # bytes per second, of answers whose length is known or that are kept
    max_head: int  # bytes of a response's head; nginx takes 4 or 8 KiB by default, curl 300 KiB
    heads: ResponseHeads
    buffer: ReadBuffer
    fastest: float  # seconds: the least time in which an answer has begun; 0 = none has

    origin_text: str  # whom it leads to, as a URL

    def clock(self) -> float:
        """Monotonic seconds."""

    def failed(self, reason: str) -> None:
        """The origin has let us down: count it."""

    def idle(self, connection: OriginConnection) -> None:
        """`connection` can take another question."""

    def closed(self, connection: OriginConnection) -> None:
        """`connection` has ended."""

    def unanswered(self, inquiry: Inquiry, error: OriginError, connection: OriginConnection, *, unread: bool) -> None:
        """A kept `connection` ended before a byte of the answer; `unread`: not because of the question."""
