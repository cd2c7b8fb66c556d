"""Fields that only a trusted proxy may send: dropped from others' requests, part of the key in the proxy's own."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import Context, Middleware
from edgecache.semantics.client_address import Trust
from edgecache.semantics.client_claims import NAMES, is_claim, without_untrusted
from edgecache.semantics.unkeyed_fields import HARMLESS
from edgecache.wire.exchange import Exchange


class ClientClaims(Middleware):
    """Accepts claims about a client's identity and location from trusted proxies only."""

    order = 100
    reads = NAMES | frozenset(filter(is_claim, HARMLESS))
    for_peers = False

    def __init__(self, is_trusted: Trust) -> None:
        self._is_trusted = is_trusted

    @classmethod
    def configured(cls, context: Context) -> Self:
        """Always: without a trusted proxy nobody is believed."""
        return cls(context.is_trusted)

    def on_request(self, exchange: Exchange) -> None:
        """Drop what is not believed."""
        if exchange.request.claims:
            exchange.request = without_untrusted(exchange.request, believed=self._is_trusted(exchange.client))
