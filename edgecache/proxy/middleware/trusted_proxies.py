"""Trusted proxies: the scheme of a request is the one that the proxy in front reports for the client."""

from __future__ import annotations

from typing import Final, Self

from edgecache.proxy.hooks import Connection, Context, Middleware
from edgecache.semantics.client_address import Trust
from edgecache.semantics.forwarding import SCHEME_FIELDS, as_forwarded
from edgecache.wire.exchange import Exchange

FROM_PROXY: Final = b"\n"  # before the bytes of a head that a trusted proxy has sent


class TrustedProxies(Middleware):
    """Accepts `X-Forwarded-Proto` and `Forwarded` from trusted proxies."""

    order = 400
    reads = SCHEME_FIELDS
    for_peers = False

    def __init__(self, is_trusted: Trust) -> None:
        self._is_trusted = is_trusted

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where there are any."""
        return cls(context.is_trusted) if context.settings.trusted_proxies else None

    def fingerprint(self, connection: Connection) -> bytes:
        """A proxy's heads are known for proxies only."""
        return FROM_PROXY if self._is_trusted(connection.peer) else b""

    def on_request(self, exchange: Exchange) -> None:
        """Take over the scheme."""
        if self._is_trusted(exchange.client):
            exchange.request = as_forwarded(exchange.request)
