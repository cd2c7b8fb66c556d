"""The path of a request, from the client's question to an answer. Read this file first.

Rule 1: every branch that a request can take is visible here.
Rule 2: this file decides nothing about HTTP; it asks `rules/` and obeys.
Rule 3: the tiers do not know each other; only this file knows their order.

    bytes ──► answer_known            a head seen before whose answer is still right: one look-up, one write
      └─────► answer                  synchronous: refuse, pass, or answer from memory
                └─► answer_regional   called back: what the region's Valkey has, if there is one
                      └─► ask         one flight per key: lead, follow, or go alone
                            └─► refill  the flight's own task: the region's lease, the origin, what its answer means
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, assert_never

from edgecache import answers
from edgecache.answers import Answer
from edgecache.fills import Fills, Reply
from edgecache.flights import Failed, Filling, Flight, Flights, Outcome, Refreshed, Risen, Unshareable
from edgecache.invalidation import Invalidation
from edgecache.known import KnownHeads, KnownHit, KnownPass, KnownRead, Rendered
from edgecache.memory import Entry, Memory
from edgecache.pops import tell_of_entry, tell_of_reply
from edgecache.purge_method import PurgeMethod
from edgecache.region import Region, Turn
from edgecache.regional import Found
from edgecache.regional_hits import RegionalHits
from edgecache.regional_parts import RegionalParts
from edgecache.relay import Relays
from edgecache.rules import cache_status, ranges, rfc9111, trace_context
from edgecache.rules.cache_key import primary_key
from edgecache.rules.forward import loops, no_forwards_left
from edgecache.rules.message import Fields, Request
from edgecache.rules.preconditions import is_not_modified
from edgecache.rules.purge_log import Verdict
from edgecache.rules.reasons import Forward, Refused, Result
from edgecache.rules.rfc9111 import Fresh, MustAsk, StaleWhileRevalidate
from edgecache.rules.stored import Stored
from edgecache.rules.vary import selecting_values
from edgecache.rules.vectors import Vector
from edgecache.rules.writes import is_write, token_of
from edgecache.tasks import spawn
from edgecache.upstream import Upstream
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1_server import ClientConnection
from edgecache.writes import Reaches, Writes

KNOWN_HIT: Final = b"hit"  # in the log, for Cache-Status: its ttl is in the head only
TOKEN_PATIENCE: Final = 1.0  # seconds that who has written waits for this worker to know it
LOOPED: Final = 508  # of one who forged CDN-Loop, it says nothing of others' requests
KNOWN: Final = 8  # known heads and rendered answers hold an eighth of the memory at most
MOST_FLIGHTS: Final = 3  # flights that one request follows before it goes alone
OF_THE_RESPONSE: Final = frozenset(  # reasons that will hold for the next request too
    (
        Refused.NO_STORE,
        Refused.PRIVATE,
        Refused.NOT_CACHEABLE,
        Refused.NOT_UNDERSTOOD,
        Refused.SET_COOKIE,
        Refused.VARY_STAR,
        Refused.PER_USER_VARY,
        Refused.USELESS,
        Refused.TOO_LARGE,
    )
)


class Edge:
    """One worker's request path. Its mutable state lies in the parts that it is given."""

    def __init__(
        self,
        *,
        pop: bytes,
        hosts: frozenset[bytes],
        memory: Memory,
        invalidation: Invalidation,
        flights: Flights,
        fills: Fills,
        relays: Relays,
        upstream: Upstream,
        clock: Callable[[], float],
        follower_timeout: float,
        stale_wait: float,
        max_ranges: int,
        on_known_hit: Callable[[ClientConnection, KnownHit, float], None],
        writes: Writes,
        purges: PurgeMethod,
        reaches: Reaches | None = None,
        token_cookie: bool = False,
        region: Region | None = None,
        jurisdiction: str = "",
    ) -> None:
        self.pop = pop
        self.hosts = hosts  # site names answered; empty = any
        self.memory = memory
        self.invalidation = invalidation
        self.log = invalidation.log
        self.flights = flights
        self.fills = fills
        self.relays = relays
        self.upstream = upstream
        self.region = region  # None: there is no regional tier
        self.clock = clock  # epoch seconds
        self.jurisdiction = jurisdiction  # of this POP and all that it stores; empty: residency is not kept
        self.foreign = 0  # requests of another one
        self.known = KnownHeads(memory.account.budget // KNOWN, memory.account.hold)
        self._retired = 0  # of the memory, when answers were last let go
        self._follower_timeout = follower_timeout
        self._stale_wait = stale_wait
        self._max_ranges = max_ranges
        self.writes = writes
        self.purges = purges
        self._reaches = reaches  # None: there is no log but this worker's own
        self._token_cookie = token_cookie
        self.on_known_hit = on_known_hit  # told of each, with the time: to count and log
        self._hits = self._parts = None
        if region is not None:
            self._parts = RegionalParts(pop, region, invalidation, clock, self._go_on)
            self._hits = RegionalHits(
                pop, region, memory, flights, invalidation, self.known, clock, self.answer_regional
            )

    def tune(self, *, hosts: frozenset[bytes], follower_timeout: float, stale_wait: float, max_ranges: int) -> None:
        """Go on with other settings; what is known of heads followed from the old ones."""
        self.hosts = hosts
        self._follower_timeout, self._stale_wait, self._max_ranges = follower_timeout, stale_wait, max_ranges
        self.known.forget_all()

    # --- without waiting

    def answer_known(self, connection: ClientConnection, raw: bytes) -> bool:
        """Answer, or pass on, the request whose head is exactly `raw`, if it is known and that is still right."""
        known = self.known.get(raw)
        if known is None:
            return False
        now = self.clock()
        if type(known) is KnownPass:
            if known.client != connection.peer or self.flights.marks.get(known.key, 0.0) < now:
                self.known.forget_one(raw)
                return False
            self.relays.pass_known(connection, known, raw, now)
            return True
        if type(known) is KnownRead:
            return self._hits is not None and self._hits.ask_known(connection, known, raw)
        assert type(known) is KnownHit, "there are three kinds"
        rendered = known.rendered
        entry = rendered.entry
        if entry.passed != (fence := self.log.fence) and (
            fence < 0 or self.invalidation.check(entry) is not Verdict.USABLE
        ):
            return False
        if not rendered.is_right(now):
            self.known.forget_one(raw)
            return False
        connection.transport.write(rendered.full)
        self.on_known_hit(connection, known, now)
        return True

    def sweep(self) -> None:
        """Let go of what is remembered of entries that have left the memory."""
        if self.memory.retired != self._retired:
            self._retired = self.memory.retired
            self.known.forget_gone()

    def answer(self, exchange: Exchange) -> None:
        """Answer `exchange` now if nothing has to be waited for; else see to it that it will be."""
        request = exchange.request
        if refusal := self._refusal(request):
            self._ours(exchange, refusal)
        elif request.method == b"PURGE":
            self.purges.answer(exchange, exchange.began)
        elif request.jurisdiction != self.jurisdiction:
            self._pass_foreign(exchange)
        elif why := rfc9111.why_pass(request):
            self._pass_on(exchange, why)
        elif (token := self._token(request)) is not None:
            spawn(self._look_up_after(token, exchange), "wait for a write")
        elif request.child is not None and request.child.behind:  # nothing that is here is proven to who asks
            self._relay(exchange, Forward.STALE, Result.MISS)
        else:
            self._look_up(exchange, request)

    def _pass_on(self, exchange: Exchange, why: Forward) -> None:
        """Pass through what is not for the cache."""
        if is_write(exchange.request):
            self.writes.pass_on(exchange, why)
        else:
            self._relay(exchange, why, Result.PASS)

    def _pass_foreign(self, exchange: Exchange) -> None:
        """Pass on what is of another jurisdiction: no tier of this POP may have it."""
        self.foreign += 1
        if rfc9111.only_if_cached(exchange.request):
            self._ours(exchange, answers.of_ours(504, "only-if-cached", "nothing stored may be used"), Forward.BYPASS)
        else:
            self._pass_on(exchange, Forward.BYPASS)

    def _token(self, request: Request) -> Vector | None:
        """What the client has written and this worker does not yet know."""
        if self._reaches is None or not (b"edgecache-token" in request.fields.index or self._token_cookie):
            return None
        token = token_of(request.fields, cookies=self._token_cookie)
        return None if token is None or self.log.vector.covers(token) else token

    async def _look_up_after(self, token: Vector, exchange: Exchange) -> None:
        """Answer who has written once that is known here, or by the origin alone if that takes too long."""
        assert self._reaches is not None, "else there is nothing to wait for"
        if await self._reaches(token, TOKEN_PATIENCE):
            if not exchange.gone:
                self._look_up(exchange, exchange.request)
        elif not exchange.gone:
            exchange.request = rfc9111.asking_newer(exchange.request)  # a parent may not know of the write either
            self._relay(exchange, Forward.REQUEST, Result.PASS)

    def _look_up(self, exchange: Exchange, request: Request) -> None:
        key = primary_key(request)
        entry, url_known = self.memory.lookup(key, request.fields)
        why = Forward.VARY_MISS if url_known else Forward.URI_MISS
        if entry is not None:
            verdict = self._answer_from(entry, exchange)
            if verdict is None:
                return
            why = verdict.why
            if why is Forward.URI_MISS:  # it was purged
                entry = None
        exchange.why = why
        if self.region is not None and self._may_be_regional(key, entry, why):
            exchange.regional_asked = self.clock()
            told = partial(self.answer_regional, exchange, key, entry, why)
            self.region.tier.look_up(key, request.fields, told)
        else:
            self._go_on(exchange, key, entry, why)

    def _go_on(self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward) -> None:
        """No tier of ours has the answer: towards the origin, if the request lets us."""
        request = exchange.request
        if rfc9111.only_if_cached(request):
            self._ours(exchange, answers.of_ours(504, "only-if-cached", "nothing stored may be used"), why)
        elif request.method == b"HEAD" or (self._wants_ranges(request) and self._goes_alone(entry)):
            self._relay(exchange, why, Result.MISS, entry)
        elif entry is None and self.flights.marked(key, self.clock()):
            self._pass_marked(exchange, key)
        else:
            spawn(self.ask(exchange, key, entry, why), "ask")

    def _may_be_regional(self, key: bytes, entry: Entry | None, why: Forward) -> bool:
        """Whether the region may know more than this worker."""
        if entry is not None and (entry.segments is not None or why is not Forward.STALE):
            return False
        return not self.flights.marked(key, self.clock())

    def answer_regional(
        self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward, found: Found | None
    ) -> None:
        """Answer with what the regional tier has found, or go on."""
        exchange.regional_took = self.clock() - exchange.regional_asked
        if exchange.gone:
            return
        if entry is None and found is not None and self._hits and self._hits.answers(exchange, key, found, why):
            return
        if (
            entry is None
            and found is not None
            and self._parts
            and self._parts.answers(exchange, key, found, why, self._max_ranges)
        ):
            return
        if found is not None and self.region is not None and self.region.is_newer(found, entry):
            verdict = self._answer_found(exchange, key, found.entry, why)
            if verdict is None:
                return
            entry, why = self.memory.adopt(found.entry) or found.entry, verdict.why
        self._go_on(exchange, key, entry, why)

    def _answer_found(self, exchange: Exchange, key: bytes, entry: Entry, why: Forward) -> MustAsk | None:
        """Answer with a whole out of the regional tier, if that is allowed; else why not."""
        assert self.region is not None, "something was found in it"
        request, now = exchange.request, self.clock()
        if entry.passed != self.log.position:
            return MustAsk(Forward.STALE)  # it is not proven
        plain = is_plain(request.fields)
        verdict = Fresh() if plain and now < entry.stale_at else rfc9111.may_reuse(entry.stored, request, now)
        if isinstance(verdict, MustAsk):
            return verdict
        if isinstance(verdict, StaleWhileRevalidate) or self.region.tier.rises(key):
            self.memory.adopt(entry)
        self._deliver_found(exchange, entry, now, why)
        if isinstance(verdict, StaleWhileRevalidate):
            self._refresh_behind(entry, request)
        return None

    def _deliver_found(
        self, exchange: Exchange, entry: Entry, now: float, why: Forward, *, collapsed: bool = False
    ) -> None:
        """Answer out of `entry`, a whole that came from the regional tier."""
        assert self.region is not None, "it came from there"
        tier = cache_status.hit(self.region.name, entry.lifetime - entry.age(now), self.invalidation.detail)
        member = cache_status.from_tier(self.pop, tier, why, collapsed=collapsed)
        answer = answers.from_entry(entry, exchange.request, now, member, self._max_ranges)
        assert answer is not None, "a whole entry answers every request"
        exchange.result, exchange.cache_status = Result.REGIONAL, member
        if exchange.request.child is not None:
            tell_of_entry(exchange, entry, self.invalidation)
        exchange.reply(answer.status, answer.head, answer.content)

    def _pass_marked(self, exchange: Exchange, key: bytes) -> None:
        """Pass through a request whose answer is known not to be shareable, and remember its head."""
        request = exchange.request
        question = self.upstream.question(request, request.fields, exchange.client)
        if persists(request) and self.known.learns(exchange.raw):
            self.known.learn(exchange.raw, KnownPass(request, key, exchange.client, question))
        self.relays.ask(question, exchange, Forward.URI_MISS, Result.PASS, None, self.clock())

    def _wants_ranges(self, request: Request) -> bool:
        """Whether ranges are asked for, and no more than an origin should be asked for at once (RFC 9110 §14.2)."""
        value = request.fields.get(b"range")
        return value is not None and len(ranges.parse_range(value) or ()) <= self._max_ranges

    @staticmethod
    def _goes_alone(entry: Entry | None) -> bool:
        """Whether a range is asked of the origin as it is: unless a whole is stored that only needs validating."""
        return entry is None or entry.segments is not None

    def _answer_from(self, entry: Entry, exchange: Exchange) -> MustAsk | None:
        """Answer with what is stored, if that is allowed and enough; else why not."""
        request, now = exchange.request, self.clock()
        if entry.passed != self.log.fence and (proof := self.invalidation.check(entry)) is not Verdict.USABLE:
            return MustAsk(Forward.URI_MISS if proof is Verdict.PURGED else Forward.STALE)
        plain = is_plain(request.fields)
        usual = plain and entry.segments is None and not self.invalidation.cut_off
        if usual and request.method == b"GET" and is_unconditional(request.fields):
            rendered = self.known.rendered(entry, partial(self._whole, entry))
            if rendered.is_right(now):
                self._deliver_rendered(exchange, rendered)
                return None
        verdict = Fresh() if plain and now < entry.stale_at else rfc9111.may_reuse(entry.stored, request, now)
        match verdict:
            case MustAsk():
                return verdict
            case StaleWhileRevalidate():
                answered = self._deliver(exchange, entry, Result.STALE, now)
                if answered:
                    self._refresh_behind(entry, request)
            case Fresh():
                answered = self._deliver(exchange, entry, Result.HIT, now)
                if answered and usual and persists(request):
                    make = partial(self._from_entry, entry, request)
                    self._learn_hit(exchange, Rendered(entry, make, self.known.hsts))
        return None if answered else MustAsk(Forward.PARTIAL)

    def _refusal(self, request: Request) -> Answer | None:
        """Our own answer to what is neither cached nor passed on."""
        if self.hosts and request.host not in self.hosts:
            return answers.of_ours(421, "unknown-site", "this server does not answer for that site")
        if loops(request, self.pop):
            return answers.of_ours(508, "loop", "the request has been here before")
        if no_forwards_left(request):
            return answers.of_ours(
                405, "max-forwards", "this server does not answer that method", (b"Allow", b"GET, HEAD")
            )
        return None

    # --- one question upstream for all who ask

    async def ask(self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward) -> None:
        """Lead a flight for `key`, or follow the one that is out; alone if its answer is not for others."""
        request = exchange.request
        for _ in range(MOST_FLIGHTS):
            known, _ = self.memory.lookup(key, request.fields)  # what has landed since we looked, or another variant
            if known is not None and known is not entry:
                entry = known
                if self._answer_from(entry, exchange) is None:
                    return
            if entry is not None and self.invalidation.check(entry) is Verdict.PURGED:
                entry = None
            flight = self._flight(key, request, entry, exchange)
            spare = entry if entry is not None and self._may_stand_in(entry, request) else None
            patience = self._stale_wait if spare else None if flight.leader is exchange else self._follower_timeout
            outcome = await flight.outcome(patience)
            if outcome is None or (isinstance(outcome, Failed) and spare is not None):  # hung, or down
                flight.abandon(exchange)
                if spare is None or not self._may_stand_in(spare, request):  # it was purged while we waited
                    break
                self._deliver(exchange, spare, Result.STALE, self.clock())
                return
            if self._answer_with(outcome, exchange, flight, why):
                return
            if isinstance(outcome, Unshareable):
                break
        self._relay(exchange, why, Result.MISS, entry)

    def _may_stand_in(self, entry: Entry, request: Request) -> bool:
        if self.invalidation.check(entry) is not Verdict.USABLE:
            return False
        return rfc9111.may_serve_on_error(entry.stored, request, self.clock())

    def _flight(self, key: bytes, request: Request, entry: Entry | None, exchange: Exchange | None) -> Flight:
        """The flight that is out for this URL and these selecting fields, or a new one."""
        place: tuple[object, ...] = (key, selecting_values(self.memory.vary_of(key), request.fields))
        if exchange is not None and self._asks_for_itself(request, entry):
            place = (*place, exchange)  # nobody else's question will do
        flight = self.flights.out(place)
        if flight is None:
            flight = self.flights.lead(place, key, exchange)
            spawn(self.refill(flight, request, entry, exchange.client if exchange else ""), "refill")
        elif exchange is not None:
            self.flights.followed += 1
        return flight

    @staticmethod
    def _asks_for_itself(request: Request, entry: Entry | None) -> bool:
        """Whether another's answer will not do: the client wants a newer one, or it has to be validated each time."""
        if entry is not None and entry.segments is None and rfc9111.is_never_reused_unasked(entry.stored):
            return True
        return not is_plain(request.fields) and rfc9111.wants_newer(request)

    def _may_follow(self, stored: Stored, request: Request) -> bool:
        """Whether `stored`, which answers another's question, may be used for `request` too (RFC 9111 §4)."""
        return not isinstance(rfc9111.may_reuse(stored, request, self.clock()), MustAsk)

    def _suits(self, entry: Entry, request: Request, *, leads: bool) -> bool:
        """Whether `entry`, which a flight has brought, is for `request` too."""
        if not matches(entry.vary, entry.selecting, request):
            return False
        if not leads and self.invalidation.check(entry) is not Verdict.USABLE:
            return False
        return leads or (not entry.gone and self._may_follow(entry.stored, request))

    def _answer_with(self, outcome: Outcome, exchange: Exchange, flight: Flight, why: Forward) -> bool:
        """Answer with what a flight brought; False if it is not for this request."""
        leads = flight.leader is exchange
        match outcome:
            case Refreshed(entry) | Risen(entry) if not self._suits(entry, exchange.request, leads=leads):
                return False
            case Refreshed(entry):
                return self._deliver(exchange, entry, Result.REVALIDATED, self.clock(), why, collapsed=not leads)
            case Risen(entry):
                self._deliver_found(exchange, entry, self.clock(), why, collapsed=not leads)
            case Filling(stored, reply):
                if not leads and not (reply.body.joinable and matches(stored.vary, stored.selecting, exchange.request)):
                    return False
                if not leads and not self._may_follow(stored, exchange.request):
                    return False
                if not leads and not self.invalidation.allows(flight.primary, stored.tags, reply.seen):
                    self.flights.end(flight)  # what it asked was asked before an invalidation
                    return False
                self._share(exchange, stored, reply, why, collapsed=not leads)
            case Unshareable(reply):
                if leads:
                    self.relays.pass_on(exchange, reply, why, Result.MISS)
                elif reply.response.status < 500 or reply.response.status == LOOPED:
                    return False
                else:  # a crowd must not run at an origin that is failing
                    self._ours(exchange, answers.of_ours(502, "upstream-status", "the upstream answered an error"), why)
            case Failed(error):
                self._ours(exchange, answers.of_ours(error.status, error.reason, str(error)), why, error.reason)
            case _:
                assert_never(outcome)
        return True

    async def refill(self, flight: Flight, request: Request, entry: Entry | None, client: str) -> None:
        """Run once per flight, in a task of its own: ask, and say what came of it."""
        turn = Turn(entry=entry)
        try:
            if self.region is not None and not rfc9111.wants_newer(request) and not self.region.is_led_by(request):
                turn = await self.region.ask(request, entry, client)
            outcome = turn.outcome or await self._ask_origin(flight, request, turn.entry, client, turn.found)
        except BaseException:
            flight.land(Failed(OriginError("internal", "the request failed here")))
            self.flights.end(flight)
            if self.region is not None and turn.lease is not None:
                self.region.give_up(turn.lease)
            raise
        self._settle(flight, request, outcome)
        if self.region is not None and turn.lease is not None:
            self.region.tell(turn.lease, outcome)

    async def _ask_origin(
        self, flight: Flight, request: Request, entry: Entry | None, client: str, found: Found | None = None
    ) -> Outcome:
        """Ask upstream, where `entry` is what is stored, or `found` in the region, and say what the answer means."""
        try:
            question = self._question(request, entry if found is None else found.entry)
            reply = await self.upstream.fetch(request, question, client, flight.watchers)
            if found is not None and reply.response.status == 304:
                outcome = self._judge_found(request, found, reply, client)
            else:
                outcome = self._judge(request, entry, reply)
            if outcome is None:  # the answer was not about what is stored: ask for the whole
                reply.body.discard()
                question = rfc9111.unconditional(request)
                reply = await self.upstream.fetch(request, question, client, flight.watchers)
                outcome = self._judge(request, None, reply)
        except OriginError as error:
            return Failed(error)
        assert outcome is not None, "an unconditional question has an answer of its own"
        return outcome

    def _question(self, request: Request, entry: Entry | None) -> Fields:
        """What to ask: is the stored one still good, the rest of what is known in part, or the whole."""
        if entry is None:
            return rfc9111.unconditional(request)
        if entry.segments is not None:
            return rfc9111.rest_question(request, entry.stored, entry.segments)
        return rfc9111.validation_question(request, entry.stored)

    def _judge(self, request: Request, entry: Entry | None, reply: Reply) -> Outcome | None:
        """What the origin's answer means; None if it is not about what is stored."""
        status = reply.response.status
        if status == 304 and entry is not None:
            if not rfc9111.validates(entry.stored, reply.response):
                return None
            return Refreshed(entry) if self.fills.freshen(request, entry, reply) else None
        if status in (206, 416) and entry is not None and entry.segments is not None:
            whole = self.fills.completed(entry, reply)
            if whole is None:
                return None
            reply = whole
        elif status in rfc9111.FAILURES and entry is not None and self._may_stand_in(entry, request):
            reply.body.discard()
            return Failed(OriginError(f"status-{status}", "the upstream answered with an error"))
        learnt = self.fills.learn(request, reply, entry)
        return Filling(learnt, reply) if isinstance(learnt, Stored) else Unshareable(reply, learnt)

    def _judge_found(self, request: Request, found: Found, reply: Reply, client: str) -> Outcome | None:
        """What a 304 means for a body that lies in the region's chunks; None if it is not about that."""
        assert self.region is not None, "it was found there"
        if not rfc9111.validates(found.entry.stored, reply.response):
            return None
        if not self.fills.freshen_found(request, found, reply):
            return None
        return self.region.streamed(found, request, client)

    def _settle(self, flight: Flight, request: Request, outcome: Outcome) -> None:
        """Tell the flight's outcome, and remember what it says about the next requests."""
        match outcome:
            case Filling(_, reply):
                self.flights.unmark(flight.primary)
                reply.body.when_ended(lambda _: self.flights.end(flight))  # it may be followed until it is stored
                if flight.leader is None:
                    reply.body.discard()
            case Unshareable(reply, reason):
                self.flights.end(flight)
                if reply.response.status < 500:
                    self._not_for_sharing(flight.primary, request, reason)
                if flight.leader is None or flight.leader.gone:
                    reply.body.discard()
            case Refreshed() | Risen() | Failed():
                self.flights.end(flight)
        flight.land(outcome)

    def _not_for_sharing(self, key: bytes, request: Request, reason: Refused) -> None:
        """A whole crowd must not wait in line for answers that are for one each."""
        if reason in OF_THE_RESPONSE:
            self.flights.mark(key, self.clock())
            stale, _ = self.memory.lookup(key, request.fields)
            if stale is not None:
                self.memory.drop(stale)

    def refresh(self, key: bytes, request: Request) -> Flight:
        """The flight that fetches `request`, which no client has sent."""
        return self._flight(key, request, None, None)

    def _refresh_behind(self, entry: Entry, request: Request) -> None:
        """Ask the origin behind the client's back, once (RFC 5861 §3)."""
        request = request._replace(
            fields=request.fields.without((trace_context.NAME,))
        )  # its trace is complete by then
        self._flight(primary_key(request), request, entry, None)

    # --- answers

    def _deliver(
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
            member = cache_status.hit(self.pop, entry.lifetime - entry.age(now), self.invalidation.detail)
        else:
            member = cache_status.forwarded(self.pop, why, status=304, collapsed=collapsed)
        answer = answers.from_entry(entry, exchange.request, now, member, self._max_ranges)
        if answer is None:
            return False
        exchange.result, exchange.cache_status = result, member
        if exchange.request.child is not None:
            tell_of_entry(exchange, entry, self.invalidation)
        exchange.reply(answer.status, answer.head, answer.content)
        return True

    def _share(self, exchange: Exchange, stored: Stored, reply: Reply, why: Forward, *, collapsed: bool) -> None:
        """Answer with a fill under way."""
        if is_not_modified(exchange.request, stored):
            member = cache_status.forwarded(
                self.pop, why, status=reply.response.status, stored=True, collapsed=collapsed
            )
            answer = answers.not_modified(stored, int(stored.age(self.clock())), member)
            exchange.result, exchange.cache_status = Result.MISS, member
            if exchange.request.child is not None:
                tell_of_reply(exchange, reply, self.invalidation)
            exchange.reply(answer.status, answer.head)
            reply.body.discard()
            return
        result = Result.COLLAPSED if collapsed else Result.MISS
        self.relays.pass_on(exchange, reply, why, result, stored=True)

    def _relay(self, exchange: Exchange, why: Forward, result: Result, entry: Entry | None = None) -> None:
        self.relays.begin(exchange, why, result, entry)

    def _ours(self, exchange: Exchange, answer: Answer, why: Forward | None = None, detail: str = "") -> None:
        """Answer with something of our own; `detail` is a fixed word."""
        exchange.result, exchange.failure = Result.ERROR, answer.failure
        head = answer.head
        if why is not None:
            exchange.cache_status = cache_status.forwarded(self.pop, why, detail=detail.encode())
            head += b"Cache-Status: " + exchange.cache_status + b"\r\n"
        exchange.reply(answer.status, head, b"" if exchange.request.method == b"HEAD" else answer.content)

    def _whole(self, entry: Entry, now: float) -> Answer:
        """The whole of `entry`, as a plain GET gets it."""
        return answers.whole(entry, now, cache_status.hit(self.pop, entry.lifetime - entry.age(now)))

    def _from_entry(self, entry: Entry, request: Request, now: float) -> Answer:
        """What `entry`, a whole, gives to `request`."""
        member = cache_status.hit(self.pop, entry.lifetime - entry.age(now))
        answer = answers.from_entry(entry, request, now, member, self._max_ranges)
        assert answer is not None, "a whole entry answers every request"
        return answer

    def _deliver_rendered(self, exchange: Exchange, rendered: Rendered) -> None:
        """Answer a plain GET with the one answer that all of them share."""
        answer = rendered.answer
        exchange.result = Result.HIT
        exchange.cache_status = KNOWN_HIT
        if exchange.request.child is not None:
            tell_of_entry(exchange, rendered.entry, self.invalidation)
        exchange.reply(answer.status, answer.head, answer.content)
        if rendered.full and persists(exchange.request):
            self._learn_hit(exchange, rendered)

    def _learn_hit(self, exchange: Exchange, rendered: Rendered) -> None:
        """Remember the bytes of this request's head with its answer."""
        if self.known.learns(exchange.raw) and rendered.is_right(self.clock()) and rendered.full:
            self.known.learn(exchange.raw, KnownHit(exchange.request, rendered))


def persists(request: Request) -> bool:
    """Whether the connection goes on after the answer without a word about it."""
    return request.keep_alive and not request.http_1_0


def is_unconditional(fields: Fields) -> bool:
    """Whether a request wants the whole, whatever it has already."""
    index = fields.index
    return b"if-none-match" not in index and b"if-modified-since" not in index and b"range" not in index


def is_plain(fields: Fields) -> bool:
    """Whether a request says nothing about the freshness that it wants."""
    index = fields.index
    return b"cache-control" not in index and b"pragma" not in index


def matches(vary: tuple[bytes, ...], selecting: tuple[bytes | None, ...], request: Request) -> bool:
    """Whether a response that varies by `vary`, made for `selecting`, suits `request` (RFC 9111 §4.1)."""
    return not vary or selecting_values(vary, request.fields) == selecting
