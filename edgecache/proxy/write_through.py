"""Writes: unsafe requests pass through to the origin, and their changes are invalidated before the response is sent.

    all but the last of the body ──► the origin
    BEGIN in the region's log ──► the last of it ──► END: what it invalidates ──► who has to know, knows ──► the writer

Between begin and end the target is in doubt: it is validated at each use. Whatever dies in between leaves a begin whose
deadline invalidates. What is answered before its BEGIN is ended without one. If the log cannot be reached, `available`
lets the write pass and sends its end later (the answer says so); `consistent` refuses it before it is whole at the
origin. A client has so many writes in doubt and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from edgecache.invalidation.appender import LogAppender
from edgecache.invalidation.in_process_log import InProcessLog
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.purge_log import EntryKind
from edgecache.invalidation.validity import Invalidation
from edgecache.invalidation.version_vector import Vector
from edgecache.invalidation.write_effects import invalidated_scopes, target_scopes, token_lines
from edgecache.proxy.passthrough import Relay, Relays
from edgecache.proxy.responses import reply_locally
from edgecache.proxy.task_guard import seen_through
from edgecache.proxy.write_gate import WAIT_FOR_IT, Gate, InDoubt
from edgecache.semantics.client_address import Trust
from edgecache.semantics.message import Request, Response
from edgecache.semantics.outcomes import Forward, Result
from edgecache.tasks import spawn
from edgecache.valkey.client import Failure
from edgecache.wire.body import Body
from edgecache.wire.errors import OriginError
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply

STATE_NAME: Final = b"Edgecache-Invalidation"
CONFIRM_WITHIN: Final = 2.0  # seconds that a writer waits for those who have to know


class Reaches(Protocol):
    """Waits until this worker has applied all entries of a vector."""

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
    most_of_client: int = 0  # writes of one client that may be in doubt at once; 0: no bound


class Writes:
    """Passes writes through, and records them in the region's log, or in the log of this POP."""

    def __init__(
        self,
        relays: Relays,
        invalidation: Invalidation,
        policy: WritePolicy,
        log: LogAppender | InProcessLog,
        reaches: Reaches | None = None,
        is_trusted: Trust = lambda peer: False,
    ) -> None:
        self.in_doubt = InDoubt(policy.most_of_client, is_trusted)
        self._relays = relays
        self._invalidation = invalidation
        self._policy = policy
        self._own = log if isinstance(log, InProcessLog) else None
        self._writer = log if isinstance(log, LogAppender) else None
        self._reaches = reaches
        self.clock = relays.clock  # resident time
        self.refresh: Callable[[Request], None] = _nothing  # told of each write that has an effect

    # told of each write that has changed its target

    def pass_on(self, exchange: Exchange, why: Forward) -> None:
        """Send the write that `exchange` asks for to the origin, and its invalidations to the log."""
        write, body = self._new(exchange, why), exchange.body
        if self._writer is None:
            self._ask(write)
        elif self.in_doubt.is_full(write.client):
            self._refuse(write, self._too_many())
        elif body is None or body.finished:
            spawn(seen_through(exchange, self._begin_and_ask(self._writer, write)), "begin of a write")
        else:
            self._ask_as_it_comes(self._writer, write, body)

    def _new(self, exchange: Exchange, why: Forward) -> _Write:
        upstream, request = self._relays.upstream, exchange.request
        upstream_request = upstream.request_for(request, request.fields, exchange.client, exchange.body)
        write = _Write(upstream_request, *upstream.stamp())
        write.relays, write.exchange, write.why, write.result, write.entry = (
            self._relays,
            exchange,
            why,
            Result.PASS,
            None,
        )
        write.writes, exchange.alone = self, True
        write.client = self.in_doubt.address(request, exchange.client)
        return write

    async def _begin_and_ask(self, writer: LogAppender, write: _Write) -> None:
        """A write whose body is here: nothing of it is sent before its BEGIN is in the log."""
        refusal = await self._begin(writer, write)
        if write.exchange.gone:  # nothing was sent
            self._end_later((), write.begun)
            self._leave(write)
        elif refusal is not None:
            self._refuse(write, refusal)
        else:
            self._ask(write)

    async def _begin(self, writer: LogAppender, write: _Write) -> FullResponse | None:
        """Put the BEGIN into the log; what the client is told if the write must not be whole at the origin."""
        if self.in_doubt.is_full(write.client):
            return self._too_many()
        self.in_doubt.enter(write.client)
        write.counts = True
        policy, named = self._policy, target_scopes(write.exchange.request)
        try:
            write.begun = await writer.append(
                Draft(EntryKind.BEGIN, named, within=policy.timeout, author=policy.author)
            )
        except Failure:
            if policy.refuse_unrecorded:
                return local_reply(503, "log-unreachable", "the write was not sent: it could not be recorded")
        return None

    def _too_many(self) -> FullResponse:
        self.in_doubt.refused += 1
        later = (b"Retry-After", WAIT_FOR_IT.encode())
        return local_reply(429, "too-many-writes", "too many writes of this client are waiting", later)

    def _refuse(self, write: _Write, response: FullResponse) -> None:
        """Answer by ourselves: the origin has nothing of the write, or not the whole."""
        exchange = write.exchange
        self._leave(write)
        exchange.upstream_call = None
        reply_locally(exchange, response)

    def _ask(self, write: _Write) -> None:
        upstream, exchange = self._relays.upstream, write.exchange
        write.asked, write.seen = upstream.stamp()
        exchange.upstream_call = write
        exchange.why, exchange.upstream_asked = write.why, write.asked
        upstream.send(write)

    def _ask_as_it_comes(self, writer: LogAppender, write: _Write, body: Body) -> None:
        """A body that is still on its way: it goes upstream as it comes, and its last bytes once it has begun."""
        gate = write.gate = Gate(body, write.exchange.request.framing.length)
        gate.on_end = partial(self._body_over, write)
        gate.on_whole = partial(self._body_whole, writer, write)
        write.upstream_request = write.upstream_request.with_body(gate.out)
        gate.start()
        self._ask(write)

    def _body_whole(self, writer: LogAppender, write: _Write) -> None:
        if write.over:  # it is answered, and was ended
            write.release()
        else:
            write.beginning = spawn(
                seen_through(write.exchange, self._begin_at_its_end(writer, write)), "begin of a write"
            )

    async def _begin_at_its_end(self, writer: LogAppender, write: _Write) -> None:
        refusal = await self._begin(writer, write)
        if refusal is None or write.over:
            write.release()
            return
        write.give_up()
        self._refuse(write, refusal)

    def _body_over(self, write: _Write) -> None:
        """Nothing more of the body goes upstream: what was answered before that is over only now."""
        self._end_later(write.named, 0)

    # --- the end

    def answered(self, write: _Write, response: Response, body: Body) -> None:
        """The origin has answered: invalidate, tell, and then answer."""
        spawn(seen_through(write.exchange, self._end(write, response, body)), "end of a write")

    async def _end(self, write: _Write, response: Response, body: Body) -> None:
        exchange, writer = write.exchange, self._writer
        named = invalidated_scopes(exchange.request, response)
        if write.gate is not None and not write.gate.ended:
            write.named = named  # early: it has not read the whole of it
        await write.begun_or_not()
        lines = b""
        if named and self._own is not None:
            await self._own.record(Draft(EntryKind.PURGE, named))
        elif writer is not None and (named or write.begun):
            lines = await self._record(writer, named, write.begun)
        self._leave(write)
        reply = self._relays.upstream.reply(write, response, body)
        reply = reply._replace(seen=self._invalidation.log.stamp())  # newer than the invalidation just made
        stored = self._relays.begin_fill_by_write(exchange, reply)
        if exchange.gone:
            body.discard()
            return
        exchange.upstream_call = None
        self._relays.replies.deliver(exchange, reply, write.why, write.result, stored=stored, more=lines)
        if named:
            self.refresh(exchange.request)

    async def _record(self, writer: LogAppender, named: tuple[bytes, ...], begun: int) -> bytes:
        """End the write in the log; the field lines that tell the writer how far it is known."""
        policy = self._policy
        settle = self._spread(named)
        draft = Draft(EntryKind.END, named, begun=begun, author=policy.author)
        try:
            mark = await writer.append(draft)
        except Failure:
            writer.append_later(draft, settle)
            return b"%b: unrecorded\r\n" % STATE_NAME
        settle(mark)
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

    def _spread(self, named: tuple[bytes, ...]) -> Callable[[int], None]:
        """Invalidate these here, at once; what to call with the mark of the entry that does so for all."""
        if not named or self._writer is None:
            return _unneeded
        return partial(self._invalidation.settle, named, self._invalidation.append(named), self._writer.region)

    def unanswered(self, write: _Write, *, sent: bool) -> None:
        """Nobody knows how a write has ended that was `sent`: its target counts as changed."""
        named = target_scopes(write.exchange.request) if sent else ()
        if named and self._own is not None:
            spawn(self._own.record(Draft(EntryKind.PURGE, named)), "end of a write that nobody answered")
        elif write.beginning is None or write.beginning.done():
            self._end_later(named, write.begun)
            self._leave(write)
        else:
            spawn(self._end_once_begun(write, named), "end of a write that nobody answered")

    async def _end_once_begun(self, write: _Write, named: tuple[bytes, ...]) -> None:
        settle = self._spread(named)  # at once
        await write.begun_or_not()
        if self._writer is not None and (named or write.begun):
            self._writer.append_later(
                Draft(EntryKind.END, named, begun=write.begun, author=self._policy.author), settle
            )
        self._leave(write)

    def _end_later(self, named: tuple[bytes, ...], begun: int) -> None:
        if self._writer is not None and (named or begun):
            draft = Draft(EntryKind.END, named, begun=begun, author=self._policy.author)
            self._writer.append_later(draft, self._spread(named))

    def _leave(self, write: _Write) -> None:
        """It is not in doubt any more."""
        if write.counts:
            write.counts = False
            self.in_doubt.leave(write.client)


