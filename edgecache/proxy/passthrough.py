"""Requests passed through to the origin, each by itself: bytes are forwarded as they arrive, without a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from edgecache.invalidation.validity import Invalidation
from edgecache.proxy import responses
from edgecache.proxy.cache_fill import Fills
from edgecache.proxy.collapsing import OFTEN, Flights
from edgecache.proxy.deliver_reply import ReplyDelivery
from edgecache.proxy.fastpath.head_memo import LONGEST_ANSWER, Pass, Serialize
from edgecache.semantics import cache_status, rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Fields, Request, Response
from edgecache.semantics.outcomes import OF_THE_RESPONSE, Forward, Refused, Result, Tier
from edgecache.semantics.stored_response import Stored
from edgecache.storage.memory import Entry
from edgecache.telemetry.request_metrics import Passes
from edgecache.upstream.fetcher import Upstream
from edgecache.upstream.peer_fields import is_internal, required_by
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply
from edgecache.wire.response_writer import ResponseWriter
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

MOST_UNSTORED: Final = 256
HIT_FOR_MISS: Final = Forward.HIT_FOR_MISS
LASTING: Final = OF_THE_RESPONSE | {Refused.AUTHORIZATION}  # reasons that are likely to hold for the next response too
LONGEST_UNSTORED: Final = 2048  # bytes of field lines


class UnstoredHead(NamedTuple):
    """How a response that is never stored is passed on: its fields, packed, and its Cache-Status."""

    response: Response
    refused: Refused
    member: bytes
    fields: bytes
    head: bytes  # serialized for a connection that persists, with nothing that middleware adds
    passes: Passes | None  # where it is counted if it comes from an origin; None: by the call


class Relays:
    """Passes exchanges through, and stores the responses that may be stored."""

    def __init__(
        self,
        *,
        pop: bytes,
        upstream: Upstream,
        replies: ReplyDelivery,
        fills: Fills,
        flights: Flights,
        invalidation: Invalidation,
        clock: Callable[[], float],
        wall: Callable[[], float],
        serialize: Serialize,
        count: Callable[[Tier | None, int, Refused], None],
        passes: Callable[[Forward, int, Refused], Passes | None],
        jurisdiction: str = "",
    ) -> None:
        self.pop = pop
        self.jurisdiction = jurisdiction  # of this POP
        self.upstream = upstream
        self.replies = replies
        self._fills = fills
        self._flights = flights
        self.now_known = invalidation.log.stamp  # what is known of the log: every request carries it
        self._known_with = invalidation.log.stamp_for  # and by the child that sent it
        self.clock = clock  # resident time
        self._wall = wall  # epoch seconds, for Date
        self._serialize = serialize
        self._switch = upstream.switch
        self.count = count  # a response that is not stored, by its tier, status and reason
        self._passes = passes
        self._marks, self.renew_mark = flights.marks, flights.renew
        self.cut: Callable[[Request, Reply], bool] | None = None  # stores a part in slices, or says that it does not
        self._unstored: dict[Forward, dict[int, UnstoredHead]] = {}  # by the identity of the response, kept alive by it
        self.marked_heads = self._unstored[HIT_FOR_MISS] = {}

    def pass_on(self, exchange: Exchange, why: Forward, result: Result, entry: Entry | None = None) -> None:
        """Forward the request of `exchange`; `entry` is what is stored for it."""
        request = exchange.request
        forwarded = self.upstream.request_for(request, request.fields, exchange.client, exchange.body)
        self.send(forwarded, exchange, why, result, entry, self.clock())

    def send(
        self,
        forwarded: UpstreamRequest,
        exchange: Exchange,
        why: Forward,
        result: Result,
        entry: Entry | None,
        now: float,
        mark: bytes = b"",
    ) -> None:
        """Send `forwarded` for `exchange` alone, at `now` in resident time; `mark` is the hit-for-miss that says so."""
        child = exchange.request.child
        seen = self.now_known() if child is None else self._known_with(required_by(child))
        relay = exchange.upstream_call = Relay(forwarded, now, seen)
        exchange.why, exchange.upstream_asked = why, now
        exchange.alone = result is Result.PASS
        relay.relays, relay.exchange, relay.why, relay.result, relay.entry = self, exchange, why, result, entry
        relay.mark = mark
        self.upstream.send(relay)

    def pass_known(self, connection: ResponseWriter, known: Pass, raw: bytes, now: float) -> bool:
        """Pass through the request whose head is `raw`, at `now` in resident time; False if that is no longer right."""
        until = self._marks.get(known.key, 0.0)
        if until < now or known.client != connection.peer:
            return False
        if known.gate is not None and not known.gate(connection, now):
            return False
        relay = _KnownPass(self, connection, known, raw, now)
        if until - now < self._flights.hit_for_miss - OFTEN:  # else it is renewed often enough
            relay.mark = known.key
        connection.adopt(relay)
        self._switch.send(relay)
        return True

    def begin_fill(self, exchange: Exchange, reply: Reply, entry: Entry | None) -> bool:
        """Store `reply`, if that is allowed, before the client gets it; whether it is."""
        request = exchange.request
        if not exchange.storable:
            return self._fills.refuse(reply, Refused.BYPASS)
        if request.jurisdiction != self.jurisdiction:  # what is of another jurisdiction is not kept here
            return self._fills.refuse(reply, Refused.RESIDENCY)
        if request.method not in (b"GET", b"HEAD") and request.content is None:
            return self._fills.refuse(reply, Refused.METHOD)
        if request.framing.length != 0 and request.content is None:
            return self._fills.refuse(reply, Refused.REQUEST_CONTENT)
        if reply.response.status == 101:
            return self._fills.refuse(reply, Refused.INTERIM)
        if self.cut is not None and reply.response.status == 206 and self.cut(request, reply):
            return True
        stored = self._fills.begin_fill(request, reply, entry)
        if isinstance(stored, Stored) and stored.whole_length is None:
            self._flights.unmark(primary_key(request), request.fields)
        return isinstance(stored, Stored)

    def renew(self, relay: Relay) -> None:
        """The response to `relay` is not shareable either, as its mark said: prolong that (hit-for-miss)."""
        if relay.mark:
            self._flights.renew(relay.mark, relay.asked, self.clock)

    def begin_fill_by_write(self, exchange: Exchange, reply: Reply) -> bool:
        """Store the response to a POST that answers a GET too (RFC 9110 §9.3.3); whether it is."""
        if not exchange.storable:
            return self._fills.refuse(reply, Refused.METHOD)
        if exchange.request.jurisdiction != self.jurisdiction:
            return self._fills.refuse(reply, Refused.RESIDENCY)
        get = rfc9111.as_get(exchange.request, reply.response)
        if get is None:
            return self._fills.refuse(reply, Refused.METHOD)
        return isinstance(self._fills.begin_fill(get, reply), Stored)

    def unstored_head(self, response: Response, why: Forward) -> UnstoredHead | None:
        """The head to pass on of a response that no request could make storable; None of any other.

        Remembered for the responses that the pool remembers, and as long as it does.
        """
        heads = self._unstored.setdefault(why, {})
        known = heads.get(id(response))
        if known is not None:
            return known
        refused = rfc9111.never_stored(response)
        if refused is None:
            return None
        member = cache_status.forwarded(self.pop, why, status=response.status, refused=refused)
        fields = responses.relayed(response, member, self._wall(), self._fills.hidden)
        head = self._serialize(FullResponse(response.status, fields, b"", response.framing.length, response.reason))
        known = UnstoredHead(response, refused, member, fields, head, self._passes(why, response.status, refused))
        if b"date" in response.fields and response.fields.weight <= LONGEST_UNSTORED:
            if len(heads) >= MOST_UNSTORED:
                heads.clear()
            heads[id(response)] = known
        return known


class Relay(UpstreamCall):
    """One exchange on its way through."""

    relays: Relays
    exchange: Exchange
    why: Forward
    result: Result
    entry: Entry | None
    mark = b""  # hit-for-miss: why its response will not be shareable; empty: it is passed on for another reason

    def on_interim(self, response: Response) -> None:
        """It goes to the client."""
        self.exchange.interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        """Store it if that is allowed, and deliver it."""
        relays, exchange = self.relays, self.exchange
        response = relays.upstream.received(exchange.request, response)
        reply = relays.upstream.reply(self, response, body)
        exchange.upstream_took = reply.times.received - self.asked
        exchange.answered_on, exchange.upstream_status = self.asked_on, response.status
        stored = relays.begin_fill(exchange, reply, self.entry)
        if body.refused in LASTING:
            relays.renew(self)
        if response.status == 101:
            self._tunnel(response)
            return
        exchange.upstream_call = None  # from here on the body's readers count
        relays.replies.deliver(exchange, reply, self.why, self.result, stored=stored)

    def on_whole(self, response: Response, content: bytes) -> None:
        """The same, at once."""
        exchange, relays = self.exchange, self.relays
        request = exchange.request
        response = relays.upstream.received(request, response)
        plain = request.method == b"GET" and request.child is None and request.jurisdiction == relays.jurisdiction
        unstored = relays.unstored_head(response, self.why) if plain else None
        if unstored is None:
            self.on_answer(response, Body.of(content))
            return
        exchange.upstream_call = None
        relays.renew(self)
        relays.count(self.answered_by, response.status, unstored.refused)
        exchange.result, exchange.cache_status, exchange.refused = self.result, unstored.member, unstored.refused
        exchange.answered_on, exchange.upstream_status = self.asked_on, response.status
        exchange.send(FullResponse(response.status, unstored.fields, content, len(content), response.reason))

    def on_failure(self, error: OriginError) -> None:
        """Answer with an error of our own."""
        member = cache_status.forwarded(self.relays.pop, self.why, detail=error.reason.encode())
        self.exchange.upstream_call = None
        responses.reply_locally(self.exchange, local_reply(error.status, error.reason, str(error)), member)

    def _tunnel(self, response: Response) -> None:
        """Join both connections byte for byte (RFC 9110 §7.8)."""
        if self.asked_on is None:
            return
        fields = Fields(
            line for line in response.fields if (name := line[0].lower()) != b"content-length" and not is_internal(name)
        )
        self.exchange.switch_protocols(response._replace(fields=fields), self.asked_on)


class _KnownPass(Exchange, Relay):
    """A request passed through by a known head: the exchange and its call are one object, which is cheaper."""

    why = HIT_FOR_MISS
    result = Result.PASS
    entry = None
    alone = True
    body = None

    def __init__(self, relays: Relays, connection: ResponseWriter, known: Pass, raw: bytes, now: float) -> None:
        self.request = known.request  # as Exchange.__init__ would; a call less counts here
        self.fingerprint = raw
        self.client = connection.peer
        self.began = connection.site.clock()
        self.head_in = known.size
        self.opened_on = self._writer = connection
        upstream_request = known.upstream_request
        self.upstream_request = upstream_request if upstream_request.wording is None else upstream_request.anew()
        self.asked = self.upstream_asked = now
        self.seen = relays.now_known()
        self.relays = relays

    @property
    def exchange(self) -> Exchange:  # type: ignore[override]
        """Itself."""
        return self

    def on_whole(self, response: Response, content: bytes) -> None:
        relays = self.relays
        if relays.upstream.on_response is not None:
            response = relays.upstream.received(self.request, response)
        unstored = relays.marked_heads.get(id(response)) or relays.unstored_head(response, HIT_FOR_MISS)
        if unstored is None:
            self.on_answer(response, Body.of(content))
            return
        writer = self._writer
        if writer is None:
            return
        if self.mark:
            relays.renew_mark(self.mark, self.asked, relays.clock)
        _, refused, self.cache_status, fields, head, passes = unstored
        status, size = response.status, len(content)
        if passes is None or self.answered_by is not None:
            relays.count(self.answered_by, status, refused)
        else:
            passes.count += 1
            self.tally = passes.tally
        self.refused, self.fields_out = refused, fields
        self.status = self.upstream_status = status
        self.answered_on, self.bytes_out, self._writer = self.asked_on, size, None
        changed = writer.site.on_deliver is not None or self.request.policy is not None
        if size <= LONGEST_ANSWER and writer.persists() and not changed:
            self.head_out = len(head)
            writer.write_serialized(head + content)
        else:
            fields = self.fields_out = self._delivered(writer, status, fields)
            self.head_out = writer.send(status, fields, size, response.reason, content)
        writer.exchange_done(self)

    def leave(self) -> None:
        super().leave()
        if not self.started:
            self.cancel()
