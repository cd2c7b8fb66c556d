"""Holds back the end of a write's body, and limits the objects that the writes of one client put in doubt.

A write takes effect, as a rule, once the origin has the whole of it. So a body goes upstream as it comes, but for what
makes it whole, its last bytes or its last chunk: that waits until the write's BEGIN is in the log. A client that drips
its body, or never ends it, holds nothing in doubt.

An origin may act on less. What it answers is an END at any time; what it does without an answer, or after one that came
early, is ended when the body has: nothing that it has read is left without an END but by the death of the POP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from edgecache.semantics.client_address import UNKNOWN, Trust, client_address
from edgecache.semantics.message import Request
from edgecache.semantics.rope import Piece
from edgecache.wire.body import Body
from edgecache.wire.body_readers import Cursor
from edgecache.wire.connection_limits import address_of

WAIT_FOR_IT: Final = "1"  # seconds, in Retry-After, for a client that writes too much at once


class Gate:
    """A body on its way upstream, whose end waits for permission. It reads one body and is the source of another."""

    def __init__(self, body: Body, length: int | None) -> None:
        self.out = Body(self)  # what the origin gets
        self.ended = False  # nothing of it will go upstream any more
        self.on_whole: Callable[[], None] = _nothing  # told once it is here to its end
        self.on_end: Callable[[], None] = _nothing  # told once nothing of it will go upstream any more
        self._body = body
        self._left = length  # bytes that are still to come; None: it is chunked
        self._last: Piece = b""
        self._open = True  # the origin takes more
        self._cursor: Cursor | None = None

    def start(self) -> None:
        """Read."""
        cursor = self._body.read_into(self)
        if not self._body.ended:
            self._cursor = cursor

    def release(self) -> None:
        """The rest may go."""
        if self._last:
            self.out.write(self._last)
            self._last = b""
        self.out.finish()
        self._end()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self.on_end()

    # --- as a reader

    @property
    def writable(self) -> bool:
        """Whether the origin keeps up."""
        return self._open

    def write(self, piece: Piece) -> None:
        """A piece of the client's body."""
        if self._left is not None:
            self._left -= len(piece)
            if self._left <= 0:
                self._last = piece
                return
        self.out.write(piece)

    def finish(self) -> None:
        """The client's body is here to its end."""
        self._cursor = None
        self.on_whole()

    def abort(self) -> None:
        """It will never be whole: the origin must see that."""
        self._cursor = None
        self.out.fail()
        self._end()

    def goes_alone(self, at: int) -> bool:
        """There is no other way."""
        return False

    # --- as a source

    def pause_reading(self) -> None:
        """The origin does not keep up."""
        self._open = False

    def resume_reading(self) -> None:
        """It has caught up."""
        self._open = True
        if self._cursor is not None:
            self._body.taken(self._cursor)

    def abandoned(self) -> None:
        """The origin takes no more of it."""
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            self._body.leave(cursor)
        self._end()


class InDoubt:
    """How many writes of each client are in doubt. Mutable state: the numbers.

    A client is an address of IPv4 or a /64 of IPv6, as trusted proxies name it. Of a proxy that names none there is no
    bound, for it may be anybody.
    """

    def __init__(self, most: int, is_trusted: Trust) -> None:
        self._most = most  # 0: no bound
        self._is_trusted = is_trusted
        self._numbers: dict[bytes, int] = {}
        self.refused = 0  # writes, ever

    def address(self, request: Request, peer: str) -> bytes:
        """What counts as the client of a request; empty if nobody knows."""
        if request.child is not None:
            return address_of(request.child.client)
        client = client_address(peer, request.fields, self._is_trusted)
        if client == UNKNOWN:  # anybody can have two fields name two clients
            return b"unknown by " + address_of(peer)
        return b"" if self._is_trusted(client) else address_of(client)

    def is_full(self, client: bytes) -> bool:
        """Whether that client has as many in doubt as it may."""
        return bool(client and self._most) and self._numbers.get(client, 0) >= self._most

    def enter(self, client: bytes) -> None:
        """One more of that client's is in doubt."""
        self._numbers[client] = self._numbers.get(client, 0) + 1

    def leave(self, client: bytes) -> None:
        """One is over."""
        number = self._numbers.get(client, 0) - 1
        if number > 0:
            self._numbers[client] = number
        else:
            self._numbers.pop(client, None)

    def __len__(self) -> int:
        return sum(self._numbers.values())


def _nothing() -> None:
    """Nobody is told."""
