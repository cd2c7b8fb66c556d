"""The one fetch from upstream that all requests for the same response share.

    collapse ──► the flight under way, to be followed
       └───────► a new one ──► _run ──► _fetch: the whole, stored while it arrives if that is allowed
                                 │        └──► _validate, where something is stored that a 304 or a range may complete
                                 ├────► _fetch_with_lease, where there is a regional tier: one fetch in the region
                                 └────► _land: all waiting requests get the outcome, and later ones use it

It runs in its own task, so that a client that disconnects cannot cancel it.
"""

from __future__ import annotations

from edgecache.invalidation.purge_log import Verdict
from edgecache.proxy.collapsing import (
    Failed,
    Filling,
    Flight,
    Outcome,
    Revalidated,
    Unshareable,
    of_authorized,
)
from edgecache.proxy.components import Parts
from edgecache.proxy.regional_fetch import Region
from edgecache.semantics import rfc9111, trace_context
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.client_specific import is_client_specific
from edgecache.semantics.message import Fields, Request
from edgecache.semantics.outcomes import OF_THE_RESPONSE, Refused
from edgecache.semantics.stored_response import Stored, is_fresh
from edgecache.storage.memory import Entry
from edgecache.storage.regional import Found
from edgecache.tasks import spawn
from edgecache.upstream.reply import Reply
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange


