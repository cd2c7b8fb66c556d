"""Requests upstream: made of a client's request, and sent; their responses arrive by callbacks, or are awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from edgecache.invalidation.purge_log import PurgeLog, Stamp
from edgecache.semantics import rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.forwarding import Gateway, upstream_lines
from edgecache.semantics.message import FieldLine, Fields, Request, Response
from edgecache.semantics.outcomes import Revalidation, Tier
from edgecache.semantics.rfc9111 import expects_shared
from edgecache.semantics.rules.routing import route_of
from edgecache.semantics.stored_response import Times
from edgecache.storage.resident_clock import Clock
from edgecache.upstream.active_upstream import Switch
from edgecache.upstream.peering import Parental, may_go_to_parents
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.upstream_request import UpstreamCall, UpstreamRequest

Watchers = Iterable[Exchange]  # they get interim responses, and note the times of a fetch


class Upstream:
    """What is upstream of this POP. It stamps every request with the time and with the log's position."""

    def __init__(
        self,
        switch: Switch,
        gateway: Gateway,
        log: PurgeLog,
        clock: Clock,
        is_trusted: Callable[[str], bool],
        parental: Parental | None = None,
        came: Callable[[Tier | None, int], None] = lambda by, status: None,
    ) -> None:
        self.switch = switch
        self.came = came  # called with the tier of each response (None: the origin) and its status
        self._gateway = gateway
        self.on_fetch: Callable[[Request, Fields], Fields] | None = None  # of middleware
        self.on_response: Callable[[Request, Response], Response] | None = None  # of middleware, before the store
        self._log = log
        self._clock = clock
        self._is_trusted = is_trusted  # whether a peer's Forwarded is trusted
        self._to_parents = parental  # None: there are none

    def tune(self, gateway: Gateway, is_trusted: Callable[[str], bool]) -> None:
        """Go on with other settings."""
        self._gateway, self._is_trusted = gateway, is_trusted
        if self._to_parents is not None:
            self._to_parents.is_trusted = is_trusted

    def send(self, call: UpstreamCall) -> None:
        """Send a request."""
        self.switch.send(call)

    def request_for(self, request: Request, fields: Fields, client: str, body: Body | None = None) -> UpstreamRequest:
        """The request to send upstream for a client's `request`, with `fields` in the place of its own."""
        if self.on_fetch is not None:
            fields = self.on_fetch(request, fields)
        lines, wording = self._worded(request, fields, client)
        return UpstreamRequest(
            request.method,
            request.target,
            lines,
            Body.of(request.content) if request.content else body,
            request.framing.length,
            request.upgrade,
            request.place[-1][1] if request.place else b"",  # the region is always known, and comes last
            wording,
            request.jurisdiction,
            not rfc9111.is_safe(request),
            keyed=request.content is not None,
            route=route_of(request) if request.policy is not None else None,
        )

    def _worded(self, request: Request, fields: Fields, client: str) -> tuple[list[FieldLine], Words | None]:
        """The fields for the origin; if the request may go to a parent, both of its wordings instead."""
        if self._to_parents is not None and may_go_to_parents(request):
            return [], Words(self, self._to_parents, request, fields, client)
        return self.origin_fields(request, fields, client), None

    def origin_fields(self, request: Request, fields: Fields, client: str) -> list[FieldLine]:
        """The fields of the request to the origin."""
        child = request.child
        trusted = child is None and self._is_trusted(client)
        address = client if child is None else child.client
        return upstream_lines(request, fields, self._gateway, address, trusted=trusted)

    def stamp(self) -> tuple[float, Stamp]:
        """The resident time, and the position of the log, now: every upstream request carries both."""
        return self._clock.now(), self._log.stamp()

    def reply(self, call: UpstreamCall, response: Response, body: Body) -> Reply:
        """The response with its times; to be called once for each."""
        self.came(call.answered_by, response.status)
        times = Times(call.asked, self._clock.now(), self._clock.ahead)
        return Reply(response, body, times, call.seen, by=call.answered_by)

    def received(self, request: Request, response: Response) -> Response:
        """`response` to `request` as clients, the store and invalidations know it."""
        return response if self.on_response is None else self.on_response(request, response)

    async def fetch(self, request: Request, fields: Fields, client: str, watchers: Watchers) -> Reply:
        """Send a request, and wait for the head of its response; raises `OriginError`. 1xx go to `watchers`."""
        sent = self.request_for(request, fields, client)
        sent.shared = expects_shared(request, fields)
        fetch = _Fetch(self, request, sent, watchers)
        self.send(fetch)
        try:
            return await fetch.reply
        except asyncio.CancelledError:
            fetch.cancel()
            raise


class Words:
    """The fields of one request in two wordings: for a parent, which trusts what this POP signs, and for the origin."""

    __slots__ = ("_client", "_fields", "_forced", "_parental", "_request", "_upstream", "key")

    def __init__(self, upstream: Upstream, parental: Parental, request: Request, fields: Fields, client: str) -> None:
        self._upstream = upstream
        self._parental = parental
        self._request = request
        self._fields = fields
        self._client = client
        self._forced = False
        self.key = primary_key(request)

    def for_origin(self) -> list[FieldLine]:
        """The fields for the origin."""
        return self._upstream.origin_fields(self._request, self._fields, self._client)

    def for_parent(self, scheme: bytes) -> list[FieldLine]:
        """The fields for a parent, signed now; the request goes there by `scheme`."""
        self._forced = self._parental.must_ask_itself(self.key)
        fields = self._fields
        if self._request.revalidation is Revalidation.IGNORE:  # to a parent, directives are those of this POP
            fields = rfc9111.accepting(fields)
        if self._forced:
            fields = fields.without((b"cache-control", b"pragma")).plus((b"Cache-Control", b"no-cache"))
        return self._parental.fields(self._request, fields, self._client, scheme)

    def anew(self) -> Words:
        """The same for another time that the request is sent."""
        return Words(self._upstream, self._parental, self._request, self._fields, self._client)

    def proven(self, asked: Stamp, response: Response) -> Stamp:
        """The log position at which the parent requested its response of the origin."""
        return asked if self._forced else self._parental.proven(self.key, asked, response)


class _Fetch(UpstreamCall):
    """A request whose response is awaited."""

    def __init__(self, upstream: Upstream, request: Request, sent: UpstreamRequest, watchers: Watchers) -> None:
        super().__init__(sent, *upstream.stamp())
        self._upstream = upstream
        self._request = request
        self._watchers = watchers
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def on_interim(self, response: Response) -> None:
        for exchange in tuple(self._watchers):
            exchange.interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        self._tell_times(response.status)
        if self.reply.done():
            body.discard()
        else:
            response = self._upstream.received(self._request, response)
            self.reply.set_result(self._upstream.reply(self, response, body))

    def _tell_times(self, status: int = 0) -> None:
        """Note times and tier for the logs and traces of the exchanges that wait."""
        took = self._upstream.stamp()[0] - self.asked
        for exchange in self._watchers:
            exchange.upstream_asked, exchange.upstream_took = self.asked, took
            exchange.tier = self.answered_by
            exchange.answered_on, exchange.upstream_status = self.asked_on if status else None, status

    def on_failure(self, error: OriginError) -> None:
        self._tell_times()
        if not self.reply.done():
            self.reply.set_exception(error)
