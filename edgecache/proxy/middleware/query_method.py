"""QUERY (RFC 10008): where a rule enables it, the content is part of the cache key, and it is answered like GET."""

from __future__ import annotations

from typing import Self

from edgecache.proxy.hooks import NOTHING, Context, Middleware
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.message import Request
from edgecache.semantics.query_content import LARGEST, QUERY, with_content
from edgecache.semantics.rules.key_parts import reduced_request
from edgecache.telemetry.metrics import Registry
from edgecache.wire.exchange import Exchange


class QueryMethod(Middleware):
    """Takes complete contents of at most `LARGEST`; all other requests pass to the origin, and are counted."""

    order = 890
    reads = NOTHING  # of other methods; heads of QUERYs are never learnt

    def __init__(self, registry: Registry, ignored: IgnoredParameters | None) -> None:
        self._ignored = ignored
        words = "QUERYs that a rule would have had stored, and that were passed to the origin, by reason."
        self._passed = {
            reason: registry.counter("edgecache_query_passed", words, reason=reason) for reason in ("large", "late")
        }

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule has QUERYs stored."""
        rules = (rule for site in context.sites.all for rule in site.rules) if context.sites is not None else ()
        return (
            cls(context.registry, context.ignored) if any(rule.actions.caching.query_method for rule in rules) else None
        )

    def on_request(self, exchange: Exchange) -> None:
        """Add the content to the request. `key_part` keys every request that has one."""
        request = exchange.request
        if request.method != QUERY or not request.policy.actions.caching.query_method:
            return
        exchange.fingerprint = None  # a head says nothing of the content
        content = exchange.content_up_to(LARGEST)
        if content is not None:
            exchange.request = self._reduced(with_content(request, content))
        else:
            length = request.framing.length or (exchange.body.size if exchange.body is not None else 0)
            self._passed["large" if length > LARGEST else "late"].value += 1

    def _reduced(self, request: Request) -> Request:
        """`request` less the parameters that are no part of its key, as they are none of a GET's."""
        return reduced_request(request if self._ignored is None else self._ignored.request(request))
