"""Writes: unsafe requests pass through to the origin, and what they change is invalid everywhere before they answer.

    BEGIN in the region's log ──► the origin ──► END: what it invalidates ──► who has to know, knows ──► the writer

Between begin and end the target is in doubt: it is validated at each use. Whatever dies in between leaves a begin whose
deadline invalidates. If the log cannot be reached, `available` lets the write pass and sends its end later (the answer
says so); `consistent` refuses it before anything was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from edgecache import answers
from edgecache.body import Body
from edgecache.bugs import seen_through
from edgecache.invalidation import Invalidation
from edgecache.log_writer import LogWriter
from edgecache.own_log import OwnLog
from edgecache.relay import Relay, Relays
from edgecache.rules.log_entries import Draft
from edgecache.rules.message import Request, Response
from edgecache.rules.purge_log import Kind
from edgecache.rules.reasons import Forward, Result
from edgecache.rules.vectors import Vector
from edgecache.rules.writes import invalidated_scopes, target_scopes, token_lines
from edgecache.tasks import spawn
from edgecache.valkey import Failure
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange

STATE_NAME: Final = b"Edgecache-Invalidation"
CONFIRM_WITHIN: Final = 2.0  # seconds that a writer waits for those who have to know


class Reaches(Protocol):
    """Waits until this worker has applied what a vector knows."""

    async def __call__(self, vector: Vector, within: float) -> bool:
        """Whether it has, within so many seconds."""


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """The operator's choices. Times in seconds."""

    ack: str = "region"  # local, region or all
    timeout: float = 60.0  # after which a write that has not ended counts as lost
    refuse_unrecorded: bool = False
    token_cookie: bool = False
    author: str = ""


