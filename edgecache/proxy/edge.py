"""The path of a request, from its head to its response. Read this file first.

Rule 1: every branch that a request can take is visible here.
Rule 2: this file decides nothing about HTTP: it calls `semantics/` and follows the verdict.
Rule 3: the tiers do not know each other; only this file knows their order.

    bytes ──► fastpath/responder.py   a head that was answered before, or is like one that was: no parser, one write
      └─────► answer                  synchronous: pass, or look up in memory
                └─► answer_regional   called back: what the region's Valkey has, if there is one
                      └─► _forward    no tier of this POP has it: pass, or fetch
                            ├─► _fetch  one fetch per key, led or followed: fetch.py makes it, and stores
                            │     └─► _deliver  deliver_reply.py: while it arrives; deliver.py: what is stored
                            └─► passthrough.py  requests that go alone: passed on as they come, in both directions
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from edgecache.invalidation.purge_log import Verdict
from edgecache.invalidation.version_vector import Vector
from edgecache.invalidation.write_effects import TOKEN, is_write, token_of
from edgecache.proxy.collapsing import Failed, Filling, Flight, Outcome, RegionalHit, Revalidated, Stale, Unshareable
from edgecache.proxy.components import Limits, Parts
from edgecache.proxy.deliver import Delivery
from edgecache.proxy.fastpath.responder import FastPath, OnHit
from edgecache.proxy.fetch import Fetcher
from edgecache.proxy.regional_deliver import RegionalHits
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.regional_ranges import RegionalParts
from edgecache.proxy.task_guard import seen_through
from edgecache.proxy.write_through import Reaches, Writes
from edgecache.semantics import ranges, rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Forward, Result, Revalidation
from edgecache.semantics.preconditions import is_unconditional
from edgecache.semantics.rfc9111 import Fresh, MustValidate, StaleWhileRevalidate
from edgecache.semantics.stored_response import Stored, is_fresh
from edgecache.storage.memory import Entry
from edgecache.storage.own_codings import representation
from edgecache.storage.regional import Found
from edgecache.tasks import spawn
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply

TOKEN_PATIENCE: Final = 1.0  # seconds that a writer's next request waits until this worker knows of the write
LOOPED: Final = 508  # caused by one client's forged CDN-Loop, it says nothing of others' requests
MOST_FLIGHTS: Final = 3  # flights that one request follows before it is fetched by itself


class Edge:
    """One worker's request path. Its mutable state is in the parts that it receives."""

    def __init__(
        self,
        parts: Parts,
        limits: Limits,
        *,
        writes: Writes,
        on_known_hit: OnHit,
        reaches: Reaches | None = None,
        token_cookie: bool = False,
    ) -> None:
        self.pop = parts.pop
        self.memory = parts.memory
        self.invalidation = parts.invalidation
        self.log = parts.invalidation.log
        self.flights = parts.flights
        self.fills = parts.fills
        self.relays = parts.relays
        self.replies = parts.relays.replies
        self.upstream = parts.upstream
        self.region = parts.region  # None: there is no regional tier
        self.clock = parts.clock  # resident time
        self.jurisdiction = parts.jurisdiction
        self.known = parts.known
        self.alike = parts.alike
        self.compressor = parts.compressor
        self.limits = limits
        self.foreign = 0  # requests of another jurisdiction
        self._grown = 0  # what the memory knew of codings, then
        self._retired = 0  # of the memory, when answers were last let go
        self.writes = writes
        self._reaches = reaches  # None: there is no log but this worker's own
        self._token_cookie = token_cookie
        self.reads = frozenset((TOKEN, b"cookie")) if token_cookie else frozenset((TOKEN,))  # fields, beside the rules
        self.policy_of: Callable[[Request, str], Any] | None = None  # of middleware: by the address of the peer
        self.on_lookup: Callable[[Exchange], bool] | None = None  # of middleware: whether to bypass the cache
        self.delivery = Delivery(parts, limits.max_ranges)
        self.fetcher = Fetcher(parts)
        self._hits = None if parts.region is None else RegionalHits(parts, parts.region, self.answer_regional)
        self.fast_path = FastPath(parts, self.delivery, self._hits, on_known_hit)
        self._in_part = None if parts.region is None else RegionalParts(parts, parts.region, self._forward)

    def tune(self, limits: Limits) -> None:
        """Go on with other limits; what is known of heads followed from the old ones."""
        self.limits = limits
        self.delivery.max_ranges = limits.max_ranges
        self.known.forget_all()
        self.alike.forget_all()
        self.fast_path.ranges.forget_all()

    def sweep(self) -> None:
        """Forget the heads whose entries have left the memory."""
        if self.memory.retired != self._retired:
            self._retired = self.memory.retired
            self.known.forget_gone()
            self.alike.forget_gone()
            self.fast_path.ranges.forget_gone()
        if self.memory.codings.grown != self._grown:  # heads that are known may have another answer now
            self._grown = self.memory.codings.grown
            self.known.forget_all()
        if self.memory.newly_coded:
            self.memory.newly_coded = False
            self.known.forget_recoded()

    def answer(self, exchange: Exchange) -> None:
        """Answer `exchange`: at once from memory, or as soon as a tier or the origin has responded."""
        request = exchange.request
        if request.jurisdiction != self.jurisdiction:
            self._pass_foreign(exchange)
        elif why := rfc9111.pass_reason(request):
            self._pass_on(exchange, why)
        elif self.on_lookup is not None and self.on_lookup(exchange):
            self._pass_on(exchange, Forward.BYPASS)
        elif (token := self._token(request)) is not None:
            spawn(seen_through(exchange, self._look_up_after(token, exchange)), "wait for a write")
        elif request.child is not None and request.child.behind:  # it knows of purges that are not known here
            self.relays.pass_on(exchange, Forward.STALE, Result.MISS)
        else:
            self._look_up(exchange)

    def _pass_on(self, exchange: Exchange, why: Forward) -> None:
        """Pass on a request that is not for the cache; where rules make keys, this one has none."""
        if self.on_lookup is not None:
            exchange.storable = False
        if is_write(exchange.request):
            self.writes.pass_on(exchange, why)
        else:
            self.relays.pass_on(exchange, why, Result.PASS)

    def _pass_foreign(self, exchange: Exchange) -> None:
        """Pass on a request of another jurisdiction: no tier of this POP may have the response."""
        self.foreign += 1
        if rfc9111.only_if_cached(exchange.request):
            self.delivery.local(exchange, nothing_stored(), Forward.BYPASS)
        else:
            self._pass_on(exchange, Forward.BYPASS)

    def _token(self, request: Request) -> Vector | None:
        """The log positions of the client's writes, if this worker has not applied them yet."""
        if self._reaches is None or not (b"edgecache-token" in request.fields.index or self._token_cookie):
            return None
        token = token_of(request.fields, cookies=self._token_cookie)
        return None if token is None or self.log.has_applied(token) else token

    async def _look_up_after(self, token: Vector, exchange: Exchange) -> None:
        """Answer a writer's request once its write is known here, or from the origin alone if that takes too long."""
        assert self._reaches is not None, "else there is nothing to wait for"
        if await self._reaches(token, TOKEN_PATIENCE):
            if not exchange.gone:
                self._look_up(exchange)
        elif not exchange.gone:
            exchange.request = rfc9111.with_no_cache(exchange.request)  # a parent may not know of the write either
            self.relays.pass_on(exchange, Forward.REQUEST, Result.PASS)

    def _look_up(self, exchange: Exchange) -> None:
        """Answer from memory, or else from the regional tier, or else from upstream."""
        request = exchange.request
        key = primary_key(request)
        if not rfc9111.is_plain(request.fields) and request.child is None:
            request = exchange.request = self._with_revalidation(request, key)
        entry, url_known = self.memory.lookup(key, request.fields)
        why = Forward.VARY_MISS if url_known else Forward.URI_MISS
        if entry is not None:
            if (refusal := self._answer_from(entry, exchange)) is None:
                return
            entry, why = None if refusal is Forward.URI_MISS else entry.source or entry, refusal
        exchange.why = why
        if self.region is None or not self._may_be_regional(key, entry, why):
            self._forward(exchange, key, entry, why)
        else:
            exchange.regional_asked = self.clock()
            self.region.tier.look_up(key, request.fields, partial(self.answer_regional, exchange, key, entry, why))

    def _with_revalidation(self, request: Request, key: bytes) -> Request:
        """`request` with the weight that the operator gives to its wish for a newer response, or with none for now."""
        weight = (request.policy and request.policy.actions.caching.revalidation) or self.limits.revalidation
        if weight is Revalidation.COLLAPSE and self.flights.revalidated_lately(key, self.clock()):
            weight = weight if self.fetcher.is_under_way(key, request) else Revalidation.IGNORE
        return request._replace(revalidation=weight)

    def _forward(self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward) -> None:
        """No tier of this POP has the response: towards the origin, if the request allows that."""
        request = exchange.request
        if rfc9111.only_if_cached(request):
            self.delivery.local(exchange, nothing_stored(), why)
        elif reads_only(request):
            exchange.storable = False
            self.relays.pass_on(exchange, why, Result.MISS)
        elif not self._may_collapse(request, key, entry):
            self._pass_uncollapsed(exchange, key, entry, why)
        elif entry is None and (mark := self.flights.mark_on(key, request.fields, self.clock())):
            self._pass_marked(exchange, mark)
        else:
            spawn(seen_through(exchange, self._fetch(exchange, key, entry, why)), "fetch")

    def _may_collapse(self, request: Request, key: bytes, entry: Entry | None) -> bool:
        """Whether one fetch may serve `request` and others: not for a range of what is not stored whole."""
        in_part = entry is not None and entry.segments is not None
        if request.method == b"HEAD":  # a GET may serve it, which fills the cache
            marked = self.flights.mark_on(key, request.fields, self.clock())
            return not (in_part or marked or rfc9111.forbids_storing(request))
        return not ((entry is None or in_part) and self._wants_ranges(request))

    def _wants_ranges(self, request: Request) -> bool:
        """Whether ranges are asked for, and no more than an origin should be asked for at once (RFC 9110 §14.2)."""
        value = request.fields.get(b"range")
        return value is not None and len(ranges.parse_range(value) or ()) <= self.limits.max_ranges

    def _pass_uncollapsed(self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward) -> None:
        """Pass on a request that no other may share the response of; `entry` is what is stored."""
        if why is Forward.REQUEST and exchange.request.revalidation is Revalidation.COLLAPSE:
            self.flights.note_revalidation(key, self.clock())
        self.relays.pass_on(exchange, why, Result.MISS, entry)

    def _pass_marked(self, exchange: Exchange, mark: bytes) -> None:
        """Pass through a request whose answer is known not to be shareable, and remember its head."""
        request = exchange.request
        forwarded = self.upstream.request_for(request, request.fields, exchange.client)
        self.delivery.learn_pass(exchange, mark, forwarded)
        self.relays.send(forwarded, exchange, Forward.HIT_FOR_MISS, Result.PASS, None, self.clock(), mark)

    # --- what is stored

    def _answer_from(self, entry: Entry, exchange: Exchange) -> Forward | None:
        """Answer with `entry`, or say why not: it was purged (URI_MISS), has to be validated, or holds other parts."""
        request, now = exchange.request, self.clock()
        if request.policy is not None:
            entry = representation(entry, request)
        if entry.passed != self.log.fence and (proof := self.invalidation.check(entry, now)) is not Verdict.USABLE:
            return Forward.URI_MISS if proof is Verdict.PURGED else Forward.STALE
        plain = rfc9111.is_plain(request.fields)
        usual = plain and entry.segments is None and not self.invalidation.cut_off
        shared = usual and request.method == b"GET" and is_unconditional(request.fields)
        if shared and self.delivery.rendered(exchange, entry, now):
            return None
        verdict = Fresh() if plain and is_fresh(entry, now) else rfc9111.may_reuse(entry.stored, request, now)
        match verdict:
            case MustValidate(why):
                return why
            case StaleWhileRevalidate():
                answered = self.delivery.from_entry(exchange, entry, Result.STALE, now)
                if answered and not reads_only(request):
                    self.fetcher.validate_in_background(entry.source or entry, request)
            case Fresh():
                answered = self.delivery.from_entry(exchange, entry, Result.HIT, now)
                if answered and usual:
                    self.delivery.learn_hit(exchange, entry)
        return None if answered else Forward.PARTIAL

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
        if entry is None and found is not None:
            if self._hits and self._hits.answers(exchange, key, found, why):
                return
            if self._in_part and self._in_part.answers(exchange, key, found, why, self.limits.max_ranges):
                return
        if found is not None and self.region is not None and self.region.is_newer(found, entry):
            refusal = self._answer_from_region(self.region, exchange, key, found, why)
            if refusal is None:
                return
            adopted = None if reads_only(exchange.request) else self.memory.adopt(found.entry, found.record.length)
            entry, why = adopted or found.entry, refusal
        self._forward(exchange, key, entry, why)

    def _answer_from_region(
        self, region: Region, exchange: Exchange, key: bytes, found: Found, why: Forward
    ) -> Forward | None:
        """Answer with a whole out of the regional tier, or say why not."""
        request, entry, now = exchange.request, found.entry, self.clock()
        if entry.passed != self.log.position:
            return Forward.STALE  # it is not proven
        plain = rfc9111.is_plain(request.fields)
        verdict = Fresh() if plain and is_fresh(entry, now) else rfc9111.may_reuse(entry.stored, request, now)
        if isinstance(verdict, MustValidate):
            return verdict.why
        fills = not reads_only(request)
        if fills and (isinstance(verdict, StaleWhileRevalidate) or region.rises(key)):
            self.memory.adopt(entry, found.record.length)
        self.delivery.from_tier(exchange, entry, now, why, near=found.near)
        if fills and isinstance(verdict, StaleWhileRevalidate):
            self.fetcher.validate_in_background(entry, request)
        return None

    # --- one fetch for all that may share its response

    async def _fetch(self, exchange: Exchange, key: bytes, entry: Entry | None, why: Forward) -> None:
        """Lead the fetch of `key`, or follow it; fetch by itself what takes too long, or is for one client."""
        request = exchange.request
        for _ in range(MOST_FLIGHTS):
            before, entry = entry, self._stored_by_now(key, request, entry)
            if entry is not None and self._is_answered_by_now(exchange, key, entry, is_new=entry is not before):
                return
            if why is Forward.REQUEST and self._is_revalidated(key, request, entry):
                break
            flight = self.fetcher.collapse(key, rfc9111.filling(request), entry, exchange)
            outcome = await self._outcome(flight, exchange, entry)
            if outcome is not None and self._deliver(outcome, exchange, flight, why):
                return
            if outcome is None or isinstance(outcome, Unshareable):
                break
        self._fetch_by_itself(exchange, entry, why)

    def _stored_by_now(self, key: bytes, request: Request, entry: Entry | None) -> Entry | None:
        """What is stored by now where `entry` was; None if it was purged."""
        known, _ = self.memory.lookup(key, request.fields)
        entry = entry if known is None else known.source or known
        purged = entry is not None and self.invalidation.check(entry, self.clock()) is Verdict.PURGED
        return None if purged else entry

    async def _outcome(self, flight: Flight, exchange: Exchange, entry: Entry | None) -> Outcome | Stale | None:
        """The outcome of `flight`; in place of one that fails or hangs, `entry` if it may stand in, else None."""
        request = exchange.request
        spare = entry if entry is not None and self.fetcher.may_stand_in(entry, request) else None
        patience = None if flight.leader is exchange else self.limits.follower_timeout
        outcome = await flight.outcome(patience if spare is None else flight.left_of(self.limits.stale_wait))
        if outcome is not None and (spare is None or not isinstance(outcome, Failed)):
            return outcome
        flight.abandon(exchange)
        self.flights.mark_late(flight, self.fetcher.collapsed_key(flight.primary, request))
        return Stale(spare) if spare is not None and self.fetcher.may_stand_in(spare, request) else None

    def _deliver(self, outcome: Outcome | Stale, exchange: Exchange, flight: Flight, why: Forward) -> bool:
        """Answer with what `flight` brought; False if it is not for this request."""
        request, leads, now = exchange.request, flight.leader is exchange, self.clock()
        match outcome:
            # Not joinable even for its leader: a follower may have come first, and read on since.
            case Filling(stored, reply) if reply.body.joinable and (leads or self._may_join(flight, outcome, request)):
                self.replies.deliver_fill(exchange, stored, reply, why, collapsed=not leads)
            case Revalidated(entry, refused) if self._may_use(entry, request, leads=leads):
                exchange.refused = refused
                return self.delivery.from_entry(exchange, entry, Result.REVALIDATED, now, why, collapsed=not leads)
            case RegionalHit(entry) if self._may_use(entry, request, leads=leads):
                self.delivery.from_tier(exchange, entry, now, why, collapsed=not leads)
            case Stale(entry):
                self.delivery.from_entry(exchange, entry, Result.STALE, now)
            case Unshareable(reply) if leads:
                self.replies.deliver(exchange, reply, why, Result.MISS)
            case Unshareable(reply) if reply.response.status >= 500 and reply.response.status != LOOPED:
                self.delivery.local(exchange, upstream_failed(), why)  # a crowd must not run at an origin that fails
            case Failed(error):
                self.delivery.local(exchange, local_reply(error.status, error.reason, str(error)), why, error.reason)
            case _:
                return False
        return True

    def _is_answered_by_now(self, exchange: Exchange, key: bytes, entry: Entry, *, is_new: bool) -> bool:
        """Answer with `entry` if it was stored since the look-up, or stands in for a fetch that hangs."""
        if is_new and self._answer_from(entry, exchange) is None:
            return True
        request = exchange.request
        if not self.fetcher.may_stand_in(entry, request):
            return False
        hangs = self.flights.is_late(self.fetcher.collapsed_key(key, request))
        if hangs:
            self.delivery.from_entry(exchange, entry, Result.STALE, self.clock())
        return hangs

    def _is_revalidated(self, key: bytes, request: Request, entry: Entry | None) -> bool:
        """Whether a fetch for a client that wanted a newer response began and ended lately; if not, one begins now."""
        if entry is None or request.revalidation is not Revalidation.COLLAPSE:
            return False
        if self.fetcher.is_under_way(key, request):
            return False
        now = self.clock()
        if self.flights.revalidated_lately(key, now):
            return True
        self.flights.note_revalidation(key, now)
        return False

    def _may_join(self, flight: Flight, fill: Filling, request: Request) -> bool:
        """Whether `fill`, which answers the leader of `flight`, may be used for `request` too."""
        stored = fill.stored
        if not self.memory.suits(flight.primary, stored, request.fields) or not self._may_share(stored, request):
            return False
        if self.invalidation.allows(flight.primary, stored.tags, fill.reply.seen):
            return True
        self.flights.end(flight)  # it began before an invalidation
        return False

    def _may_use(self, entry: Entry, request: Request, *, leads: bool) -> bool:
        """Whether `entry`, which a flight has brought, is for `request` too."""
        if not self.memory.suits(entry.url, entry, request.fields):
            return False
        if not leads and self.invalidation.check(entry, self.clock()) is not Verdict.USABLE:
            return False
        return leads or (not entry.gone and self._may_share(entry.stored, request))

    def _may_share(self, stored: Stored, request: Request) -> bool:
        """Whether `stored`, which answers another request, may be used for `request` too (RFC 9111 §4)."""
        return not isinstance(rfc9111.may_reuse(stored, rfc9111.as_follower(request), self.clock()), MustValidate)

    def _fetch_by_itself(self, exchange: Exchange, entry: Entry | None, why: Forward) -> None:
        """Pass on a request that no fetch of others has served, unless `entry` is new enough by now."""
        request = exchange.request
        if entry is not None and not entry.gone and request.revalidation is Revalidation.COLLAPSE:
            exchange.request = rfc9111.as_follower(request)
            if self._answer_from(entry, exchange) is None:
                return
        self.relays.pass_on(exchange, why, Result.MISS, entry)


def reads_only(request: Request) -> bool:
    """Whether a rule lets `request` read what is stored, but have nothing stored (`admission = "read-only"`)."""
    return request.policy is not None and request.policy.actions.caching.read_only is True


def upstream_failed() -> FullResponse:
    """Our own response to those that followed a fetch whose response is an error."""
    return local_reply(502, "upstream-status", "the upstream returned an error")


def nothing_stored() -> FullResponse:
    """Our own response to a request for nothing but what is stored (RFC 9111 §5.2.1.7)."""
    return local_reply(504, "only-if-cached", "no stored response may be used")
