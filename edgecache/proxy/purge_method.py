"""PURGE, BAN and PURGEKEYS on the listener for clients, as sent by plug-ins: authenticated, recorded, audited."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import orjson

from edgecache.config.settings import Settings
from edgecache.invalidation.log_entry import Draft
from edgecache.invalidation.purge_auth import (
    Caller,
    Credentials,
    FailedAttempts,
    PurgeRefused,
    TrustedAddress,
    accepts_purges,
    address_may_purge,
    callers_of,
)
from edgecache.invalidation.purge_dialects import purge_of_request
from edgecache.invalidation.purge_request import Purge
from edgecache.proxy.responses import reply_locally
from edgecache.proxy.task_guard import seen_through
from edgecache.semantics.client_address import Trust, client_address, trust_of
from edgecache.semantics.field_codec import pack
from edgecache.semantics.outcomes import Result
from edgecache.tasks import spawn
from edgecache.upstream.pool_options import tag_field_names
from edgecache.valkey.client import Failure
from edgecache.wire.exchange import Exchange
from edgecache.wire.response import FullResponse, local_reply

audit = logging.getLogger("edgecache.audit")
CLOSED: Final = "purges are refused here: neither EDGECACHE_PURGE_TOKENS nor EDGECACHE_PURGE_FROM is set"
CHALLENGE: Final = b'Bearer, Basic realm="purges"'  # RFC 9110 §11.6.1


class Recorder(Protocol):
    """A recorder of purges: the region's log, or the log of this process."""

    async def record(self, draft: Draft) -> tuple[str, bool]:
        """The ID of the entry, and whether it is recorded, or applied, for all; raises one of `Failure`."""


class PurgeMethod:
    """Answers PURGE, BAN and PURGEKEYS requests."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        refused: Callable[[str], None] = lambda reason: None,
        is_trusted: Trust = lambda peer: False,
    ) -> None:
        self.tune(settings)
        self._tag_fields = tag_field_names(settings)
        self._recorder = recorder
        self._pop = settings.pop
        self._refused = refused  # told why one is refused: to count
        self._is_trusted = is_trusted  # whether a peer's word for the client's address is believed
        self._attempts = FailedAttempts()

    def tune(self, settings: Settings) -> None:
        """From now on, the callers of these settings may purge."""
        self._callers: Sequence[Caller] = callers_of(settings)
        self._is_open = accepts_purges(settings)
        self._allowed = trust_of(settings.purge_from)  # by address

    def answer(self, exchange: Exchange, now: float) -> None:
        """Answer `exchange`, at `now` in monotonic seconds."""
        if exchange.body is not None:
            exchange.body.discard()
        try:
            caller = self._caller(exchange, now)
            purge = purge_of_request(exchange.request, caller, self._tag_fields)
        except PurgeRefused as refused:
            self._refuse(exchange, refused)
        else:
            spawn(seen_through(exchange, self._purge(exchange, purge, caller)), "purge")

    def _caller(self, exchange: Exchange, now: float) -> Caller:
        """The authenticated caller: by a secret, or without one by its address."""
        fields = exchange.request.fields
        if not self._is_open:
            raise PurgeRefused(405, "purge-off", CLOSED)
        credentials = Credentials(fields.get(b"authorization"), fields.get(b"fastly-key"))
        if not credentials.has_secret and address_may_purge(exchange.client, fields, self._is_trusted, self._allowed):
            return TrustedAddress()
        return self._attempts.authenticate(self._callers, credentials, self._client(exchange), now)

    def _client(self, exchange: Exchange) -> str:
        """The client's address: behind a balancer, guesses of one client must not lock the others out."""
        return client_address(exchange.client, exchange.request.fields, self._is_trusted) or exchange.client

    async def _purge(self, exchange: Exchange, purge: Purge, caller: Caller) -> None:
        client = self._client(exchange)
        try:
            draft = Draft(scopes=purge.scopes, soft=purge.soft, author=f"{caller.name} ({self._pop})")
            number, everywhere = await self._recorder.record(draft)
        except Failure:
            self._refuse(exchange, PurgeRefused(503, "log-unreachable", "the purge could not be recorded: try again"))
            return
        named = len(purge.scopes)
        audit.info("purge id=%s by=%s from=%s names=%d soft=%s", number, caller.name, client, named, purge.soft)
        status, state = (200, "ok") if everywhere else (202, "recorded")  # RFC 9110 §15.3.3: a worker is late
        content = orjson.dumps({"status": state, "id": number})
        exchange.result = Result.PURGE
        fields = pack([(b"Content-Type", b"application/json")])
        exchange.send(FullResponse(status, fields, content, len(content)))

    def _refuse(self, exchange: Exchange, refused: PurgeRefused) -> None:
        self._refused(refused.reason)
        audit.warning("purge refused reason=%s from=%s", refused.reason, self._client(exchange))
        more = [(b"WWW-Authenticate", CHALLENGE)] if refused.status == 401 else []
        if refused.status == 405:
            more = [(b"Allow", b"GET, HEAD")]
        if exchange.connection is not None and refused.status != 503:
            exchange.connection.shut_down()
        reply_locally(exchange, local_reply(refused.status, refused.reason, str(refused), *more))
