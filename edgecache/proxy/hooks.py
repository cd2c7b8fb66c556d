"""The definition of a middleware: a class with any of the hooks below, an order, and the request fields it reads.

    on_request(exchange) -> FullResponse | Held | None     before the request path; a local reply ends the request
    continues(go)                                        before any request: how one that it held goes on
    on_lookup(exchange) -> bytes | Bypass | None         bytes that become a part of the cache key, or no cache at all
    on_fetch(request, fields) -> Fields                  the fields of a request upstream
    on_response(request, response) -> Response           a response from upstream, before it is stored
    on_deliver(scheme, says) -> Sequence[FieldLine]      fields added to a response, which may have some already
    on_log(exchange, took, tally)                        after the response, for counting and logging
    fingerprint(connection) -> bytes | None              what decides beside a head's bytes, as one line; None: parse it
    gate(exchange) -> Gate | None                        what admits later requests with its fingerprint, if anything
    may_wait(exchange) -> bool                           whether later ones may, if they are not answered at once
    body_limit(request, peer, otherwise) -> int          bytes that a body may have, before it is read; 0: any
    around_known(answer_known) -> AnswerKnown            a gate before the fast path

The fast path answers requests by the bytes of their heads, without running these hooks. It may do so because `reads`
names every request field that influences them: those fields key a hit from then on (`semantics/unkeyed_fields.py`).
A middleware that takes part in requests and declares no `reads` turns the fast path off, so it can only cost speed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Final, Protocol, Self

from edgecache.config.settings import Settings
from edgecache.proxy.access.nonces import UsedNonces
from edgecache.proxy.geo_database import Locator
from edgecache.proxy.purge_method import PurgeMethod
from edgecache.proxy.rate_limits import RateLimits
from edgecache.semantics.client_address import Trust
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.rules.directory import Sites
from edgecache.storage.resident_clock import Clock
from edgecache.telemetry.metrics import Registry
from edgecache.telemetry.tracing import Tracer
from edgecache.upstream.peering import Children
from edgecache.wire.exchange import Exchange

NOTHING: Final[frozenset[bytes]] = frozenset()  # for `reads`: no field of the request
Go = Callable[[Exchange], None]
Says = Callable[[bytes], bool]  # whether a response has the field of that lower-case name
AnswerKnown = Callable[[Any, bytes], bool]  # of a connection and what was read from it


class Connection(Protocol):
    """The connection on which a request arrives."""

    peer: str  # the address of the client, or of the proxy in front
    peer_pop: bytes  # the POP that the peer has proved to be
    server_name: bytes  # that TLS was opened for
    tag: bytes  # of a connection over TLS: its site


class Held(Enum):
    """The request continues later, or the middleware answers it."""

    HELD = "held"


class Bypass(Enum):
    """The response to this request is neither looked up nor stored in any tier."""

    BYPASS = "bypass"


HELD: Final = Held.HELD
BYPASS: Final = Bypass.BYPASS


@dataclass(frozen=True, slots=True)
class Context:
    """The values from which a middleware can be configured."""

    settings: Settings
    is_trusted: Trust  # whether a peer is a trusted proxy
    children: Children
    purges: PurgeMethod
    ignored: IgnoredParameters | None
    locator: Locator | None
    tracer: Tracer | None
    sites: Sites | None
    has_tls: bool
    clock: Clock
    registry: Registry
    rate_limits: RateLimits | None = None
    nonces: UsedNonces | None = None


class Middleware:
    """Base of all middleware; a class defines the hooks that it needs and no others."""

    order: ClassVar[int]  # the lowest sees a request first
    reads: frozenset[bytes] | None = None  # request fields, in lower case, that influence it; None: it may be any
    cookies: frozenset[bytes] = frozenset()  # beginnings of the names of those that it reads, if not of all
    for_peers: ClassVar[bool] = True  # False: requests of other POPs pass it by, their first POP has done its work

    @classmethod
    def configured(cls, context: Context) -> Self | None:
        """The middleware as the settings want it; None if they do not."""
        raise NotImplementedError

    def bind(self, clients: Go, peers: Go) -> None:
        """Learn how requests go on after this middleware: those of clients, and those of other POPs."""
