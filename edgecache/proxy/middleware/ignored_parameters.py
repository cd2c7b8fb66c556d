"""Ignored query parameters, as configured: removed from the cache key and from the upstream request."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import Context, Middleware
from edgecache.semantics.ignored_parameters import IgnoredParameters as Ignored
from edgecache.semantics.rfc9111 import READS
from edgecache.wire.exchange import Exchange


class IgnoredParameters(Middleware):
    """Shortens the targets of cacheable requests; the access log has the received target."""

    order = 800
    reads = READS  # whether the cache has a part in it

    def __init__(self, ignored: Ignored) -> None:
        self._ignored = ignored

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where some are named."""
        return cls(context.ignored) if context.ignored is not None else None

    def on_request(self, exchange: Exchange) -> None:
        """Shorten the target."""
        exchange.request = self._ignored.request(exchange.request)
