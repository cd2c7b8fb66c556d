"""What a request passes between its connection and the request path: whose word is believed, for which site it is.

Each door wraps a `Way`. What a door decides by, beyond the bytes of a head, goes before those bytes in `exchange.raw`,
so that a head is known by its bytes for that only; no head begins as those marks do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from edgecache.invalidation.purge_dialects import METHODS as PURGE_METHODS
from edgecache.proxy import responses
from edgecache.proxy.middleware.geo_database import Locator
from edgecache.semantics.client_address import Trust
from edgecache.semantics.client_claims import judged
from edgecache.semantics.forwarding import as_forwarded
from edgecache.semantics.ignored_parameters import IgnoredParameters
from edgecache.semantics.outcomes import Result
from edgecache.semantics.residency import Residency
from edgecache.semantics.sni import is_misdirected, secure_location, stays_plain
from edgecache.semantics.uri import host_of
from edgecache.telemetry.tracing import Tracer
from edgecache.upstream.peering import Children
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1.server import ClientConnection

FROM_PROXY: Final = b"\n"  # before the bytes of a head that a trusted proxy sent


class Way(NamedTuple):
    """How exchanges are answered, and requests whose bytes may be known."""

    answer: Callable[[Exchange], None]
    answer_known: Callable[[ClientConnection, bytes], bool]


def residing(way: Way, residency: Residency) -> Way:
    """Requests are told which jurisdiction their answers must not leave, if residency is kept."""
    if not residency.home:
        return way

    def answer(exchange: Exchange) -> None:
        exchange.request = exchange.request._replace(jurisdiction=residency.of(exchange.request))
        way.answer(exchange)

    return Way(answer, way.answer_known)


def hearing(way: Way, inner: Way, children: Children) -> Way:
    """POPs are told from clients: those go the `inner` way, for what is decided outside of it they decide themselves.

    What only POPs may say is dropped from others' requests.
    """

    def answer(exchange: Exchange) -> None:
        if children.may_be_one(exchange):
            children.hear(exchange, way.answer, inner.answer)
        else:
            way.answer(exchange)

    return Way(answer, way.answer_known)


def redirecting(way: Way, port: int, hosts: frozenset[bytes]) -> Way:
    """What is asked over http of one of our `hosts` (empty: any) is sent to https; purges are not."""

    def answer(exchange: Exchange) -> None:
        request = exchange.request
        ours = not hosts or host_of(request.host) in hosts
        if request.scheme != b"http" or not ours or request.method in PURGE_METHODS:
            way.answer(exchange)
        elif stays_plain(request.host, request.target):
            exchange.raw = b""  # others of the same fields are sent elsewhere: nothing is remembered of this head
            way.answer(exchange)
        else:
            _ours(exchange, responses.redirect(request, secure_location(request.host, request.target, port)))

    return Way(answer, way.answer_known)


def tracing(way: Way, tracer: Tracer) -> Way:
    """Some requests are traced: those go the long way, and leave no known head behind."""

    def answer(exchange: Exchange) -> None:
        tracer.consider(exchange)
        way.answer(exchange)

    def answer_known(connection: ClientConnection, raw: bytes) -> bool:
        if tracer.to_pass < 1 or not way.answer_known(connection, raw):
            return False
        tracer.to_pass -= 1
        return True

    return Way(answer, answer_known)


def believing(way: Way, trusted: Trust) -> Way:
    """The scheme is the one that a trusted proxy names; its heads are known for its like only."""

    def answer(exchange: Exchange) -> None:
        if trusted(exchange.client):
            exchange.request = as_forwarded(exchange.request)
            exchange.raw = FROM_PROXY + exchange.raw
        way.answer(exchange)

    def answer_known(connection: ClientConnection, raw: bytes) -> bool:
        return way.answer_known(connection, FROM_PROXY + raw if trusted(connection.peer) else raw)

    return Way(answer, answer_known)


def ignoring(way: Way, ignored: IgnoredParameters | None) -> Way:
    """Parameters that do not matter are left out of what is looked up, and asked; the log has what was asked for."""
    if ignored is None:
        return way

    def answer(exchange: Exchange) -> None:
        exchange.request = ignored.request(exchange.request)
        way.answer(exchange)

    return Way(answer, way.answer_known)


def judging(way: Way, trusted: Trust) -> Way:
    """What only a trusted proxy may say of a client is dropped from others' requests, and parts the proxy's own."""

    def answer(exchange: Exchange) -> None:
        if exchange.request.claims:
            exchange.request = judged(exchange.request, believed=trusted(exchange.client))
        way.answer(exchange)

    return Way(answer, way.answer_known)


def locating(way: Way, locator: Locator) -> Way:
    """Requests are told where their client is, and known by their bytes for that place only."""

    def answer(exchange: Exchange) -> None:
        client = exchange.client
        exchange.request = locator.located(exchange.request, client)
        exchange.raw = locator.tag(client) + exchange.raw
        way.answer(exchange)

    def answer_known(connection: ClientConnection, raw: bytes) -> bool:
        return way.answer_known(connection, locator.tag(connection.peer) + raw)

    return Way(answer, answer_known)


def telling_apart(way: Way) -> Way:
    """Heads over TLS are known for that site and POP only, and must name the site that TLS was opened for.

    A POP opens it for the name of its parent, and asks for all sites.
    """

    def answer(exchange: Exchange) -> None:
        connection = exchange.connection
        if connection is not None and connection.tag:
            if not connection.peer_pop and is_misdirected(connection.server_name, exchange.request.host):
                _ours(exchange, responses.of_ours(421, "misdirected", "the connection was opened for another site"))
                return
            exchange.raw = connection.tag + exchange.raw
        way.answer(exchange)

    def answer_known(connection: ClientConnection, raw: bytes) -> bool:
        tag = connection.tag
        if connection.peer_pop:  # what is known is for clients: a POP says more than its head's bytes tell
            return False
        return way.answer_known(connection, tag + raw if tag else raw)

    return Way(answer, answer_known)


def _ours(exchange: Exchange, answer: responses.Answer) -> None:
    exchange.result, exchange.failure = Result.ERROR, answer.failure
    exchange.reply(answer.status, answer.head, b"" if exchange.request.method == b"HEAD" else answer.content)
