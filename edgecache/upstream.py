"""Questions to the origin: made of a client's request, asked of the pool, told or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from edgecache.body import Body
from edgecache.fills import Reply
from edgecache.origin import OriginPool
from edgecache.origins import Origins
from edgecache.rules.forward import Gateway, upstream_lines
from edgecache.rules.message import Fields, Request, Response
from edgecache.rules.purge_log import PurgeLog, Stamp
from edgecache.rules.stored import Times, end_to_end
from edgecache.switch import Switch
from edgecache.wire import h1_render as render
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1_client import Inquiry, Question


class Upstream:
    """What is upstream of this POP. It stamps every question with the time and with the log's position."""

    def __init__(
        self,
        pool: OriginPool | Origins | Switch,
        gateway: Gateway,
        log: PurgeLog,
        clock: Callable[[], float],
        is_trusted: Callable[[str], bool],
    ) -> None:
        self.ask = pool.ask  # send an inquiry
        self._gateway = gateway
        self._log = log
        self._clock = clock  # epoch seconds
        self._is_trusted = is_trusted  # whether a peer's Forwarded is believed

    def tune(self, gateway: Gateway, is_trusted: Callable[[str], bool]) -> None:
        """Go on with other settings."""
        self._gateway, self._is_trusted = gateway, is_trusted

    def question(self, request: Request, fields: Fields, client: str, body: Body | None = None) -> Question:
        """The request as it goes upstream, with `fields` for its own."""
        lines = upstream_lines(request, fields, self._gateway, client, trusted=self._is_trusted(client))
        head = render.request_line(request.method, request.target) + render.field_block(lines) + b"\r\n"
        other = request.method != b"GET" and request.method != b"HEAD"  # what may answer those is theirs to say
        conditional = other or b"if-none-match" in fields or b"if-modified-since" in fields
        return Question(
            request.method,
            head,
            body,
            request.framing.chunked,
            request.is_upgrade,
            conditional,
            other or b"range" in fields,
            request.place[-1][1] if request.place else b"",  # the region is always known, and comes last
        )

    def stamp(self) -> tuple[float, Stamp]:
        """Now, in epoch seconds, and what is known of the log: every question carries both."""
        return self._clock(), self._log.stamp()

    def reply(self, inquiry: Inquiry, response: Response, body: Body) -> Reply:
        """What came back, with its times."""
        return Reply(response, body, Times(inquiry.asked, self._clock()), inquiry.seen)

    async def fetch(self, request: Request, fields: Fields, client: str, watchers: Iterable[Exchange]) -> Reply:
        """Ask, and wait for the head of the answer; raises `OriginError`. Interim responses go to `watchers`."""
        inquiry = _Fetch(self, self.question(request, fields, client), watchers)
        self.ask(inquiry)
        try:
            return await inquiry.landed
        except asyncio.CancelledError:
            inquiry.cancel()
            raise


class _Fetch(Inquiry):
    """An inquiry whose answer somebody awaits."""

    def __init__(self, upstream: Upstream, question: Question, watchers: Iterable[Exchange]) -> None:
        super().__init__(question, *upstream.stamp())
        self._upstream = upstream
        self._watchers = watchers
        self.landed: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def on_interim(self, response: Response) -> None:
        head = interim_head(response)
        for exchange in tuple(self._watchers):
            exchange.interim(head)

    def on_answer(self, response: Response, body: Body) -> None:
        self._tell_times()
        if self.landed.done():
            body.discard()
        else:
            self.landed.set_result(self._upstream.reply(self, response, body))

    def _tell_times(self) -> None:
        """For the log and the trace of who asked."""
        took = self._upstream.stamp()[0] - self.asked
        for exchange in self._watchers:
            exchange.upstream_asked, exchange.upstream_took = self.asked, took

    def on_failure(self, error: OriginError) -> None:
        self._tell_times()
        if not self.landed.done():
            self.landed.set_exception(error)


def interim_head(response: Response) -> bytes:
    """A 1xx response as it is passed on (RFC 9110 §15.2); it has no length (§8.6)."""
    fields = end_to_end(response.fields).without((b"content-length",))
    return render.status_line(response.status, response.reason) + render.field_block(fields) + b"\r\n"
