"""Assembly of a worker's request path from the settings."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import random
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from edgecache.config.settings import Settings
from edgecache.config.types import AUTOMATIC_SLICES
from edgecache.invalidation.in_process_log import InProcessLog
from edgecache.invalidation.metrics import LogMetrics
from edgecache.invalidation.purge_log import PurgeLog
from edgecache.invalidation.region_log import RegionLog
from edgecache.invalidation.validity import Invalidation
from edgecache.proxy.access.nonces import UsedNonces
from edgecache.proxy.cache_fill import Fills
from edgecache.proxy.collapsing import Flights
from edgecache.proxy.components import Limits, Parts
from edgecache.proxy.compression import Compressor
from edgecache.proxy.deliver_reply import ReplyDelivery
from edgecache.proxy.edge import Edge
from edgecache.proxy.fastpath.head_memo import Hit, KnownHeads
from edgecache.proxy.fastpath.head_template import HeadTemplates, TemplateHit
from edgecache.proxy.middleware.request_limits import limits_of as limits_of_rules
from edgecache.proxy.passthrough import Relays
from edgecache.proxy.purge_method import PurgeMethod
from edgecache.proxy.rate_limits import RateLimits
from edgecache.proxy.regional_fetch import Region
from edgecache.proxy.store_hits import OnStoreHit
from edgecache.proxy.write_refresh import Refresher
from edgecache.proxy.write_through import WritePolicy, Writes
from edgecache.semantics.client_address import Trust
from edgecache.semantics.forwarding import Gateway
from edgecache.semantics.outcomes import Revalidation
from edgecache.semantics.rules.directory import Sites
from edgecache.semantics.stored_response import Policy
from edgecache.server.machine_store import StoreInUse, layers, opened, share_out
from edgecache.server.worker_metrics import RegionalMetrics, WorkerMetrics
from edgecache.storage.memory import Memory
from edgecache.storage.record import Codec
from edgecache.storage.regional import Regional
from edgecache.storage.regional_probe import access_of
from edgecache.storage.resident_clock import Clock
from edgecache.upstream.active_upstream import Switch
from edgecache.upstream.fetcher import Upstream
from edgecache.upstream.peering import Parental
from edgecache.upstream.pool_options import hidden_fields
from edgecache.valkey.availability import Availability
from edgecache.valkey.batching import MOST_BYTES
from edgecache.valkey.circuit_breaker import Breaker
from edgecache.valkey.client import Link
from edgecache.wire.h1.serializer import persistent_head
from edgecache.wire.response_writer import ResponseWriter
from edgecache.wire.tls.contexts import ServerTls

REGISTER_BYTES: Final = 1024  # allowed for each purged name
GAPS: Final = 8  # an eighth of the memory covers fragmentation and what is not counted
ALIKE: Final = 64  # head templates hold a sixty-fourth of the memory at most
ANSWERS: Final = 32  # and their responses to conditional requests a thirty-second
KNOWN: Final = 8  # known heads and rendered responses hold an eighth at most
BREAKER_FAILURES: Final = 5  # consecutive, that open the breaker
BREAKER_OPEN_FOR: Final = 0.5  # seconds
LEAST_UNWRITTEN: Final = 4 * 1024 * 1024  # bytes waiting for the regional tier, however small the memory


@dataclass(frozen=True, slots=True)
class Assembled:
    """A request path, and those of its parts that are started and closed."""

    close_store: Callable[[], None]  # of the machine
    share_out: Callable[[Sites | None], None]  # memory, and the machine's store
    edge: Edge
    tier: Regional | None
    logs: RegionLog | None  # None without a regional tier
    own_log: InProcessLog
    nonces: UsedNonces
    purges: PurgeMethod


@dataclass(frozen=True, slots=True)
class AssemblyInputs:
    """What a request path is assembled from."""

    settings: Settings
    switch: Switch
    watch: WorkerMetrics
    is_trusted: Trust
    clock: Clock


def assemble(
    given: AssemblyInputs,
    on_known_hit: Callable[[ResponseWriter, Hit | TemplateHit, float], None],
    on_store_hit: OnStoreHit,
) -> Assembled:
    """The request path that the settings describe, on the running event loop."""
    settings, watch, clock, is_trusted = given.settings, given.watch, given.clock, given.is_trusted
    store = opened(settings)
    tier = regional_tier(settings, watch, clock, store)
    if tier is not None:
        watch.regional.read_state(tier)
    parts = _parts(given, tier)
    own_log = _own_log(settings, parts.invalidation, store)
    logs = None
    if settings.regional != "off":
        logs = RegionLog(settings, parts.invalidation, LogMetrics(watch.registry, settings.region), clock.wall)
    reaches = logs.follower.reaches if logs is not None else None
    recorder = logs.writer if logs is not None else own_log
    writes = Writes(parts.relays, parts.invalidation, write_policy_of(settings), recorder, reaches, is_trusted)
    edge = _edge_of(settings)(
        parts,
        limits_of(settings),
        writes=writes,
        on_known_hit=on_known_hit,
        reaches=reaches,
        token_cookie=settings.token_cookie,
    )
    edge.fast_path.count_by(on_known_hit, on_store_hit)
    if tier is not None and logs is not None and settings.write_through == "refresh":
        rules, peers = settings.residency_rules, logs.writer.peers
        near = {region: store for region, store in peers.items() if rules.of_region(region) == rules.home}
        writes.refresh = Refresher(edge, tier.codec, clock, near).refresh
    return Assembled(
        _nothing if store is None else store.close,
        partial(share_out, parts.memory, store),
        edge,
        tier,
        logs,
        own_log,
        UsedNonces(clock.wall, None if tier is None else tier.guard),
        PurgeMethod(settings, recorder, watch.refused, is_trusted),
    )


def _nothing() -> None:
    """There is no store to be closed."""


def _own_log(settings: Settings, invalidation: Invalidation, store: StoreInUse | None) -> InProcessLog:
    """The log of this process, which lies in the machine's store if there is one, and no region."""
    if store is None or settings.regional != "off":
        return InProcessLog(invalidation)
    from edgecache.invalidation.machine_log import MachineLog
    from edgecache.storage.machine.purge_entry import PurgeEntries

    return MachineLog(invalidation, PurgeEntries(store.store))


