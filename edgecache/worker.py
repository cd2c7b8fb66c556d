"""One worker: it builds the request path out of its parts, serves the listening sockets, sweeps deadlines, drains."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from random import random
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgecache import machine
from edgecache.access_log import AccessLog
from edgecache.admission import Admission, fitted
from edgecache.config import Settings
from edgecache.edge import KNOWN_HIT, Edge
from edgecache.fills import Fills
from edgecache.flights import Flights
from edgecache.geo import Geo, Locator
from edgecache.invalidation import Invalidation
from edgecache.known import KnownHit
from edgecache.lanes import Guard
from edgecache.log_metrics import LogCounts
from edgecache.memory import Memory
from edgecache.metrics import Snapshot
from edgecache.origin import OriginPool, hidden_fields
from edgecache.origins import Origins
from edgecache.purge_method import PurgeMethod, callers_of
from edgecache.refresh import Refresher
from edgecache.region import Region
from edgecache.region_log import RegionLog
from edgecache.regional import Regional
from edgecache.regional_server import access_of
from edgecache.relay import Relays
from edgecache.request_counts import SAMPLED, Tally
from edgecache.rules.breaker import Breaker
from edgecache.rules.client_address import trust_of
from edgecache.rules.forward import Gateway, as_forwarded
from edgecache.rules.log_entries import Draft
from edgecache.rules.message import Request
from edgecache.rules.purge_log import PurgeLog
from edgecache.rules.record import Codec
from edgecache.rules.stored import Policy
from edgecache.rules.trace_context import trace_id
from edgecache.tasks import spawn
from edgecache.tracing import Span, Tracer
from edgecache.upstream import Upstream
from edgecache.valkey import Link
from edgecache.watch import RegionalCounts, Watch
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1_head import HeadLimits, RequestHeads
from edgecache.wire.h1_server import ClientConnection
from edgecache.wire.proxy_protocol import PrefacedConnection
from edgecache.writes import WritePolicy, Writes

SWEEP: Final = 0.25  # seconds between two sweeps of all deadlines
FROM_PROXY: Final = b"\n"  # before the bytes of a head that a trusted proxy sent: no head begins so
REGISTER_BYTES: Final = 1024  # allowed for each purged name
CATCH_UP_WITHIN: Final = 0.5  # seconds that the start waits for the log of invalidations
BACKLOG: Final = 4096  # connections that wait to be accepted
GEO_LOOK: Final = 5.0  # seconds between two looks at the geographic database's file
BREAKER_FAILURES: Final = 5  # in a row, until the regional tier is let alone
BREAKER_OPEN_FOR: Final = 0.5  # seconds


class Worker:
    """One process's share of a POP, on the running event loop. It is the `Site` of its client connections."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        access_log_write: Callable[[bytes], object] | None = None,
    ) -> None:
        settings = fitted(settings, machine.open_files())
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        self.idle_timeout = settings.idle_timeout
        self.min_rate = settings.min_rate
        self.max_request_body = settings.max_request_body
        self.draining = self.crowded = False
        self.connections: set[ClientConnection] = set()
        self._prefaced: set[PrefacedConnection] = set()  # whose PROXY header is not complete
        self._all_left = asyncio.Event()
        self.clock = time.monotonic
        self._wall = clock
        self._drain_grace = settings.drain_grace
        self._heads = RequestHeads(HeadLimits(settings.max_line, settings.max_fields, settings.max_head))
        self.watch = Watch()
        self._requests = self.watch.requests
        self.bytes_in = self._requests.bytes_in
        make = Origins if settings.origins else OriginPool
        self._pool = make(settings, failed=self.watch.origin_failed)
        self._trusted = trust_of(settings.trusted_proxies)
        self._admission = Admission(settings.max_connections, settings.max_connections_per_address, self._trusted)
        self._log = AccessLog(settings.access_log, access_log_write)
        self._logging = settings.access_log > 0
        self._servers: list[tuple[asyncio.Server, socket.socket]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._expects_preface = settings.proxy_protocol
        self.edge = self._build(settings, clock)
        self.watch.read(self.edge, self._pool, self.connections, self._log)
        if isinstance(self._pool, Origins):
            self.watch.read_origins(self._pool)
        if self._regional is not None:
            self.watch.regional.read_state(self._regional)
        self.check_unfinished = self._heads.check_unfinished
        self.answer = self.edge.answer
        self.answer_known = self.edge.answer_known
        self.answered = self._count_and_log if self._logging else self._requests.answered
        self._tracer: Tracer | None = None
        if settings.otlp_endpoint:
            self._trace(settings.trace_sample)
        if settings.trusted_proxies:
            self._believe()
        self._locator: Locator | None = None
        self._next_look = 0.0  # at the geographic database's file, in monotonic seconds
        if settings.knows_geography:
            self._locate(settings)

    def _build(self, settings: Settings, clock: Callable[[], float]) -> Edge:
        pop = settings.pop.encode()
        log = PurgeLog(settings.purge_registers, REGISTER_BYTES * settings.purge_registers)
        memory = Memory(settings.worker_memory, settings.memory_policy, settings.largest_object, settings.max_variants)
        flights = Flights(settings.hit_for_miss)
        tier = self._regional = regional_tier(settings, self.watch.regional, clock)
        invalidation = Invalidation(log, memory, flights, clock, cut_off_modes(settings))
        fills = Fills(memory, invalidation, policy_of(settings), self.watch.not_stored, tier)
        upstream = Upstream(self._pool, gateway_of(settings), log, clock, self._trusted)
        relays = Relays(
            pop=pop,
            upstream=upstream,
            fills=fills,
            flights=flights,
            invalidation=invalidation,
            clock=clock,
        )
        self.logs = None
        if tier is not None:
            self.logs = RegionLog(settings, invalidation, LogCounts(self.watch.registry, settings.region), clock)
        reaches = self.logs.follower.reaches if self.logs is not None else None
        writer = self.logs.writer if self.logs is not None else None
        writes = Writes(relays, invalidation, write_policy_of(settings), writer, reaches)
        purges = PurgeMethod(callers_of(settings), writer or OwnLog(invalidation), settings.pop)
        name = settings.region.encode() + b"/regional"
        patience = settings.follower_timeout
        region = None
        if tier is not None:
            region = Region(tier, memory, invalidation, upstream, clock, patience, name)
        edge = Edge(
            pop=pop,
            hosts=frozenset(host.encode() for host in settings.hosts),
            memory=memory,
            invalidation=invalidation,
            flights=flights,
            fills=fills,
            relays=relays,
            upstream=upstream,
            clock=clock,
            follower_timeout=settings.follower_timeout,
            stale_wait=settings.stale_wait,
            max_ranges=settings.max_ranges,
            on_known_hit=self._known_hit,
            region=region,
            writes=writes,
            purges=purges,
            reaches=reaches,
            token_cookie=settings.token_cookie,
        )
        if tier is not None and self.logs is not None and settings.write_through == "refresh":
            writes.refresh = Refresher(edge, tier.codec, self.logs.writer.peers).refresh
        return edge

    def _trace(self, fraction: float) -> None:
        """From now on, some requests are traced."""
        tracer = self._tracer = Tracer(fraction, lambda exchange: self._trusted(exchange.client), self._wall)
        self.watch.read_tracer(tracer)
        answer_next, known_next, answered_next = self.answer, self.answer_known, self.answered

        def answer(exchange: Exchange) -> None:
            tracer.consider(exchange)
            answer_next(exchange)

        def answer_known(connection: ClientConnection, raw: bytes) -> bool:
            if tracer.to_pass < 1 or not known_next(connection, raw):
                return False  # one that is sampled goes the long way
            tracer.to_pass -= 1
            return True

        def answered(exchange: Exchange, took: float) -> Tally:
            tally = answered_next(exchange, took)
            if exchange.trace is not None:
                tracer.finish(exchange, exchange.trace, took, tally)
            return tally

        self.answer, self.answer_known, self.answered = answer, answer_known, answered

    def take_spans(self, most: int) -> list[Span]:
        """Up to so many spans that are complete."""
        return self._tracer.take(most) if self._tracer is not None else []

    def _believe(self) -> None:
        """From now on, the scheme is the one that a trusted proxy names; its heads are known for its like only."""
        answer_next, known_next, trusted = self.answer, self.answer_known, self._trusted

        def answer(exchange: Exchange) -> None:
            if trusted(exchange.client):
                exchange.request = as_forwarded(exchange.request)
                exchange.raw = FROM_PROXY + exchange.raw
            answer_next(exchange)

        def answer_known(connection: ClientConnection, raw: bytes) -> bool:
            return known_next(connection, FROM_PROXY + raw if trusted(connection.peer) else raw)

        self.answer, self.answer_known = answer, answer_known

    def _locate(self, settings: Settings) -> None:
        """From now on, requests are told where their client is, and known by their bytes for that place only."""
        geo = Geo(settings.geo_db, settings.geo_overrides, settings.geo_rules, settings.region)
        locator = self._locator = Locator(geo, self._trusted)
        self.watch.read_geography(geo)
        answer_next, known_next = self.answer, self.answer_known

        def answer(exchange: Exchange) -> None:
            client = exchange.client
            exchange.request = locator.located(exchange.request, client)
            exchange.raw = locator.tag(client) + exchange.raw
            answer_next(exchange)

        def answer_known(connection: ClientConnection, raw: bytes) -> bool:
            return known_next(connection, locator.tag(connection.peer) + raw)

        self.answer, self.answer_known = answer, answer_known

    # --- what client connections ask

    def parse(self, raw: bytes, scheme: bytes) -> Request:
        """The request whose head is `raw`; raises `BadRequest`."""
        return self._heads.parse(raw, scheme)

    def _count_and_log(self, exchange: Exchange, took: float) -> Tally:
        tally, request = self._requests.answered(exchange, took), exchange.request
        fields = request.fields
        self._log.add(
            (
                self._wall() - took,
                exchange.client,
                request.method,
                request.host,
                request.target,
                exchange.status,
                exchange.bytes_out,
                took * 1000,
                exchange.cache_status,
                tally.words,
                fields.get(b"user-agent") or b"",
                fields.get(b"referer") or b"",
                trace_id(fields.get(b"traceparent")),
                exchange.regional_took,
                exchange.upstream_took,
            )
        )
        return tally

    def _known_hit(self, connection: ClientConnection, known: KnownHit, now: float) -> None:
        """A request was answered at `now` by a known head: count and log it."""
        requests = self._requests
        requests.known_hits += 1
        requests.known_bytes += len(known.rendered.answer.content)
        if not requests.known_hits & (SAMPLED - 1):
            requests.observe_hit(max(0.0, self._wall() - now), SAMPLED)
        if self._logging:
            request, fields = known.request, known.request.fields
            self._log.add(
                (
                    now,
                    connection.peer,
                    request.method,
                    request.host,
                    request.target,
                    known.rendered.answer.status,
                    len(known.rendered.answer.content),
                    0.0,
                    KNOWN_HIT,
                    requests.hit_words,
                    fields.get(b"user-agent") or b"",
                    fields.get(b"referer") or b"",
                    b"",  # a head with a trace in it is not known, or hardly: its hits are logged without
                    0.0,
                    0.0,
                )
            )

    def refused(self, error: BadRequest) -> None:
        """A request was refused: count it."""
        self.watch.refused(error.reason)

    def joined(self, connection: ClientConnection) -> BadRequest | None:
        """A client has connected; why it is to be turned away, if it is."""
        refusal = self._admission.enter(connection.peer)
        if refusal is None:
            self.connections.add(connection)
            self.watch.opened.value += 1
            self._all_left.clear()
        return refusal

    def left(self, connection: ClientConnection) -> None:
        """A client's connection has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
            self._admission.leave(connection.peer)
            if not self.connections:
                self._all_left.set()

    # --- life

    async def start(self, sockets: list[socket.socket]) -> None:
        """Serve the listening `sockets`; they stay the caller's."""
        if self.logs is not None:  # what lies in the tier is not proven before
            with suppress(TimeoutError):
                await asyncio.wait_for(self.logs.follower.caught_up.wait(), CATCH_UP_WITHIN)
        loop = asyncio.get_running_loop()
        for listener in sockets:
            own = listener.dup()
            server = await loop.create_server(self._accepted, sock=own, backlog=BACKLOG)
            self._servers.append((server, own))
        self._sweep()

    def _accepted(self) -> asyncio.Protocol:
        if self._expects_preface:
            return PrefacedConnection(self, self._trusted, self._prefaced)
        return ClientConnection(self)

    def snapshot(self) -> Snapshot:
        """The metrics as they stand."""
        return self.watch.snapshot()

    async def drain(self) -> None:
        """Accept no more, answer what is under way or still comes with `Connection: close`; return when all have left.

        What is not done when the grace is over stays undone: `stop` cuts it.
        """
        self.draining = True
        self.edge.known.stop()
        waiting = self._accept_waiting()
        self._stop_accepting()
        for accepted in waiting:
            await self._adopt(accepted)
        if self.connections:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_left.wait(), self._drain_grace)

    async def stop(self) -> None:
        """End at once."""
        self._stop_accepting()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.cut()
        for preface in tuple(self._prefaced):
            preface.cut()
        self._pool.close()
        if self.logs is not None:
            await self.logs.close()
        if self._regional is not None:
            await self._regional.close()
        await asyncio.sleep(0)
        self._log.close()

    def _stop_accepting(self) -> None:
        for server, _ in self._servers:
            server.close()
        self._servers.clear()

    def _accept_waiting(self) -> list[socket.socket]:
        """Who waits in the accept queues: closing a listening socket would reset them."""
        waiting: list[socket.socket] = []
        for _, listener in self._servers:
            with suppress(OSError):  # BlockingIOError: the queue is empty
                while len(waiting) < BACKLOG:
                    waiting.append(listener.accept()[0])
        return waiting

    async def _adopt(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: ClientConnection(self), accepted)
        except OSError:
            accepted.close()

    def _sweep(self) -> None:
        """One pass over everything that has a deadline; there is no other timer."""
        loop = asyncio.get_running_loop()
        now = self.clock()
        self.crowded = self._admission.crowded
        for connection in tuple(self.connections):
            connection.sweep(now)
        for preface in tuple(self._prefaced):
            preface.sweep(now)
        if self._locator is not None and now >= self._next_look:
            self._next_look = now + GEO_LOOK
            if self._locator.geo.stale:
                spawn(asyncio.to_thread(self._locator.geo.reload), "read the geographic database")
        if self.logs is not None:
            self.logs.follower.judge()
        self._pool.sweep(now)
        self._flush_log()
        self.edge.sweep()
        self.watch.looked(loop.time())
        self._sweeper = loop.call_later(SWEEP, self._sweep)

    def _flush_log(self) -> None:
        """Piece by piece: requests that have come meanwhile are answered in between."""
        if self._log.flush_some():
            asyncio.get_running_loop().call_soon(self._flush_log)


