"""Fetches of slices: flights like all others, for requests for one slice.

    the head is not known ──► its flight asks for the slice that is wanted first; the response tells of both
    a slice is missing ─────► its flight asks for that; a response of another version replaces the head

What is no slice is stored and delivered as the response to the request for the whole: an error, a redirect, a whole
that is no longer than one slice, or that of an origin without ranges, which is not asked for slices for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from edgecache.proxy.collapsing import Failed, Filling, Flight, Outcome, Unshareable
from edgecache.proxy.components import Parts
from edgecache.proxy.fetch import Fetcher
from edgecache.proxy.regional_fetch import Region
from edgecache.semantics import rfc9111, slices
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Refused
from edgecache.semantics.slices import Head, Slice, Sliced
from edgecache.storage.memory import Entry
from edgecache.storage.regional import Found
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange

MOST_DROPPED: Final = 4096  # slices of an old version that are looked for at once


@dataclass(frozen=True, slots=True)
class FirstSlice(Filling):
    """The response for the first requested slice, which also contains the head."""

    head: Entry
    number: int


class SliceFetcher(Fetcher):
    """Fetches slices. Its requests are made by `semantics/slices.py`. Mutable state: flights that brought heads."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._brought: dict[object, Flight] = {}  # by the slice that arrives with them, while it does

    def collapse(self, key: bytes, request: Request, entry: Entry | None, exchange: Exchange | None) -> Flight:
        """The flight to follow or lead; a slice may be arriving by the flight that was to bring the head."""
        flight = self._brought.get(self.collapsed_key(key, request))
        if flight is not None:
            self._flights.followed += exchange is not None
            return flight
        return super().collapse(key, request, entry, exchange)

    async def _fetch(self, flight: Flight, request: Request, entry: Entry | None) -> Outcome:
        """Fetch the slice that `request` asks for, or validate `entry`."""
        try:
            if entry is not None and (outcome := await self._validate(flight, request, entry)) is not None:
                return outcome
            reply = await self._ask(flight, request, None)
        except OriginError as error:
            return Failed(error)
        return self._received(flight, request, reply)

    async def _ask(self, flight: Flight, request: Request, entry: Entry | None) -> Reply:
        """Ask upstream for the slice, unless it still is as `entry` says. The parent is that of the whole."""
        whole = slices.of_whole(request)
        fields = whole.fields if entry is None else rfc9111.conditional_fields(whole, entry.stored)
        ranged = fields.plus((b"Range", request.fields.get(b"range") or b""))
        return await self._upstream.fetch(whole, ranged, flight.client, flight.watchers)

    async def _validate(self, flight: Flight, request: Request, entry: Entry) -> Outcome | None:
        """Validate `entry`, of a head or a slice; None if the reply is about something else."""
        reply = await self._ask(flight, request, entry)
        status, etag = reply.response.status, reply.response.fields.get(b"etag")
        if status == 304:
            same = etag is None or etag == entry.stored.etag  # a weak one would say nothing of bytes
            outcome = self._validated(request, entry, reply) if same else None
            if outcome is None:
                reply.body.discard()
            return outcome
        if status in rfc9111.FAILURES and self.may_stand_in(entry, request):
            return self._validated(request, entry, reply)
        return self._received(flight, request, reply, entry)

    async def _validate_found(self, region: Region, flight: Flight, request: Request, found: Found) -> Outcome:
        """A slice whose chunks may not be used is fetched anew."""
        return await self._fetch(flight, request, None)

    def _received(self, flight: Flight, request: Request, reply: Reply, before: Entry | None = None) -> Outcome:
        """Store what has come: a slice, perhaps with a new head, or what is none."""
        wanted = slices.wanted_slice(request)
        one = slices.sliced(reply.response, wanted)
        if one is None:
            return self._received_unsliced(request, wanted, reply)
        if one.head.whole <= wanted.size:
            self._forget(request, wanted, b"")
            return self._fill(slices.of_whole(request), reply._replace(response=slices.as_whole(one)))
        if one.head.version == wanted.version:
            return self._fill(request, reply._replace(response=one.response), before)
        return self._received_first(flight, request, reply, one)

    def _received_first(self, flight: Flight, request: Request, reply: Reply, one: Sliced) -> Outcome:
        """Store the head of a version that was not known, and the slice that has told of it."""
        wanted = slices.wanted_slice(request)
        whole = slices.of_whole(request)
        self._forget(request, wanted, one.head.version)
        asked = slices.slice_request(whole, wanted._replace(version=one.head.version))
        outcome = self._fill(asked, reply._replace(response=one.response))
        if not isinstance(outcome, Filling):
            return outcome
        head = self._store_head(slices.head_request(whole, wanted), reply, one)
        if head is None:  # purged meanwhile: it is for those who have asked before
            head = Entry(primary_key(slices.head_request(whole, wanted)), outcome.stored, one.head.encoded())
        self._note_arrival(self.collapsed_key(primary_key(asked), asked), flight, reply.body)
        return FirstSlice(outcome.stored, outcome.reply, head, wanted.number)

    def _note_arrival(self, place: object, flight: Flight, body: Body) -> None:
        """The slice that is collapsed at `place` arrives by `flight` until `body` ends."""
        self._brought[place] = flight

        def ended(_: Body) -> None:
            if self._brought.get(place) is flight:
                del self._brought[place]

        body.when_ended(ended)

    # --- out of a whole that is cut

    def store_head_of_cut(self, whole: Request, reply: Reply, head: Head, size: int) -> bool:
        """Store the head of a whole that is cut into slices; whether it was not purged meanwhile."""
        wanted = Slice(size, 0, head.version)
        self._forget(whole, wanted, head.version)
        one = slices.cut_out(reply.response, head, wanted)
        return self._store_head(slices.head_request(whole, wanted), reply, one) is not None

    def fill_with_cut(self, whole: Request, wanted: Slice, reply: Reply, head: Head) -> Body | None:
        """A body that becomes the slice `wanted` of what `reply` brings; None if that needs not be stored."""
        asked = slices.slice_request(whole, wanted)
        key = primary_key(asked)
        place = self.collapsed_key(key, asked)
        if self._memory.has(key) or place in self._brought or self._flights.out(place) is not None:
            return None
        body = Body()
        response = slices.cut_out(reply.response, head, wanted).response
        outcome = self._fill(asked, reply._replace(response=response, body=body))
        if not isinstance(outcome, Filling) or not (body.kept or body.readers):
            return None
        body.discard()  # no client need come
        flight = Flight(place, key, None)
        self._note_arrival(place, flight, body)
        flight.land(outcome)
        return body

    def _store_head(self, request: Request, reply: Reply, one: Sliced) -> Entry | None:
        """Store the head that `one` tells of, in memory and in the region."""
        response, content = slices.as_head(one)
        self._fills.begin_fill(request, reply._replace(response=response, body=Body.of(content)))
        head, _ = self._memory.lookup(primary_key(request), request.fields)
        return head

    def _received_unsliced(self, request: Request, wanted: Slice, reply: Reply) -> Outcome:
        """Store `reply` as that to the request for the whole, and ask for no slices if it cannot be had in such."""
        self._forget(request, wanted, b"")
        whole, status = slices.of_whole(request), reply.response.status
        if status in (200, 206) or (status == 416 and not wanted.number):  # the latter: it is empty
            self._flights.mark(unsliced(primary_key(whole)), self._clock())
        if status in (206, 416):
            self._fills.refuse(reply, Refused.PARTIAL)
            return Unshareable(reply, Refused.PARTIAL)
        return self._fill(whole, reply)

    def _forget(self, request: Request, wanted: Slice, version: bytes) -> None:
        """Drop the head that is stored, and the slices of its version that lie in memory, unless that is `version`."""
        whole = slices.of_whole(request)
        asked = slices.head_request(whole, wanted)
        old, _ = self._memory.lookup(primary_key(asked), asked.fields)
        head = None if old is None else slices.head_of(bytes(old.content))
        if old is None or head is None or head.version == version:
            return
        self._memory.drop(old)
        if self._region is not None and not version:  # else another takes its place
            self._region.tier.forget(primary_key(asked))
        for number in range(min(MOST_DROPPED, -(-head.whole // wanted.size))):
            self._memory.invalidate(slices.slice_key(whole, Slice(wanted.size, number, head.version)))


def unsliced(key: bytes) -> bytes:
    """What is marked where a URL is known not to be had in slices."""
    return b"unsliced " + key