def _edge_of(settings: Settings) -> type[Edge]:
    """The class of the request path: with slices where a setting, or rules, may want them."""
    if not settings.fitting_slice and settings.sites is None:
        return Edge
    from edgecache.proxy.slices import SlicingEdge  # nobody else needs it

    return SlicingEdge


def _parts(given: AssemblyInputs, tier: Regional | None) -> Parts:
    settings, watch, clock = given.settings, given.watch, given.clock
    pop, home = settings.pop.encode(), settings.residency_rules.home
    memory, log = _memory(settings, watch), _purge_log(settings)
    flights = Flights(settings.hit_for_miss)
    invalidation = Invalidation(log, memory, flights, cut_off_modes(settings))
    compressor = Compressor(memory, watch.registry)
    fills = Fills(memory, invalidation, policy_of(settings), watch.not_stored, tier, compressor.consider)
    upstream = _upstream(given, invalidation)
    return Parts(
        pop=pop,
        clock=clock.now,
        memory=memory,
        invalidation=invalidation,
        flights=flights,
        fills=fills,
        upstream=upstream,
        relays=Relays(
            pop=pop,
            serialize=persistent_head,
            count=watch.passed_on,
            passes=watch.passes,
            upstream=upstream,
            replies=ReplyDelivery(pop, upstream, fills, invalidation, clock.now, clock.wall),
            fills=fills,
            flights=flights,
            invalidation=invalidation,
            clock=clock.now,
            wall=clock.wall,
            jurisdiction=home,
        ),
        known=KnownHeads(persistent_head, memory.account.budget // KNOWN, memory.account.hold),
        alike=HeadTemplates(memory.account.budget // ALIKE, memory.account.hold, memory.account.budget // ANSWERS),
        compressor=compressor,
        region=_region(given, tier, memory, invalidation, upstream),
        jurisdiction=home,
    )


def _memory(settings: Settings, watch: WorkerMetrics) -> Memory:
    budget = settings.worker_memory - settings.worker_memory // GAPS
    memory = Memory(budget, settings.memory_policy, settings.largest_object, settings.max_variants, watch.not_stored)
    memory.select_language = settings.select_language
    return memory


def _purge_log(settings: Settings) -> PurgeLog:
    return PurgeLog(settings.purge_registers, REGISTER_BYTES * settings.purge_registers)


def _upstream(given: AssemblyInputs, invalidation: Invalidation) -> Upstream:
    settings, clock, is_trusted = given.settings, given.clock, given.is_trusted
    parental = None
    if settings.parents:
        secret = settings.pop_secret[0] if settings.pop_secret else b""
        pop = settings.pop.encode()
        parental = Parental(pop, settings.region, secret, invalidation, clock.wall, is_trusted)
    gateway, on_response = gateway_of(settings), given.watch.upstream_answered
    return Upstream(given.switch, gateway, invalidation.log, clock, is_trusted, parental, on_response)


def _region(
    given: AssemblyInputs, tier: Regional | None, memory: Memory, invalidation: Invalidation, upstream: Upstream
) -> Region | None:
    if tier is None:
        return None
    tier.used = memory.codings.used
    shared = given.settings.regional != "off"
    name = given.settings.region.encode() + b"/regional" if shared else given.settings.pop.encode() + b"/store"
    patience = given.settings.follower_timeout
    return Region(tier, memory, invalidation, upstream, given.clock.now, patience, name, shared=shared)


def regional_tier(
    settings: Settings, watch: WorkerMetrics, clock: Clock, store: StoreInUse | None = None
) -> Regional | None:
    """The tier behind the memory, on the running event loop: the region's, the machine's, both, or None."""
    if settings.regional == "off" and store is None:
        return None
    cipher = AESGCM(settings.regional_key) if settings.regional_key else None
    if store is not None:
        watch.store.read_state(store.store)
    tier = Regional(
        _availability(settings, watch.regional),
        Codec(cipher, os.urandom, scope=settings.residency_rules.home.encode()),
        budget=settings.regional_timeout,
        lease=settings.regional_lease,
        largest=_largest(settings, store),
        count=watch.regional.read,
        clock=clock,
        most_unwritten=min(MOST_BYTES, max(LEAST_UNWRITTEN, settings.worker_memory // 2)),
        layered=None if store is None else partial(layers, store.store, watch.store),
    )
    if store is not None:
        tier.on_store = store.on_store
    return tier


def _availability(settings: Settings, counts: RegionalMetrics) -> Availability | None:
    if settings.regional == "off":
        return None
    access = access_of(settings, timeout=max(4 * settings.regional_timeout, 1.5))
    breaker = Breaker(BREAKER_FAILURES, BREAKER_OPEN_FOR, jitter=random)
    return Availability(Link(access), breaker, time.monotonic, counts, settings.regional_timeout)


def _largest(settings: Settings, store: StoreInUse | None) -> int:
    """Bytes of the largest body that the tier takes: with a region, what that takes."""
    if settings.regional == "off" and store is not None:
        return min(settings.regional_max_object, store.largest_body)
    return settings.regional_max_object


def server_tls(settings: Settings) -> ServerTls | None:
    """Certificates of the TLS listeners; raises OSError or ValueError if they cannot be read."""
    return ServerTls(settings.certificates, settings.pop_ca) if settings.certificates else None


def limits_of(settings: Settings) -> Limits:
    """The limits of the request path."""
    return Limits(
        follower_timeout=settings.follower_timeout,
        stale_wait=settings.stale_wait,
        max_ranges=settings.max_ranges,
        revalidation=Revalidation(settings.client_revalidation),
        slice_size=settings.fitting_slice,
        slices_by_length=settings.slice_size == AUTOMATIC_SLICES,
    )


def cut_off_modes(settings: Settings) -> dict[bytes, str]:
    """Modes of operation while cut off, by path prefix; the empty prefix matches all other paths."""
    return {b"": settings.cut_off, **{path.encode(): mode for path, mode in settings.cut_off_paths.items()}}


def write_policy_of(settings: Settings) -> WritePolicy:
    """The policy of writes."""
    return WritePolicy(
        ack=settings.write_ack,
        timeout=settings.write_timeout,
        refuse_unrecorded=settings.cut_off == "consistent",
        token_cookie=settings.token_cookie,
        author=settings.pop,
        most_of_client=settings.client_writes,
    )


def policy_of(settings: Settings) -> Policy:
    """The policy of storing (RFC 9111 §3)."""
    return Policy(
        heuristics=settings.heuristics,
        heuristic_max=settings.heuristic_max,
        negative_ttl=settings.negative_ttl,
        store_set_cookie=settings.store_set_cookie,
        store_client_errors=settings.store_client_errors,
        list_fields=frozenset(name.encode() for name in settings.list_fields),
        default_stale_if_error=settings.default_stale_if_error,
        hidden=hidden_fields(settings),
    )


def gateway_of(settings: Settings) -> Gateway:
    """This POP as the origin sees it: Via and Host."""
    host = settings.upstream_host.encode() if settings.sites is None else b""  # of sites, their pools say it
    return Gateway(settings.pop.encode(), host, settings.forwarded)


def sites_of(settings: Settings, former: Sites | None = None) -> Sites | None:
    """The sites and their rules, those of `former` where they are alike; None where there is but one site."""
    if settings.sites is None:
        return None
    from edgecache.config.sites.compiler import compiled  # with libraries that only those need who have sites

    sites = compiled(settings.sites.document, policy_of(settings), former, settings.sites.files)
    _ = sites.reads, sites.cookies, sites.networks, settings.sites.owners  # here, since a reload runs this in a thread
    return sites


def rate_limits_of(given: AssemblyInputs, tier: Regional | None, sites: Sites | None) -> RateLimits | None:
    """What the limits of `sites` count with, on the running event loop; None where no rule has any."""
    if sites is None or not limits_of_rules(sites):
        return None
    settings = given.settings
    limits = RateLimits(given.clock.now, given.watch.registry, settings.worker_memory, settings.workers)
    if tier is not None and tier.guard is not None:
        limits.share_with(tier.guard)
    return limits
