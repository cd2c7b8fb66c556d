"""Where responses are written, whatever the protocol: the one thing that the request path knows of a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from edgecache.semantics.rope import Piece

if TYPE_CHECKING:
    from edgecache.wire.body_charge import Room
    from edgecache.wire.exchange import Exchange
    from edgecache.wire.handler import Site
    from edgecache.wire.upstream_connection import UpstreamConnection


class ResponseWriter(Protocol):
    """Writes the response to one request: an HTTP/1 connection, or a stream of HTTP/2 or HTTP/3.

    Fields are packed (`semantics/field_codec.py`) and all end-to-end: framing, and the persistence of the connection,
    are the writer's to add. Heads are sent in any form; the log gets their size.
    """

    peer: str  # the client's address
    peer_pop: bytes  # the POP that the client has proved to be
    server_name: bytes  # the name in the TLS handshake
    tag: bytes  # precedes the fingerprint of a head: the properties of the connection that a response depends on
    fingerprint: bytes | None  # of the request under way: determines it, keys the fast path; None: nothing does
    since: float  # monotonic seconds: the last progress, as far as a sweep has noted it
    unsent: int  # bytes of the response that waited for the client at the last sweep

    number: int  # of its connection, in this process
    site: Site  # the service behind it
    write_serialized: Callable[[bytes], None]  # sends a response that was serialized for this protocol before

    @property
    def tls_version(self) -> str:
        """Its version of TLS; empty without."""

    def persists(self) -> bool:
        """Whether a response that was serialized before may be sent by `write_serialized`: the connection persists."""

    @property
    def room(self) -> bool:
        """Whether the client keeps up with its response."""

    @property
    def budget(self) -> Room:
        """The memory budget to which stored contents that are being sent are charged."""

    def clock(self) -> float:
        """Monotonic seconds."""

    def send(self, status: int, fields: bytes, length: int | None, reason: bytes, content: Piece) -> int:
        """Send a complete response; `length` None: without Content-Length. Returns the bytes of its head."""

    def head(self, status: int, fields: bytes, length: int | None, reason: bytes) -> int:
        """Send the head of a response whose content follows by `data`; returns its bytes.

        `length` None: it is not known.
        """

    def data(self, piece: Piece) -> None:
        """Send a piece of the content."""

    def end(self) -> None:
        """The content is complete."""

    def reset(self) -> None:
        """The response cannot be completed: the client must see that."""

    def interim(self, status: int, fields: bytes, reason: bytes) -> None:
        """Send a 1xx response, if the client understands those."""

    def shut_down(self) -> None:
        """Accept no request after those under way (RFC 9112 §9.6, RFC 9113 §6.8)."""

    def send_serialized(self, head: bytes, content: Piece) -> int:
        """Send a response whose head was serialized for this protocol before. Returns the bytes of its head."""

    def adopt(self, exchange: Exchange) -> None:
        """Begin an exchange made by the fast path, for a known request without a body."""

    def exchange_done(self, exchange: Exchange) -> None:
        """The response of `exchange` has been sent."""

    def tunnel(self, exchange: Exchange, origin: UpstreamConnection, fields: bytes, reason: bytes) -> None:
        """Accept the upgrade, then leave HTTP: all further bytes pass to and from `origin`; `exchange` counts them."""