class _Write(Relay):
    """One write on its way through."""

    writes: Writes
    client: bytes  # whose it is, as `InDoubt` counts them
    counts = False  # among that client's
    begun = 0  # the mark of its BEGIN; 0 if there is none
    beginning: asyncio.Task[None] | None = None  # while its BEGIN is on its way
    gate: Gate | None = None  # of a body that was not here when it was asked
    named: tuple[bytes, ...] = ()  # what it has invalidated before the origin had the whole of it
    over = False  # it was answered, or nobody will

    async def begun_or_not(self) -> None:
        """Wait until it is known whether its BEGIN is in the log."""
        if self.beginning is not None:
            await asyncio.wait((self.beginning,))

    def release(self) -> None:
        """The rest of its body may go upstream."""
        assert self.gate is not None, "only a body that came later waits"
        self.gate.release()

    def give_up(self) -> None:
        """It must not be whole at the origin, which may have acted on the part that it has."""
        assert self.gate is not None, "else nothing was sent"
        self._end_unknown()
        super().cancel()
        self.gate.abort()

    def on_answer(self, response: Response, body: Body) -> None:
        if response.status == 101:  # what is done by another protocol is not known here
            self._end_unknown()
            super().on_answer(response, body)
            return
        self.over = True
        response = self.relays.upstream.received(self.exchange.request, response)
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
        if not self.over:
            self.over = True
            self.writes.unanswered(self, sent=self.asked_on is not None)


def _nothing(request: Request) -> None:
    """What was written is not fetched."""


def _unneeded(mark: int) -> None:
    """Nothing was invalidated here."""
