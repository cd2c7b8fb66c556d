"""Delivery of upstream responses as they arrive: to one client, or to all clients whose requests share a fetch.

A client that reads more slowly than the others fetches the rest by itself, from the regional tier or by a range.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from edgecache.invalidation.validity import Invalidation
from edgecache.proxy import responses
from edgecache.proxy.cache_fill import Fills
from edgecache.semantics import cache_status, ranges, rfc9111
from edgecache.semantics.message import Response
from edgecache.semantics.outcomes import Forward, Result, Tier
from edgecache.semantics.preconditions import is_not_modified
from edgecache.semantics.stored_response import Stored
from edgecache.upstream.fetcher import Upstream
from edgecache.upstream.peering import tell_of_reply
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.upstream_request import UpstreamCall


class ReplyDelivery:
    """Answers exchanges with replies from upstream."""

    def __init__(
        self,
        pop: bytes,
        upstream: Upstream,
        fills: Fills,
        invalidation: Invalidation,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._pop = pop
        self._upstream = upstream
        self._fills = fills
        self._invalidation = invalidation
        self._clock = clock  # resident time
        self._wall = wall  # epoch seconds, for Date

    def deliver_fill(self, exchange: Exchange, stored: Stored, reply: Reply, why: Forward, *, collapsed: bool) -> None:
        """Answer `exchange` with `reply` while it is stored as `stored`."""
        exchange.entry = stored
        if is_not_modified(exchange.request, stored):
            self._not_modified(exchange, stored, reply, why, collapsed=collapsed)
        else:
            self.deliver(exchange, reply, why, Result.COLLAPSED if collapsed else Result.MISS, stored=True)

    def deliver(
        self, exchange: Exchange, reply: Reply, why: Forward, result: Result, *, stored: bool = False, more: bytes = b""
    ) -> None:
        """Answer `exchange` with `reply` as it arrives, and with `more` packed fields."""
        response, body = reply.response, reply.body
        stored, collapsed = stored and body.refused is None, result is Result.COLLAPSED
        member = self._member(reply, why, stored=stored, collapsed=collapsed)
        exchange.result, exchange.cache_status, exchange.answered_with = result, member, body
        exchange.tier = Tier.REGIONAL if reply.tier else reply.by
        exchange.alone = not stored
        if exchange.request.child is not None:
            tell_of_reply(exchange, reply, self._invalidation)
        exchange.ask_for_rest = self._rest_of(exchange, reply)
        fields = responses.relayed(response, member, self._wall(), self._fills.hidden) + more
        exchange.stream(response.status, fields, response.content_length, body, response.reason)

    def _member(self, reply: Reply, why: Forward, *, stored: bool, collapsed: bool) -> bytes:
        """The Cache-Status of a response that is `reply`, from upstream or from a tier."""
        if reply.tier:
            return cache_status.from_tier(self._pop, reply.tier, why, collapsed=collapsed)
        return self._forwarded(reply, why, stored=stored, collapsed=collapsed)

    def _forwarded(self, reply: Reply, why: Forward, *, stored: bool, collapsed: bool) -> bytes:
        """The Cache-Status of a response that came from upstream with `reply`."""
        status, refused = reply.response.status, reply.body.refused
        return cache_status.forwarded(
            self._pop, why, status=status, stored=stored, collapsed=collapsed, refused=refused
        )

    def _not_modified(self, exchange: Exchange, stored: Stored, reply: Reply, why: Forward, *, collapsed: bool) -> None:
        """Answer `exchange` with a 304: its client has what `reply` brings."""
        member = self._forwarded(reply, why, stored=reply.body.refused is None, collapsed=collapsed)
        exchange.result, exchange.cache_status, exchange.answered_with = Result.MISS, member, reply.body
        if exchange.request.child is not None:
            tell_of_reply(exchange, reply, self._invalidation)
        exchange.send(responses.not_modified(stored, self._clock(), member))
        reply.body.discard()

    # --- readers that fall behind

    def _rest_of(self, exchange: Exchange, reply: Reply) -> Callable[[Exchange, int], None] | None:
        """What fetches the rest of `reply` from a byte on, for `exchange` alone; None if nothing can."""
        if reply.rest is not None:
            return partial(_go_on, reply.rest)
        if reply.tier or exchange.request.method != b"GET" or not _is_resumable(reply.response):
            return None
        return partial(self._fetch_rest, reply.response)

    def _fetch_rest(self, response: Response, exchange: Exchange, at: int) -> None:
        """Fetch what follows byte `at` of `response`, for `exchange` alone (RFC 9110 §13.1.5)."""
        request, etag = exchange.request, response.fields.get(b"etag") or b""
        fields = rfc9111.unconditional(request).plus((b"Range", b"bytes=%d-" % at), (b"If-Range", etag))
        rest = _Rest(self._upstream.request_for(request, fields, exchange.client), *self._upstream.stamp())
        whole = response.framing.length
        assert whole is not None, "a resumable response has a known length"
        rest.exchange, rest.etag, rest.span = exchange, etag, (at, whole, whole)
        exchange.upstream_call = rest
        self._upstream.send(rest)


def _is_resumable(response: Response) -> bool:
    """Whether a range of the same representation can be requested: it is a whole with a strong ETag."""
    strong = (response.fields.get(b"etag") or b"").startswith(b'"')
    return strong and response.framing.length is not None and response.status == 200


def _go_on(rest: Callable[[int], Body], exchange: Exchange, at: int) -> None:
    exchange.go_on_with(rest(at))


class _Rest(UpstreamCall):
    """The request for the rest of a response, for a reader that is too slow for the others."""

    exchange: Exchange
    etag: bytes
    span: tuple[int, int, int]  # the first byte and the end, and the length of the whole

    def on_answer(self, response: Response, body: Body) -> None:
        self.exchange.upstream_call = None
        skip = ranges.rest_begins(response, self.etag, *self.span)
        if skip is not None:
            self.exchange.go_on_with(body, skip)
        else:
            body.discard()
            self.exchange.abort()

    def on_failure(self, error: OriginError) -> None:
        self.exchange.abort()
