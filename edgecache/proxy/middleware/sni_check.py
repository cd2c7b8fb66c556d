"""A request over TLS must be for a site that the connection's certificate and SNI cover (RFC 9110 §7.4)."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import NOTHING, Connection, Context, Middleware
from edgecache.semantics.sni import is_misdirected
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply


class SniCheck(Middleware):
    """Refuses misdirected requests. A POP opens TLS for the name of its parent, and asks for all sites."""

    order = 200
    reads = NOTHING
    for_peers = False

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where there are listeners for TLS."""
        return cls() if context.has_tls else None

    def fingerprint(self, connection: Connection) -> bytes | None:
        """Heads are known for one site of one connection only; a POP says more than its head's bytes."""
        return None if connection.peer_pop else connection.tag

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Refuse a request for another site than TLS was opened for."""
        connection = exchange.connection
        if connection is None or not connection.tag or connection.peer_pop:
            return None
        if not is_misdirected(connection.server_name, exchange.request.host):
            return None
        return local_reply(421, "misdirected", "the connection was opened for another site")
