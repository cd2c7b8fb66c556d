"""What wants less than the whole of a body that lies in chunks: one range of it, its head, or nothing that is new.

Only the chunks that hold the range are read. Several ranges at once are asked of the origin.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecache.proxy import responses
from edgecache.proxy.components import Parts
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.responses import Answer
from edgecache.proxy.task_guard import seen_through
from edgecache.semantics import cache_status, ranges
from edgecache.semantics.outcomes import Forward, Result
from edgecache.semantics.preconditions import is_not_modified
from edgecache.semantics.ranges import Span
from edgecache.storage.regional import Found
from edgecache.tasks import spawn
from edgecache.upstream.peering import tell_of_entry
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1.serializer import status_line

GoOn = Callable[[Exchange, bytes, None, Forward], None]


class RegionalParts:
    """Answers such requests; `go_on` is told of those whose chunks are not there."""

    def __init__(self, parts: Parts, region: Region, go_on: GoOn) -> None:
        self._pop = parts.pop
        self._region = region
        self._invalidation = parts.invalidation
        self._clock = parts.clock  # resident time
        self._go_on = go_on

    def answers(self, exchange: Exchange, key: bytes, found: Found, why: Forward, most_ranges: int) -> bool:
        """Answer `exchange` out of `found`, if that is fresh, lies in chunks, and less than all of it is wanted."""
        request = exchange.request
        if found.whole or not self._region.may_reuse(found, request):
            return False
        stored, now = found.entry.stored, self._clock()
        length, age, member = found.record.length, found.entry.age(now), self._member(found, why, now)
        if is_not_modified(request, stored):
            self._reply(exchange, found, member, responses.not_modified(stored, age, member))
            return True
        if request.method == b"HEAD":
            self._reply(exchange, found, member, head_of(found, age, member))
            return True
        spans = ranges.wanted_spans(request, stored, length, most_ranges)
        if spans is None or len(spans) > 1:
            return False
        if not spans:
            self._reply(exchange, found, member, responses.unsatisfiable(stored, length, age, member))
        else:
            work = self._answer(exchange, key, found, why, spans[0])
            spawn(seen_through(exchange, work), "a range out of the regional tier")
        return True

    async def _answer(self, exchange: Exchange, key: bytes, found: Found, why: Forward, span: Span) -> None:
        complete = await self._region.tier.complete(found, span)
        if not complete or not self._region.may_reuse(found, exchange.request):  # or it was purged while we asked
            if not exchange.gone:
                self._go_on(exchange, key, None, why)
            return
        now = self._clock()
        member = self._member(found, why, now)
        entry = found.entry
        head = responses.part_head(entry.stored, span, found.record.length, entry.age(now), member)
        self._mark(exchange, found, member)
        reader = self._region.reader(found, exchange.request, exchange.client, span)
        exchange.stream(206, head, len(span), reader.body)
        reader.start()

    def _member(self, found: Found, why: Forward, now: float) -> bytes:
        entry = found.entry
        hit = cache_status.hit(self._region.name, entry.lifetime - entry.age(now), self._invalidation.detail)
        return cache_status.from_tier(self._pop, hit, why)

    def _reply(self, exchange: Exchange, found: Found, member: bytes, answer: Answer) -> None:
        self._mark(exchange, found, member)
        exchange.reply(answer.status, answer.head)

    def _mark(self, exchange: Exchange, found: Found, member: bytes) -> None:
        exchange.result, exchange.cache_status, exchange.entry = Result.REGIONAL, member, found.entry
        if exchange.request.child is not None:
            tell_of_entry(exchange, found.entry, self._invalidation, self._clock())


def head_of(found: Found, age: int, member: bytes) -> Answer:
    """The head of the whole."""
    entry = found.entry
    head = b"%b%bContent-Length: %d\r\nAge: %d\r\nCache-Status: %b\r\n" % (
        status_line(entry.status, entry.reason),
        entry.block,
        found.record.length,
        age,
        member,
    )
    return Answer(entry.status, head)
