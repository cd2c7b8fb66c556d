"""The request path for objects served in slices: its differences from `edge.py`.

_forward ──► _in_slices: nothing is stored whole, and rules or the setting want slices
               ├─► _head      what is known of the whole: stored, validated, or brought by its first slice
               ├─► _answered  a 304, 416 or HEAD out of the head; or slice after slice: `slice_reader.py`
               └─► Edge._forward, where it cannot be had in slices: as everywhere else
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final, NamedTuple

from edgecache.invalidation.purge_log import Verdict
from edgecache.proxy import responses
from edgecache.proxy.collapsing import (
    Cutting,
    Failed,
    Filling,
    Flight,
    Outcome,
    RegionalHit,
    Revalidated,
    Stale,
    Unshareable,
)
from edgecache.proxy.components import Limits, Parts
from edgecache.proxy.edge import Edge, reads_only
from edgecache.proxy.slice_fetch import FirstSlice, SliceFetcher, unsliced
from edgecache.proxy.slice_fill import CuttingFetcher
from edgecache.proxy.slice_hits import SliceHits
from edgecache.proxy.slice_reader import SliceReader
from edgecache.proxy.slice_store import FoundSlice, SliceStore
from edgecache.proxy.task_guard import seen_through
from edgecache.semantics import cache_status, ranges, rfc9111, slices
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Request, Response
from edgecache.semantics.outcomes import Forward, Result, Tier
from edgecache.semantics.ranges import Span
from edgecache.semantics.rfc9111 import Fresh, MustValidate
from edgecache.semantics.slices import Slice
from edgecache.storage.memory import Entry
from edgecache.tasks import spawn
from edgecache.upstream.peer_fields import answer_lines
from edgecache.upstream.peering import tell_of_entry
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import local_reply

TRIES: Final = 3  # versions, and other surprises, that one request goes through before it is passed on
MOST_COUNTED: Final = 1024  # slices of a response that are looked for, to say whether it is a hit


class KnownHead(NamedTuple):
    """The known properties of a whole object, and the slice that has arrived with them."""

    entry: Entry
    size: int  # of a slice
    whole: int  # bytes
    version: bytes
    result: Result
    first: FoundSlice | None = None
    number: int = 0  # of that slice


class SlicingEdge(Edge):
    """A request path that serves large objects in slices, where the setting or a rule says so."""

    def __init__(self, parts: Parts, limits: Limits, **more: Any) -> None:
        super().__init__(parts, limits, **more)
        self._sizes = {limits.slice_size} - {0}  # of slices, that are in use
        self.slice_fetcher = SliceFetcher(parts)
        self.fetcher = cutter = CuttingFetcher(parts, self.slice_fetcher, self._slice_size)
        self.relays.cut = cutter.cuts_part
        self.slice_store = SliceStore(parts, self.slice_fetcher, cutter, limits.follower_timeout)
        self._slice_hits = SliceHits(parts, self.slice_store, self._slice_size, self.fast_path.ranges.learn)

    def tune(self, limits: Limits) -> None:
        """Go on with other limits."""
        super().tune(limits)
        self.slice_store.patience = limits.follower_timeout

    def _look_up(self, exchange: Exchange) -> None:
        """Answer a range out of slices in memory, or look up as everywhere else."""
        if not (b"range" in exchange.request.fields.index and self._slice_hits.answers(exchange)):
            super()._look_up(exchange)

    def _may_be_regional(self, key: bytes, entry: Entry | None, why: Forward) -> bool:
        """Whether the region may know more than this worker: not of a whole that is known to be in slices."""
        return super()._may_be_regional(key, entry, why) and not (entry is None and self._has_head(key))

    def _has_head(self, key: bytes) -> bool:
        """Whether memory has a head of the whole whose key is `key`, for some size of slices."""
        return any(self.memory.has(slices.head_key_of(key, size)) for size in self._sizes)

    def _forward(self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward) -> None:
        """Nothing is stored whole: answer in slices, or as everywhere else."""
        size = self._slice_size(exchange.request)
        if size and self._may_slice(exchange, key, entry, size):
            spawn(seen_through(exchange, self._in_slices(exchange, key, why, size)), "slices")
        else:
            super()._forward(exchange, key, entry, why)

    def _slice_size(self, request: Request) -> int:
        """Bytes of a slice, as the rules of the request's site or the setting want it; 0: no slices."""
        said: int | None = None if request.policy is None else request.policy.actions.caching.slices
        return self.limits.slice_size if said is None else said

    def _may_slice(self, exchange: Exchange, key: bytes, entry: Entry | None, size: int) -> bool:
        """Whether the response to a request may be had in slices, and is to be, as far as is known."""
        by_length = self._goes_by_length(exchange.request)
        wanted = not by_length or self.region is not None or self._has_head(key)
        return wanted and self._is_sliceable(exchange, key, entry, size)

    def _goes_by_length(self, request: Request) -> bool:
        """Whether `request` is in slices only if what it asks for is known to be large."""
        by_rule = request.policy is not None and request.policy.actions.caching.slices is not None
        return self.limits.slices_by_length and not by_rule

    def _is_sliceable(self, exchange: Exchange, key: bytes, entry: Entry | None, size: int) -> bool:
        """Whether nothing that is known of a request, or of the response, forbids slices."""
        request, now = exchange.request, self.clock()
        if (entry is not None and entry.segments is None) or size > self.memory.largest or reads_only(request):
            return False
        if rfc9111.forbids_storing(request) or not exchange.storable:
            return False
        if request.content is not None:  # slices are of GETs
            return False
        self._sizes.add(size)
        head = slices.head_request(request, Slice(size, 0))
        if rfc9111.only_if_cached(request):
            return self.memory.has(primary_key(head))
        marks = self.flights.marks
        if not marks:
            return True
        keys = (key, primary_key(head))
        return not self.flights.marked(unsliced(key), now) and not any(
            self.flights.mark_on(one, request.fields, now) for one in keys
        )

    def _deliver(self, outcome: Outcome | Stale, exchange: Exchange, flight: Flight, why: Forward) -> bool:
        """Answer with what `flight` brought, perhaps in slices; False if it is not for this request."""
        if super()._deliver(outcome, exchange, flight, why):
            return True
        return isinstance(outcome, Cutting) and self._goes_on_in_slices(exchange, flight.primary, why)

    def _goes_on_in_slices(self, exchange: Exchange, key: bytes, why: Forward) -> bool:
        """Answer out of a whole that is being cut, which has begun already."""
        size = self._slice_size(exchange.request)
        if not size or exchange.whole_only or not self._may_slice(exchange, key, None, size):
            return False
        spawn(seen_through(exchange, self._in_slices(exchange, key, why, size)), "slices")
        return True

    # --- the way of a request

    async def _in_slices(self, exchange: Exchange, key: bytes, why: Forward, size: int) -> None:
        """Answer in slices, or go on as everywhere else."""
        first = slices.first_wanted(exchange.request, size)
        for _ in range(TRIES):
            head = await self._head(exchange, Slice(size, first), why)
            if _is_answered(exchange) or (head is not None and await self._answered(exchange, head, why)):
                return
            if self._answered_by_whole(exchange, key):
                return
            if head is None and self._goes_by_length(exchange.request):
                break
            if not self._may_slice(exchange, key, None, size):
                break
            first = 0  # it may lie beyond the end
        exchange.whole_only = True
        super()._forward(exchange, key, None, why)

    def _answered_by_whole(self, exchange: Exchange, key: bytes) -> bool:
        """Answer with a whole that has been stored meanwhile, since it is no longer than a slice."""
        entry, _ = self.memory.lookup(key, exchange.request.fields)
        return entry is not None and self._answer_from(entry, exchange) is None

    async def _head(self, exchange: Exchange, wanted: Slice, why: Forward) -> KnownHead | None:
        """What is known of the whole, validated if need be; None if nothing, or if the request is answered."""
        whole = slices.of_whole(exchange.request)
        request = slices.head_request(whole, wanted)
        key = primary_key(request)
        entry = await self._stored_head(key, request)
        if entry is not None:
            now = self.clock()
            proven = self.invalidation.check(entry, now) is Verdict.USABLE
            verdict = rfc9111.may_reuse(entry.stored, exchange.request, now) if proven else MustValidate(Forward.STALE)
            if not isinstance(verdict, MustValidate):
                if not isinstance(verdict, Fresh):
                    self.slice_fetcher.collapse(key, request, entry, None)
                return self._known(entry, wanted, Result.HIT if isinstance(verdict, Fresh) else Result.STALE)
            exchange.why = why = verdict.why
        elif self._goes_by_length(exchange.request):
            return None
        if rfc9111.only_if_cached(exchange.request):
            return None
        flight = self.slice_fetcher.collapse(key, request, entry, exchange)
        leads = flight.leader is exchange
        outcome = await flight.outcome(None if leads else self.limits.follower_timeout)
        if exchange.gone:
            if leads and isinstance(outcome, Filling | Unshareable):
                outcome.reply.body.discard()
            return None
        return await self._head_of(outcome, exchange, flight, entry, wanted, why)

    async def _stored_head(self, key: bytes, request: Request) -> Entry | None:
        """The head as memory has it, or the region, if that has a newer one or there is none."""
        entry, _ = self.memory.lookup(key, request.fields)
        if entry is not None and self.invalidation.check(entry, self.clock()) is Verdict.PURGED:
            entry = None
        stale = entry is None or not entry.stored.is_fresh(self.clock())
        if self.region is not None and stale:
            found = await self.region.tier.find(key, request.fields)
            if found is not None and self.region.is_newer(found, entry):
                entry = self.memory.adopt(found.entry, found.record.length) or found.entry
        return entry

    async def _head_of(
        self,
        outcome: Outcome | None,
        exchange: Exchange,
        flight: Flight,
        entry: Entry | None,
        wanted: Slice,
        why: Forward,
    ) -> KnownHead | None:
        """The head that `flight` has brought; else the request may be answered by what else it has brought."""
        leads = flight.leader is exchange
        match outcome:
            case FirstSlice(stored, reply, head, number):
                if not leads and not self._may_join(flight, Filling(stored, reply), exchange.request):
                    return None
                found = FoundSlice(reply.body, Result.MISS if leads else Result.COLLAPSED, stored.tags)
                return self._known(head, wanted, found.result)._replace(first=found, number=number)
            case Revalidated(known) | RegionalHit(known) if leads or not known.gone:
                of_region = isinstance(outcome, RegionalHit)
                return self._known(known, wanted, Result.REGIONAL if of_region else Result.REVALIDATED)
            case Filling(_, reply) if b"range" in exchange.request.fields and _is_short(reply, wanted.size):
                await _end_of(reply.body)
            case Unshareable(reply) if reply.response.status in (206, 416) or _is_slice(reply.response):
                if leads:
                    reply.body.discard()
            case Failed(_) if entry is not None and self.slice_fetcher.may_stand_in(entry, exchange.request):
                return self._known(entry, wanted, Result.STALE)
            case None:
                pass
            case other:
                self._deliver(other, exchange, flight, why)
        return None

    @staticmethod
    def _known(entry: Entry, wanted: Slice, result: Result) -> KnownHead:
        head = slices.head_of(bytes(entry.content))
        assert head is not None, "it lies where heads lie"
        return KnownHead(entry, wanted.size, head.whole, head.version, result)

    # --- the answer

    async def _answered(self, exchange: Exchange, head: KnownHead, why: Forward) -> bool:
        """Answer out of `head` and its slices; False if there is another version by now."""
        request, now = exchange.request, self.clock()
        member = self._member(head, head.result, now, why)
        response = responses.respond(head.entry, request, now, member, self.limits.max_ranges, head.whole)
        if response is not None:
            self._drop_first(head)
            self._tell(exchange, head, ())
            responses.send_stored(exchange, response, head.entry, head.result, member)
            return True
        spans = ranges.wanted_spans(request, head.entry.stored, head.whole, self.limits.max_ranges)
        if spans is not None and len(spans) > 1:
            return await self._answered_in_parts(exchange, head, spans, why)
        span = spans[0] if spans else Span(0, head.whole)
        if rfc9111.only_if_cached(request) and not self._has_all(exchange, head, span):
            return False
        found = await self._first_of(exchange, head, span)
        if found is None or exchange.gone:
            return _is_answered(exchange)
        self._stream(exchange, head, span, found, why, is_part=bool(spans))
        return True

    def _stream(
        self, exchange: Exchange, head: KnownHead, span: Span, found: FoundSlice, why: Forward, *, is_part: bool
    ) -> None:
        """Answer with the bytes `span`, slice by slice, of which `found` is the first."""
        now, entry, whole = self.clock(), head.entry, slices.of_whole(exchange.request)
        result = self._result(head, whole, span, found)
        member = self._member(head, result, now, why, near=found.near)
        if found.near:
            exchange.tier = Tier.STORE
        if is_part:
            response = responses.part(entry.stored, span, head.whole, now, member)
        else:
            response = responses.whole(entry, now, member, b"", head.whole)
        self._tell(exchange, head, found.tags)
        reader = self._reader(exchange, whole, head, span, found)
        reader.body.count_in(self.memory.account)
        responses.send_stored(exchange, response, entry, result, member, reader.body)
        reader.start()

    async def _first_of(self, exchange: Exchange, head: KnownHead, span: Span) -> FoundSlice | None:
        """The first slice of `span`; None if there is another version, or the request is answered by an error."""
        number = span.first // head.size
        if head.first is not None and head.number == number:
            return head.first
        self._drop_first(head)
        try:
            return await self._find(exchange, slices.of_whole(exchange.request), head, number)
        except OriginError as error:
            self.delivery.local(
                exchange, local_reply(error.status, error.reason, str(error)), exchange.why, error.reason
            )
            return None

    @staticmethod
    def _drop_first(head: KnownHead) -> None:
        """The slice that has come with `head` is not wanted now; it arrives if it is to be stored."""
        if head.first is not None:
            head.first.body.discard()

    async def _find(self, exchange: Exchange, whole: Request, head: KnownHead, number: int) -> FoundSlice | None:
        return await self.slice_store.find(exchange, whole, Slice(head.size, number, head.version), head.entry)

    async def _next_of(self, exchange: Exchange, whole: Request, head: KnownHead, number: int) -> FoundSlice | None:
        """One more slice; None if it cannot be had, by which the response is cut."""
        try:
            return await self._find(exchange, whole, head, number)
        except OriginError:
            return None

    def _reader(
        self, exchange: Exchange, whole: Request, head: KnownHead, span: Span, found: FoundSlice
    ) -> SliceReader:
        """What reads the bytes `span`, of which `found` is the first slice."""
        fetch = partial(self._next_of, exchange, whole, head)
        return SliceReader(span, head.size, found, fetch, self.memory.largest // head.size)

    async def _answered_in_parts(self, exchange: Exchange, head: KnownHead, spans: list[Span], why: Forward) -> bool:
        """Answer with several ranges, which are short together."""
        self._drop_first(head)
        head, pieces, result = head._replace(first=None), [], head.result
        whole = slices.of_whole(exchange.request)
        for span in spans:
            found = await self._first_of(exchange, head, span)
            if found is None or exchange.gone:
                return _is_answered(exchange)
            result = self._result(head._replace(result=result), whole, span, found)
            reader = self._reader(exchange, whole, head, span, found)
            reader.body.keep_up_to(len(span))
            reader.start()
            await _end_of(reader.body)
            if not reader.body.finished:
                return False
            pieces.append(reader.body.move_to_store())
        now = self.clock()
        member = self._member(head, result, now, why)
        self._tell(exchange, head, ())
        response = responses.multipart(head.entry.stored, spans, pieces, head.whole, now, member)
        responses.send_stored(exchange, response, head.entry, result, member)
        return True

    # --- what is said of it

    def _has_all(self, exchange: Exchange, head: KnownHead, span: Span) -> bool:
        """Whether memory has every slice of `span`."""
        whole = slices.of_whole(exchange.request)
        wanted = (Slice(head.size, number, head.version) for number in slices.numbers(span, head.size))
        return all(self.slice_store.has(whole, one) for one in wanted)

    def _result(self, head: KnownHead, whole: Request, span: Span, found: FoundSlice) -> Result:
        """What a response comes to: a hit if head and slices lie in memory."""
        if found.result is not Result.HIT:
            return found.result
        for number in slices.numbers(span, head.size)[1:MOST_COUNTED]:
            if not self.slice_store.has(whole, Slice(head.size, number, head.version)):
                return Result.MISS
        return head.result

    def _member(self, head: KnownHead, result: Result, now: float, why: Forward, *, near: bool = False) -> bytes:
        """The Cache-Status of a response out of `head`."""
        entry = head.entry
        if result in (Result.HIT, Result.STALE):
            return cache_status.hit(self.pop, entry.lifetime - entry.age(now), self.invalidation.detail)
        if result is Result.REGIONAL and self.region is not None:
            return self.region.outcome(self.pop, entry, now, why, near=near)
        if result is Result.REVALIDATED:
            return cache_status.forwarded(self.pop, Forward.STALE, status=304)
        partly = head.result is not Result.MISS and head.result is not Result.COLLAPSED
        return cache_status.forwarded(
            self.pop,
            Forward.PARTIAL if partly else why,
            status=206,
            stored=True,
            collapsed=result is Result.COLLAPSED,
        )

    def _tell(self, exchange: Exchange, head: KnownHead, tags: tuple[bytes, ...]) -> None:
        """Tell a child what is proven of a response: the head and each slice pass the rule when they are used."""
        if exchange.request.child is None:
            return
        tell_of_entry(exchange, head.entry, self.invalidation, self.clock())
        if more := tuple(tag for tag in tags if tag not in head.entry.tags):
            vector = self.log.vector
            exchange.extra = answer_lines(vector, (*head.entry.tags, *more))


def _is_answered(exchange: Exchange) -> bool:
    """Whether a response has begun, or nobody waits for one."""
    return exchange.gone or exchange.started


def _is_short(reply: Reply, size: int) -> bool:
    """Whether it is a whole that is no longer than a slice, and for which there is room."""
    length = reply.response.framing.length
    return reply.response.status == 200 and length is not None and length <= size and reply.body.kept


def _is_slice(response: Response) -> bool:
    """Whether it is a slice, made to look like a whole."""
    return response.status == 200 and b"content-range" in response.fields


async def _end_of(body: Body) -> None:
    """Wait until `body` has ended, complete or not."""
    ended = asyncio.Event()
    body.when_ended(lambda _: ended.set())
    await ended.wait()
