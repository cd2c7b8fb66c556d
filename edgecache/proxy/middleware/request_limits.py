"""Limits of rules: the number of requests of a client, token, path or site, their concurrency, and their size."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final, Self

from edgecache.proxy.fastpath.head_memo import Gate
from edgecache.proxy.hooks import HELD, Context, Go, Held, Middleware
from edgecache.proxy.rate_limits import RateLimits
from edgecache.proxy.responses import reply_locally
from edgecache.proxy.task_guard import seen_through
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS, Trust, client_address
from edgecache.semantics.message import Request
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.rules.gcra import Bucket
from edgecache.semantics.rules.limits import RequestLimit, largest_body
from edgecache.tasks import spawn
from edgecache.telemetry.request_metrics import Tally
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply
from edgecache.wire.response_writer import ResponseWriter

MOST_PEERS: Final = 4096  # clients whose bucket is at hand, for each limit
MOST_PEERS_OF_A_HEAD: Final = 64  # the same, for each head, where the head is a part of the key
A_MOMENT: Final = 1.0  # seconds until a client with too many requests under way may come again


class RequestLimits(Middleware):
    """Refuses what exceeds the limits of the rules that hold. Mutable state lies in `RateLimits`, across reloads."""

    order = 852
    reads = CLIENT_ADDRESS_FIELDS  # and what has the tokens
    for_peers = False

    def __init__(self, sites: Sites, limits: RateLimits, is_trusted: Trust, *, behind_proxies: bool) -> None:
        self._sites = sites
        self._limits = limits
        self._is_trusted = is_trusted
        self._go: Go = lambda exchange: None
        self._by_address: dict[str, KeyByAddress] = {}  # by limit: heads share it
        self.reads = frozenset().union(*(limit.reads for limit in limits_of(sites)))
        if behind_proxies:
            self.reads |= CLIENT_ADDRESS_FIELDS

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where a rule has limits."""
        if context.sites is None or context.rate_limits is None or not limits_of(context.sites):
            return None
        behind_proxies = bool(context.settings.trusted_proxies)
        return cls(context.sites, context.rate_limits, context.is_trusted, behind_proxies=behind_proxies)

    def on_request(self, exchange: Exchange) -> FullResponse | Held | None:
        """Refuse the request, or count it."""
        limits: Sequence[RequestLimit] = exchange.request.policy.actions.own.get("limits", ())
        if not limits:
            return None
        length = exchange.request.framing.length
        most = largest_body(limits, 0)
        if most and length is not None and length > most:
            return local_reply(413, "body-too-large", "the request's body is too large")
        facts, now = self._facts(exchange), self._limits.clock()
        if any("token" in limit.by for limit in limits):
            exchange.limited_as = facts  # before a token that access has verified is dropped from the request
        buckets = [(limit, self._bucket(limit, facts, now)) for limit in limits if limit.rate is not None]
        for limit, bucket in buckets:
            if len(buckets) > 1 and not bucket.admits(now):
                return self._refusal(limit, bucket.wait(now))
        for limit, bucket in buckets:
            if not bucket.take(now):
                return self._refusal(limit, bucket.wait(now))
        return self._entered(exchange, limits, facts)

    def _entered(
        self, exchange: Exchange, limits: Sequence[RequestLimit], facts: RequestFacts
    ) -> FullResponse | Held | None:
        """Count the request as under way, here and then in the region."""
        concurrency = self._limits.concurrency
        entering = [(one, ("at once", *one.key(facts))) for one in limits if one.concurrency is not None]
        for limit, key in entering:
            if not concurrency.enter(key, exchange, limit.concurrency or 0):
                concurrency.leave(exchange)
                return self._too_many(limit)
        if not entering or concurrency.region is None:
            return None
        spawn(seen_through(exchange, self._enter_region(exchange, entering)), "limit concurrency")
        return HELD

    async def _enter_region(self, exchange: Exchange, entering: Sequence[tuple[RequestLimit, Hashable]]) -> None:
        """Count the request in the region, then let it go on, or refuse it."""
        concurrency = self._limits.concurrency
        for limit, key in entering:
            if not await concurrency.reserve(key, exchange, limit.concurrency or 0):
                concurrency.leave(exchange)
                if not exchange.gone:
                    reply_locally(exchange, self._too_many(limit))
                return
        self._go(exchange)

    def continues(self, go: Go) -> None:
        """Learn how requests go on that had to wait for the region."""
        self._go = go

    def on_log(self, exchange: Exchange, took: float, tally: Tally) -> None:
        """The request is not under way any more."""
        self._limits.concurrency.leave(exchange)

    def may_wait(self, exchange: Exchange) -> bool:
        """Whether later requests like it, which wait for another server, may go on as known heads: they are counted."""
        return all(limit.concurrency is None for limit in self._limits_of(exchange))

    def gate(self, exchange: Exchange) -> Gate | None:
        """Counts later requests with this head. They are answered at once: their number at once is not limited."""
        facts = exchange.limited_as or self._facts(exchange)
        from_proxy = facts.client != exchange.client  # the head says for which client
        limits = [limit for limit in self._limits_of(exchange) if limit.rate is not None]
        finds = [self._finding(limit, facts, from_proxy=from_proxy) for limit in limits]
        if len(finds) == 1:
            return finds[0].gate
        return taking_all(finds) if finds else None

    @staticmethod
    def _limits_of(exchange: Exchange) -> Sequence[RequestLimit]:
        policy = exchange.request.policy
        return () if policy is None else policy.actions.own.get("limits", ())

    def _finding(self, limit: RequestLimit, facts: RequestFacts, *, from_proxy: bool) -> OneKey | KeyByAddress:
        """What finds the bucket of later requests with this head."""
        bucket_of = partial(self._limits.bucket, limit)
        if from_proxy or not limit.depends_on_client(facts):
            key = limit.key(facts)
            return OneKey(partial(bucket_of, key), bucket_of(key, self._limits.clock()))
        if limit.is_by_address_only(facts):
            found = self._by_address.get(limit.name)
            if found is None:
                found = KeyByAddress(lambda peer, now: bucket_of(limit.key_of_client(peer), now), MOST_PEERS)
                self._by_address[limit.name] = found
            return found
        request = facts.request
        return KeyByAddress(
            lambda peer, now: bucket_of(limit.key(RequestFacts(request, peer)), now), MOST_PEERS_OF_A_HEAD
        )

    def body_limit(self, request: Request, peer: str, otherwise: int) -> int:
        """Bytes that the body of a request from `peer` may have, before any of it is read; 0: any."""
        site = self._sites.site_of(request.host)
        if site is None:
            return otherwise
        client = client_address(peer, request.fields, self._is_trusted)
        own = site.policy_of(RequestFacts(request, client)).actions.own
        return largest_body(own.get("limits", ()), otherwise)

    def _bucket(self, limit: RequestLimit, facts: RequestFacts, now: float) -> Bucket:
        return self._limits.bucket(limit, limit.key(facts), now)

    def _facts(self, exchange: Exchange) -> RequestFacts:
        request = exchange.request
        return RequestFacts(request, client_address(exchange.client, request.fields, self._is_trusted))

    def _too_many(self, limit: RequestLimit) -> FullResponse:
        return self._refusal(limit, A_MOMENT, "too-many-at-once", "too many requests are under way")

    def _refusal(
        self,
        limit: RequestLimit,
        wait: float,
        reason: str = "rate-limited",
        detail: str = "too many requests have come",
    ) -> FullResponse:
        self._limits.count_refused(limit)
        return local_reply(429, reason, detail, *limit.refusal_fields(wait))


