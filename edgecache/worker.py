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
from edgecache.memory import Memory
from edgecache.metrics import Snapshot
from edgecache.origin import OriginPool
from edgecache.origins import Origins
from edgecache.region import Region
from edgecache.regional import Regional
from edgecache.regional_server import access_of
from edgecache.relay import Relays
from edgecache.rules.breaker import Breaker
from edgecache.rules.client_address import trust_of
from edgecache.rules.forward import Gateway, as_forwarded
from edgecache.rules.message import Request
from edgecache.rules.purge_log import PurgeLog
from edgecache.rules.reasons import Result
from edgecache.rules.record import Codec
from edgecache.rules.stored import Policy
from edgecache.tasks import spawn
from edgecache.upstream import Upstream
from edgecache.valkey import Link
from edgecache.watch import RegionalCounts, Watch
from edgecache.wire.errors import BadRequest
from edgecache.wire.exchange import Exchange
from edgecache.wire.h1_head import HeadLimits, RequestHeads
from edgecache.wire.h1_server import ClientConnection
from edgecache.wire.proxy_protocol import PrefacedConnection

SWEEP: Final = 0.25  # seconds between two sweeps of all deadlines
FROM_PROXY: Final = b"\n"  # before the bytes of a head that a trusted proxy sent: no head begins so
BACKLOG: Final = 4096  # connections that wait to be accepted
GAPS: Final = 6  # a sixth of the memory is for the allocator's gaps between what is stored, and for what is not counted
HEADS: Final = 16  # what request heads parse to holds a sixteenth of the memory at most
MOST_UNSENT: Final = 256 * 1024  # bytes of answers that the kernel holds for a client beyond what is on its way to it
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
        self.tunnel_timeout = settings.tunnel_timeout
        self.min_rate = settings.min_rate
        self.max_request_body = settings.max_request_body
        self.draining = self.crowded = False
        self.connections: set[ClientConnection] = set()
        self._prefaced: set[PrefacedConnection] = set()  # whose PROXY header is not complete
        self._all_left = asyncio.Event()
        self.clock = time.monotonic
        self._wall = clock
        self._drain_grace = settings.drain_grace
        self.watch = Watch()
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
        limits, account = (
            HeadLimits(settings.max_line, settings.max_fields, settings.max_head),
            self.edge.memory.account,
        )
        self._heads = RequestHeads(limits, account.budget // HEADS, account.hold)
        self.watch.read(self.edge, self._pool, self.connections, self._log)
        if isinstance(self._pool, Origins):
            self.watch.read_origins(self._pool)
        if self._regional is not None:
            self.watch.regional.read_state(self._regional)
        self.check_unfinished = self._heads.check_unfinished
        self.answer = self.edge.answer
        self.answer_known = self.edge.answer_known
        if settings.trusted_proxies:
            self._believe()
        self._locator: Locator | None = None
        self._next_look = 0.0  # at the geographic database's file, in monotonic seconds
        if settings.knows_geography:
            self._locate(settings)
        self.answered = self._count_and_log if self._logging else self.watch.answered

    def _build(self, settings: Settings, clock: Callable[[], float]) -> Edge:
        pop = settings.pop.encode()
        log = PurgeLog()
        budget = settings.worker_memory - settings.worker_memory // GAPS
        memory = Memory(budget, settings.memory_policy, settings.largest_object, settings.max_variants)
        flights = Flights(settings.hit_for_miss)
        tier = self._regional = regional_tier(settings, self.watch.regional, clock)
        invalidation = Invalidation(log, memory, flights, clock)
        fills = Fills(memory, invalidation, policy_of(settings), self.watch.not_stored, tier)
        upstream = Upstream(self._pool, gateway_of(settings), log, clock, self._trusted)
        relays = Relays(
            pop=pop,
            upstream=upstream,
            fills=fills,
            flights=flights,
            invalidation=invalidation,
            clock=clock,
            region=tier,
        )
        name = settings.region.encode() + b"/regional"
        patience = settings.follower_timeout
        region = None
        if tier is not None:
            region = Region(tier, memory, invalidation, upstream, clock, patience, name)
        return Edge(
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
        )

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

    def _count_and_log(self, exchange: Exchange, took: float) -> None:
        self.watch.answered(exchange, took)
        if self._logging:
            fields = exchange.request.fields
            self._log.add(
                (
                    self._wall() - took,
                    exchange.client,
                    exchange.request.method,
                    exchange.request.host,
                    exchange.request.target,
                    exchange.status,
                    exchange.bytes_out,
                    took * 1000,
                    exchange.cache_status,
                    exchange.result.value,
                    fields.get(b"user-agent") or b"",
                    fields.get(b"referer") or b"",
                )
            )

    def _known_hit(self, connection: ClientConnection, known: KnownHit, now: float) -> None:
        """A request was answered at `now` by a known head: count and log it."""
        self.watch.known_hits += 1
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
                    Result.HIT.value,
                    fields.get(b"user-agent") or b"",
                    fields.get(b"referer") or b"",
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
        loop = asyncio.get_running_loop()
        for listener in sockets:
            own = listener.dup()
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)  # connections inherit it
            server = await loop.create_server(self._accepted, sock=own, backlog=BACKLOG)
            self._servers.append((server, own))
        self.watch.lag.start()
        self._sweep()

    def _accepted(self) -> asyncio.Protocol:
        if self._expects_preface:
            return PrefacedConnection(self, self._trusted, self._prefaced)
        return ClientConnection(self)

    def snapshot(self) -> Snapshot:
        """The metrics as they stand."""
        return self.watch.registry.snapshot()

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
        self.watch.lag.stop()
        for connection in tuple(self.connections):
            connection.cut()
        for preface in tuple(self._prefaced):
            preface.cut()
        self._pool.close()
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
        self._pool.sweep(now)
        self._log.flush()
        self.edge.sweep()
        self._cut_readers()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)

    def _cut_readers(self) -> None:
        """Cut whoever has read slowest of what has left the memory, while such readers hold too much of it."""
        account = self.edge.memory.account
        account.look()
        contents = account.to_cut()
        if contents:
            readers = [one for one in self.connections if id(one.reads) in contents]
            for connection in sorted(readers, key=lambda one: one.since)[: 1 + len(readers) // 2]:
                connection.cut()


def regional_tier(settings: Settings, counts: RegionalCounts, clock: Callable[[], float]) -> Regional | None:
    """The tier that the settings name, on the running event loop; None if they name none."""
    if settings.regional == "off":
        return None
    access = access_of(settings, timeout=max(4 * settings.regional_timeout, 0.5))
    breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_FOR, jitter=random)
    guard = Guard(Link(access), breaker, time.monotonic, counts)
    return Regional(
        guard,
        Codec(AESGCM(settings.regional_key) if settings.regional_key else None),
        budget=settings.regional_timeout,
        lease=settings.regional_lease,
        largest=settings.regional_max_object,
        count=counts.read,
        clock=clock,
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
    )


def gateway_of(settings: Settings) -> Gateway:
    """Who this POP is to the origin."""
    host = {"client": "", "origin": settings.origin.authority}.get(settings.origin_host, settings.origin_host)
    return Gateway(settings.pop.encode(), host.encode(), settings.forwarded)
