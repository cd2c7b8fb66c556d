"""One worker: it builds the request path out of its parts, serves the listening sockets, sweeps deadlines, drains."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from random import random
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgecache import machine
from edgecache.access_log import AccessLog
from edgecache.admission import Admission, fitted
from edgecache.config import TO_ORIGINS, Settings
from edgecache.doors import Way, believing, hearing, locating, redirecting, residing, telling_apart, tracing
from edgecache.edge import KNOWN_HIT, Edge
from edgecache.fills import Fills
from edgecache.flights import Flights
from edgecache.geo import Geo, Locator
from edgecache.guard import Guard
from edgecache.invalidation import Invalidation
from edgecache.known import KnownHit
from edgecache.log_metrics import LogCounts
from edgecache.memory import Memory
from edgecache.metrics import Snapshot
from edgecache.origin import OriginPool, hidden_fields
from edgecache.origins import Origins
from edgecache.own_log import OwnLog
from edgecache.parent import Parents
from edgecache.pops import Children, Parental
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
from edgecache.rules.forward import Gateway
from edgecache.rules.message import Request
from edgecache.rules.purge_log import PurgeLog
from edgecache.rules.record import Codec
from edgecache.rules.stored import Policy
from edgecache.rules.trace_context import trace_id
from edgecache.switch import Switch, WayUp
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
from edgecache.wire.tls import ServerTls
from edgecache.wire.tls_server import SecureListener
from edgecache.writes import WritePolicy, Writes

SWEEP: Final = 0.25  # seconds between two sweeps of all deadlines
REGISTER_BYTES: Final = 1024  # allowed for each purged name
CATCH_UP_WITHIN: Final = 0.5  # seconds that the start waits for the log of invalidations
BACKLOG: Final = 4096  # connections that wait to be accepted
GAPS: Final = 6  # a sixth of the memory is for the allocator's gaps between what is stored, and for what is not counted
HEADS: Final = 16  # what request heads parse to holds a sixteenth of the memory at most
MOST_UNSENT: Final = 256 * 1024  # bytes of answers that the kernel holds for a client beyond what is on its way to it
GEO_LOOK: Final = 5.0  # seconds between two looks at the geographic database's file
GEOGRAPHY: Final = ("geo_db", "geo_overrides", "geo_rules", "region")
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
        self._take(settings)
        self.draining = self.crowded = False
        self.connections: set[ClientConnection] = set()
        self._prefaced: set[PrefacedConnection] = set()  # whose PROXY header is not complete
        self._all_left = asyncio.Event()
        self.clock = time.monotonic
        self._wall = clock
        self.watch = Watch()
        self._requests = self.watch.requests
        self.bytes_in = self._requests.bytes_in
        self._switch = Switch(self._new_way(settings))
        self._admission = Admission(settings.max_connections, settings.max_connections_per_address, self._trusted)
        self._log = AccessLog(settings.access_log, access_log_write)
        self._servers: list[tuple[asyncio.Server, socket.socket]] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._expects_preface = settings.proxy_protocol
        self._tls = server_tls(settings)
        self._secure: list[SecureListener] = []
        self.edge = self._build(settings, clock)
        self.edge.known.hsts = self.hsts
        self._read_heads(settings)
        self.watch.read(self.edge, self._switch, self.connections, self._log)
        if self._regional is not None:
            self.watch.regional.read_state(self._regional)
        if settings.parents:
            self.watch.read_bypass(self._switch)
        self._tracer = self._new_tracer(settings)
        self._next_look = 0.0  # at the geographic database's file, in monotonic seconds
        self._locator = self._new_locator(settings)
        if self._tls is not None:
            self.watch.read_tls(lambda: self._tls.ends if self._tls is not None else 0.0)
        self.children = self._new_children(settings)
        self._open_doors(settings)

    def _take(self, settings: Settings) -> None:
        """What is a plain value, for its connections and for itself."""
        self._settings = settings
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        self.idle_timeout = settings.idle_timeout
        self.tunnel_timeout = settings.tunnel_timeout
        self.min_rate = settings.min_rate
        self.max_request_body = settings.max_request_body
        self.hsts = b"Strict-Transport-Security: %b\r\n" % settings.hsts.encode() if settings.hsts else b""
        self._drain_grace = settings.drain_grace
        self._trusted = trust_of(settings.trusted_proxies)
        self._logging = settings.access_log > 0

    def _read_heads(self, settings: Settings) -> None:
        """From now on, heads are read within these limits; what was read within others is forgotten."""
        limits = HeadLimits(settings.max_line, settings.max_fields, settings.max_head)
        account, before = self.edge.memory.account, getattr(self, "_heads", None)
        if before is not None:
            before.forget_all()
        self._heads = RequestHeads(limits, account.budget // HEADS, account.hold)
        self.check_unfinished = self._heads.check_unfinished

    @property
    def _pool(self) -> OriginPool | Origins:
        """The origins of the moment."""
        return self._switch.current.origin

    @property
    def _parents(self) -> Parents | None:
        """The parents of the moment, if there are any."""
        return self._switch.current.parents

    def _new_way(self, settings: Settings) -> WayUp:
        self.watch.forget_members()
        way = WayUp(settings, self.watch.origin_failed, self.watch.parent_failed)
        if isinstance(way.origin, Origins):
            self.watch.read_origins(way.origin)
        if way.parents is not None:
            self.watch.read_parents(way.parents)
        return way

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings, of those that are `LIVE`: files are read first, then all change between two turns.

        Raises OSError or ValueError, and changes nothing, if a file cannot be used. What is under way ends as it began.
        """
        settings = fitted(settings, machine.open_files())
        tls = await asyncio.to_thread(server_tls, settings)
        geography = self._differs(settings, GEOGRAPHY)
        trust_differs = settings.trusted_proxies != self._settings.trusted_proxies
        locator = await asyncio.to_thread(self._new_locator, settings) if geography or trust_differs else self._locator
        way = self._new_way(settings) if self._differs(settings, (*TO_ORIGINS, "max_head")) else None
        self._take(settings)
        if tls is not None and self._tls is not None and tls.identity != self._tls.identity:
            self._tls = tls  # tickets of the old one are worth nothing any more
        self._locator = locator
        if way is not None:
            self._switch.replace(way)
        self._retune(settings)
        self._open_doors(settings)

    def _differs(self, settings: Settings, names: Iterable[str]) -> bool:
        """Whether any of these settings is another than the one in use."""
        return any(getattr(settings, name) != getattr(self._settings, name) for name in names)

    def _retune(self, settings: Settings) -> None:
        """The parts that hold settings of their own."""
        clients = (connection.peer for connection in self.connections)
        most, most_per_address = settings.max_connections, settings.max_connections_per_address
        self._admission.tune(most, most_per_address, self._trusted, clients)
        edge, patience = self.edge, settings.follower_timeout
        edge.tune(
            hosts=site_names(settings),
            follower_timeout=patience,
            stale_wait=settings.stale_wait,
            max_ranges=settings.max_ranges,
        )
        edge.known.hsts = self.hsts
        self._read_heads(settings)
        edge.fills.tune(policy_of(settings))
        edge.upstream.tune(gateway_of(settings), self._trusted)
        edge.flights.hit_for_miss = settings.hit_for_miss
        edge.memory.max_variants = settings.max_variants
        if edge.region is not None:
            edge.region.patience = patience
        self._log.tune(settings.access_log)
        if self._tracer is not None:
            self._tracer.tune(settings.trace_sample)

    def _build(self, settings: Settings, clock: Callable[[], float]) -> Edge:
        pop = settings.pop.encode()
        log = PurgeLog(settings.purge_registers, REGISTER_BYTES * settings.purge_registers)
        budget = settings.worker_memory - settings.worker_memory // GAPS
        memory = Memory(budget, settings.memory_policy, settings.largest_object, settings.max_variants)
        flights = Flights(settings.hit_for_miss)
        tier = self._regional = regional_tier(settings, self.watch.regional, clock)
        invalidation = Invalidation(log, memory, flights, clock, cut_off_modes(settings))
        fills = Fills(memory, invalidation, policy_of(settings), self.watch.not_stored, tier)
        parental = None
        if settings.parents:
            secret = settings.pop_secret[0] if settings.pop_secret else b""
            parental = Parental(pop, settings.region, secret, invalidation, clock, self._trusted)
        upstream = Upstream(self._switch, gateway_of(settings), log, clock, self._trusted, parental)
        relays = Relays(
            pop=pop,
            upstream=upstream,
            fills=fills,
            flights=flights,
            invalidation=invalidation,
            clock=clock,
            jurisdiction=settings.residency_rules.home,
        )
        self.logs = None
        if tier is not None:
            self.logs = RegionLog(settings, invalidation, LogCounts(self.watch.registry, settings.region), clock)
        reaches = self.logs.follower.reaches if self.logs is not None else None
        writer = self.logs.writer if self.logs is not None else None
        self.own_log = OwnLog(invalidation)
        writes = Writes(relays, invalidation, write_policy_of(settings), writer or self.own_log, reaches)
        purges = PurgeMethod(callers_of(settings), writer or self.own_log, settings.pop, self.watch.refused)
        name = settings.region.encode() + b"/regional"
        patience = settings.follower_timeout
        region = None
        if tier is not None:
            region = Region(tier, memory, invalidation, upstream, clock, patience, name)
        edge = Edge(
            pop=pop,
            hosts=site_names(settings),
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
            jurisdiction=settings.residency_rules.home,
        )
        if tier is not None and self.logs is not None and settings.write_through == "refresh":
            rules, peers = settings.residency_rules, self.logs.writer.peers
            near = {region: store for region, store in peers.items() if rules.of_region(region) == rules.home}
            writes.refresh = Refresher(edge, tier.codec, near).refresh
        return edge

    def _open_doors(self, settings: Settings) -> None:
        """From now on, requests come to the request path in this way; the last door is the first they pass."""
        way = Way(self.edge.answer, self.edge.answer_known)
        if self._tracer is not None:
            way = tracing(way, self._tracer)
        way = inner = residing(way, settings.residency_rules)
        if settings.https_redirect:
            way = redirecting(way, settings.https_redirect, self.edge.hosts)
        if settings.trusted_proxies:
            way = believing(way, self._trusted)
        if self._locator is not None:
            way = locating(way, self._locator)
        if self._tls is not None:
            way = telling_apart(way)
        self.answer, self.answer_known = hearing(way, inner, self.children)
        answered = self._count_and_log if self._logging else self._requests.answered
        self.answered = answered if self._tracer is None else self._tracer.finishing(answered)

    def _new_tracer(self, settings: Settings) -> Tracer | None:
        if not settings.otlp_endpoint:
            return None
        tracer = Tracer(settings.trace_sample, self._believes, self._wall)
        self.watch.read_tracer(tracer)
        return tracer

    def _believes(self, exchange: Exchange) -> bool:
        """Whether its peer decides if it is traced."""
        return exchange.request.child is not None or self._trusted(exchange.client)

    def take_spans(self, most: int) -> list[Span]:
        """Up to so many spans that are complete."""
        return self._tracer.take(most) if self._tracer is not None else []

    def _new_locator(self, settings: Settings) -> Locator | None:
        if not settings.knows_geography:
            return None
        geo = Geo(settings.geo_db, settings.geo_overrides, settings.geo_rules, settings.region)
        if (before := getattr(self, "_locator", None)) is not None:
            geo.generation += before.geo.generation  # no tag of the one before is one of its own
        self.watch.read_geography(lambda: self._locator.geo if self._locator is not None else geo)
        return Locator(geo, trust_of(settings.trusted_proxies))

    def _new_children(self, settings: Settings) -> Children:
        invalidation, distrusted = self.edge.invalidation, self.watch.pop_distrusted
        return Children(settings.pop_secret, self._wall, invalidation, distrusted, self._placed)

    def _placed(self, request: Request, client: str) -> Request:
        """`request` with the place of the client at that address, if places are known."""
        return request if self._locator is None else self._locator.placed(request, client)

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

    def admit(self, client: str) -> BadRequest | None:
        """Let one more connection from `client` in, or say why not."""
        return self._admission.enter(client)

    def release(self, client: str) -> None:
        """One that was let in has ended before it was a client's."""
        self._admission.leave(client)

    def handshake_failed(self, reason: str) -> None:
        """A handshake failed: count it."""
        self.watch.handshake_failed(reason)

    def joined(self, connection: ClientConnection) -> BadRequest | None:
        """A client has connected; why it is to be turned away, if it is."""
        refusal = None if connection.admitted else self._admission.enter(connection.peer)
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

    async def start(
        self,
        sockets: list[socket.socket],
        *,
        tls: Sequence[socket.socket] = (),
        pops: Sequence[socket.socket] = (),
    ) -> None:
        """Serve the listening sockets, plain, for TLS and for POPs; they stay the caller's."""
        if self.logs is not None:  # what lies in the tier is not proven before
            with suppress(TimeoutError):
                await asyncio.wait_for(self.logs.follower.caught_up.wait(), CATCH_UP_WITHIN)
        loop = asyncio.get_running_loop()
        for listener in sockets:
            own = listener.dup()
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)  # connections inherit it
            server = await loop.create_server(self._accepted, sock=own, backlog=BACKLOG)
            self._servers.append((server, own))
        for kind, listeners in ((False, tls), (True, pops)):
            self._secure += [self._secured(listener.dup(), for_pops=kind) for listener in listeners]
        for secure in self._secure:
            secure.start()
        self.watch.lag.start()
        self._sweep()

    def _secured(self, listener: socket.socket, *, for_pops: bool) -> SecureListener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MOST_UNSENT)  # connections inherit it
        expects = self._expects_preface and not for_pops
        says_preface = (lambda peer: self._trusted(peer)) if expects else None  # whom we trust may change
        return SecureListener(
            listener, self, partial(self._context, for_pops), for_pops=for_pops, says_preface=says_preface
        )

    def _context(self, for_pops: bool) -> ssl.SSLContext:
        """What a handshake that begins now uses."""
        assert self._tls is not None, "there are such listeners"
        return self._tls.pops if for_pops else self._tls.public

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
        for secure in self._secure:
            secure.accept(BACKLOG)
        self._stop_accepting()
        for accepted in waiting:
            await self._adopt(accepted)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._left_alone(), self._drain_grace)

    async def _left_alone(self) -> None:
        """Wait until nobody is connected, and nobody is about to be."""
        while shaking := {task for secure in self._secure for task in secure.under_way}:
            await asyncio.wait(shaking)
        if self.connections:
            await self._all_left.wait()

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
        for secure in self._secure:
            await secure.end()
        self._switch.close()
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
        for secure in self._secure:
            secure.close()

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
        if self.logs is not None:
            self.logs.follower.judge()
        self._switch.sweep(now)
        self._flush_log()
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

    def _flush_log(self) -> None:
        """Piece by piece: requests that have come meanwhile are answered in between."""
        if self._log.flush_some():
            asyncio.get_running_loop().call_soon(self._flush_log)


def regional_tier(settings: Settings, counts: RegionalCounts, clock: Callable[[], float]) -> Regional | None:
    """The tier that the settings name, on the running event loop; None if they name none."""
    if settings.regional == "off":
        return None
    access = access_of(settings, timeout=max(4 * settings.regional_timeout, 1.5))
    breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_FOR, jitter=random)
    guard = Guard(Link(access), breaker, time.monotonic, counts, settings.regional_timeout)
    return Regional(
        guard,
        Codec(
            AESGCM(settings.regional_key) if settings.regional_key else None,
            scope=settings.residency_rules.home.encode(),
        ),
        budget=settings.regional_timeout,
        lease=settings.regional_lease,
        largest=settings.regional_max_object,
        count=counts.read,
        clock=clock,
    )


def server_tls(settings: Settings) -> ServerTls | None:
    """The certificates that the settings name; raises OSError or ValueError if they cannot be read."""
    return ServerTls(settings.tls_certificates, settings.pop_ca) if settings.tls_certificates else None


def site_names(settings: Settings) -> frozenset[bytes]:
    """The names of the sites that are answered; empty is any."""
    return frozenset(host.encode() for host in settings.hosts)


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
