"""The client's location: added to each request as fields, replacing those sent by the client."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.geo_database import Locator
from edgecache.proxy.hooks import Connection, Context, Middleware
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS
from edgecache.semantics.geo import GEO_FIELDS
from edgecache.wire.exchange import Exchange


class Geo(Middleware):
    """Locates clients."""

    order = 300
    reads = CLIENT_ADDRESS_FIELDS | frozenset(GEO_FIELDS)
    for_peers = False

    def __init__(self, locator: Locator) -> None:
        self._locator = locator

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a database, overrides or rules are set."""
        return cls(context.locator) if context.locator is not None else None

    def fingerprint(self, connection: Connection) -> bytes:
        """Heads are known for one place only."""
        return self._locator.tag(connection.peer)

    def on_request(self, exchange: Exchange) -> None:
        """Add the place."""
        exchange.request = self._locator.located(exchange.request, exchange.client)
