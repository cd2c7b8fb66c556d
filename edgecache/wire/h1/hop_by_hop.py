"""What a message says to the next hop only (RFC 9110 §7.6.1): read here, and no field of what the core sees."""

from __future__ import annotations

from typing import Final, NamedTuple

from edgecache.semantics.memoize import memoize
from edgecache.semantics.message import Fields, Framing, members
from edgecache.semantics.stored_response import HOP_BY_HOP
from edgecache.wire.errors import BadRequest

NOTHING: Final[frozenset[bytes]] = frozenset()
FRAMING_FIELDS: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
EXPECT: Final = frozenset((b"expect",))  # means nothing in HTTP/1.0 (RFC 9110 §10.1.1)
FOR_ALL: Final = frozenset(  # response fields that are never valid as connection options: the next cache needs them
    b"age cache-control cdn-cache-control content-encoding content-range content-type date etag expires last-modified "
    b"no-vary-search pragma set-cookie vary".split()
)
NOT_NOMINATED: Final = frozenset(  # options of Connection, and request fields that it cannot take from us
    (b"", b"close", b"keep-alive", b"connection", b"upgrade", b"te", b"via", b"cdn-loop", b"max-forwards")
)


class Hop(NamedTuple):
    """What a request says to this hop."""

    http_1_0: bool = False
    keep_alive: bool = True  # the connection persists after the response (RFC 9112 §9.3)
    usual: bool = True  # that, by HTTP/1.1, and nothing else: the head may be known to the fast path
    upgrade: bytes = b""  # the protocol that the client wants to switch to; empty: none


USUAL: Final = Hop()


@memoize(256)
def _options(connection: bytes) -> frozenset[bytes]:
    return frozenset(members(connection))


def connection_options(fields: Fields) -> frozenset[bytes]:
    """The members of `Connection` in lower case: options, and names of fields for one connection."""
    connection = fields.get(b"connection")
    return NOTHING if connection is None else _options(connection)


def request_hop(method: bytes, fields: Fields, framing: Framing, http_1_0: bool) -> tuple[Fields, Hop]:
    """The request's end-to-end `fields`, and what it says to this hop; raises `BadRequest`.

    What is not sent on does not select, authorize or ask for anything here.
    """
    options = connection_options(fields)
    if not FRAMING_FIELDS.isdisjoint(options):  # nobody may strip what delimits the message
        raise BadRequest(400, "connection-option", "Connection names a field that delimits the message")
    if not http_1_0 and b"close" not in options and b"upgrade" not in options and options <= NOT_NOMINATED:
        return fields.without(HOP_BY_HOP), USUAL
    keep_alive = b"close" not in options and (not http_1_0 or b"keep-alive" in options)
    usual = keep_alive and not http_1_0 and options <= NOT_NOMINATED
    upgrade = _upgrade(method, fields, framing) if b"upgrade" in options and not http_1_0 else b""
    dropped = HOP_BY_HOP | (options - NOT_NOMINATED) | (EXPECT if http_1_0 else NOTHING)
    return fields.without(dropped), Hop(http_1_0, keep_alive, usual, upgrade)


@memoize(256)
def _dropped(connection: bytes) -> frozenset[bytes]:
    return HOP_BY_HOP | (frozenset(members(connection)) - FOR_ALL)


def response_end_to_end(fields: Fields) -> Fields:
    """The response's `fields` less those for this hop."""
    connection = fields.get(b"connection")
    return fields.without(HOP_BY_HOP if connection is None else _dropped(connection))


def _upgrade(method: bytes, fields: Fields, framing: Framing) -> bytes:
    """The protocol that a GET without content asks for, if this gateway forwards that (RFC 9110 §7.8); else empty.

    WebSocket is (RFC 6455 §4.1); `h2c` would be a tunnel past all rules (RFC 9113 §3.1 has dropped it). With content,
    parsers do not agree whether that, or the next protocol, follows the head.
    """
    upgrade = fields.get(b"upgrade") or b""
    return upgrade if upgrade.lower() == b"websocket" and method == b"GET" and framing.length == 0 else b""