class Fetcher:
    """Fetches what the tiers of this POP do not have, once for all requests that may share the response."""

    def __init__(self, parts: Parts) -> None:
        self._memory = parts.memory
        self._invalidation = parts.invalidation
        self._flights = parts.flights
        self._fills = parts.fills
        self._upstream = parts.upstream
        self._region = parts.region
        self._clock = parts.clock  # resident time

    def collapse(self, key: bytes, request: Request, entry: Entry | None, exchange: Exchange | None) -> Flight:
        """The flight under way whose response `request` may share, or a new one, which `exchange` leads."""
        place = self.collapsed_key(key, request)
        if exchange is not None and self._is_for_itself(key, request, entry):
            place = (*place, exchange)
        flight = self._flights.out(place)
        if flight is None:
            flight = self._flights.lead(place, key, exchange)
            spawn(self._run(flight, request, entry), "fetch")
        elif exchange is not None:
            self._flights.followed += 1
        return flight

    def collapsed_key(self, key: bytes, request: Request) -> tuple[object, ...]:
        """What requests that may follow the same flight have in common: the URL and the selecting fields."""
        authorized = b"authorization" in request.fields  # a response to those is not for the others
        return (key, self._memory.values_for(key, request.fields), authorized)

    def is_under_way(self, key: bytes, request: Request) -> bool:
        """Whether there is a flight that `request` may follow."""
        return self._flights.out(self.collapsed_key(key, request)) is not None

    def validate_in_background(self, entry: Entry, request: Request) -> None:
        """Validate `entry`, once, after a stale response was sent to the client (RFC 5861 §3)."""
        fields = request.fields.without((trace_context.NAME,))  # its trace is complete by then
        self.collapse(primary_key(request), request._replace(fields=fields), entry, None)

    def may_stand_in(self, entry: Entry, request: Request) -> bool:
        """Whether `entry`, stale, may be used where upstream has no response (RFC 5861 §4): a whole, not parts."""
        now = self._clock()
        if entry.segments is not None or self._invalidation.check(entry, now) is not Verdict.USABLE:
            return False
        return rfc9111.may_serve_on_error(entry.stored, request, now)

    def _is_for_itself(self, key: bytes, request: Request, entry: Entry | None) -> bool:
        """Whether no fetch of another request will do: a newer response is wanted, or each is for one client."""
        if entry is not None and self._flights.mark_on(key, request.fields, self._clock()):
            return True
        if entry is not None and entry.segments is None and rfc9111.always_needs_validation(entry.stored):
            return True
        return not rfc9111.is_plain(request.fields) and rfc9111.requires_validation(request)

    # --- the flight

    async def _run(self, flight: Flight, request: Request, entry: Entry | None) -> None:
        """Fetch once per flight, and land it."""
        try:
            if self._region is not None and self._may_wait_for_region(self._region, flight, request):
                outcome, entry = await self._fetch_with_lease(self._region, flight, request, entry)
            else:
                outcome = await self._fetch(flight, request, entry)
        except BaseException:
            self._land(flight, request, Failed(OriginError("internal", "the request failed here")), entry)
            raise
        self._land(flight, request, outcome, entry)

    async def _fetch(self, flight: Flight, request: Request, entry: Entry | None) -> Outcome:
        """Fetch the whole, unless it is enough to validate `entry`, or to fetch the rest of it."""
        try:
            if entry is not None and (outcome := await self._validate(flight, request, entry)) is not None:
                return outcome
            fields = rfc9111.unconditional(request)
            reply = await self._upstream.fetch(request, fields, flight.client, flight.watchers)
        except OriginError as error:
            return Failed(error)
        return self._fill(request, reply)

    def _fill(self, request: Request, reply: Reply, previous: Entry | None = None) -> Filling | Unshareable:
        """Store `reply` while it arrives, if that is allowed, in the place of `previous`."""
        stored = self._fills.begin_fill(request, reply, previous)
        return Filling(stored, reply) if isinstance(stored, Stored) else Unshareable(reply, stored)

    def _land(self, flight: Flight, request: Request, outcome: Outcome, entry: Entry | None) -> None:
        """Land `flight`, where `entry` is stored; it may be followed until its response is stored whole."""
        if isinstance(outcome, Filling):
            self._flights.unmark(flight.primary, request.fields)
            outcome.reply.body.when_ended(lambda _: self._flights.end(flight))
            if flight.leader is None:
                outcome.reply.body.discard()
        else:
            self._flights.end(flight)
            self._learn(flight, request, outcome, entry)
        flight.land(outcome)

    def _learn(self, flight: Flight, request: Request, outcome: Outcome, entry: Entry | None) -> None:
        """Remember whether the next responses may be shared, where `outcome` is not a new one that may be."""
        if isinstance(outcome, Revalidated) and not outcome.entry.gone:
            self._flights.unmark(flight.primary, request.fields)
        if not isinstance(outcome, Unshareable):
            return
        reply, reason = outcome.reply, outcome.reason
        if reply.response.status < 500 and reason in OF_THE_RESPONSE:
            own = is_client_specific(request, reply.response.status, reason)
            self._mark_unshareable(flight.primary, request, entry, own=own)
        elif reason is Refused.AUTHORIZATION and (entry is None or not is_fresh(entry, self._clock())):
            self._flights.mark(of_authorized(flight.primary), self._clock())
        if flight.leader is None or flight.leader.gone:
            reply.body.discard()

    def _mark_unshareable(self, key: bytes, request: Request, entry: Entry | None, *, own: bool) -> None:
        """A whole crowd must not wait in line for responses that are for one client each.

        Nothing follows from one that is the client's `own` for what is stored, nor for those whom that answers.
        """
        now = self._clock()
        if own and (not rfc9111.is_plain(request.fields) or (entry is not None and is_fresh(entry, now))):
            return  # a request that is not plain may have passed over what the region holds
        self._flights.mark(key, now)
        stale, _ = self._memory.lookup(key, request.fields)
        if stale is not None and not own:
            self._memory.drop(stale)

    # --- something is stored

    async def _validate(self, flight: Flight, request: Request, entry: Entry) -> Outcome | None:
        """Validate `entry`, or fetch the rest of it; None if the reply is about something else."""
        reply = await self._upstream.fetch(request, _validating(request, entry), flight.client, flight.watchers)
        outcome = self._validated(request, entry, reply)
        if outcome is None:
            reply.body.discard()
        return outcome

    def _validated(self, request: Request, entry: Entry, reply: Reply) -> Outcome | None:
        """What `reply` says of `entry`; None if it is about something else."""
        status = reply.response.status
        if status == 304:
            if not rfc9111.validates(entry.stored, reply.response):
                return None
            fresh = self._fills.freshen(request, entry, reply)
            return None if fresh is None else Revalidated(fresh, reply.body.refused)
        if status in (206, 416) and entry.segments is not None:
            whole = self._fills.completed(entry, reply)
            return None if whole is None else self._fill(request, whole, entry)
        if status in rfc9111.FAILURES and self.may_stand_in(entry, request):
            self._fills.refuse(reply, Refused.STALE_KEPT)
            reply.body.discard()
            return Failed(OriginError(f"status-{status}", "the upstream answered with an error"))
        return self._fill(request, reply, entry)

    # --- the region

    def _may_wait_for_region(self, region: Region, flight: Flight, request: Request) -> bool:
        """Whether the response to another POP or worker of the region would do for `request`."""
        if rfc9111.requires_validation(request) or self._flights.mark_on(flight.primary, request.fields, self._clock()):
            return False
        return not region.is_led_by(request)

    async def _fetch_with_lease(
        self, region: Region, flight: Flight, request: Request, entry: Entry | None
    ) -> tuple[Outcome, Entry | None]:
        """Let another worker of the region fetch, or fetch with its lease; the outcome, and what was stored before."""
        turn = await region.take_turn(request, entry, flight.client)
        try:
            if turn.outcome is not None:
                outcome = turn.outcome
            elif turn.found is not None:
                outcome = await self._validate_found(region, flight, request, turn.found)
            else:
                outcome = await self._fetch(flight, request, turn.entry)
        except BaseException:
            if turn.lease is not None:
                region.abandon(turn.lease)
            raise
        if turn.lease is not None:
            region.release(turn.lease, outcome)
        return outcome, turn.entry if turn.found is None else turn.found.entry

    async def _validate_found(self, region: Region, flight: Flight, request: Request, found: Found) -> Outcome:
        """Validate a body that lies in the region's chunks, or fetch the whole."""
        fields = rfc9111.conditional_fields(request, found.entry.stored)
        try:
            reply = await self._upstream.fetch(request, fields, flight.client, flight.watchers)
        except OriginError as error:
            return Failed(error)
        if reply.response.status != 304:
            return self._fill(request, reply)
        same = rfc9111.validates(found.entry.stored, reply.response)
        if same and self._fills.freshen_found(request, found, reply):
            return region.streamed(found, request, flight.client, reply.seen)
        reply.body.discard()
        return await self._fetch(flight, request, None)


def _validating(request: Request, entry: Entry) -> Fields:
    """The fields that ask whether `entry` is still good, or for the rest of what is stored in part."""
    if entry.segments is not None:
        return rfc9111.resumption_fields(request, entry.stored, entry.segments)
    return rfc9111.conditional_fields(request, entry.stored)