def limits_of(sites: Sites) -> list[RequestLimit]:
    """All limits of all rules."""
    return [limit for site in sites.all for rule in site.rules for limit in rule.actions.own.get("limits", ())]


class OneKey:
    """All requests with a head have one key."""

    def __init__(self, make: Callable[[float], Bucket], bucket: Bucket) -> None:
        self._make = make
        self._bucket = bucket
        self.gate = self._gate()

    def find(self, connection: ResponseWriter, now: float) -> Bucket:
        """The bucket of a request."""
        if self._bucket.gone:
            self._bucket = self._make(now)
        return self._bucket

    def _gate(self) -> Gate:
        """Opens where the bucket does."""
        bucket, make = self._bucket, self._make

        def gate(connection: ResponseWriter, now: float) -> bool:
            nonlocal bucket
            if bucket.gone:
                bucket = make(now)
            return bucket.take(now)

        return gate


class KeyByAddress:
    """The key of requests with a head depends on the client's address; the latest buckets are at hand."""

    def __init__(self, make: Callable[[str, float], Bucket], most: int) -> None:
        self._make = make
        self._buckets: dict[str, Bucket] = {}
        self._most = most
        self.gate = self._gate()

    def find(self, connection: ResponseWriter, now: float) -> Bucket:
        """The bucket of a request."""
        bucket = self._buckets.get(connection.peer)
        return self._anew(connection.peer, now) if bucket is None or bucket.gone else bucket

    def _anew(self, peer: str, now: float) -> Bucket:
        if len(self._buckets) >= self._most:
            self._buckets.clear()
        bucket = self._buckets[peer] = self._make(peer, now)
        return bucket

    def _gate(self) -> Gate:
        """Opens where the client's bucket does."""
        known, anew = self._buckets.get, self._anew

        def gate(connection: ResponseWriter, now: float) -> bool:
            bucket = known(connection.peer)
            if bucket is None or bucket.gone:
                bucket = anew(connection.peer, now)
            return bucket.take(now)

        return gate


def taking_all(finds: Sequence[OneKey | KeyByAddress]) -> Gate:
    """Opens where all buckets do; else none is used."""

    def gate(connection: ResponseWriter, now: float) -> bool:
        buckets = [one.find(connection, now) for one in finds]
        return all(bucket.admits(now) for bucket in buckets) and all(bucket.take(now) for bucket in buckets)

    return gate
