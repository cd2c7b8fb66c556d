"""The registry of middleware, and its composition into closures around the request path.

Middleware that is not configured, and hooks that no middleware has, are in no closure: they cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from hashlib import blake2b
from typing import Any, Final

from edgecache.proxy.edge import Edge
from edgecache.proxy.fastpath.head_memo import Gate
from edgecache.proxy.hooks import BYPASS, HELD, AnswerKnown, Connection, Context, Go, Middleware
from edgecache.proxy.middleware.access import Access
from edgecache.proxy.middleware.client_claims import ClientClaims
from edgecache.proxy.middleware.coded_requests import CodedRequests
from edgecache.proxy.middleware.cors_preflight import CorsPreflight
from edgecache.proxy.middleware.forwarding_limits import ForwardingLimits
from edgecache.proxy.middleware.geo import Geo
from edgecache.proxy.middleware.host_check import HostCheck
from edgecache.proxy.middleware.hsts import Hsts
from edgecache.proxy.middleware.https_redirect import HttpsRedirect
from edgecache.proxy.middleware.ignored_parameters import IgnoredParameters
from edgecache.proxy.middleware.maintenance import Maintenance
from edgecache.proxy.middleware.origin_urls import OriginUrls
from edgecache.proxy.middleware.peer_authentication import PeerAuthentication
from edgecache.proxy.middleware.purge import Purge
from edgecache.proxy.middleware.query_method import QueryMethod
from edgecache.proxy.middleware.request_limits import RequestLimits
from edgecache.proxy.middleware.residency import Residency
from edgecache.proxy.middleware.rule_redirect import RuleRedirect
from edgecache.proxy.middleware.rule_response import RuleResponse
from edgecache.proxy.middleware.site_rules import SiteRules
from edgecache.proxy.middleware.sni_check import SniCheck
from edgecache.proxy.middleware.tracing import Tracing
from edgecache.proxy.middleware.trusted_proxies import TrustedProxies
from edgecache.semantics.field_codec import pack
from edgecache.semantics.message import Request
from edgecache.semantics.unkeyed_fields import unkeyed
from edgecache.telemetry.request_metrics import Tally
from edgecache.wire.exchange import Exchange
from edgecache.wire.handler import AddFields
from edgecache.wire.response import FullResponse

REGISTRY: Final[list[type[Middleware]]] = [
    PeerAuthentication,
    ClientClaims,
    SniCheck,
    Geo,
    TrustedProxies,
    HttpsRedirect,
    Hsts,
    Residency,
    Tracing,
    IgnoredParameters,
    HostCheck,
    ForwardingLimits,
    SiteRules,
    Maintenance,
    RequestLimits,
    RuleRedirect,
    CorsPreflight,
    Access,
    RuleResponse,
    CodedRequests,
    QueryMethod,
    Purge,
    OriginUrls,
]
TAKING_PART: Final = ("on_request", "on_lookup", "on_fetch", "on_deliver")  # hooks that the fast path does not run
Hook = Callable[..., Any]
Fingerprint = Callable[[Connection], bytes | None]
Answered = Callable[[Exchange, float], Tally]


def configured(context: Context) -> list[Middleware]:
    """The middleware that the settings want, in its order."""
    made = [kind.configured(context) for kind in sorted(REGISTRY, key=lambda kind: kind.order)]
    return [one for one in made if one is not None]


class Pipeline:
    """A request path with the middleware around it. `answer` and `answer_known` are its entrances."""

    def __init__(self, middleware: Sequence[Middleware], edge: Edge) -> None:
        self.middleware = middleware
        self.unkeyed = unkeyed(edge.reads, *(one.reads or frozenset() for one in middleware))
        self.cookies = frozenset[bytes]().union(*(one.cookies for one in middleware))
        self._edge = edge
        fingerprint = fingerprint_of(middleware)
        self.answer = self._path(fingerprint)
        self.answer_known = self._fast_path(fingerprint)
        self.on_deliver = edge.known.on_deliver = delivery_of(middleware)
        edge.known.gates = edge.alike.gates = gates_of(hooks(middleware, "gate"))
        waits = hooks(middleware, "may_wait")
        edge.known.may_wait = lambda exchange: all(may(exchange) for may in waits)
        self.body_limit = next(iter(hooks(middleware, "body_limit")), None)
        edge.policy_of = next(iter(hooks(middleware, "policy_of")), None)
        edge.on_lookup = lookup_of(hooks(middleware, "on_lookup"))
        edge.upstream.on_fetch = upstream_of(hooks(middleware, "on_fetch"))
        edge.upstream.on_response = upstream_of(hooks(middleware, "on_response"))

    def _path(self, fingerprint: Fingerprint | None) -> Go:
        """The way of a request whose head was parsed; POPs and clients part where POPs are authenticated."""
        parting = [isinstance(one, PeerAuthentication) for one in self.middleware].index(True) + 1
        rest = self.middleware[parting:]
        marks = () if fingerprint is None else (partial(note_fingerprint, fingerprint),)
        for at, one in enumerate(rest, 1):
            if (continues := getattr(one, "continues", None)) is not None:
                continues(self._chain(hooks(rest[at:], "on_request"), self._edge.answer))
        clients = self._chain((*marks, *hooks(rest, "on_request")), self._edge.answer)
        peers = self._chain(hooks((one for one in rest if one.for_peers), "on_request"), self._edge.answer)
        self.middleware[parting - 1].bind(clients, peers)
        return self._chain(hooks(self.middleware[:parting], "on_request"), clients)

    def _chain(self, steps: Sequence[Hook], last: Go) -> Go:
        """One closure that takes these steps in order, until one answers or holds the request."""
        reply: Callable[[Exchange, FullResponse], None] = self._edge.delivery.local

        def answer(exchange: Exchange) -> None:
            for step in steps:
                if (answered := step(exchange)) is not None:
                    if answered is not HELD:
                        reply(exchange, answered)
                    return
            last(exchange)

        return answer if steps else last

    def _fast_path(self, fingerprint: Fingerprint | None) -> AnswerKnown:
        """The way of a head that may be known."""
        gates = hooks(self.middleware, "around_known")
        known: AnswerKnown = reduce(lambda inner, gate: gate(inner), reversed(gates), self._edge.fast_path.answer)
        if fingerprint is None:
            return known

        def answer_known(connection: Any, raw: bytes) -> bool:
            part = fingerprint(connection)
            return part is not None and known(connection, part + raw)

        return answer_known

    def logging(self, answered: Answered) -> Answered:
        """`answered`, and after it the hooks for logging."""
        steps = hooks(self.middleware, "on_log")

        def answered_and_logged(exchange: Exchange, took: float) -> Tally:
            tally = answered(exchange, took)
            for step in steps:
                step(exchange, took, tally)
            return tally

        return answered_and_logged if steps else answered


def hooks(middleware: Iterable[Middleware], name: str) -> tuple[Hook, ...]:
    """The hooks of that name, of the middleware that has one."""
    return tuple([getattr(one, name) for one in middleware if hasattr(one, name)])


def is_undeclared(one: Middleware) -> bool:
    """Whether the fast path cannot know what decides the part that `one` takes in a request.

    Fields that `one` adds to responses may depend on none of the request: all who get a stored response share its head.
    """
    takes_part = any(hasattr(one, hook) for hook in TAKING_PART)
    return takes_part and (one.reads is None or (hasattr(one, "on_deliver") and bool(one.reads)))


def fingerprint_of(middleware: Sequence[Middleware]) -> Fingerprint | None:
    """What decides beside the bytes of a head; of a connection whose heads must all be parsed, None."""
    if any(is_undeclared(one) for one in middleware):
        return lambda connection: None
    parts = hooks(middleware, "fingerprint")

    def joined(connection: Connection) -> bytes | None:
        whole = b""
        for of in parts:
            part = of(connection)
            if part is None:
                return None
            whole = part + whole
        return whole

    return joined if len(parts) > 1 else parts[0] if parts else None


def note_fingerprint(fingerprint: Fingerprint, exchange: Exchange) -> None:
    """Have `exchange` remembered by its fingerprint together with what else decides, or not at all."""
    connection = exchange.connection
    part = None if connection is None else fingerprint(connection)
    exchange.fingerprint = None if part is None or exchange.fingerprint is None else part + exchange.fingerprint


def delivery_of(middleware: Iterable[Middleware]) -> AddFields | None:
    """What adds the fields of these hooks to a response, by its scheme, its packed fields and whether a POP gets it."""
    clients = hooks(middleware, "on_deliver")
    peers = hooks((one for one in middleware if one.for_peers), "on_deliver")

    def added(scheme: bytes, fields: bytes, to_peer: bool) -> bytes:
        lowered = b"\n" + fields.lower()

        def says(name: bytes) -> bool:
            return b"\n%b:" % name in lowered

        return pack([line for hook in (peers if to_peer else clients) for line in hook(scheme, says)])

    return added if clients else None


def gates_of(steps: Sequence[Hook]) -> Callable[[Exchange], Gate | None]:
    """Makes the gate that later requests with the fingerprint of an exchange pass: open if those of all steps are."""

    def gate_of(exchange: Exchange) -> Gate | None:
        gates = [gate for step in steps if (gate := step(exchange)) is not None]
        if len(gates) < 2:
            return gates[0] if gates else None
        return lambda connection, now: all(gate(connection, now) for gate in gates)

    return gate_of


def lookup_of(steps: Sequence[Hook]) -> Callable[[Exchange], bool] | None:
    """Adds to the cache key of a request what these hooks say; the closure returns whether to bypass the cache."""

    def on_lookup(exchange: Exchange) -> bool:
        for step in steps:
            part = step(exchange)
            if part is BYPASS:
                return True
            if part is not None:
                digest = blake2b(part, digest_size=16).hexdigest().encode()
                exchange.request = exchange.request._replace(group=exchange.request.group + b" " + digest)
        return False

    return on_lookup if steps else None


def upstream_of(steps: Sequence[Hook]) -> Hook | None:
    """Passes the fields of a request upstream, or its response, through these hooks."""

    def passed(request: Request, value: Any) -> Any:
        for step in steps:
            value = step(request, value)
        return value

    return passed if len(steps) > 1 else steps[0] if steps else None
