"""What one flight does, in a task of its own: ask the region, then the origin, and say what the answer means.

flight ──► the one that is out, to be followed
   └─────► a new one ──► _run ──► the region's lease, and what another worker has brought meanwhile
                           ├────► _ask_origin: validate, get the rest, or get the whole; _judge what came
                           └────► _settle: tell all who wait, and remember what it says of the next requests
"""

from __future__ import annotations

from edgecache.invalidation.purge_log import Verdict
from edgecache.proxy.collapsing import Failed, Filling, Flight, Outcome, Refreshed, Risen, Unshareable, of_authorized
from edgecache.proxy.components import Parts
from edgecache.proxy.regional_fetch import Region, Turn
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


class Refill:
    """Leads the flights. Its state lies in the parts that it is given."""

    def __init__(self, parts: Parts) -> None:
        self._memory = parts.memory
        self._invalidation = parts.invalidation
        self._flights = parts.flights
        self._fills = parts.fills
        self._upstream = parts.upstream
        self._region = parts.region
        self._clock = parts.clock  # resident time

    def flight(self, key: bytes, request: Request, entry: Entry | None, exchange: Exchange | None) -> Flight:
        """The flight that is out for this URL and these selecting fields, or a new one that `exchange` leads."""
        place = self.place(key, request)
        alone = entry is not None and self._flights.mark_on(key, request.fields, self._clock())
        if exchange is not None and (alone or asks_for_itself(request, entry)):
            place = (*place, exchange)  # nobody else's question will do
        flight = self._flights.out(place)
        if flight is None:
            flight = self._flights.lead(place, key, exchange)
            spawn(self._run(flight, request, entry, exchange.client if exchange else ""), "refill")
        elif exchange is not None:
            self._flights.followed += 1
        return flight

    def place(self, key: bytes, request: Request) -> tuple[object, ...]:
        """What requests have in common that may follow the same flight."""
        authorized = b"authorization" in request.fields  # an answer to those is not for the others
        return (key, self._memory.values_for(key, request.fields), authorized)

    def is_out(self, key: bytes, request: Request) -> bool:
        """Whether there is a flight that `request` may follow."""
        return self._flights.out(self.place(key, request)) is not None

    def refresh(self, key: bytes, request: Request) -> Flight:
        """The flight that fetches `request`, which no client has sent."""
        return self.flight(key, request, None, None)

    def behind(self, entry: Entry, request: Request) -> None:
        """Ask the origin behind the client's back, once (RFC 5861 §3)."""
        fields = request.fields.without((trace_context.NAME,))  # its trace is complete by then
        self.flight(primary_key(request), request._replace(fields=fields), entry, None)

    def may_stand_in(self, entry: Entry, request: Request) -> bool:
        """Whether `entry`, stale, may be used where the origin has no answer (RFC 5861 §4): a whole, not parts."""
        now = self._clock()
        if entry.segments is not None or self._invalidation.check(entry, now) is not Verdict.USABLE:
            return False
        return rfc9111.may_serve_on_error(entry.stored, request, now)

    async def _run(self, flight: Flight, request: Request, entry: Entry | None, client: str) -> None:
        """Run once per flight, in a task of its own: ask, and say what came of it."""
        turn = Turn(entry=entry)
        try:
            if self._region is not None and self._may_wait(self._region, flight, request):
                turn = await self._region.ask(request, entry, client)
            outcome = turn.outcome or await self._ask_origin(flight, request, turn.entry, client, turn.found)
        except BaseException:
            flight.land(Failed(OriginError("internal", "the request failed here")))
            self._flights.end(flight)
            if self._region is not None and turn.lease is not None:
                self._region.give_up(turn.lease)
            raise
        self._settle(flight, request, outcome, turn.entry or (turn.found.entry if turn.found is not None else None))
        if self._region is not None and turn.lease is not None:
            self._region.tell(turn.lease, outcome)

    def _may_wait(self, region: Region, flight: Flight, request: Request) -> bool:
        """Whether the answer to another POP or worker of the region would do for `request`."""
        if rfc9111.requires_validation(request) or self._flights.mark_on(flight.primary, request.fields, self._clock()):
            return False
        return not region.is_led_by(request)

    async def _ask_origin(
        self, flight: Flight, request: Request, entry: Entry | None, client: str, found: Found | None = None
    ) -> Outcome:
        """Ask upstream, where `entry` is what is stored, or `found` in the region, and say what the answer means."""
        try:
            question = _question(request, entry if found is None else found.entry)
            reply = await self._upstream.fetch(request, question, client, flight.watchers)
            if found is not None and reply.response.status == 304:
                outcome = self._judge_found(request, found, reply, client)
            else:
                outcome = self._judge(request, entry, reply)
            if outcome is None:  # the answer was not about what is stored: ask for the whole
                reply.body.discard()
                question = rfc9111.unconditional(request)
                reply = await self._upstream.fetch(request, question, client, flight.watchers)
                outcome = self._judge(request, None, reply)
        except OriginError as error:
            return Failed(error)
        assert outcome is not None, "an unconditional question has an answer of its own"
        return outcome

    def _judge(self, request: Request, entry: Entry | None, reply: Reply) -> Outcome | None:
        """What the origin's answer means; None if it is not about what is stored."""
        status = reply.response.status
        if status == 304 and entry is not None:
            if not rfc9111.validates(entry.stored, reply.response):
                return None
            fresh = self._fills.freshen(request, entry, reply)
            return None if fresh is None else Refreshed(fresh, reply.body.refused)
        if status in (206, 416) and entry is not None and entry.segments is not None:
            whole = self._fills.completed(entry, reply)
            if whole is None:
                return None
            reply = whole
        elif status in rfc9111.FAILURES and entry is not None and self.may_stand_in(entry, request):
            self._fills.refuse(reply, Refused.STALE_KEPT)
            reply.body.discard()
            return Failed(OriginError(f"status-{status}", "the upstream answered with an error"))
        learnt = self._fills.begin_fill(request, reply, entry)
        return Filling(learnt, reply) if isinstance(learnt, Stored) else Unshareable(reply, learnt)

    def _judge_found(self, request: Request, found: Found, reply: Reply, client: str) -> Outcome | None:
        """What a 304 means for a body that lies in the region's chunks; None if it is not about that."""
        assert self._region is not None, "it was found there"
        if not rfc9111.validates(found.entry.stored, reply.response):
            return None
        if not self._fills.freshen_found(request, found, reply):
            return None
        return self._region.streamed(found, request, client, reply.seen)

    def _settle(self, flight: Flight, request: Request, outcome: Outcome, known: Entry | None) -> None:
        """Tell the flight's outcome, and remember what it says about the next requests; `known` is what is stored."""
        match outcome:
            case Filling(_, reply):
                self._flights.unmark(flight.primary, request.fields)
                reply.body.when_ended(lambda _: self._flights.end(flight))  # it may be followed until it is stored
                if flight.leader is None:
                    reply.body.discard()
            case Unshareable(reply, reason):
                self._flights.end(flight)
                if reply.response.status < 500 and reason in OF_THE_RESPONSE:
                    own = is_client_specific(request, reply.response.status, reason)
                    self._not_for_sharing(flight.primary, request, known, own=own)
                elif reason is Refused.AUTHORIZATION and (known is None or not is_fresh(known, self._clock())):
                    self._flights.mark(of_authorized(flight.primary), self._clock())
                if flight.leader is None or flight.leader.gone:
                    reply.body.discard()
            case Refreshed(entry) if not entry.gone:
                self._flights.unmark(flight.primary, request.fields)
                self._flights.end(flight)
            case Refreshed() | Risen() | Failed():
                self._flights.end(flight)
        flight.land(outcome)

    def _not_for_sharing(self, key: bytes, request: Request, known: Entry | None, *, own: bool) -> None:
        """A whole crowd must not wait in line for answers that are for one each.

        Of an answer that is the client's `own`, nothing follows for what is stored, nor for those who get that.
        """
        now = self._clock()
        if own and (not rfc9111.is_plain(request.fields) or (known is not None and is_fresh(known, now))):
            return  # a request that is not plain may have passed over what the region holds
        self._flights.mark(key, now)
        stale, _ = self._memory.lookup(key, request.fields)
        if stale is not None and not own:
            self._memory.drop(stale)


def asks_for_itself(request: Request, entry: Entry | None) -> bool:
    """Whether another's answer will not do: the client wants a newer one, or it has to be validated each time."""
    if entry is not None and entry.segments is None and rfc9111.always_needs_validation(entry.stored):
        return True
    return not rfc9111.is_plain(request.fields) and rfc9111.requires_validation(request)


def _question(request: Request, entry: Entry | None) -> Fields:
    """What to ask: is the stored one still good, the rest of what is known in part, or the whole."""
    if entry is None:
        return rfc9111.unconditional(request)
    if entry.segments is not None:
        return rfc9111.resumption_fields(request, entry.stored, entry.segments)
    return rfc9111.conditional_fields(request, entry.stored)
