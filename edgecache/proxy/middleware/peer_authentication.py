"""Authentication of other POPs, and the internal fields that are dropped from all other requests."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import HELD, NOTHING, Context, Go, Held, Middleware
from edgecache.upstream.peering import Children
from edgecache.wire.exchange import Exchange


class PeerAuthentication(Middleware):
    """Sends authenticated requests of POPs past the middleware that is for clients only."""

    order = 0
    reads = NOTHING  # internal fields alone, and no head that has one is answered by template

    def __init__(self, children: Children) -> None:
        self._children = children

    @classmethod
    def configured(cls, context: Context) -> Self:
        """Always: internal fields must never be believed unproven."""
        return cls(context.children)

    def bind(self, clients: Go, peers: Go) -> None:
        """Learn how requests of either kind go on."""
        self._clients, self._peers = clients, peers

    def on_request(self, exchange: Exchange) -> Held | None:
        """Tell POPs from clients; a POP that knows of later purges waits for this one to learn of them."""
        if not self._children.may_be_one(exchange):
            return None
        self._children.hear(exchange, self._clients, self._peers)
        return HELD
