"""Residency: each request gets the jurisdiction that its response must not leave."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.residency import Residency as Jurisdictions
from edgecache.wire.exchange import Exchange


class Residency(Middleware):
    """Derives the jurisdiction from the client's region, or from the requesting POP."""

    order = 600
    reads = NOTHING  # the place comes from `Geo`, which declares what that follows from

    def __init__(self, jurisdictions: Jurisdictions) -> None:
        self._jurisdictions = jurisdictions

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where residency is kept."""
        rules = context.settings.residency_rules
        return cls(rules) if rules.home else None

    def on_request(self, exchange: Exchange) -> None:
        """Add the jurisdiction."""
        exchange.request = exchange.request._replace(jurisdiction=self._jurisdictions.of(exchange.request))
