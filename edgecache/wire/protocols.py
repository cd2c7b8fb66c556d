"""The protocols that clients may speak, by their names in ALPN (RFC 7301), in the server's order of preference."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.handler import Site


class Peer(NamedTuple):
    """The other side of a connection, as PROXY and TLS describe it."""

    address: str = ""  # the client's; empty: the socket's
    scheme: bytes = b"http"
    server_name: bytes = b""  # the name in the TLS handshake
    pop: bytes = b""  # the POP that its certificate names
    admitted: bool = False  # it counts as a connection already


ProtocolFactory = Callable[[Site, Peer], asyncio.Protocol]


def http_1_1(site: Site, peer: Peer) -> ClientConnection:
    """A connection that speaks HTTP/1.1."""
    connection = ClientConnection(site, peer.scheme, peer.address)
    connection.server_name, connection.peer_pop, connection.admitted = peer.server_name, peer.pop, peer.admitted
    if peer.scheme == b"https":
        connection.tag = b"\t%b\t%b\n" % (peer.server_name, peer.pop)
    return connection


HTTP_1_1: Final = "http/1.1"  # also spoken without TLS, and with clients that offer nothing by ALPN
PROTOCOLS: Final[dict[str, ProtocolFactory]] = {HTTP_1_1: http_1_1}
