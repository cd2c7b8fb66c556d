"""Sources of the slices of one version: memory, the region, and upstream, in this order.

A slice is used as long as no purge names it, whatever its age: the head is validated, and with it everything with the
same strong validator (RFC 9111 §4.3.4).
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from edgecache.invalidation.purge_log import Verdict
from edgecache.proxy.collapsing import Failed, Filling, Flight, Outcome, RegionalHit, Revalidated
from edgecache.proxy.components import Parts
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.slice_fetch import SliceFetcher
from edgecache.proxy.slice_fill import CuttingFetcher
from edgecache.semantics import slices
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Result
from edgecache.semantics.ranges import Span
from edgecache.semantics.rope import Content, cut, joined
from edgecache.semantics.slices import Head, Slice
from edgecache.semantics.stored_response import is_fresh
from edgecache.storage.memory import Entry
from edgecache.storage.regional import Found
from edgecache.storage.regional_chunks import ChunkReader
from edgecache.wire.body import Body
from edgecache.wire.exchange import Exchange

MOST_AT_ONCE: Final = 2  # slices that hold a range which is answered without a task
MOST_JOINED: Final = 256 * 1024  # bytes of such a range, if it lies in more than one


class FoundSlice(NamedTuple):
    """The content of one slice, and where it was found."""

    body: Body
    result: Result
    tags: tuple[bytes, ...] = ()
    near: bool = False  # in the machine's store


class SliceStore:
    """Finds slices. Its state is in the parts that it receives."""

    def __init__(self, parts: Parts, fetcher: SliceFetcher, cutter: CuttingFetcher, patience: float) -> None:
        self._memory = parts.memory
        self._invalidation = parts.invalidation
        self._upstream = parts.upstream
        self._region = parts.region
        self._clock = parts.clock  # resident time
        self._fetcher = fetcher
        self._cutter = cutter
        self.patience = patience  # seconds that a slice is waited for which another request has asked for

    def has(self, whole: Request, wanted: Slice) -> bool:
        """Whether the slice `wanted` lies in memory."""
        return self._memory.has(slices.slice_key(whole, wanted))

    def at_once(self, whole: Request, head: Head, size: int, span: Span) -> Content | None:
        """The bytes `span`, if they lie in few slices that are in memory, and no purge names one; else None."""
        pieces: list[Content] = []
        for number in slices.numbers(span, size)[: MOST_AT_ONCE + 1]:
            key = slices.slice_key(whole, Slice(size, number, head.version))
            entry, _ = self._memory.lookup(key, whole.fields)
            if entry is None or len(pieces) == MOST_AT_ONCE:
                return None
            if not self._invalidation.is_usable(entry):
                return None
            begin = number * size
            pieces.append(cut(entry.content, max(0, span.first - begin), min(size, span.end - begin)))
        if len(pieces) > 1 and len(span) > MOST_JOINED:
            return None
        return pieces[0] if len(pieces) == 1 else joined(*pieces)

    async def find(self, exchange: Exchange, whole: Request, wanted: Slice, head: Entry) -> FoundSlice | None:
        """The slice `wanted` of what `whole` asks for, and `head` tells of; None if there is none of that version.

        Raises OriginError if it cannot be fetched.
        """
        request = slices.slice_request(whole, wanted)
        key = primary_key(request)
        entry, _ = self._memory.lookup(key, request.fields)
        if entry is None and (cut := self._cutter.cut_that_brings(whole, wanted)) is not None:
            await cut.has_begun(wanted.number)
            entry, _ = self._memory.lookup(key, request.fields)
        if entry is not None:
            match self._invalidation.check(entry, self._clock()):
                case Verdict.USABLE:
                    return self._of_entry(entry, Result.HIT)
                case Verdict.PURGED:
                    entry = None
        if entry is None and (found := await self._in_region(request, key, head)) is not None:
            return found
        flight = self._fetcher.collapse(key, request, entry, None)
        leads = not flight.watchers and not flight.landed
        if leads:
            flight.watchers = (exchange,)
        outcome = await flight.outcome(None if leads else self.patience)
        if isinstance(outcome, Filling) and slices.version_of_slice(outcome.stored.fields) != wanted.version:
            return None
        found = self._of_outcome(flight, outcome, request, leads=leads)
        return found if found is not None else await self._alone(exchange, request, wanted)

    def _of_outcome(
        self, flight: Flight, outcome: Outcome | None, request: Request, *, leads: bool
    ) -> FoundSlice | None:
        """The slice that `flight` has brought, if it may be shared with `request`."""
        match outcome:
            case Failed(error):
                raise error
            case Filling(stored, reply) if reply.body.joinable:
                suits = self._memory.suits(flight.primary, stored, request.fields)
                if leads or (suits and self._invalidation.allows(flight.primary, stored.tags, reply.seen)):
                    return FoundSlice(reply.body, Result.MISS if leads else Result.COLLAPSED, stored.tags)
            case Revalidated(entry) if leads or not entry.gone:
                return self._of_entry(entry, Result.REVALIDATED)
            case RegionalHit(entry) if leads or not entry.gone:
                return self._of_entry(entry, Result.REGIONAL)
        return None

    def _of_entry(self, entry: Entry, result: Result) -> FoundSlice:
        body = Body.of(entry.content)
        body.count_readers_in(self._memory.account)
        return FoundSlice(body, result, entry.tags)

    async def _alone(self, exchange: Exchange, request: Request, wanted: Slice) -> FoundSlice | None:
        """The slice, asked for by this request alone, and not stored."""
        whole = slices.of_whole(request)
        fields = whole.fields.plus((b"Range", request.fields.get(b"range") or b""))
        reply = await self._upstream.fetch(whole, fields, exchange.client, (exchange,))
        one = slices.sliced(reply.response, wanted)
        if one is None or one.head.version != wanted.version:
            reply.body.discard()
            return None
        reply.body.count_in(self._memory.account)
        return FoundSlice(reply.body, Result.MISS)

    # --- the region

    async def _in_region(self, request: Request, key: bytes, head: Entry) -> FoundSlice | None:
        """The slice as the region has it; it stays there as long as `head` is fresh."""
        region = self._region
        if region is None or (found := await region.tier.find(key, request.fields)) is None:
            return None
        if region.check(found) is not Verdict.USABLE:
            return None
        now = self._clock()
        if not is_fresh(found.record, now) and is_fresh(head, now):
            self._prolong(region, found, key, head)
        if found.whole:
            self._memory.adopt(found.entry, found.record.length)
            return self._of_entry(found.entry, Result.REGIONAL)._replace(near=found.near)
        if not await region.tier.complete(found) or region.check(found) is not Verdict.USABLE:
            return None
        return FoundSlice(self._read(found, key), Result.REGIONAL, found.entry.tags, found.near)

    @staticmethod
    def _prolong(region: Region, found: Found, key: bytes, head: Entry) -> None:
        """Give `found` the freshness of `head`, whose validation was of all slices; purges see no difference."""
        entry = found.entry
        received, age, lifetime = head.received, head.initial_age, head.lifetime
        entry.set_head(entry.stored._replace(received=received, initial_age=age, lifetime=lifetime))
        if found.whole:
            region.tier.store(entry, key, found.record.seen)
        else:
            region.tier.prolong(found, entry, found.record.seen)

    def _read(self, found: Found, key: bytes) -> Body:
        """The content of `found`, out of the region's chunks; it rises to memory."""
        assert self._region is not None, "it was found there"
        tier = self._region.tier

        def hole(reader: ChunkReader, at: int) -> None:
            tier.forget(key)
            reader.body.fail()

        def ended(body: Body) -> None:
            if body.finished and body.whole:
                entry, content = found.entry, body.move_to_store()
                self._memory.put(key, entry.stored, content, passed=entry.passed, length=found.record.length)

        reader = tier.stream(found, hole)
        reader.body.keep_up_to(self._memory.largest, self._memory.account, found.record.length)
        reader.body.when_ended(ended)
        asyncio.get_running_loop().call_soon(reader.start)
        return reader.body
