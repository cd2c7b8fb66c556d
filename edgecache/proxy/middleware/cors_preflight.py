"""CORS-preflight requests, answered here: they have no credentials, so access is not checked (Fetch §3.2.2)."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.field_codec import pack
from edgecache.semantics.rules.cors import is_preflight, preflight_lines
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply


class CorsPreflight(Middleware):
    """Answers preflights where a rule has CORS; the response has no data from the cache or the origin."""

    order = 857
    reads = NOTHING  # of requests that may be hits: a preflight is an OPTIONS
    for_peers = False

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule has CORS."""
        sites = context.sites
        if sites is None:
            return None
        return cls() if any(rule.actions.cors is not None for site in sites.all for rule in site.rules) else None

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Answer a preflight: 204 to an origin that is allowed, 403 to any other."""
        request = exchange.request
        policy = request.policy
        cors = policy.actions.cors
        if cors is None or not is_preflight(request):
            return None
        if not policy.allowed_origin:
            return local_reply(403, "cors-origin", "this origin may not read the resource")
        return FullResponse(204, pack(preflight_lines(cors)), failure="cors-preflight")
