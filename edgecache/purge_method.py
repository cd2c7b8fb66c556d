"""PURGE on the listener of clients, as CMS plug-ins send it: authenticated, recorded in the region's log, audited."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import orjson

from edgecache import answers
from edgecache.admission import address_of
from edgecache.bugs import seen_through
from edgecache.config import PurgeToken, Settings
from edgecache.rules.client_address import Trust, client_address
from edgecache.rules.log_entries import Draft
from edgecache.rules.purge_request import Caller, Purge, PurgeRefused, caller_of, purge_of_request
from edgecache.rules.reasons import Result
from edgecache.tasks import spawn
from edgecache.valkey import Failure
from edgecache.wire import h1_render as render
from edgecache.wire.exchange import Exchange

audit = logging.getLogger("edgecache.audit")
MOST_FAILURES: Final = 10  # wrong tokens from one address, within
FAILURES_WITHIN: Final = 60.0  # seconds
MOST_ADDRESSES: Final = 4096


def callers_of(settings: Settings) -> list[PurgeToken]:
    """Who may purge."""
    admin = [PurgeToken("admin", settings.admin_token)] if settings.admin_token else []
    return [*settings.purge_tokens, *admin]


class Attempts:
    """Who has brought wrong tokens lately. Mutable state: the times, by address (one of IPv4, a /64 of IPv6)."""

    def __init__(self) -> None:
        self._failed: dict[bytes, list[float]] = {}

    def refuse_if_many(self, address: str, now: float) -> None:
        """Raise `PurgeRefused` (429) for who has failed too often before `now`, in monotonic seconds."""
        recent = [when for when in self._failed.get(address_of(address), ()) if now - when < FAILURES_WITHIN]
        if len(recent) >= MOST_FAILURES:
            raise PurgeRefused(429, "purge-attempts", "too many wrong tokens from this address: wait a minute")

    def failed(self, address: str, now: float) -> None:
        """`address` has brought a wrong token."""
        if len(self._failed) >= MOST_ADDRESSES:
            self._failed.clear()
        network = address_of(address)
        self._failed[network] = [*self._failed.get(network, [])[-MOST_FAILURES:], now]


class Recorder(Protocol):
    """What records purges: the region's log, or this process's own."""

    async def record(self, draft: Draft) -> str:
        """The ID of the entry, once it is recorded and applied here; raises one of `Failure`."""


class PurgeMethod:
    """Answers PURGE requests."""

    def __init__(
        self,
        callers: Sequence[Caller],
        recorder: Recorder,
        pop: str,
        refused: Callable[[str], None] = lambda reason: None,
        is_trusted: Trust = lambda peer: False,
    ) -> None:
        self._callers = callers
        self._recorder = recorder
        self._pop = pop
        self._refused = refused  # told why one is refused: to count
        self._is_trusted = is_trusted  # whether a peer's word for the client's address is believed
        self._attempts = Attempts()

    def answer(self, exchange: Exchange, now: float) -> None:
        """Answer `exchange`, at `now` in monotonic seconds."""
        request, fields = exchange.request, exchange.request.fields
        client = self._client(exchange)
        token, key = fields.get(b"authorization"), fields.get(b"fastly-key")
        if exchange.body is not None:
            exchange.body.discard()
        try:
            self._attempts.refuse_if_many(client, now)
            caller = caller_of(self._callers, token, key)
            purge = purge_of_request(request, caller)
        except PurgeRefused as refused:
            if refused.status == 401 and (token or key):  # who brings none does not guess
                self._attempts.failed(client, now)
            self._refuse(exchange, refused)
            return
        spawn(seen_through(exchange, self._purge(exchange, purge, caller)), "purge")

    def _client(self, exchange: Exchange) -> str:
        """Who asks: behind a balancer, one who guesses must not keep the others out."""
        return client_address(exchange.client, exchange.request.fields, self._is_trusted) or exchange.client

    async def _purge(self, exchange: Exchange, purge: Purge, caller: Caller) -> None:
        client = self._client(exchange)
        try:
            draft = Draft(scopes=purge.scopes, soft=purge.soft, author=f"{caller.name} ({self._pop})")
            number = await self._recorder.record(draft)
        except Failure:
            self._refuse(exchange, PurgeRefused(503, "log-unreachable", "the purge could not be recorded: try again"))
            return
        named = len(purge.scopes)
        audit.info("purge id=%s by=%s from=%s names=%d soft=%s", number, caller.name, client, named, purge.soft)
        content = orjson.dumps({"status": "ok", "id": number})
        head = render.status_line(200) + render.field_block(
            [(b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(content))]
        )
        exchange.result = Result.PURGE
        exchange.reply(200, head, content)

    def _refuse(self, exchange: Exchange, refused: PurgeRefused) -> None:
        self._refused(refused.reason)
        audit.warning("purge refused reason=%s from=%s", refused.reason, self._client(exchange))
        more = [(b"WWW-Authenticate", b"Bearer")] if refused.status == 401 else []
        if refused.status == 405:
            more = [(b"Allow", b"GET, HEAD")]
        answer = answers.of_ours(refused.status, refused.reason, str(refused), *more)
        exchange.result, exchange.failure = Result.ERROR, answer.failure
        if exchange.connection is not None and refused.status != 503:
            exchange.connection.closing = True
        exchange.reply(answer.status, answer.head, answer.content)
