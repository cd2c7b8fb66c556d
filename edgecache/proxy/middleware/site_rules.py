"""Sites and rules: each request gets the policy that results from the rules of its site."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from random import randrange
from typing import Self

from edgecache.proxy.hooks import BYPASS, Bypass, Connection, Context, Middleware
from edgecache.semantics.client_address import CLIENT_ADDRESS_FIELDS, Network, Trust, client_address
from edgecache.semantics.message import Request, Response
from edgecache.semantics.rfc9111 import READS
from edgecache.semantics.rules.actions import Canary
from edgecache.semantics.rules.canary import NUMBERS, cookie_line, is_in_share, number_of
from edgecache.semantics.rules.conditions import RequestFacts
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.rules.key_parts import key_part, reduced_request
from edgecache.semantics.rules.policy import RequestPolicy
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply


class SiteRules(Middleware):
    """Finds the site of each request, and the policy that its rules make."""

    order = 850
    reads = CLIENT_ADDRESS_FIELDS  # and what the rules read

    def __init__(self, sites: Sites, networks: tuple[Network, ...], is_trusted: Trust) -> None:
        self._sites = sites
        self._is_trusted = is_trusted
        self.draw = randrange  # a number below
        self.reads = sites.reads | READS | (CLIENT_ADDRESS_FIELDS if networks else frozenset())
        self.cookies = sites.cookies
        if networks:
            self.fingerprint = fingerprint_of(networks)

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """Where `EDGECACHE_SITES` has sites."""
        return None if context.sites is None else cls(context.sites, context.sites.networks, context.is_trusted)

    def on_request(self, exchange: Exchange) -> FullResponse | None:
        """Add the policy; refuse a request for a host that no site has."""
        policy = self.policy_of(exchange.request, exchange.client)
        if policy is None:
            return local_reply(421, "unknown-site", "this server does not serve that site")
        if policy.actions.route.canary is not None:
            policy = self._with_canary(exchange, policy, policy.actions.route.canary)
        exchange.request = reduced_request(exchange.request._replace(policy=policy))
        return None

    def _with_canary(self, exchange: Exchange, policy: RequestPolicy, canary: Canary) -> RequestPolicy:
        """The policy of the client's share. One that has no number yet gets one, which no stored response tells."""
        request = exchange.request
        if request.child is not None:
            return policy.of_canary if request.child.is_canary else policy
        number = number_of(RequestFacts(request, exchange.client), canary)
        if number is None:
            number = self.draw(NUMBERS)
            exchange.fingerprint = None  # others with this head draw numbers of their own
            exchange.extra += cookie_line(number, canary, request.scheme)
        return policy.of_canary if is_in_share(number, canary) else policy

    def on_lookup(self, exchange: Exchange) -> bytes | Bypass | None:
        """What the policy adds to the cache key, or that there is no cache for this request."""
        policy: RequestPolicy = exchange.request.policy
        if policy.actions.caching.store is False:
            return BYPASS
        return key_part(policy, RequestFacts(exchange.request, exchange.client)) or None

    def on_response(self, request: Request, response: Response) -> Response:
        """The response as rules have it stored."""
        policy: RequestPolicy | None = request.policy
        return response if policy is None else policy.received(response, self._sites.wildcard_of(request.host))

    def policy_of(self, request: Request, peer: str) -> RequestPolicy | None:
        """The policy of a request that came from `peer`; None where it is of no site."""
        site = self._sites.site_of(request.host)
        if site is None:
            return None
        if request.child is not None:
            client = request.child.client
        else:
            client = client_address(peer, request.fields, self._is_trusted)
        return site.policy_of(RequestFacts(request, client))


def fingerprint_of(networks: tuple[Network, ...]) -> Callable[[Connection], bytes]:
    """Which of `networks` a connection's peer is in: heads are known for those only."""

    @lru_cache(maxsize=4096)
    def line(peer: str) -> bytes:
        try:
            address = ip_address(peer.partition("%")[0])
        except ValueError:
            return b"?\n"
        marks = sum(1 << number for number, network in enumerate(networks) if address in network)
        return b"%x\n" % marks

    return lambda connection: line(connection.peer)
