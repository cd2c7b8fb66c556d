"""The body of a request on its way to a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecache.semantics.rope import Piece
from edgecache.wire.body import Body
from edgecache.wire.body_readers import Cursor
from edgecache.wire.h1 import serializer as render

if TYPE_CHECKING:
    from edgecache.wire.h1.client import OriginConnection


class Upload:
    """The `Sink` of one request's body, framed as its head has said."""

    __slots__ = ("_chunked", "_connection", "_reading", "ended")

    def __init__(self, connection: OriginConnection, *, chunked: bool) -> None:
        self._connection = connection
        self._chunked = chunked
        self._reading: tuple[Body, Cursor] | None = None
        self.ended = False

    def begin(self, body: Body) -> None:
        """Send what is here of `body`, and the rest as it comes."""
        cursor = body.read_into(self)
        if not self.ended:
            self._reading = (body, cursor)

    @property
    def writable(self) -> bool:
        """Whether the server keeps up."""
        return self._connection.writable

    def write(self, piece: Piece) -> None:
        """A piece of the body."""
        if not self.ended and piece:
            self._connection.transport.write(render.chunk(piece) if self._chunked else piece)
            self._connection.pace.deadline = 0.0

    def finish(self) -> None:
        """The body is complete."""
        if not self.ended and self._chunked:
            self._connection.transport.write(render.LAST_CHUNK)
        self.ended, self._reading = True, None
        self._connection.upload_complete()

    def abort(self) -> None:
        """The body will not be complete: the server must see that."""
        self.ended, self._reading = True, None
        self._connection.upload_cut()

    def goes_alone(self, at: int) -> bool:
        """There is no other way to send the rest."""
        return False

    def go_on(self) -> None:
        """The server has caught up."""
        if self._reading is not None:
            body, cursor = self._reading
            body.taken(cursor)

    def leave(self) -> None:
        """Send nothing more."""
        reading, self._reading, self.ended = self._reading, None, True
        if reading is not None:
            body, cursor = reading
            body.leave(cursor)
