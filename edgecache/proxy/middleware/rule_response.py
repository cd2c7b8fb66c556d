"""Fixed responses by rules, once access is granted."""

from __future__ import annotations

from typing import Final, Self

from edgecache.invalidation.purge_dialects import METHODS as PURGE_METHODS
from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.field_codec import pack
from edgecache.semantics.rules.actions import Respond
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse

WITHOUT_CONTENT: Final = frozenset((204, 205, 304))


class RuleResponse(Middleware):
    """Answers requests of any method, except purges, with the fixed response of a rule."""

    order = 870
    reads = NOTHING  # the rules, whose fields `SiteRules` declares
    for_peers = False

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule has a response."""
        return cls() if context.sites is not None and context.sites.replies_with(Respond) else None

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Answer, if a rule says so."""
        request = exchange.request
        reply = request.policy.actions.reply
        if not isinstance(reply, Respond) or request.method in PURGE_METHODS:
            return None
        length = None if reply.status in WITHOUT_CONTENT else len(reply.body)
        return FullResponse(reply.status, pack(reply.lines), reply.body, length, failure=reply.rule)
