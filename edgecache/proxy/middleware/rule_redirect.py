"""Redirects by rules, before access is decided: no credentials are requested over plain HTTP."""

from __future__ import annotations

from typing import Self

from edgecache.invalidation.purge_dialects import METHODS as PURGE_METHODS
from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.field_codec import pack
from edgecache.semantics.rules.actions import Redirect
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.redirects import is_itself, location_of
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse


class RuleRedirect(Middleware):
    """Redirects requests of any method but those that purge; never to the URL that was requested."""

    order = 855
    reads = NOTHING  # the rules, whose fields `SiteRules` declares
    for_peers = False

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule has a redirect."""
        return cls() if context.sites is not None and context.sites.replies_with(Redirect) else None

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Redirect, if a rule says so."""
        request = exchange.request
        reply = request.policy.actions.reply
        if not isinstance(reply, Redirect) or request.method in PURGE_METHODS:
            return None
        facts = RequestFacts(request, "")
        location = location_of(reply, facts)
        if is_itself(location, facts):
            return None
        return FullResponse(reply.status, pack([(b"Location", location)]), length=0, failure=reply.rule)
