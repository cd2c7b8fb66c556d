"""The fast path of a regional hit: a plain GET, answered with a fresh complete response from the region's Valkey.

    known head ──► `look_up`     what was parsed once needs no parsing: straight to the read
                        └──► `answers`   the record as it came: no entry is made, no task runs
All other requests take the path in `proxy/edge.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from edgecache.proxy.components import Parts
from edgecache.proxy.fastpath.head_memo import RegionalRead
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.responses import WITHOUT_LENGTH, send_stored, whole
from edgecache.semantics.message import Request
from edgecache.semantics.outcomes import Forward, Result, Tier
from edgecache.semantics.stored_response import is_fresh
from edgecache.storage.regional import Found
from edgecache.wire.exchange import Exchange
from edgecache.wire.response_writer import ResponseWriter

NOT_PLAIN: Final = frozenset((b"cache-control", b"pragma", b"if-none-match", b"if-modified-since", b"range"))
AnswerRegional = Callable[[Exchange, bytes, None, Forward, Found | None], None]


class _Reading(Exchange):
    """An exchange whose head the fast path knows."""


class RegionalHits:
    """Answers plain requests from the regional tier. Its state is in the parts that it receives."""

    def __init__(self, parts: Parts, region: Region, otherwise: AnswerRegional) -> None:
        self._pop = parts.pop
        self._tier = region.tier
        self._region = region
        self._memory = parts.memory
        self._marks = parts.flights.marks
        self._invalidation = parts.invalidation
        self._known = parts.known
        self._alike = parts.alike
        self._clock = parts.clock  # resident time
        self._otherwise = otherwise  # called with what was found for a known head

    def look_up(self, connection: ResponseWriter, known: RegionalRead, raw: bytes, now: float) -> bool:
        """Look up the request whose head is `raw`; False if memory may have it by now, or nobody may share it."""
        key = known.key
        if key in self._marks or self._memory.has(key):
            self._known.forget_one(raw)
            return False
        if known.gate is not None and not known.gate(connection, now):
            return False
        request = known.request
        exchange = _Reading(connection, request, known.size)
        exchange.why, exchange.fingerprint = Forward.URI_MISS, raw
        exchange.regional_asked = now
        connection.adopt(exchange)
        on_found = partial(self._otherwise, exchange, key, None, Forward.URI_MISS)
        self._tier.look_up_at(known.base, key, request.fields, on_found)
        return True

    def answers(self, exchange: Exchange, key: bytes, found: Found, why: Forward) -> bool:
        """Answer `exchange` with `found`, if that is a fresh whole and the request is for nothing else."""
        record = found.record
        now = self._clock()
        if record.chunks or not is_fresh(record, now) or record.status in WITHOUT_LENGTH:
            return False
        request = exchange.request
        if request.child is not None:  # it needs more fields
            return False
        if not wants_the_whole(request) or not self._invalidation.is_proven(record):
            return False
        body = record.body
        fills = request.policy is None or not request.policy.actions.caching.read_only
        if fills and self._region.rises(key) and len(body) <= self._memory.largest:
            self._region.check(found)
            self._memory.adopt(found.entry, record.length)
        if found.near:
            exchange.tier = Tier.STORE
        outcome = self._region.outcome(self._pop, record, now, why, near=found.near)
        send_stored(exchange, whole(record, now, outcome, body, len(body)), record, Result.REGIONAL, outcome)
        if type(exchange) is not _Reading:
            self._learn(exchange, key, found)
            if found.near:
                self._alike.learn(exchange)
        return True

    def _learn(self, exchange: Exchange, key: bytes, found: Found) -> None:
        known = self._known
        if known.learns(exchange.fingerprint) and known.may_wait(exchange) and not self._memory.has(key):
            gate = self._known.gates(exchange)
            plan = RegionalRead(exchange.request, exchange.head_in, key, found.base, gate, near=found.near)
            self._known.learn(exchange.fingerprint, plan)


def wants_the_whole(request: Request) -> bool:
    """Whether a request is a GET without directives about freshness, preconditions and ranges."""
    return request.method == b"GET" and NOT_PLAIN.isdisjoint(request.fields.index)
