"""Requests upstream: made of a client's request, and sent; their responses come by callbacks, or are awaited."""

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
from edgecache.semantics.stored_response import Times
from edgecache.storage.resident_clock import Clock
from edgecache.upstream.active_upstream import Switch
from edgecache.upstream.peering import Parental, may_go_to_parents
from edgecache.upstream.reply import Reply
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.upstream_request import Inquiry, UpstreamRequest


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
        self.send = switch.send  # send an inquiry
        self.came = came  # told who has answered, if not the origin, and with which status
        self._gateway = gateway
        self.on_fetch: Callable[[Request, Fields], Fields] | None = None  # of middleware
        self.on_response: Callable[[Request, Response], Response] | None = None  # of middleware, before the store
        self._log = log
        self._clock = clock
        self._is_trusted = is_trusted  # whether a peer's Forwarded is believed
        self._to_parents = parental  # None: there are none

    def tune(self, gateway: Gateway, is_trusted: Callable[[str], bool]) -> None:
        """Go on with other settings."""
        self._gateway, self._is_trusted = gateway, is_trusted
        if self._to_parents is not None:
            self._to_parents.is_trusted = is_trusted

    def question(self, request: Request, fields: Fields, client: str, body: Body | None = None) -> UpstreamRequest:
        """The request as it goes upstream, with `fields` for its own."""
        wording = None
        if self.on_fetch is not None:
            fields = self.on_fetch(request, fields)
        if self._to_parents is not None and may_go_to_parents(request):
            wording = Words(self, self._to_parents, request, fields, client)
        lines = [] if wording is not None else self.origin_fields(request, fields, client)
        other = request.method != b"GET" and request.method != b"HEAD"  # what may answer those is theirs to say
        conditional = other or b"if-none-match" in fields or b"if-modified-since" in fields
        return UpstreamRequest(
            request.method,
            request.target,
            lines,
            body,
            request.framing.chunked,
            request.is_upgrade,
            conditional,
            other or b"range" in fields,
            request.place[-1][1] if request.place else b"",  # the region is always known, and comes last
            wording,
            request.jurisdiction,
            not rfc9111.is_safe(request),
        )

    def origin_fields(self, request: Request, fields: Fields, client: str) -> list[FieldLine]:
        """The fields of the request as the origin gets them."""
        child = request.child
        trusted = child is None and self._is_trusted(client)
        address = client if child is None else child.client
        return upstream_lines(request, fields, self._gateway, address, trusted=trusted)

    def stamp(self) -> tuple[float, Stamp]:
        """Now, in resident time, and what is known of the log: every request carries both."""
        return self._clock.now(), self._log.stamp()

    def reply(self, inquiry: Inquiry, response: Response, body: Body) -> Reply:
        """What came back, with its times; once for each answer."""
        self.came(inquiry.answered_by, response.status)
        times = Times(inquiry.asked, self._clock.now(), self._clock.ahead)
        return Reply(response, body, times, inquiry.seen, by=inquiry.answered_by)

    def received(self, request: Request, response: Response) -> Response:
        """`response` to `request` as clients, the store and invalidations know it."""
        return response if self.on_response is None else self.on_response(request, response)

    async def fetch(self, request: Request, fields: Fields, client: str, watchers: Iterable[Exchange]) -> Reply:
        """Ask, and wait for the head of the answer; raises `OriginError`. Interim responses go to `watchers`."""
        question = self.question(request, fields, client)
        question.shared = expects_shared(request, fields)
        inquiry = _Fetch(self, request, question, watchers)
        self.send(inquiry)
        try:
            return await inquiry.landed
        except asyncio.CancelledError:
            inquiry.cancel()
            raise


class Words:
    """One request in two wordings: for a parent, which believes what this POP signs, and for the origin."""

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
        """The fields as the origin gets them."""
        return self._upstream.origin_fields(self._request, self._fields, self._client)

    def for_parent(self, scheme: bytes) -> list[FieldLine]:
        """The fields as a parent that is asked by `scheme` gets them, signed now."""
        self._forced = self._parental.must_ask_itself(self.key)
        fields = self._fields
        if self._request.revalidation is Revalidation.IGNORE:  # a parent cannot tell it from what this POP asks for
            fields = rfc9111.accepting(fields)
        if self._forced:
            fields = fields.without((b"cache-control", b"pragma")).plus((b"Cache-Control", b"no-cache"))
        return self._parental.fields(self._request, fields, self._client, scheme)

    def anew(self) -> Words:
        """The same for another time that it is asked."""
        return Words(self._upstream, self._parental, self._request, self._fields, self._client)

    def proven(self, asked: Stamp, response: Response) -> Stamp:
        """What was known when the parent's answer was asked of the origin."""
        return asked if self._forced else self._parental.proven(self.key, asked, response)


class _Fetch(Inquiry):
    """An inquiry whose answer somebody awaits."""

    def __init__(
        self, upstream: Upstream, request: Request, question: UpstreamRequest, watchers: Iterable[Exchange]
    ) -> None:
        super().__init__(question, *upstream.stamp())
        self._upstream = upstream
        self._request = request
        self._watchers = watchers
        self.landed: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def on_interim(self, response: Response) -> None:
        for exchange in tuple(self._watchers):
            exchange.interim(response)

    def on_answer(self, response: Response, body: Body) -> None:
        self._tell_times(response.status)
        if self.landed.done():
            body.discard()
        else:
            response = self._upstream.received(self._request, response)
            self.landed.set_result(self._upstream.reply(self, response, body))

    def _tell_times(self, status: int = 0) -> None:
        """For the log and the trace of who asked."""
        took = self._upstream.stamp()[0] - self.asked
        for exchange in self._watchers:
            exchange.upstream_asked, exchange.upstream_took = self.asked, took
            exchange.tier = self.answered_by
            exchange.answered_on, exchange.upstream_status = self.asked_on if status else None, status

    def on_failure(self, error: OriginError) -> None:
        self._tell_times()
        if not self.landed.done():
            self.landed.set_exception(error)
