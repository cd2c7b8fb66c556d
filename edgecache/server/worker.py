"""One worker: the life of a request path, from its start to its end.

`assembly.py` puts the path together, `proxy/pipeline.py` the middleware around it,
`wire/listeners.py` brings clients, `request_log.py` counts and logs responses. What remains: settings that change,
deadlines, the start and the end.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

from edgecache.config import system_resources
from edgecache.config.settings import TO_ORIGINS, Settings
from edgecache.invalidation.purge_auth import accepts_purges
from edgecache.proxy.fastpath.responder import OnHit
from edgecache.proxy.geo_database import Geo, Locator
from edgecache.proxy.hooks import Context
from edgecache.proxy.pipeline import Pipeline, configured
from edgecache.proxy.rate_limits import RateLimits
from edgecache.semantics.client_address import trust_of
from edgecache.semantics.ignored_parameters import ignored_of
from edgecache.semantics.message import Request
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.secret_parameters import redacting
from edgecache.server.assembly import (
    AssemblyInputs,
    assemble,
    gateway_of,
    limits_of,
    policy_of,
    rate_limits_of,
    server_tls,
    sites_of,
)
from edgecache.server.request_log import RequestLog
from edgecache.server.worker_metrics import WorkerMetrics
from edgecache.storage.resident_clock import Clock, clock_of
from edgecache.tasks import spawn
from edgecache.telemetry.access_log import AccessLog
from edgecache.telemetry.exchange import Exchange as AnyExchange
from edgecache.telemetry.log_field_names import USUAL
from edgecache.telemetry.log_fields import LineFormat
from edgecache.telemetry.metrics import Snapshot
from edgecache.telemetry.site_metrics import counting, counting_hits
from edgecache.telemetry.tracing import Span, Tracer
from edgecache.upstream.active_upstream import Switch, WayUp
from edgecache.upstream.origin_group import Origins
from edgecache.upstream.parent_selection import Parents
from edgecache.upstream.peering import Children
from edgecache.upstream.pool import OriginPool
from edgecache.wire.connection_limits import Admission, fitted
from edgecache.wire.errors import BadRequest
from edgecache.wire.h1.client_factory import Http1
from edgecache.wire.h1.head import RequestHeads
from edgecache.wire.handler import Connection
from edgecache.wire.head_limits import HeadLimits
from edgecache.wire.listeners import Listeners
from edgecache.wire.run_queue import RunQueue

SWEEP: Final = 0.25  # seconds between two sweeps of all deadlines
MOST_SHARES: Final = 10  # of a round
SHARE: Final = 100  # connections, of which a round has at least so many for each share
CATCH_UP_WITHIN: Final = 0.5  # seconds that the start waits for the log of invalidations
HEADS: Final = 16  # what request heads parse to holds a sixteenth of the memory at most
READ_WITHIN: Final = 10.0  # seconds that a client may take to read what memory is short of
GEO_LOOK: Final = 5.0  # seconds between two looks at the geographic database's file
OF_THE_WAY_UP: Final = (*TO_ORIGINS, "sites", "max_head", "max_fields", "tunnel_timeout")  # what its connections hold
GEOGRAPHY: Final = ("geo_db", "geo_overrides", "geo_rules", "region")


class Worker:
    """One process's share of a POP, on the running event loop. It is the `Site` of its client connections."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | Callable[[], float] | None = None,
        access_log_write: Callable[[bytes], object] | None = None,
    ) -> None:
        settings = fitted(settings, system_resources.open_files())
        self._take(settings)
        self.draining = self.crowded = False
        self.connections: set[Connection] = set()
        self.run_queue = RunQueue()
        self._all_left = asyncio.Event()
        self.clock = time.monotonic
        self._time = clock_of(clock)
        self.watch = WorkerMetrics()
        self._requests = self.watch.requests
        self.bytes_in = self._requests.bytes_in
        self._switch = Switch(self._new_way(settings))
        self.admission = Admission(settings.max_connections, settings.max_connections_per_address, self._trusted)
        self._log = AccessLog(settings.access_log, access_log_write)
        self._sweeper: asyncio.TimerHandle | None = None
        self._unswept: list[Connection] = []  # connections of this round that were not looked at yet
        self._shares = self._share = 1  # of a round, and connections of each
        self._tls = server_tls(settings)
        self._listeners = Listeners(self, self._context, self._trusts, expects_header=settings.proxy_protocol)
        self._request_log = self._new_journal(settings)
        given = self._given = AssemblyInputs(settings, self._switch, self.watch, self._trusts, self._time)
        assembled = assemble(given, self._request_log.known_hit, self._request_log.store_hit)
        self.edge, self._regional, self.room = assembled.edge, assembled.tier, assembled.edge.memory.account
        self.logs, self.own_log, self.purges = assembled.logs, assembled.own_log, assembled.purges
        self.nonces, self._close_store, self._share_out = assembled.nonces, assembled.close_store, assembled.share_out
        self._read_heads(settings)
        self.watch.read(self.edge, self._switch, self.connections, self._log)
        self.watch.read_clock(self._time)
        if settings.parents:
            self.watch.read_bypass(self._switch)
        self._tracer = self._new_tracer(settings)
        self._next_look = 0.0  # at the geographic database's file, in monotonic seconds
        self._locator = self._new_locator(settings)
        if self._tls is not None:
            self.watch.read_tls(lambda: self._tls.ends if self._tls is not None else 0.0)
        self.children = self._new_children(settings)
        self._rate_limits: RateLimits | None = None  # it outlives reloads
        self.compose(settings)

    def _take(self, settings: Settings) -> None:
        """What is a plain value, for its connections and for itself."""
        self._settings = settings
        self.head_timeout = settings.head_timeout
        self.body_timeout = settings.body_timeout
        self.idle_timeout = settings.idle_timeout
        self.tunnel_timeout = settings.tunnel_timeout
        self.min_rate = settings.min_rate
        self.max_request_body = settings.max_request_body
        self.finish_abandoned = settings.finish_abandoned
        self._drain_grace = settings.drain_grace
        self._trusted = trust_of(settings.trusted_proxies)

    def _read_heads(self, settings: Settings) -> None:
        """From now on, heads are read within these limits; what was read within others is forgotten."""
        limits = HeadLimits(settings.max_line, settings.max_fields, settings.max_head, settings.max_request_body)
        account, before = self.edge.memory.account, getattr(self, "heads", None)
        if before is not None:
            before.forget_all()
        self.heads = RequestHeads(limits, account.budget // HEADS, account.hold, purging=accepts_purges(settings))
        self.edge.alike.bound(limits)

    @property
    def pool(self) -> OriginPool | Origins:
        """The origins of the moment."""
        return self._switch.current.origin

    @property
    def parents(self) -> Parents | None:
        """The parents of the moment, if there are any."""
        return self._switch.current.parents

    def _new_way(self, settings: Settings) -> WayUp:
        watch = self.watch
        way = WayUp(settings, Http1, watch.origin_failed, watch.parent_failed, watch.pool_failed, watch.read_pool)
        watch.forget_members()
        if settings.sites is not None:
            pass  # each pool is read once it is open
        elif isinstance(way.origin, Origins):
            self.watch.read_origins(way.origin)
        else:
            self.watch.read_origin(way.origin.options.origin, settings.region, settings.origin_eject_after)
        if way.parents is not None:
            self.watch.read_parents(way.parents)
        return way

    async def reload(self, settings: Settings) -> None:
        """Go on with other settings, of those that are `LIVE`: files are read first, then all change between two turns.

        Raises OSError or ValueError, and changes nothing, if a file cannot be used. What is under way ends as it began.
        """
        settings = fitted(settings, system_resources.open_files())
        tls = await asyncio.to_thread(server_tls, settings)
        geography = self._differs(settings, GEOGRAPHY)
        trust_differs = settings.trusted_proxies != self._settings.trusted_proxies
        locator = await asyncio.to_thread(self._new_locator, settings) if geography or trust_differs else self._locator
        sites = await asyncio.to_thread(sites_of, settings, self._sites)
        way = self._new_way(settings) if self._differs(settings, OF_THE_WAY_UP) else None
        if self._differs(settings, ("sites",)):
            self.edge.compressor.replace_rules()
        self._take(settings)
        if tls is not None and self._tls is not None and tls.identity != self._tls.identity:
            self._tls = tls  # tickets of the old one are worth nothing any more
        self._locator = locator
        if way is not None:
            self._switch.replace(way)
        self._retune(settings)
        self.compose(settings, sites)

    def _differs(self, settings: Settings, names: Iterable[str]) -> bool:
        """Whether any of these settings is another than the one in use."""
        return any(getattr(settings, name) != getattr(self._settings, name) for name in names)

    def _retune(self, settings: Settings) -> None:
        """The parts that hold settings of their own."""
        most, most_per_address = settings.max_connections, settings.max_connections_per_address
        self.admission.tune(most, most_per_address, self._trusted, (one.peer for one in self.connections))
        edge = self.edge
        edge.tune(limits_of(settings))
        self._read_heads(settings)
        edge.fills.tune(policy_of(settings))
        self.purges.tune(settings)
        edge.upstream.tune(gateway_of(settings), self._trusted)
        edge.flights.hit_for_miss = settings.hit_for_miss
        edge.memory.max_variants = settings.max_variants
        if edge.region is not None:
            edge.region.patience = settings.follower_timeout
        self._log.tune(settings.access_log)
        self._request_log.logging, self._request_log.layout = settings.access_log > 0, self._layout(settings)
        if self._tracer is not None:
            self._tracer.tune(settings.trace_sample)

    def _new_journal(self, settings: Settings) -> RequestLog:
        logging, layout = settings.access_log > 0, self._layout(settings)
        return RequestLog(self._log, self._requests, self._time, logging=logging, layout=layout)

    def _layout(self, settings: Settings) -> LineFormat | None:
        """What writes the lines of the access log; None: they are the usual ones."""
        fields = settings.access_log_fields
        return None if fields == USUAL else LineFormat(fields, self._trusted, redacting(settings.secret_parameters))

    def compose(self, settings: Settings, sites: Sites | None = None) -> None:
        """From now on, requests pass the middleware that these settings want; `sites` are theirs, if made already."""
        self._sites = sites = sites_of(settings) if sites is None else sites
        ignored = self.edge.invalidation.ignored = ignored_of(settings.ignored_parameters)
        self.edge.invalidation.use_sites(sites)
        self._share_out(sites)
        if self._rate_limits is None:
            self._rate_limits = rate_limits_of(self._given, self._regional, sites)
        context = Context(
            settings,
            self._trusted,
            self.children,
            self.purges,
            ignored,
            self._locator,
            self._tracer,
            sites,
            has_tls=self._tls is not None,
            clock=self._time,
            registry=self.watch.registry,
            rate_limits=self._rate_limits,
            nonces=self.nonces,
        )
        self.pipeline = pipeline = Pipeline(configured(context), self.edge)
        self.edge.known.forget_all()
        self.edge.alike.judge_by(pipeline.unkeyed, ignored, cookies=pipeline.cookies, ruled=sites is not None)
        self.answer, self.answer_known = pipeline.answer, pipeline.answer_known
        self.on_deliver, self.body_limit = pipeline.on_deliver, pipeline.body_limit
        self._log_requests(pipeline, sites)

    def _log_requests(self, pipeline: Pipeline, sites: Sites | None) -> None:
        """Count and log what is answered; with sites, by site."""
        self._request_log.redact = redacting(self._settings.secret_parameters)
        answered = self._request_log.answered
        on_hit: OnHit = self._request_log.known_hit
        if sites is not None:
            for site in sites.all:
                site.counts = self.watch.sites.counts_of(site.name)
            answered, on_hit = counting(answered), counting_hits(on_hit)
        self.answered, self.edge.fast_path.on_hit = pipeline.logging(answered), on_hit

    def _new_tracer(self, settings: Settings) -> Tracer | None:
        if not settings.otlp_endpoint:
            return None
        tracer = Tracer(settings.trace_sample, self._believes, self._time.now, ahead=lambda: self._time.ahead)
        self.watch.read_tracer(tracer)
        return tracer

    def _believes(self, exchange: AnyExchange) -> bool:
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
        return Children(settings.pop_secret, self._time.wall, invalidation, distrusted, self._placed)

    def _placed(self, request: Request, client: str) -> Request:
        """`request` with the place of the client at that address, if places are known."""
        return request if self._locator is None else self._locator.placed(request, client)

    # --- what client connections ask

    def refused(self, error: BadRequest) -> None:
        """A request was refused: count it."""
        self.watch.refused(error.reason)

    def admit(self, client: str) -> BadRequest | None:
        """Let one more connection from `client` in, or say why not."""
        return self.admission.enter(client)

    def release(self, client: str) -> None:
        """One that was let in has ended before it was a client's."""
        self.admission.leave(client)

    def handshake_failed(self, reason: str) -> None:
        """A handshake failed: count it."""
        self.watch.handshake_failed(reason)

    def joined(self, connection: Connection) -> BadRequest | None:
        """A client has connected; why it is to be turned away, if it is."""
        refusal = None if connection.admitted else self.admission.enter(connection.peer)
        if refusal is None:
            self.connections.add(connection)
            self.watch.opened.value += 1
            self._all_left.clear()
        return refusal

    def left(self, connection: Connection) -> None:
        """A client's connection has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.admission.leave(connection.peer)
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
        await self._listeners.serve(sockets, tls, pops)
        self.watch.lag.start()
        self._sweep()

    def _context(self, for_pops: bool) -> ssl.SSLContext:
        """What a handshake that begins now uses."""
        assert self._tls is not None, "there are such listeners"
        return self._tls.pops if for_pops else self._tls.public

    def _trusts(self, peer: str) -> bool:
        """Whether that peer is trusted now: whom we trust may change."""
        return self._trusted(peer)

    def snapshot(self) -> Snapshot:
        """The metrics as they stand."""
        return self.watch.snapshot()

    async def drain(self) -> None:
        """Accept no more, answer what is under way or still comes with `Connection: close`; return when all have left.

        What is not done when the grace is over stays undone: `stop` cuts it.
        """
        self.draining = True
        self.edge.known.stop()
        self.edge.alike.stop()
        await self._listeners.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._left_alone(), self._drain_grace)

    async def _left_alone(self) -> None:
        """Wait until nobody is connected, and nobody is about to be."""
        await self._listeners.settled()
        if self.connections:
            await self._all_left.wait()

    async def stop(self) -> None:
        """End at once."""
        self._listeners.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.watch.lag.stop()
        for connection in tuple(self.connections):
            connection.cut()
        await self._listeners.end()
        self._switch.close()
        self.edge.compressor.close()
        for part in (self.logs, self._rate_limits, self.nonces, self._regional):
            if part is not None:
                await part.close()
        self._close_store()
        await asyncio.sleep(0)
        self._log.close()

    def _sweep(self) -> None:
        """A share of the passes over everything that has a deadline: no connection has a timer of its own for that.

        Many connections are looked at by turns, so that no request waits for a look at all of them.
        """
        if not self._unswept:
            self._sweep_parts()
            self._unswept = list(self.connections)
            self._shares = max(1, min(MOST_SHARES, len(self._unswept) // SHARE))
            self._share = -(-len(self._unswept) // self._shares)
        now = self.clock()
        for connection in self._unswept[-self._share :]:
            connection.sweep(now)
        del self._unswept[-self._share :]
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP / self._shares, self._sweep)

    def _sweep_parts(self) -> None:
        """One pass over all but the connections."""
        now = self.clock()
        self._time.look()
        self.crowded = self.admission.crowded
        self._listeners.sweep(now)
        if self._locator is not None and now >= self._next_look:
            self._next_look = now + GEO_LOOK
            if self._locator.geo.stale:
                spawn(asyncio.to_thread(self._locator.geo.reload), "read the geographic database")
        if self.logs is not None:
            self.logs.follower.update_cut_off()
        self._switch.sweep(now)
        self._flush_log()
        self.edge.sweep()
        self._cut_readers()

    def _cut_readers(self) -> None:
        """Cut off the slowest readers of contents that have left the store, while those hold too much for too long."""
        self.room.look()
        contents = self.room.to_cut()
        if contents:
            had_time = self.clock() - READ_WITHIN
            exchanges = (exchange for connection in self.connections for exchange in connection.exchanges)
            readers = [one for one in exchanges if id(one.reads) in contents and one.began < had_time]
            for exchange in sorted(readers, key=lambda one: one.since)[: 1 + len(readers) // 2]:
                exchange.cut()

    def _flush_log(self) -> None:
        """Piece by piece: requests that have come meanwhile are answered in between."""
        if self._log.flush_some():
            asyncio.get_running_loop().call_soon(self._flush_log)
