"""Requests for less than the whole of a body in chunks: for one range, for the head, or conditional ones.

Only the chunks that hold the range are read. Several ranges at once are requested from the origin. The whole is read
so, too, where all of it is in the machine's store: nobody need share that.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecache.proxy import responses
from edgecache.proxy.components import Parts
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.task_guard import seen_through
from edgecache.semantics import ranges
from edgecache.semantics.outcomes import Forward, Result, Tier
from edgecache.semantics.ranges import Span
from edgecache.storage.regional import Found
from edgecache.tasks import spawn
from edgecache.upstream.peering import tell_of_entry
from edgecache.wire.exchange import Exchange

GoOn = Callable[[Exchange, bytes, None, Forward], None]


class RegionalParts:
    """Answers such requests; `go_on` is called for those whose chunks are missing."""

    def __init__(self, parts: Parts, region: Region, go_on: GoOn) -> None:
        self._pop = parts.pop
        self._region = region
        self._invalidation = parts.invalidation
        self._memory = parts.memory
        self._clock = parts.clock  # resident time
        self._go_on = go_on

    def answers(self, exchange: Exchange, key: bytes, found: Found, why: Forward, most_ranges: int) -> bool:
        """Answer `exchange` out of `found`, if that is fresh and lies in chunks; with the whole if it is near."""
        request = exchange.request
        if found.whole or not self._region.may_reuse(found, request):
            return False
        entry, now = found.entry, self._clock()
        outcome = self._region.outcome(self._pop, entry, now, why, near=found.near)
        response = responses.respond(entry, request, now, outcome, most_ranges, found.record.length)
        if response is not None:
            self._tell(exchange, found)
            responses.send_stored(exchange, response, entry, Result.REGIONAL, outcome)
            return True
        spans = ranges.wanted_spans(request, entry.stored, found.record.length, most_ranges)
        if len(spans or ()) > 1 or (spans is None and not self._may_stream(exchange, key, found)):
            return False
        work = self._answer(exchange, key, found, why, spans[0] if spans else None)
        spawn(seen_through(exchange, work), "a body out of the regional tier")
        return True

    def _may_stream(self, exchange: Exchange, key: bytes, found: Found) -> bool:
        """Whether the whole is read for one request alone: it is near, and not to be kept in memory."""
        if not found.near or exchange.request.method != b"GET":
            return False
        return found.record.length > self._memory.largest or not self._region.rises(key)

    async def _answer(self, exchange: Exchange, key: bytes, found: Found, why: Forward, span: Span | None) -> None:
        complete = await self._region.tier.complete(found, span)
        if not complete or not self._region.may_reuse(found, exchange.request):  # or it was purged while we asked
            if not exchange.gone:
                self._go_on(exchange, key, None, why)
            return
        entry, now = found.entry, self._clock()
        outcome = self._region.outcome(self._pop, entry, now, why, near=found.near)
        length = found.record.length
        if span is None:
            response = responses.whole(entry, now, outcome, b"", length)
        else:
            response = responses.part(entry.stored, span, length, now, outcome)
        self._tell(exchange, found)
        reader = self._region.reader(found, exchange.request, exchange.client, span)
        responses.send_stored(exchange, response, entry, Result.REGIONAL, outcome, reader.body)
        reader.start()

    def _tell(self, exchange: Exchange, found: Found) -> None:
        if found.near:
            exchange.tier = Tier.STORE
        if exchange.request.child is not None:
            tell_of_entry(exchange, found.entry, self._invalidation, self._clock())
