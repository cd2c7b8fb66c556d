"""The way of one response to its client, whatever the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgecache.semantics.message import Request
from edgecache.semantics.rope import Piece

if TYPE_CHECKING:
    from edgecache.wire.body_charge import Room
    from edgecache.wire.exchange import Exchange
    from edgecache.wire.handler import Site
    from edgecache.wire.upstream_connection import UpstreamConnection


class ResponseWriter(Protocol):
    """Writes the response to one request: an HTTP/1 connection, or a stream of another protocol.

    Fields are packed (`semantics/field_codec.py`), and hold nothing that is one connection's business: the writer
    adds Content-Length or a transfer coding, and what concerns the persistence of its connection. What returns bytes
    returns the head as it was sent, for the log.
    """

    peer: str  # the client's address
    peer_pop: bytes  # the POP that the client has proved to be
    server_name: bytes  # the name in the TLS handshake
    tag: bytes  # precedes the fingerprint of a head: the properties of the connection that a response depends on
    closing: bool  # no request follows the one under way
    since: float  # monotonic seconds: the last progress, as far as a sweep has noted it

    number: int  # of its connection, in this process
    site: Site  # the service behind it
    write_serialized: Callable[[bytes], None]  # sends a response that was serialized for this protocol before

    @property
    def tls_version(self) -> str:
        """Its version of TLS; empty without."""

    @property
    def room(self) -> bool:
        """Whether the client keeps up with its response."""

    @property
    def budget(self) -> Room:
        """The memory budget to which stored contents that are being sent are charged."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def send(
        self, request: Request, status: int, fields: bytes, length: int | None, reason: bytes, content: Piece
    ) -> bytes:
        """Send a complete response; `length` None: without Content-Length."""

    def head(self, request: Request, status: int, fields: bytes, length: int | None, reason: bytes) -> bytes:
        """Send the head of a response whose content follows by `data`; `length` None: it is not known."""

    def data(self, piece: Piece) -> None:
        """Send a piece of the content."""

    def end(self) -> None:
        """The content is complete."""

    def reset(self) -> None:
        """The response cannot be completed: the client must see that."""

    def interim(self, request: Request, status: int, fields: bytes, reason: bytes) -> None:
        """Send a 1xx response."""

    def send_serialized(self, head: bytes, content: Piece) -> None:
        """Send a response whose head was serialized for this protocol before."""

    def adopt(self, exchange: Exchange) -> None:
        """Begin an exchange that the request path has made, for a request without a body that it knew."""

    def exchange_done(self, exchange: Exchange) -> None:
        """The response of `exchange` has been sent."""

    def tunnel(self, exchange: Exchange, origin: UpstreamConnection) -> None:
        """Leave HTTP: all further bytes pass between the client and `origin`, and count for `exchange`."""
