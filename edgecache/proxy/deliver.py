"""Delivery of stored responses, from memory or the regional tier, and of responses generated here.

Responses from upstream are delivered by `proxy/deliver_reply.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from edgecache.proxy import responses
from edgecache.proxy.components import Parts
from edgecache.proxy.fastpath.head_memo import Hit, Pass, Rendered
from edgecache.semantics import cache_status
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Forward, Result, Tier
from edgecache.storage.memory import Entry
from edgecache.storage.own_codings import representation
from edgecache.upstream.peering import tell_of_entry
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse
from edgecache.wire.upstream_request import UpstreamRequest


class Delivery:
    """Answers exchanges with stored responses, and teaches the fast path their heads."""

    def __init__(self, parts: Parts, max_ranges: int) -> None:
        self.max_ranges = max_ranges
        self._pop = parts.pop
        self._region = parts.region
        self._clock = parts.clock  # resident time
        self._invalidation = parts.invalidation
        self._known = parts.known
        self._alike = parts.alike
        self._compress, self._improve = parts.compressor.consider, parts.compressor.improve

    # --- out of an entry

    def rendered(self, exchange: Exchange, entry: Entry, now: float) -> bool:
        """Answer a plain GET with the response that all of them share; False if `entry` is not fresh."""
        rendered = self.rendering(entry, exchange.request.policy)
        if not rendered.is_right(now):
            return False
        if exchange.request.policy is not None:
            self._compress(exchange.request, entry)
        if exchange.request.child is not None:
            tell_of_entry(exchange, entry, self._invalidation, now)
        responses.send_stored(exchange, rendered.answer, entry, Result.HIT, cache_status.KNOWN_HIT)
        if rendered.full and self._known.learns(exchange.fingerprint):
            self._learn_hit(exchange, rendered)
        self._alike.learn(exchange)
        return True

    def rendering(self, entry: Entry, policy: Any = None) -> Rendered:
        """The response that all plain GETs of `entry`, a whole, share; it may be out of date."""
        return self._known.rendered(entry, self._whole, policy)

    def from_entry(
        self,
        exchange: Exchange,
        entry: Entry,
        result: Result,
        now: float,
        why: Forward | None = None,
        *,
        collapsed: bool = False,
    ) -> bool:
        """Answer out of `entry`; False if it holds only parts, and not the ones asked for."""
        if why is None:
            member = cache_status.hit(self._pop, entry.lifetime - entry.age(now), self._invalidation.detail)
        else:
            refused = exchange.refused
            member = cache_status.forwarded(self._pop, why, status=304, collapsed=collapsed, refused=refused)
        return self._from(exchange, entry, result, now, member)

    def from_tier(
        self, exchange: Exchange, entry: Entry, now: float, why: Forward, *, collapsed: bool = False, near: bool = False
    ) -> None:
        """Answer out of `entry`, a whole out of the regional tier, or of the machine's store if it is `near`."""
        assert self._region is not None, "it came from there"
        if near or not self._region.shared:
            exchange.tier = Tier.STORE
        member = self._region.outcome(self._pop, entry, now, why, collapsed=collapsed, near=near)
        answered = self._from(exchange, entry, Result.REGIONAL, now, member)
        assert answered, "a whole entry answers every request"

    def _from(self, exchange: Exchange, entry: Entry, result: Result, now: float, member: bytes) -> bool:
        request = exchange.request
        if request.policy is not None:
            self._compress(request, entry)
            self._improve(entry, now)
            entry = representation(entry, request)
        response = responses.respond(entry, request, now, member, self.max_ranges)
        if response is None:
            return False
        if exchange.request.child is not None:
            tell_of_entry(exchange, entry, self._invalidation, now)
        responses.send_stored(exchange, response, entry, result, member)
        return True

    # --- our own

    def local(self, exchange: Exchange, response: FullResponse, why: Forward | None = None, detail: str = "") -> None:
        """Answer with a response of our own; `detail` is a fixed word."""
        outcome = b"" if why is None else cache_status.forwarded(self._pop, why, detail=detail.encode())
        responses.reply_locally(exchange, response, outcome)

    # --- what the fast path learns

    def learn_hit(self, exchange: Exchange, entry: Entry) -> None:
        """Remember the response of `entry`, a whole, to requests with this fingerprint."""
        if exchange.fingerprint is not None:
            if self._known.learns(exchange.fingerprint):
                self._learn_hit(exchange, self._rendering_for(entry, exchange.request), own=True)
            self._alike.learn(exchange, partial(self._rendering_for, entry))

    def learn_pass(self, exchange: Exchange, key: bytes, upstream_request: UpstreamRequest) -> None:
        """Remember that requests with this fingerprint are passed on, and the request upstream that they become."""
        if self._known.learns(exchange.fingerprint) and self._known.may_wait(exchange):
            gate = self._known.gates(exchange)
            known = Pass(exchange.request, exchange.head_in, key, exchange.client, upstream_request, gate)
            self._known.learn(exchange.fingerprint, known)

    def _learn_hit(self, exchange: Exchange, rendered: Rendered, *, own: bool = False) -> None:
        assert exchange.fingerprint is not None, "it is learnt by that"
        if rendered.is_right(self._clock()) and rendered.full:
            gate = self._known.gates(exchange)
            hit = Hit(exchange.request, rendered, exchange.head_in, own=own, gate=gate)
            self._known.learn(exchange.fingerprint, hit)

    def _whole(self, entry: Entry, now: float) -> FullResponse:
        """The whole of `entry`, as a plain GET gets it: made once a second while it is requested."""
        self._improve(entry, now)
        outcome = cache_status.hit(self._pop, entry.lifetime - entry.age(now))
        return responses.whole(entry, now, outcome, entry.content, len(entry.content))

    def _rendering_for(self, entry: Entry, request: Request) -> Rendered:
        """The response of `entry`, a whole that is fresh, to `request` and others with its fingerprint."""
        rendered = self._known.render(entry, partial(self._answer_to, request), request.policy)
        rendered.is_right(self._clock())
        return rendered

    def _answer_to(self, request: Request, entry: Entry, now: float) -> FullResponse:
        """The response of `entry`, a whole, to `request`: made once a second while it is requested."""
        self._improve(entry, now)
        member = cache_status.hit(self._pop, entry.lifetime - entry.age(now))
        response = responses.respond(entry, request, now, member, self.max_ranges)
        assert response is not None, "a whole entry answers every request"
        return response._replace(content=b"") if request.method == b"HEAD" else response