class Writes:
    """What passes writes through, and records them in the region's log, or in this POP's own."""

    def __init__(
        self,
        relays: Relays,
        invalidation: Invalidation,
        policy: WritePolicy,
        log: LogWriter | OwnLog,
        reaches: Reaches | None = None,
    ) -> None:
        self._relays = relays
        self._invalidation = invalidation
        self._policy = policy
        self._own = log if isinstance(log, OwnLog) else None
        self._writer = log if isinstance(log, LogWriter) else None
        self._reaches = reaches
        self.clock = relays.clock  # resident time
        self.refresh: Callable[[Request], None] = _nothing  # told of each write that has an effect

    # told of each write that has changed its target

    def pass_on(self, exchange: Exchange, why: Forward) -> None:
        """Send the write that `exchange` asks for to the origin, and its invalidations to the log."""
        if self._writer is None:
            self._ask(exchange, why, 0)
        else:
            spawn(seen_through(exchange, self._begin(self._writer, exchange, why)), "begin of a write")

    async def _begin(self, writer: LogWriter, exchange: Exchange, why: Forward) -> None:
        policy = self._policy
        draft = Draft(Kind.BEGIN, target_scopes(exchange.request), within=policy.timeout, author=policy.author)
        try:
            begun = await writer.append(draft)
        except Failure:
            begun = 0
        if begun == 0 and policy.refuse_unrecorded:
            answer = answers.of_ours(503, "log-unreachable", "the write was not sent: nobody could be told of it")
            exchange.result, exchange.failure = Result.ERROR, answer.failure
            exchange.reply(answer.status, answer.head, answer.content)
        elif exchange.gone:  # nothing was sent
            self._end_later((), begun)
        else:
            self._ask(exchange, why, begun)

    def _ask(self, exchange: Exchange, why: Forward, begun: int) -> None:
        relays = self._relays
        request = exchange.request
        question = relays.upstream.question(request, request.fields, exchange.client, exchange.body)
        relay = exchange.inquiry = _Write(question, *relays.upstream.stamp())
        exchange.why, exchange.upstream_asked, exchange.alone = why, relay.asked, True
        relay.relays, relay.exchange, relay.why, relay.result, relay.entry = relays, exchange, why, Result.PASS, None
        relay.writes, relay.begun = self, begun
        relays.upstream.ask(relay)

    # --- the end

    def answered(self, write: _Write, response: Response, body: Body) -> None:
        """The origin has answered: invalidate, tell, and then answer."""
        spawn(seen_through(write.exchange, self._end(write, response, body)), "end of a write")

    async def _end(self, write: _Write, response: Response, body: Body) -> None:
        exchange, writer = write.exchange, self._writer
        named = invalidated_scopes(exchange.request, response)
        lines = b""
        if named and self._own is not None:
            await self._own.record(Draft(Kind.PURGE, named))
        elif named:
            self._invalidation.append(named)  # here, at once
        if writer is not None and (named or write.begun):
            lines = await self._record(writer, named, write.begun)
        reply = self._relays.upstream.reply(write, response, body)
        reply = reply._replace(seen=self._invalidation.log.stamp())  # newer than the invalidation just made
        stored = self._relays.learn_write(exchange, reply)
        if exchange.gone:
            body.discard()
            return
        exchange.inquiry = None
        self._relays.pass_on(exchange, reply, write.why, write.result, stored=stored, more=lines)
        if named:
            self.refresh(exchange.request)

    async def _record(self, writer: LogWriter, named: tuple[bytes, ...], begun: int) -> bytes:
        """End the write in the log; the field lines that tell the writer how far it is known."""
        policy = self._policy
        draft = Draft(Kind.END, named, begun=begun, author=policy.author)
        try:
            mark = await writer.append(draft)
        except Failure:
            writer.append_later(draft)
            return b"%b: unrecorded\r\n" % STATE_NAME
        if not named:
            return b""
        if self._reaches is not None:
            await self._reaches(Vector({writer.region: mark}), CONFIRM_WITHIN)
        known = True
        if policy.ack != "local":
            known, _ = await writer.applied_by(writer.region, mark, policy.ack == "all", CONFIRM_WITHIN)
        state = policy.ack.encode() if known else b"pending"
        token = token_lines(writer.region, mark, cookie=policy.token_cookie)
        return b"%b: %b\r\n%b" % (STATE_NAME, state, token)

    def unanswered(self, write: _Write, *, sent: bool) -> None:
        """Nobody knows how a write has ended that was `sent`: its target counts as changed."""
        named = target_scopes(write.exchange.request) if sent else ()
        if named and self._own is not None:
            spawn(self._own.record(Draft(Kind.PURGE, named)), "end of a write that nobody answered")
        elif named:
            self._invalidation.append(named)
        self._end_later(named, write.begun)

    def _end_later(self, named: tuple[bytes, ...], begun: int) -> None:
        if self._writer is not None and (named or begun):
            self._writer.append_later(Draft(Kind.END, named, begun=begun, author=self._policy.author))


class _Write(Relay):
    """One write on its way through."""

    writes: Writes
    begun: int  # the mark of its BEGIN; 0 if there is none
    _over = False

    def on_answer(self, response: Response, body: Body) -> None:
        if response.status == 101:
            super().on_answer(response, body)
            return
        self._over = True
        response = self.relays.upstream.as_public(self.exchange.request, response)
        self.exchange.upstream_took = self.writes.clock() - self.asked
        self.exchange.answered_on, self.exchange.upstream_status = self.asked_on, response.status
        self.writes.answered(self, response, body)

    def on_whole(self, response: Response, content: bytes) -> None:
        self.on_answer(response, Body.of(content))

    def on_failure(self, error: OriginError) -> None:
        self._end_unknown()
        super().on_failure(error)

    def cancel(self) -> None:
        """The client has left; what it wanted may have been done all the same."""
        if not self.cancelled:
            self._end_unknown()
        super().cancel()

    def _end_unknown(self) -> None:
        if not self._over:
            self._over = True
            self.writes.unanswered(self, sent=self.asked_on is not None)


def _nothing(request: Request) -> None:
    """What was written is not fetched."""
