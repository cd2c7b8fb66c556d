"""Translates validators of representations compressed here to those of the origin's representation."""

from __future__ import annotations

from typing import Final, Self

from edgecache.proxy.hooks import Context, Middleware
from edgecache.semantics.content_coding import uncoded_tags
from edgecache.semantics.message import Fields, Request
from edgecache.wire.exchange import Exchange

RANGE: Final = frozenset((b"range", b"if-range"))
IF_MATCH: Final = b"if-match"


class CodedRequests(Middleware):
    """Drops ranges whose validator does not tell codings apart, and restores entity tags that the origin knows."""

    order = 880
    reads = frozenset((*RANGE, b"accept-encoding", IF_MATCH))
    for_peers = False

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule has responses compressed."""
        sites = context.sites
        if sites is None:
            return None
        return cls() if any(rule.actions.compress is not None for site in sites.all for rule in site.rules) else None

    def on_request(self, exchange: Exchange) -> None:
        """A Last-Modified is the same for all codings: what it is to continue may be another (RFC 9110 §13.1.5)."""
        request = exchange.request
        validator = request.fields.get(b"if-range")
        if validator is not None and b'"' not in validator and request.policy.compresses:
            exchange.request = request._replace(fields=request.fields.without(RANGE))

    def on_fetch(self, request: Request, fields: Fields) -> Fields:
        """A write under the ETag of a coded representation is about the one that it was made of."""
        value = fields.get(IF_MATCH)
        if value is None or request.policy is None or not request.policy.compresses:
            return fields
        return fields.without((IF_MATCH,)).plus((b"If-Match", uncoded_tags(value)))
