"""Limits of rules: how many requests a client, token, path or site may send, how many at once, and how large."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Self

from edgecache.proxy.fastpath.head_memo import Gate
from edgecache.proxy.hooks import Context, Middleware
from edgecache.proxy.rate_limits import RateLimits
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS, Trust, client_address
from edgecache.semantics.message import Request
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.rules.gcra import Bucket
from edgecache.semantics.rules.limits import Part, RequestLimit, largest_body
from edgecache.telemetry.request_metrics import Tally
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply
from edgecache.wire.response_writer import ResponseWriter

MOST_PEERS: Final = 4096  # clients whose bucket is at hand, for each limit
Find = Callable[[ResponseWriter, float], Bucket]  # the bucket of a request on a connection, now
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
        self._peers: dict[str, dict[str, Bucket]] = {}  # by limit and address
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

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Refuse the request, or count it."""
        limits: Sequence[RequestLimit] = exchange.request.policy.actions.own.get("limits", ())
        if not limits:
            return None
        length = exchange.request.framing.length
        most = largest_body(limits, 0)
        if most and length is not None and length > most:
            return local_reply(413, "body-too-large", "the request's body is too large")
        facts, now = self._facts(exchange), self._limits.clock()
        buckets = [(limit, self._bucket(limit, facts, now)) for limit in limits if limit.rate is not None]
        for limit, bucket in buckets:
            if len(buckets) > 1 and not bucket.admits(now):
                return self._refusal(limit, bucket.wait(now))
        for limit, bucket in buckets:
            if not bucket.take(now):
                return self._refusal(limit, bucket.wait(now))
        return self._entered(exchange, limits, facts)

    def _entered(self, exchange: Exchange, limits: Sequence[RequestLimit], facts: RequestFacts) -> FullResponse | None:
        for limit in limits:
            most = limit.concurrency
            if most is not None and not self._limits.enter(("at once", *limit.key(facts)), exchange, most):
                self._limits.leave(exchange)
                return self._refusal(limit, A_MOMENT, "too-many-at-once", "too many requests are under way")
        return None

    def on_log(self, exchange: Exchange, took: float, tally: Tally) -> None:
        """The request is not under way any more."""
        self._limits.leave(exchange)

    def gate(self, exchange: Exchange) -> Gate | None:
        """Counts later requests with this head; those whose number at once is limited go the slow way."""
        policy = exchange.request.policy
        limits: Sequence[RequestLimit] = () if policy is None else policy.actions.own.get("limits", ())
        if any(limit.concurrency is not None for limit in limits):
            return lambda connection, now: False
        facts = self._facts(exchange)
        from_proxy = facts.client != exchange.client  # the head says for which client
        finds = [self._finding(limit, facts, from_proxy=from_proxy) for limit in limits if limit.rate is not None]
        if len(finds) == 1:
            return taking(finds[0])
        return taking_all(finds) if finds else None

    def _finding(self, limit: RequestLimit, facts: RequestFacts, *, from_proxy: bool) -> Find:
        """What finds the bucket of later requests with this head."""
        if from_proxy or not limit.depends_on_client(facts):
            return self._finding_one(limit, limit.key(facts))
        if limit.is_by_client_only:
            return self._finding_by_address(limit)
        request, of = facts.request, self._limits.bucket
        return lambda connection, now: of(limit, limit.key(RequestFacts(request, connection.peer)), now)

    def _finding_one(self, limit: RequestLimit, key: tuple[Part, ...]) -> Find:
        """All requests with the head have one key."""
        of = self._limits.bucket
        bucket = of(limit, key, self._limits.clock())

        def find(connection: ResponseWriter, now: float) -> Bucket:
            nonlocal bucket
            if bucket.gone:
                bucket = of(limit, key, now)
            return bucket

        return find

    def _finding_by_address(self, limit: RequestLimit) -> Find:
        """The client's address is the key, whatever the head."""
        of, buckets = self._limits.bucket, self._peers.setdefault(limit.name, {})

        def find(connection: ResponseWriter, now: float) -> Bucket:
            bucket = buckets.get(connection.peer)
            if bucket is None or bucket.gone:
                if len(buckets) >= MOST_PEERS:
                    buckets.clear()
                bucket = buckets[connection.peer] = of(limit, limit.key_of_client(connection.peer), now)
            return bucket

        return find

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


def taking(find: Find) -> Gate:
    """A gate that one bucket opens."""
    return lambda connection, now: find(connection, now).take(now)


def taking_all(finds: Sequence[Find]) -> Gate:
    """A gate that all buckets open, or none is used."""

    def gate(connection: ResponseWriter, now: float) -> bool:
        buckets = [find(connection, now) for find in finds]
        return all(bucket.admits(now) for bucket in buckets) and all(bucket.take(now) for bucket in buckets)

    return gate
