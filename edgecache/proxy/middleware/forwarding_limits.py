"""Requests that must not be passed on: those that loop, and those with no forwards left."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import Context, Middleware
from edgecache.semantics.forwarding import LIMIT_FIELDS, loops, no_forwards_left
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply


class ForwardingLimits(Middleware):
    """Refuses loops (RFC 8586 §2) and answers TRACE and OPTIONS at their last hop (RFC 9110 §7.6.2)."""

    order = 1000
    reads = LIMIT_FIELDS

    def __init__(self, pop: bytes) -> None:
        self._pop = pop

    @classmethod
    def configured(cls, context: Context) -> Self:
        """Always."""
        return cls(context.settings.pop.encode())

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Refuse, or let the request go on."""
        if loops(exchange.request, self._pop):
            return local_reply(508, "loop", "the request is in a loop")
        if no_forwards_left(exchange.request):
            return local_reply(405, "max-forwards", "the method is not supported here", (b"Allow", b"GET, HEAD"))
        return None