def regional_tier(settings: Settings, counts: RegionalCounts, clock: Callable[[], float]) -> Regional | None:
    """The tier that the settings name, on the running event loop; None if they name none."""
    if settings.regional == "off":
        return None
    access = access_of(settings, timeout=max(4 * settings.regional_timeout, 0.5))
    breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_FOR, jitter=random)
    guard = Guard(Link(access), breaker, time.monotonic, counts, settings.regional_timeout)
    return Regional(
        guard,
        Codec(AESGCM(settings.regional_key) if settings.regional_key else None),
        budget=settings.regional_timeout,
        lease=settings.regional_lease,
        largest=settings.regional_max_object,
        count=counts.read,
        clock=clock,
    )


class OwnLog:
    """Purges of a POP without a region's log: they are known to this worker alone."""

    def __init__(self, invalidation: Invalidation) -> None:
        self._invalidation = invalidation

    async def record(self, draft: Draft) -> str:
        """Apply `draft`; the ID is this worker's own."""
        self._invalidation.append(draft.scopes, soft=draft.soft)
        return f"local:{self._invalidation.log.position}"


def cut_off_modes(settings: Settings) -> dict[bytes, str]:
    """What to do while cut off, by path prefix; the empty one is for all others."""
    return {b"": settings.cut_off, **{path.encode(): mode for path, mode in settings.cut_off_paths.items()}}


def write_policy_of(settings: Settings) -> WritePolicy:
    """The operator's choices about writes."""
    return WritePolicy(
        ack=settings.write_ack,
        timeout=settings.write_timeout,
        refuse_unrecorded=settings.cut_off == "consistent",
        token_cookie=settings.token_cookie,
        author=settings.pop,
    )


def policy_of(settings: Settings) -> Policy:
    """The operator's choices, as the rules take them."""
    return Policy(
        heuristics=settings.heuristics,
        heuristic_max=settings.heuristic_max,
        negative_ttl=settings.negative_ttl,
        store_set_cookie=settings.store_set_cookie,
        store_client_errors=settings.store_client_errors,
        default_stale_if_error=settings.default_stale_if_error,
        hidden=hidden_fields(settings),
    )


def gateway_of(settings: Settings) -> Gateway:
    """Who this POP is to the origin."""
    host = {"client": "", "origin": settings.origin.authority}.get(settings.origin_host, settings.origin_host)
    return Gateway(settings.pop.encode(), host.encode(), settings.forwarded)
