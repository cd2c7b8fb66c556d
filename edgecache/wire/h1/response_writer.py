"""The `ResponseWriter` of HTTP/1: status line, field section, framing (RFC 9112 §6), `Connection`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgecache.semantics.rope import Piece
from edgecache.wire.body_charge import LARGE
from edgecache.wire.h1 import serializer as render
from edgecache.wire.tunnel import join

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from edgecache.wire.body_charge import Room
    from edgecache.wire.exchange import Exchange
    from edgecache.wire.handler import Site
    from edgecache.wire.upstream_connection import UpstreamConnection

COPIED: Final = 16 * 1024  # bytes that are copied rather than written in several parts


class H1ResponseWriter:
    """The half of an HTTP/1 connection that sends responses, one after the other."""

    __slots__ = ("_chunked", "closing", "http_1_0", "write_serialized")

    site: Site
    transport: asyncio.Transport
    closing: bool  # the connection closes after the response under way (RFC 9112 §9.6)
    http_1_0: bool  # the request under way is of HTTP/1.0
    writable: bool
    write_serialized: Callable[[bytes], None]  # the transport's own: a hit is one look-up and one write

    @property
    def room(self) -> bool:
        """Whether the client keeps up with its response."""
        return self.writable

    @property
    def budget(self) -> Room:
        """The memory budget to which stored contents that are being sent are charged."""
        return self.site.room

    def clock(self) -> float:
        """Monotonic seconds."""
        return self.site.clock()

    def send(self, status: int, fields: bytes, length: int | None, reason: bytes, content: Piece) -> int:
        """Send a complete response, in one write unless it is long; `length` None: without Content-Length."""
        head = render.response_head(status, reason, fields, length) + self.ending()
        if len(content) > COPIED:
            return self.send_serialized(head, content)
        self.transport.write(head + content)
        return len(head)

    def head(self, status: int, fields: bytes, length: int | None, reason: bytes) -> int:
        """Send the head of a response whose content follows by `data`; `length` None: it is not known."""
        head = render.response_head(status, reason, fields, length)
        self._chunked = length is None and not self.http_1_0
        if self._chunked:
            head += b"Transfer-Encoding: chunked\r\n"
        elif length is None:  # RFC 9112 §6.3 step 8
            self.closing = True
        head += self.ending()
        self.transport.write(head)
        return len(head)

    def data(self, piece: Piece) -> None:
        """Send a piece of the content."""
        if not self._chunked:
            self.transport.write(piece)
        elif len(piece) <= COPIED:
            self.transport.write(render.chunk(piece))
        else:  # the bytes that wait for the client are the stored ones, and no copy of them
            self.transport.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))

    def end(self) -> None:
        """The content is complete."""
        if self._chunked:
            self.transport.write(render.LAST_CHUNK)

    def reset(self) -> None:
        """The response cannot be completed: the connection is cut, which no client takes for an end."""
        self.cut()

    def interim(self, status: int, fields: bytes, reason: bytes) -> None:
        """Send a 1xx response; HTTP/1.0 knows none (RFC 9110 §15.2)."""
        if not self.http_1_0:
            self.transport.write(render.response_head(status, reason, fields) + b"\r\n")

    def shut_down(self) -> None:
        """Close after the response under way."""
        self.closing = True

    def send_serialized(self, head: bytes, content: Piece) -> int:
        """Send a response whose head was serialized for HTTP/1 before."""
        self.transport.writelines((head, content))
        if len(content) >= LARGE:
            self.site.room.sent(content, self.transport)
        return len(head)

    def tunnel(self, exchange: Exchange, origin: UpstreamConnection, fields: bytes, reason: bytes) -> None:
        """Send 101, then leave HTTP: all further bytes pass to and from `origin`; `exchange` counts them."""
        upgrade = b"Connection: Upgrade\r\nUpgrade: %b\r\n\r\n" % exchange.request.upgrade
        self.transport.write(render.response_head(101, reason, fields) + upgrade)
        join(self, origin, exchange)

    def become_tunnel(self, receive: Callable[[bytes], None], on_room: Callable[[], None]) -> None:
        """Hand all further bytes to `receive`; call `on_room` when the client can take more again."""
        raise NotImplementedError

    def moved(self) -> None:
        """Bytes have gone through a tunnel."""
        raise NotImplementedError

    def ending(self) -> bytes:
        """The end of a head: the fields of the connection, and the empty line."""
        raise NotImplementedError

    def cut(self) -> None:
        """End the connection at once, visibly unfinished."""
        raise NotImplementedError
