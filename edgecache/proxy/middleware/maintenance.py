"""Maintenance: a site that is switched off for a while. Nothing is served for it, not even stored responses."""

from __future__ import annotations

from typing import Final, Self

from edgecache.invalidation.purge_dialects import METHODS
from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply

RETRY_AFTER: Final = b"120"  # seconds


class Maintenance(Middleware):
    """Refuses requests for sites in maintenance; purges are still accepted."""

    order = 851
    reads = NOTHING  # of a request: its site alone decides
    for_peers = False

    def __init__(self, sites: frozenset[str]) -> None:
        self._sites = sites

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a site is in maintenance."""
        if context.settings.sites is None:
            return None
        names = frozenset(site.name for site in context.settings.sites.document.sites if site.maintenance)
        return cls(names) if names else None

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Refuse a request for such a site."""
        request = exchange.request
        if request.policy.site.name not in self._sites or request.method in METHODS:
            return None
        return local_reply(503, "maintenance", "the site is in maintenance", (b"Retry-After", RETRY_AFTER))
