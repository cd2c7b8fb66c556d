"""PURGE, BAN and PURGEKEYS on the listeners for clients."""

from __future__ import annotations

from typing import Self

from edgecache.invalidation.purge_dialects import METHODS
from edgecache.proxy.hooks import HELD, NOTHING, Context, Held, Middleware
from edgecache.proxy.purge_method import PurgeMethod
from edgecache.wire.exchange import Exchange


class Purge(Middleware):
    """Answers purge requests, which do not enter the request path."""

    order = 1100
    reads = NOTHING  # of requests of other methods

    def __init__(self, purges: PurgeMethod) -> None:
        self._purges = purges

    @classmethod
    def configured(cls, context: Context) -> Self:
        """Always: where nobody may purge, that is the answer."""
        return cls(context.purges)

    def on_request(self, exchange: Exchange) -> Held | None:
        """Answer a purge."""
        if exchange.request.method not in METHODS:
            return None
        self._purges.answer(exchange, exchange.began)
        return HELD
