"""The body of the request under way, as it comes in: framing removed, bounded, and passed on to its readers."""

from __future__ import annotations

from edgecache.semantics.message import Framing
from edgecache.wire.body import Body
from edgecache.wire.h1.body_framing import BadBody, body_reader


class IncomingBody:
    """A request's body between the connection's buffer and `Body`. Mutable state: the reader, and the bytes so far."""

    __slots__ = ("_body", "_limit", "_reader", "resting", "size")

    def __init__(self, framing: Framing, body: Body, limit: int) -> None:
        self._reader = body_reader(framing, bounded=True)
        self._body = body
        self._limit = limit  # bytes of content; 0 = no limit
        self.size = 0  # bytes of content so far
        self.resting = False  # the reader has done its share of this turn of the event loop

    def parse(self, data: bytes) -> list[bytes]:
        """The content in `data`; raises `BadBody`."""
        pieces = self._reader.feed(data)
        self.size += sum(map(len, pieces))
        if self._limit and self.size > self._limit:
            raise BadBody("body-too-large", "the request's body is too large", status=413)
        self.resting = self._reader.tired
        return pieces

    @property
    def complete(self) -> bool:
        """Whether the last byte has arrived."""
        return self._reader.done

    @property
    def rest(self) -> bytes:
        """The bytes after the body, or after what a resting reader has read of it."""
        return self._reader.rest if self.resting or self._reader.done else b""

    def deliver(self, pieces: list[bytes]) -> None:
        """Pass `pieces` on to the readers, and the body's end if it is complete."""
        for piece in pieces:
            self._body.write(piece)
        if self._reader.done:
            self._body.finish()
