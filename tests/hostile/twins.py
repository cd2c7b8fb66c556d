"""Two POPs without sockets that are told the same, one of which knows only the long way to an answer.

Whatever goes upstream is answered on the spot, so that what a POP writes follows from what it was sent and stores.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from harness.clock import FakeClock
from harness.pop import environment

from edgecache.config.settings import load
from edgecache.proxy.fastpath.head_template import TemplateHit
from edgecache.semantics import rfc9111
from edgecache.semantics.cache_key import primary_key
from edgecache.semantics.message import FieldLine, Fields, Framing, Request, Response
from edgecache.semantics.ranges import Segments
from edgecache.semantics.stored_response import Times
from edgecache.server.assembly import policy_of
from edgecache.server.worker import Worker
from edgecache.storage.memory import Entry
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1.server import ClientConnection
from edgecache.wire.response import FullResponse
from hostile.rig import NoQueue, Transport

PEER = "192.0.2.7"


OF_THE_WAY = frozenset(  # fields of the log that tell who has answered it how, and when, not what
    ("time", "duration_ms", "ttfb_ms", "connection", "cache", "upstream", "upstream_status", "upstream_ms")
)


class Twin:
    """One of the two: a worker that asks nobody, and one client's connection."""

    def __init__(self, clock: FakeClock, settings: dict[str, str], *, short_ways: bool) -> None:
        self.worker = Worker(load(environment("http://127.0.0.1:9", settings.items())), clock=clock)
        self.worker._tls = True  # type: ignore[assignment]  # it has a listener for TLS, and so the check behind that
        self.worker.run_queue = NoQueue()
        self.worker.compose(self.worker._settings, None)
        self.clock = clock
        self.upstream: list[bytes] = []  # the targets of what was passed on
        self.alike = 0  # hits by likeness
        self.in_store = "store" in settings
        self.near = 0  # hits in the machine's store by the fast path
        self.short_ways = short_ways
        edge: Any = self.worker.edge
        edge._forward = edge.relays.pass_on = edge.relays.send = edge.writes.pass_on = self._asked
        edge.fetcher.validate_in_background = lambda entry, request: None
        edge.fast_path.count_by(self._known_hit, self._store_hit)
        self.tell(PEER)

    def tell(self, peer: str, scheme: bytes = b"http", tag: bytes = b"") -> None:
        """From now on it is a client at `peer` that speaks, on a new connection."""
        if not self.short_ways:
            self.worker.answer_known = lambda connection, raw: False
        self.transport = Transport()
        self.connection = ClientConnection(self.worker, scheme, peer)
        self.connection.server_name, self.connection.tag = tag.strip(b"\t\n"), tag
        self.connection.connection_made(self.transport)

    def _asked(self, exchange: Any, *more: object) -> None:
        exchange = exchange if isinstance(exchange, Exchange) else more[0]  # of a question, the exchange comes second
        self.upstream.append(exchange.request.target)
        if exchange.body is not None:
            exchange.body.discard()
        exchange.send(FullResponse(200, b"", length=0, reason=b"Asked"))

    def _known_hit(self, connection: ClientConnection, known: Any, now: float) -> None:
        self.alike += isinstance(known, TemplateHit)
        self.worker._request_log.known_hit(connection, known, now)

    def _store_hit(self, connection: ClientConnection, plan: Any, *more: Any) -> None:
        self.near += 1
        self.alike += isinstance(plan, TemplateHit)
        self.worker._request_log.store_hit(connection, plan, *more)

    def store(self, request: Request, lines: list[FieldLine], content: bytes, status: int = 200) -> None:
        """What the origin answers to `request`, stored as the rules say, if they let it be stored."""
        edge, now = self.worker.edge, self.clock()
        response = Response(
            status, Fields([*lines, (b"Content-Length", b"%d" % len(content))]), b"", Framing(len(content))
        )
        store = rfc9111.may_store(request, response, Times(now, now), policy_of(self.worker._settings))
        if not isinstance(store, rfc9111.Store):
            return
        key, passed = primary_key(request), edge.log.position
        if self.in_store and status != 206:
            self._put_into_store(Entry(key, store.stored, content), key)
        elif status == 206:
            segments = Segments(store.stored.whole_length or 0, ((store.stored.first_byte, content),))
            edge.memory.put_parts(key, store.stored, segments, passed)
        else:
            edge.memory.put(key, store.stored, content, passed)

    def _put_into_store(self, entry: Entry, key: bytes) -> None:
        """It lies in the machine's store, as another worker would have left it there."""
        edge: Any = self.worker.edge
        edge.memory.invalidate(key)
        edge.region.tier.store(entry, key, edge.invalidation.seen(edge.log.stamp()))
        edge.region.tier.writes._flush()

    async def send(self, *pieces: bytes) -> bytes:
        """What it answers to these reads; on a new connection next time, if it closed this one."""
        for piece in pieces:
            if not self.transport.ended:
                self.connection.data_received(piece)
        connection = self.connection
        for _ in range(20):
            if connection.exchange is None and not connection.unread:
                break
            await asyncio.sleep(0)  # large answers take turns; what is not complete stays
        written = bytes(self.transport.written) + (b" and closed" if self.transport.ended else b"")
        self.transport.written.clear()
        return written

    @property
    def logged(self) -> list[tuple[object, ...]]:
        """What the access log has of each request that the bytes decide."""
        return [self._seen_in(record) for record in self.worker._log._records]

    @staticmethod
    def _seen_in(record: Any) -> object:
        if not isinstance(record, str):
            return record[1:5] + tuple(
                (name, value) for name, value in json.loads(f'{{"a":0{record[8]}}}').items() if name not in OF_THE_WAY
            )
        return {name: value for name, value in json.loads(record).items() if name not in OF_THE_WAY}

    @property
    def counted(self) -> Counter[str]:
        """Requests and bytes by outcome, and refusals."""
        requests = self.worker.watch.requests
        requests.fold()
        return Counter(
            {
                **{f"{tally.words} {of[3]}": int(tally.requests.value) for of, tally in requests._tallies.items()},
                **{f"bytes {tally.words}": int(tally.bytes_out.value) for tally in requests._tallies.values()},
            }
        )


class Twins:
    """Both of them."""

    def __init__(self, **settings: str) -> None:
        self.clock = FakeClock()
        settings = {"access_log": "json", **settings}
        self.quick = Twin(self.clock, settings, short_ways=True)
        self.long = Twin(self.clock, settings, short_ways=False)
        self.both = (self.quick, self.long)

    async def agree(self, *pieces: bytes) -> bytes:
        """What both answer, which has to be the same, byte for byte."""
        one, other = await self.quick.send(*pieces), await self.long.send(*pieces)
        assert one == other, f"{pieces!r}: {one[:300]!r} instead of {other[:300]!r}"
        assert self.quick.upstream == self.long.upstream, pieces
        if self.quick.transport.ended:
            self.tell(self.quick.connection.peer, self.quick.connection.scheme, self.quick.connection.tag)
        return one

    def tell(self, peer: str, scheme: bytes = b"http", tag: bytes = b"") -> None:
        """From now on a client at `peer` speaks."""
        for twin in self.both:
            twin.connection.connection_lost(None)
            twin.tell(peer, scheme, tag)

    def store(self, request: Request, lines: list[FieldLine], content: bytes, status: int = 200) -> None:
        """Both store it."""
        for twin in self.both:
            twin.store(request, lines, content, status)

    async def end(self) -> None:
        """Both end."""
        for twin in self.both:
            twin.connection.connection_lost(None)
            await twin.worker.stop()
