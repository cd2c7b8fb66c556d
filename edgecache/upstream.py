"""Questions to the origin: made of a client's request, asked of the pool, told or awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from edgecache.body import Body
from edgecache.fills import Reply
from edgecache.origin import OriginPool
from edgecache.rules.forward import Gateway, upstream_lines
from edgecache.rules.message import Fields, Request, Response
from edgecache.rules.purge_log import PurgeLog
from edgecache.rules.stored import Times, end_to_end
from edgecache.wire import h1_render as render
from edgecache.wire.errors import OriginError
from edgecache.wire.h1_client import Inquiry, Question
from edgecache.wire.h1_head import LONGEST_REMEMBERED, Remembered
from edgecache.wire.h1_server import Exchange

MOST_QUESTIONS: Final = 1024  # heads of questions that are remembered


class Upstream:
    """What is upstream of this POP. It stamps every question with the time and with the log's position."""

    def __init__(
        self,
        pool: OriginPool,
        gateway: Gateway,
        log: PurgeLog,
        clock: Callable[[], float],
        is_trusted: Callable[[str], bool],
    ) -> None:
        self._pool = pool
        self._gateway = gateway
        self._log = log
        self._clock = clock  # epoch seconds
        self._questions: Remembered[tuple[str, Request, Question]] = Remembered(MOST_QUESTIONS)
        self._is_trusted = is_trusted  # whether a peer's Forwarded is believed

    def question(self, request: Request, fields: Fields, client: str, body: Body | None = None) -> Question:
        """The request as it goes upstream, with `fields` for its own."""
        lines = upstream_lines(request, fields, self._gateway, client, trusted=self._is_trusted(client))
        head = render.request_line(request.method, request.target) + render.field_block(lines) + b"\r\n"
        return Question(request.method, head, body, request.framing.chunked, request.is_upgrade)

    def question_as_is(self, raw: bytes, request: Request, client: str, body: Body | None) -> Question:
        """The request as it came, whose head is `raw`; remembered, since the same head asks the same question."""
        if body is not None:
            return self.question(request, request.fields, client, body)
        known = self._questions.get(raw)
        if known is not None and known[0] == client and known[1] is request:
            return known[2]
        question = self.question(request, request.fields, client)
        if len(raw) <= LONGEST_REMEMBERED:
            self._questions.remember(raw, (client, request, question))
        return question

    def ask(
        self,
        question: Question,
        on_reply: Callable[[Reply], None],
        on_failure: Callable[[OriginError], None],
        on_interim: Callable[[Response], None],
    ) -> Inquiry:
        """Ask; exactly one of `on_reply` and `on_failure` follows, unless the inquiry is cancelled."""
        asked, seen = self._clock(), self._log.position

        def answered(response: Response, body: Body) -> None:
            on_reply(Reply(response, body, Times(asked, self._clock()), seen))

        inquiry = Inquiry(question, answered, on_failure, on_interim)
        self._pool.ask(inquiry)
        return inquiry

    async def fetch(self, request: Request, fields: Fields, client: str, watchers: Iterable[Exchange]) -> Reply:
        """Ask, and wait for the head of the answer; raises `OriginError`. Interim responses go to `watchers`."""
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

        def landed(answer: Reply) -> None:
            if reply.done():
                answer.body.discard()
            else:
                reply.set_result(answer)

        def failed(error: OriginError) -> None:
            if not reply.done():
                reply.set_exception(error)

        def interim(response: Response) -> None:
            for exchange in tuple(watchers):
                exchange.interim(interim_head(response))

        inquiry = self.ask(self.question(request, fields, client), landed, failed, interim)
        try:
            return await reply
        except asyncio.CancelledError:
            inquiry.cancel()
            raise


def interim_head(response: Response) -> bytes:
    """A 1xx response as it is passed on (RFC 9110 §15.2)."""
    return (
        render.status_line(response.status, response.reason) + render.field_block(end_to_end(response.fields)) + b"\r\n"
    )
